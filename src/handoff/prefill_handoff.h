// The sending side: listens for decode instances, and writes the KV of granted attempts into their pages while it is
// being computed.
//
// One thread of its own runs the attempt machines, the control connections and the transport's events. The engine's
// calls only queue a command and never block. Order of an attempt: begin, Granted, computed..., finish, Ended; exactly
// one Ended for each begin that returned ok, whatever happens in between. Calls about an attempt that has ended are
// dropped.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "device/stream.h"
#include "handoff/events.h"

namespace baton::handoff {

struct PrefillHandoffOptions {
  std::string host = "127.0.0.1";  // numeric; 0.0.0.0 or :: is every address
  uint16_t port = 0;               // 0: any free one, see port()
  Duration heartbeat = std::chrono::seconds(1);
  int heartbeat_misses = 3;  // a peer silent for that many is lost
  Duration handshake_timeout = std::chrono::seconds(5);
  // Shared with the decode instances, see Handshake; empty: none, and any decode instance may pair.
  std::string key;
  // An older connection of an instance that comes again must answer within it, or is taken for dead.
  Duration replace_after = std::chrono::seconds(1);
  // Grants whose request has not come yet: held for this long or the grant's own budget, whichever ends first.
  Duration early_grant_timeout = std::chrono::seconds(60);
  size_t early_grants_max = 4096;
  // Control connections. A new one takes the place of one that has proved nothing: neither the key, nor by a grant that
  // met its request, whose id only the router told, that it is meant.
  size_t peers_max = 1024;
  // All memory that such peers cause together: frames on their way in and out, and grants that wait for their request.
  // Beyond it the one that causes most is dropped.
  size_t unproved_bytes_max = 64u << 20;
  // Of a prompt, pages of about this many bytes are summed and then posted, before the next are summed.
  uint64_t stripe_bytes = 32u << 20;
  // One post carries at most this much, so that a cancel stops soon and attempts share a link.
  uint64_t post_bytes_max = 4u << 20;
  size_t post_blocks_max = 512;
  // Of a rank, for KV on its way into pages of another element type.
  uint64_t converted_bytes_max = 64u << 20;
  // Bytes hashed, or posts made in as much time, between two looks at the sockets.
  uint64_t work_slice_bytes = 8u << 20;
  device::StreamFactory make_stream = device::make_stream;  // of the devices that pools lie on
};

class PrefillHandoff {
 public:
  // `self`: the caller fills incarnation, model, geometry, dtype, layout, pages and policy; role, transport and regions
  // are filled here. `pools`: one per world rank, in order. `transport` and the pools' memory must outlive the service.
  // kUnavailable when the port is taken, kInvalidArgument when self and pools do not agree.
  static Result<std::unique_ptr<PrefillHandoff>> start(PrefillHandoffOptions options, wire::Manifest self,
                                                       transport::Transport& transport, std::vector<Pool> pools,
                                                       PrefillSink sink);
  // Stops: every live attempt is cancelled and ended first, waiting at most two seconds for the transport.
  ~PrefillHandoff();
  PrefillHandoff(const PrefillHandoff&) = delete;
  PrefillHandoff& operator=(const PrefillHandoff&) = delete;

  [[nodiscard]] uint16_t port() const;

  // The request of an attempt is here. kInvalidArgument: the attempt is live already, is zero, or dp_rank or
  // prompt_tokens (> 0) are out of range. Then no event follows.
  Status begin(AttemptId attempt, int dp_rank, int64_t prompt_tokens, TimePoint deadline);
  // KV of tokens [0, end) is in place. `new_pages` are appended to the attempt's pages (token order, page i holds
  // tokens [i * page_tokens, ...)); a prefix found in prefill's own tree comes with the first call. end grows up to
  // prompt_tokens. The pages must stay pinned and unmodified until Ended, but for the page that holds token `end`,
  // whose tail the engine still fills.
  void computed(AttemptId attempt, int64_t end, std::vector<PageId> new_pages);
  // The last chunk is done (computed() has reached prompt_tokens) and this came of it.
  void finish(AttemptId attempt, PrefillResult result);
  // Someone no longer wants it (fault false) or the engine failed (fault true). Ended follows when the sources are
  // quiet.
  void cancel(AttemptId attempt, std::string reason, bool fault = false);

  [[nodiscard]] HandoffStats stats() const;

 private:
  class Service;
  explicit PrefillHandoff(std::unique_ptr<Service> service);
  std::unique_ptr<Service> service_;
};

}  // namespace baton::handoff
