// The policy of one instance: which sequences get pages, and what the next step computes. Pure: no sockets, threads or
// clocks, so that tests drive the very object that serves. One thread.
//
// It owns every sequence and the page ledger and prefix tree of all DP groups. Because one scheduler sees all groups, a
// request goes to the group with the least outstanding work, and chunks are cut so that the groups' shares of a step
// take equally long.
//
// Admission (S15). A sequence is admitted to a group when the group's free and evictable pages hold its prompt and, on
// top, what it and every sequence already there may still grow by: min(tokens it may still generate,
// reserved_decode_tokens) each. Growth beyond that is possible, so a running sequence may find no page: then the
// youngest sequence of the group is retracted. Its KV stays in the prefix tree as long as no one needs the pages, and
// it goes to the front of the queue with what it generated as part of its prompt.
//
// Order. Higher priority goes first, among equals the earlier one; `policy` says how far later ones may go before
// earlier ones. kFirstCome: not at all; a request that does not fit holds up those behind it that want the same group,
// while one for another group passes. kFair, two bounds, both counted in work by the cost model, never in time:
//  - Prompts. The first in a group has about half of each step, the other half goes to the shortest rest. Once later
//    ones have been given kPassFactor times its own prompt's work while it was admitted, a prompt holds its place:
//    nothing later is computed before it.
//  - Admission. A request that waits is passed by requests that fit until those together are kPassFactor times its own
//    work, generated tokens included. Then it holds its place and the group drains until it fits, so none starves.
// The other policies order the queue, compute one prompt after another, and heed the bound on admission.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/id_map.h"
#include "kv/step_plan.h"
#include "scheduler/cost_model.h"
#include "scheduler/group_memory.h"
#include "scheduler/prompt_share.h"
#include "scheduler/queue_policy.h"
#include "scheduler/sequence.h"

namespace baton::scheduler {

// How many times its own work may be given to those that pass a sequence.
inline constexpr double kPassFactor = 4;

struct SchedulerOptions {
  int dp = 1;
  int pp = 1;  // stages of the pipeline that compute at the same time
  int pages_per_group = 0;
  int page_tokens = 64;
  int max_running_requests = 256;       // sequences with pages, all groups together
  int64_t chunked_prefill_size = 8192;  // prompt tokens in one step, all groups together
  bool mixed_chunk = false;             // prompts and running sequences share steps
  bool prefix_cache = true;
  int reserved_decode_tokens = 512;
  int64_t logits_rows_max = 4096;  // rows of prompt logits in one step, at least 1
  // Without mixed_chunk prompts go first, but after so many steps of prompts in a row the running sequences get one.
  int prompt_steps_in_row_max = 8;
  CostModel cost;
  QueuePolicy policy = QueuePolicy::kFair;
  bool priorities = false;  // heed NewSequence::priority
  // With priorities: a request that finds no room retracts running sequences whose priority is lower by so much.
  std::optional<int> preemption_threshold;
};

// What one call of next_turn() decided. The plan may be empty: then nothing can be computed until something is added,
// joined, released or finished. What its segments borrow is valid until the scheduler is told anything.
struct Turn {
  kv::StepPlan plan;
  std::vector<SequenceId> admitted;   // got the pages of their prompt now; prebuilt ones may be granted
  std::vector<SequenceId> retracted;  // lost their pages
  // Somebody should lose pages, which has to wait until no step is under way: complete() them before the next turn.
  bool waits_for_steps = false;
};

struct SchedulerCounts {
  int held = 0, waiting = 0, reserved = 0, computing = 0, running = 0;
  uint64_t prompt_tokens = 0, cached_tokens = 0;  // of first admissions since the start
  uint64_t retractions = 0;
  uint64_t admission_rounds = 0;                                   // turns that went through the queue
  uint64_t retracted_prompt_tokens = 0, retracted_new_tokens = 0;  // whose KV was given up
  int64_t running_tokens = 0;                                      // the lengths of what runs
};

class Scheduler {
 public:
  explicit Scheduler(const SchedulerOptions& options);

  // Prompt and generated tokens that one sequence can ever have: the pool of one group.
  [[nodiscard]] int64_t sequence_tokens_max() const;

  // To the end of the queue, or held. Breaking a range of NewSequence is a bug.
  void add(NewSequence sequence);
  // A held sequence enters the queue.
  void release(SequenceId id);
  // A reserved sequence whose prompt is in its pages, none of them granted any more, and whose first token is known.
  void join(SequenceId id, int32_t first_token);

  // Admits and plans a step, which is under way from then on if the plan is not empty; complete() it when it was
  // computed. The next turn may come before that, as long as fewer than steps_max() are under way. Without a pipeline
  // sequences whose next token the step under way draws are planned with that token unknown (kv::Segment::drawn_by),
  // unless it is their last in any case. In a pipeline each stage has another step, of further chunks of prompts and of
  // sequences that no other step draws for: what runs is shared out over so many steps.
  //
  // The plan borrows from the sequences: what it points to is good until the next change of the scheduler, the numbers
  // in it until its step is completed.
  const Turn& next_turn();
  [[nodiscard]] int steps_max() const { return options_.pp == 1 ? 2 : options_.pp; }
  // The oldest step under way was computed. Sequences computed to their end wait for append() or finish() now; both
  // must come before the next turn. Sequences that have ended meanwhile are passed over.
  void complete(const kv::StepPlan& plan);
  // No step under way will be computed any more.
  void abandon_steps();
  // The next token of a sequence that has been computed to its end.
  void append(SequenceId id, int32_t token);
  // Forgets a sequence in any state. What was computed stays in the prefix tree. Returns its leases: drop them to free
  // the pages, or keep them while a peer still reads or writes. Pages that a step under way uses become free after it.
  std::vector<kv::PageLease> finish(SequenceId id);

  // The sequence must live.
  [[nodiscard]] const Sequence& sequence(SequenceId id) const;
  [[nodiscard]] kv::PageLedger& ledger(int group) { return groups_[static_cast<size_t>(group)].memory.ledger(); }
  [[nodiscard]] const kv::PageLedger& ledger(int group) const {
    return groups_[static_cast<size_t>(group)].memory.ledger();
  }
  [[nodiscard]] bool empty() const { return sequences_.size() == 0; }
  [[nodiscard]] size_t waiting() const { return waiting_.size(); }
  // Of those that wait, which there must be: of the lowest priority the one that came last.
  [[nodiscard]] SequenceId last_waiting() const;
  [[nodiscard]] SequenceId newest() const { return last_id_; }
  // Nothing more gets pages until this is false again; what has some goes on.
  void hold_admissions(bool held) { admissions_held_ = held; }
  // Every sequence gives up its pages and waits, except those whose pages a peer reads or writes: held ones that have
  // begun, and prebuilt ones that have not joined.
  // No step may be under way.
  void retract_all();
  [[nodiscard]] SchedulerCounts counts() const;
  // Of each group, the sequences that wait and can go to no other: a rank was asked for, or they were held for it.
  [[nodiscard]] std::vector<int> bound_waiting() const;
  // Sequences that have pages of the group.
  [[nodiscard]] int active_in(int group) const {
    return static_cast<int>(groups_[static_cast<size_t>(group)].active.size());
  }
  [[nodiscard]] const SchedulerOptions& options() const { return options_; }
  // Drops every cached prefix that no sequence holds.
  void flush_cache();
  // Recounts what is kept beside the sequences. O(pages and tokens), for tests.
  void audit() const;

 private:
  struct DpGroup {
    GroupMemory memory;
    std::vector<Sequence*> active;  // those with pages, oldest first
    int64_t owed = 0;               // theirs
    double promised_work = 0;       // of sequences bound to this group that have no pages yet
    int64_t spare_at_block = 0;     // its spare pages when admission was found blocked
  };
  // kNotYet: the step is full without it, or it would pass another too far. kNoRoom: no pages or no sequence is free.
  enum class Trial : uint8_t { kAdmitted, kNotYet, kNoRoom };
  struct Round;
  struct RoundGroup;

  Sequence& at(SequenceId id);
  [[nodiscard]] DpGroup& group_of(const Sequence& s) { return groups_[static_cast<size_t>(s.group)]; }
  [[nodiscard]] int64_t pages_for(int64_t tokens) const;
  [[nodiscard]] int count(SequenceState state) const { return in_state_[static_cast<size_t>(state)]; }
  void move_to(Sequence& s, SequenceState state);
  void activate(Sequence& s);
  void deactivate(Sequence& s);
  void note_owed(Sequence& s);
  void remember(const Sequence& s);
  void share(Sequence& s);
  static void list_pages(Sequence& s);
  [[nodiscard]] bool steps_under_way() const { return completed_steps_ < planned_steps_; }

  // admission.cc
  [[nodiscard]] int64_t pages_at_most(const Sequence& s) const;
  [[nodiscard]] double work_of(const Sequence& s) const;
  [[nodiscard]] double work_of(const DpGroup& group) const;
  [[nodiscard]] int active_count() const;
  [[nodiscard]] int64_t match_limit(const Sequence& s) const;
  [[nodiscard]] std::vector<int> groups_by_load(const Sequence& s) const;
  void withdraw_promise(Sequence& s);
  bool take_pages(Sequence& s, int group_index);
  [[nodiscard]] Round begin_round() const;
  [[nodiscard]] std::vector<bool> open_groups(const Sequence& s, const Round& round) const;
  Trial try_admit(Sequence& s, Round* round);
  void skip(const Sequence& s, Trial why, Round* round) const;
  void note_admission(const Sequence& s, Round* round);
  bool preempt_for(const Sequence& s, Round* round, Turn* turn);
  [[nodiscard]] static int64_t spare_pages(const DpGroup& group) { return group.memory.available() - group.owed; }
  [[nodiscard]] bool is_blocked() const;
  void note_blocked();
  void admit(Turn* turn);

  // queue_order.cc
  void enqueue(Sequence& s);
  [[nodiscard]] bool passes() const { return options_.policy != QueuePolicy::kFirstCome; }
  [[nodiscard]] double prompt_work(const Sequence& s) const;
  [[nodiscard]] double whole_work(const Sequence& s) const;
  [[nodiscard]] double pass_allowance(const Sequence& s) const;
  [[nodiscard]] double urgency(const Sequence& s) const;
  [[nodiscard]] std::vector<Sequence*> queue_order() const;

  // planning.cc
  [[nodiscard]] bool any_prompt() const;
  [[nodiscard]] bool any_runs() const;
  [[nodiscard]] bool runs_ahead(const Sequence& s) const;
  [[nodiscard]] bool runs(const Sequence& s) const;
  void plan_running(Turn* turn);
  bool grow(Sequence& s, Turn* turn);
  void retract(Sequence& s);
  [[nodiscard]] std::vector<std::vector<Sequence*>> computing_prompts() const;
  [[nodiscard]] std::vector<std::vector<int64_t>> cut_prompts(const std::vector<std::vector<Sequence*>>& prompts,
                                                              int64_t budget) const;
  void plan_prompts(int64_t budget, Turn* turn);
  void note_passed_chunks(const std::vector<Sequence*>& prompts, const std::vector<int64_t>& counts);
  void add_segment(Sequence& s, int64_t count, kv::StepPlan* plan);

  const SchedulerOptions options_;
  std::vector<DpGroup> groups_;
  IdMap<SequenceId, Sequence> sequences_;
  std::array<int, kSequenceStates> in_state_{};  // how many of them
  std::vector<Sequence*> waiting_;               // by ticket
  // Raised by all that may let a request be admitted but pages that become available. Nobody could be at blocked_at_.
  uint64_t changes_ = 1, blocked_at_ = 0, admission_rounds_ = 0;
  uint64_t last_ticket_ = 0;
  uint64_t turns_ = 0;
  uint64_t planned_steps_ = 0, completed_steps_ = 0;
  std::vector<Turn> kept_turns_;    // (steps_max()) of steps under way and the next; their storage is used again
  std::vector<Sequence*> to_grow_;  // plan_running()'s
  // Let go of while steps were under way, which may read or write them; until so many steps are completed.
  struct KeptPages {
    uint64_t until = 0;
    std::vector<kv::PageLease> pages;
  };
  std::vector<KeptPages> kept_;
  double computed_work_ = 0;  // of prompts, since the start
  SequenceId last_id_{};
  bool admissions_held_ = false;
  int prompt_steps_in_row_ = 0;
  uint64_t prompt_tokens_ = 0, cached_tokens_ = 0, retractions_ = 0;
  uint64_t retracted_prompt_tokens_ = 0, retracted_new_tokens_ = 0;
  size_t admissions_ = 0;  // where ties between groups begin
};

}  // namespace baton::scheduler
