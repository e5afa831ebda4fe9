// What the engine and the handoff services say to each other. Plain data.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "base/clock.h"
#include "base/ids.h"
#include "base/result.h"
#include "device/memory.h"
#include "layout/layout.h"
#include "transport/transport.h"
#include "wire/frames.h"

namespace baton::handoff {

// The page memory of one world rank: page p of the rank's DP group lies at p * shape.page_bytes(), from offset 0 of the
// region.
struct Pool {
  transport::RegionId region;
  device::Memory memory;
  layout::PageShape shape;
};

// Every attempt ends in exactly one of these and never changes it (S5).
enum class AttemptOutcome : uint8_t { kCommitted, kFailed, kCancelled };
[[nodiscard]] const char* attempt_outcome_name(AttemptOutcome outcome);

// ---- prefill ----

// Decode has granted pages: compute now. Tokens [0, cached_tokens) are already on decode and will not be sent (they may
// still have to be computed or found in prefill's own prefix tree, because later tokens attend to them).
struct PrefillGranted {
  AttemptId attempt;
  int64_t cached_tokens = 0;
  TimePoint came;     // the grant; earlier than begin() when the engine was in the middle of a step
  Duration waited{};  // from begin() to the grant; 0 when it was there
};

// What prefill says of a prompt beside its KV.
struct PrefillResult {
  wire::FirstToken first;
  std::vector<wire::PromptRow> prompt;  // of the prompt's tokens whose logprobs are asked for: its last ones
  int64_t cached_tokens = 0;            // of the prompt, that were not computed again
  wire::HandoffDurations durations;     // the service fills transfer_tail
};

// The last event of an attempt. `quiet`: no transfer reads the sources any more, the pages may be unpinned. It is false
// only when the transport could not say so; then the pages must stay pinned while the process lives.
struct PrefillEnded {
  AttemptId attempt;
  AttemptOutcome outcome = AttemptOutcome::kFailed;
  std::string message;  // why, unless committed
  bool quiet = true;
  uint64_t bytes = 0;   // applied at decode
  uint64_t copies = 0;  // contiguous blocks
  double seconds = 0;   // from the first post to the last completion
};

using PrefillEvent = std::variant<PrefillGranted, PrefillEnded>;
// Called from the service's thread; must not block and must not call back into the service.
using PrefillSink = std::function<void(PrefillEvent)>;

// ---- decode ----

struct DecodeRequest {
  AttemptId attempt;
  std::string host;  // of the prefill instance's control port
  uint16_t port = 0;
  int dp_rank = 0;
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;  // found in decode's prefix tree: a multiple of page_tokens, below prompt_tokens
  std::vector<wire::GrantedPage> pages;  // of the whole prompt in token order, the cached ones included
  TimePoint deadline;
  // Logprobs that must come with it: of how many of the prompt's tokens, and at most how many beside each.
  int64_t prompt_rows = 0;
  size_t beside_max = 0;
};

// A pairing ended, well or not. When it failed, service goes on trying with backoff until it forgets the peer
// (DecodeHandoffOptions::forget_after). After a refusal (kIncompatible) only a new incarnation of the peer, met on a
// slow retry, changes the answer.
struct DecodePaired {
  std::string address;  // "host:port" as given to pair() or receive()
  Status status;
  wire::Manifest peer;  // when status is ok; transport_blob left out
  uint64_t plan_hash = 0;
};

// The control connection of a pair is gone or silent; its attempts end by events of their own. Reconnecting has begun.
struct DecodePairLost {
  std::string address;
  std::string reason;
};

// Commit arrived: the token may be shown. The KV is not yet known to be good.
struct DecodeFirstToken {
  AttemptId attempt;
  PrefillResult result;
  TimePoint at;  // of the Commit
};

// The KV of the whole prompt is in the pages and verified; nobody writes them any more. The last event of a committed
// attempt.
struct DecodeCommitted {
  AttemptId attempt;
  uint64_t bytes = 0;                // over the fabric
  uint64_t copies = 0;               // blocks over the fabric
  uint64_t local_bytes = 0;          // copied between our own ranks (fanout local)
  uint64_t checksums = 0;            // compared
  wire::HandoffDurations durations;  // prefill's side
  Duration pairing{};                // from receive() to the grant sent
  Duration waited{};                 // from the grant sent to Commit
  Duration verify{};                 // from Commit to here
};

// The attempt failed or was cancelled. `quiet`: evidence is there already, the pages may be reused. Otherwise they must
// be quarantined until DecodeQuiet.
struct DecodeEnded {
  AttemptId attempt;
  AttemptOutcome outcome = AttemptOutcome::kFailed;
  std::string message;
  bool quiet = false;
  bool corrupt = false;    // a checksum or count differed
  bool forbidden = false;  // the prefill instance is none that we were told of
};

// Evidence came: the pages of an ended attempt may be reused.
struct DecodeQuiet {
  AttemptId attempt;
};

using DecodeEvent =
    std::variant<DecodePaired, DecodePairLost, DecodeFirstToken, DecodeCommitted, DecodeEnded, DecodeQuiet>;
// Called from the service's thread; must not block and must not call back into the service.
using DecodeSink = std::function<void(DecodeEvent)>;

// ---- both ----

// A snapshot for /metrics; all counts since the start.
struct HandoffStats {
  struct Link {
    uint64_t bytes = 0;
    uint64_t copies = 0;
    bool operator==(const Link&) const = default;
  };
  uint64_t committed = 0, failed = 0, cancelled = 0;
  uint64_t bytes = 0, copies = 0;
  uint64_t local_bytes = 0, local_copies = 0;  // decode, fanout local
  uint64_t checksums = 0, checksum_mismatches = 0;
  uint64_t stale_frames = 0;  // dropped for a stale incarnation, attempt or grant (S8)
  uint64_t bad_frames = 0;    // did not decode; the connection was closed
  uint64_t peers_lost = 0, pairings = 0, refusals = 0;
  uint64_t attempts_live = 0;         // now
  uint64_t attempts_quarantined = 0;  // now: ended, evidence outstanding (decode) or never to come (prefill)
  uint64_t peers = 0;                 // paired now
  // By (source world rank, destination world rank); prefill counts what was applied.
  std::map<std::pair<int, int>, Link> links;
  // By reason: "deadline", "peer_lost", "checksum", "rejected", "transfer", "peer", "refused",
  // "forbidden".
  std::map<std::string, uint64_t> failures;
};

}  // namespace baton::handoff
