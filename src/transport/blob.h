// What local_blob() holds: how a peer reaches a transport object, and which incarnation it must find there.
#pragma once

#include <string>
#include <string_view>

#include "base/ids.h"
#include "base/result.h"

namespace baton::transport {

enum class BlobKind : uint8_t { kLoopback = 1, kShm = 2, kTcp = 3, kCudaIpc = 4 };

struct PeerBlob {
  BlobKind kind = BlobKind::kLoopback;
  Incarnation incarnation;
  std::string
      address;  // tcp: numeric host; shm, cuda_ipc: name of an abstract unix socket; loopback: a name in this process
  uint16_t port = 0;  // tcp only
  bool operator==(const PeerBlob&) const = default;
};

[[nodiscard]] std::string encode_blob(const PeerBlob& blob);
// kIncompatible: another version or another kind of transport. kInvalidArgument: malformed.
Result<PeerBlob> decode_blob(std::string_view bytes, BlobKind expected);
// Whose memory a blob of any kind leads to. Errors as of decode_blob().
Result<Incarnation> blob_incarnation(std::string_view bytes);

}  // namespace baton::transport
