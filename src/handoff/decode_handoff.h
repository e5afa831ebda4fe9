// The receiving side: pairs with prefill instances, grants them pages, and says when a prompt's KV is there and good.
//
// One thread of its own runs the attempt machines, the control connections, the local copies and the checksums. The
// engine's calls only queue a command and never block. Events of an attempt: FirstToken at most once, then exactly one
// of Committed and Ended; after an Ended that was not quiet, Quiet when evidence came (it may never come).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "device/stream.h"
#include "handoff/events.h"
#include "handoff/trust.h"

namespace baton::handoff {

struct DecodeHandoffOptions {
  Duration heartbeat = std::chrono::seconds(1);
  int heartbeat_misses = 3;                            // a peer silent for that many is lost
  Duration connect_timeout = std::chrono::seconds(5);  // TCP connection and manifests together
  Duration reconnect_min = std::chrono::milliseconds(50);
  Duration reconnect_max = std::chrono::seconds(2);
  Duration forget_after = std::chrono::minutes(1);  // a peer that cannot be met and nobody has asked for since
  // Whom this instance may meet: with a key whoever proves that it has the same one, without whom it was told of.
  std::string key;
  TrustedPeers trusted;
  // Addresses that are being tried at a time, and that are kept while nobody waits for them.
  size_t connecting_max = 64;
  size_t pairs_max = 1024;
  // Bytes copied and hashed between two looks at the sockets.
  uint64_t verify_slice_bytes = 16u << 20;
  // For tests of the checksums: called on the service's thread after the window of a committed attempt closed and
  // before anything is copied or verified.
  std::function<void(AttemptId)> before_verify;
  device::StreamFactory make_stream = device::make_stream;  // of the devices that pools lie on
};

class DecodeHandoff {
 public:
  // `self`, `pools`: as for PrefillHandoff::start.
  static Result<std::unique_ptr<DecodeHandoff>> start(DecodeHandoffOptions options, wire::Manifest self,
                                                      transport::Transport& transport, std::vector<Pool> pools,
                                                      DecodeSink sink);
  // Stops: every live attempt is cancelled and ended, its window closed. Attempts that are not quiet by then end with
  // quiet false.
  ~DecodeHandoff();
  DecodeHandoff(const DecodeHandoff&) = delete;
  DecodeHandoff& operator=(const DecodeHandoff&) = delete;

  // Meets the prefill instance behind a control port and stays connected. Asking again is free. Paired follows. A peer
  // that cannot be met is tried again and again for forget_after, then when somebody asks for it. `told`: whoever asks
  // may say whom this instance trusts; otherwise Paired says kForbidden at once of a peer that it was not told of.
  void pair(const std::string& host, uint16_t port, bool told);

  // Pairs if needed, opens the window, sends the grant. kInvalidArgument, and no event: the attempt is live or
  // quarantined already or zero, or ranks, tokens or pages are out of range or do not fit each other.
  Status receive(DecodeRequest request);
  // Ended follows, unless the attempt was committed first.
  void cancel(AttemptId attempt, std::string reason);

  [[nodiscard]] HandoffStats stats() const;

 private:
  class Service;
  explicit DecodeHandoff(std::unique_ptr<Service> service);
  std::unique_ptr<Service> service_;
};

}  // namespace baton::handoff
