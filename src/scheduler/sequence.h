// What the scheduler knows of one token stream.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/ids.h"
#include "kv/page_ledger.h"

namespace baton::scheduler {

// How a sequence enters the scheduler.
enum class EntryMode : uint8_t {
  // Its prompt is computed here as soon as there is room.
  kCompute,
  // The same, but only after release(): the DP group is chosen now, no page is taken yet. Prefill, waiting for a grant.
  kHeld,
  // Its prompt's KV is written by someone else into pages reserved here; it runs after join(). Decode.
  kPrebuilt,
};

struct NewSequence {
  SequenceId id;  // larger than every id before it
  std::vector<int32_t> prompt;
  int max_new_tokens = 1;      // prompt + max_new_tokens <= Scheduler::sequence_tokens_max()
  std::optional<int> dp_rank;  // wanted DP group
  std::string cache_salt;
  int64_t logits_from = -1;  // the first prompt position whose logits row is wanted; -1: of the last one only
  EntryMode entry = EntryMode::kCompute;
  int priority = 0;  // larger ones first; heeded with SchedulerOptions::priorities
};

enum class SequenceState : uint8_t {
  kHeld,       // waits for release(); no pages
  kWaiting,    // in the queue; no pages
  kReserved,   // prebuilt: has the pages of its prompt, waits for join()
  kComputing,  // has the pages of its prompt, part of it is not computed
  kRunning,    // one token a step
  kDone,       // computed to the end, waits for append() or finish()
};
inline constexpr size_t kSequenceStates = 6;

struct Sequence {
  SequenceId id;
  SequenceState state = SequenceState::kWaiting;
  EntryMode entry = EntryMode::kCompute;
  std::optional<int> wanted_group;
  int group = -1;               // valid once placed
  std::vector<int32_t> tokens;  // prompt and what was generated
  int64_t prompt_tokens = 0;    // how many of them the client sent
  int64_t planned = 0;          // the KV of tokens [0, planned) is in `pages`, or will be after the steps under way
  int64_t computed = 0;         // the KV of tokens [0, computed) is in `pages`
  int under_way = 0;            // steps under way that have a segment of it
  bool awaits = false;          // the last token is not known yet: a step under way draws it
  uint64_t last_step = 0;       // that has a segment of it, and that segment's number
  int last_segment = 0;
  int64_t cached = 0;        // tokens found in the prefix tree when last admitted
  int64_t first_cached = 0;  // the same when first admitted: what the client is told
  int64_t logits_from = -1;
  int max_new_tokens = 1;
  std::string cache_salt;
  std::vector<kv::PageLease> pages;    // in token order
  std::vector<uint32_t> page_numbers;  // theirs, as plans borrow them
  int64_t owed = 0;                    // pages that it may still ask for; 0 without pages
  bool ever_admitted = false;
  double promised_work = 0;  // its share of its group's promised work
  int priority = 0;
  uint64_t ticket = 0;       // rises with entry into the queue; kept through retraction
  double queued_at = 0;      // work computed by the scheduler until then
  double passed_queue = 0;   // work of later ones that were admitted while it waited
  double passed_chunks = 0;  // work of later prompts computed while its own was admitted and not complete

  [[nodiscard]] int64_t size() const { return static_cast<int64_t>(tokens.size()); }
  [[nodiscard]] int64_t left() const { return size() - planned; }
  [[nodiscard]] int64_t new_tokens_left() const {
    return std::max<int64_t>(0, prompt_tokens + max_new_tokens - size());
  }
};

}  // namespace baton::scheduler
