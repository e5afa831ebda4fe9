// A transport that misbehaves as networks, peers and cards do, repeatably from a seed; over any other transport. It
// never breaks the contract of transport.h: what it does is what a caller must survive.
#pragma once

#include <memory>

#include "base/clock.h"
#include "transport/transport.h"

namespace baton::transport {

// Probabilities for each post; their sum is at most 1 and the rest goes through.
struct FaultOptions {
  double drop = 0;         // nothing is written; kTimeout at the deadline, remote not known to be quiet
  double lose_answer = 0;  // written, but kTimeout at the deadline, remote not known to be quiet
  double late = 0;         // kTimeout at the deadline, and the bytes are on their way only then: what a fence is for
  double delay = 0;        // passed on after up to delay_max, and so reordered
  double duplicate = 0;    // written once more, delay_max after it ended
  double reject = 0;       // kRejected
  double kill_peer = 0;    // the peer is gone: this post and all others to it are kPeerLost until it is connected again
  Duration delay_max = std::chrono::milliseconds(20);
  // Room for the copy of one post that `late` and `duplicate` keep. A larger post, or one that comes while the room is
  // taken, is dropped where it was to be late and written once where it was to be written twice.
  uint64_t scratch_bytes = 1 << 20;
  const Clock* clock = nullptr;  // steady time if null
};

// kResourceExhausted: no scratch from the inner transport. Thread safe as any transport.
Result<std::unique_ptr<Transport>> faulty(std::unique_ptr<Transport> inner, uint64_t seed, const FaultOptions& options);

}  // namespace baton::transport
