// What every transport promises, tried on each of them: the pair that the conformance tests write through.
#pragma once

#include <string>
#include <vector>

#include "base/random.h"
#include "transport/test_support.h"

namespace baton::transport::testing {

inline constexpr uint64_t kMiB = 1 << 20;

// An owner and a writer, each with a region.
struct Pair {
  Pair(const std::string& name, uint64_t bytes, const TransportOptions& writer_options = {})
      : owner(make(name)), writer(make(name, writer_options)), events(*writer) {
    to = owner->allocate(bytes).value();
    from = writer->allocate(bytes).value();
    peer = writer->connect(owner->local_blob()).value();
  }
  Status open(uint64_t attempt, uint64_t offset, uint64_t length) const {
    const WindowRange range{to.id, offset, length};
    return owner->open_window(token(attempt), std::span(&range, 1));
  }
  Status open(uint64_t attempt) const { return open(attempt, 0, to.memory.size); }
  [[nodiscard]] Block block(uint64_t from_offset, uint64_t to_offset, uint64_t length) const {
    return {from.id, from_offset, to.id, to_offset, length};
  }
  Result<TransferId> post(const std::vector<Block>& blocks, const WindowToken& t, Duration limit = 20s) const {
    return writer->post_write(peer, blocks, t, in(limit));
  }
  std::vector<TransferId> post_times(int times, const std::vector<Block>& blocks, const WindowToken& t) const {
    std::vector<TransferId> ids(static_cast<size_t>(times));
    for (TransferId& id : ids) id = post(blocks, t).value();
    return ids;
  }
  TransferEvent write(const std::vector<Block>& blocks, const WindowToken& t, Duration limit = 20s) {
    auto id = post(blocks, t, limit);
    BATON_CHECK(id.ok(), "{}", id.error().message);
    return events.wait(*id);
  }

  std::unique_ptr<Transport> owner, writer;
  Events events;
  Transport::Region to, from;
  PeerId peer;
};

inline void fill_random(const device::Memory& memory, uint64_t seed) {
  Random random(seed);
  std::vector<std::byte> bytes(memory.size);
  for (std::byte& b : bytes) b = static_cast<std::byte>(random.next());
  put(bytes, memory);
}

// The parameter is the name of a transport.
class Conformance : public OfTransport {};

}  // namespace baton::transport::testing
