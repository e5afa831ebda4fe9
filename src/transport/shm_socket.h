// The unix socket between a writer and an owner of shm memory: messages with a descriptor, and who is at the other end.
#pragma once

#include <sys/types.h>

#include <span>
#include <string>

#include "base/fd.h"
#include "base/ids.h"
#include "base/result.h"

namespace baton::transport::shm {

// First message of a writer.
struct AttachRequest {
  Incarnation writer;
  Incarnation owner;
};

// The owner's messages: one kAccept with its control slab or one kRefuse, then a kRegion with a slab, or a card's name
// of it, for each region there is and, later, for each that is added. `regions` in kAccept says how many there are now.
struct OwnerMessage {
  enum class Kind : uint8_t { kAccept = 1, kRefuse = 2, kRegion = 3 } kind = Kind::kRefuse;
  uint32_t writer = 0;    // kAccept: the row of marks
  uint32_t regions = 0;   // kAccept
  uint64_t bytes = 0;     // kRegion; regions come in the order of their ids
  std::string on_card{};  // kRegion on a card (device::share_cuda), which comes without a descriptor
  std::string detail{};   // kRefuse
};

[[nodiscard]] std::string encode(const AttachRequest& message);
[[nodiscard]] std::string encode(const OwnerMessage& message);
// kCorrupt for anything else.
Result<AttachRequest> decode_request(std::span<const std::byte> bytes);
Result<OwnerMessage> decode_owner_message(std::span<const std::byte> bytes);

// Abstract names: no file to leave behind. kUnavailable: taken, or nobody listens.
Result<UniqueFd> listen_on(const std::string& name);
Result<UniqueFd> connect_to(const std::string& name);

struct Received {
  std::string bytes;  // empty: nothing now
  UniqueFd fd;
};
// False: the socket takes no more now.
Result<bool> send_message(int socket, const std::string& bytes, int fd);
Result<Received> receive_message(int socket);

// The process at the other end. kIncompatible: another user's.
Result<pid_t> peer_of_our_user(int socket);
// A pidfd of it. kIncompatible: another user's, or a process that cannot be watched from here.
Result<UniqueFd> peer_process(int socket);

}  // namespace baton::transport::shm
