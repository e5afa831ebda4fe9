// What the next step computes.
#include <algorithm>
#include <numeric>

#include "base/check.h"
#include "scheduler/chunk_cut.h"
#include "scheduler/scheduler.h"

namespace baton::scheduler {

bool Scheduler::any_prompt() const {
  if (count(SequenceState::kComputing) == 0) return false;
  for (const DpGroup& group : groups_) {
    for (Sequence* s : group.active) {
      if (s->state == SequenceState::kComputing && s->left() > 0) return true;
    }
  }
  return false;
}

bool Scheduler::any_runs() const {
  for (const DpGroup& group : groups_) {
    for (Sequence* s : group.active) {
      if (runs(*s)) return true;
    }
  }
  return false;
}

// Whether the last step, which is under way, draws its next token, and it goes on after that.
bool Scheduler::runs_ahead(const Sequence& s) const {
  return options_.pp == 1 && s.under_way > 0 && s.left() == 0 && !s.awaits && s.last_step == planned_steps_ &&
         s.new_tokens_left() >= 2;
}

// Whether it can be given one token of this step.
bool Scheduler::runs(const Sequence& s) const {
  return (s.state == SequenceState::kRunning && s.left() > 0) || runs_ahead(s);
}

const Turn& Scheduler::next_turn() {
  BATON_CHECK(count(SequenceState::kDone) == 0, "a sequence computed to its end was neither appended to nor finished");
  BATON_CHECK(planned_steps_ - completed_steps_ < kept_turns_.size(), "{} steps are under way", kept_turns_.size());
  Turn& turn = kept_turns_[planned_steps_ % kept_turns_.size()];
  ++turns_;
  turn.plan.segments.clear();
  turn.admitted.clear();
  turn.retracted.clear();
  turn.waits_for_steps = false;
  admit(&turn);
  const bool running = any_runs();
  const bool prompts = any_prompt();
  const bool running_first = running && prompt_steps_in_row_ >= options_.prompt_steps_in_row_max;
  if (running && (options_.mixed_chunk || !prompts || running_first)) {
    plan_running(&turn);
    prompt_steps_in_row_ = 0;
  }
  const auto used = static_cast<int64_t>(turn.plan.segments.size());
  if (used == 0 || options_.mixed_chunk) {
    plan_prompts(std::max<int64_t>(1, options_.chunked_prefill_size - used), &turn);
    if (running && used == 0) ++prompt_steps_in_row_;
  }
  if (!turn.plan.segments.empty()) ++planned_steps_;
  return turn;
}

// One token of every running sequence that has, or gets, a page for it; in a pipeline of a share of them, so that every
// stage has some. Older ones are served first.
void Scheduler::plan_running(Turn* turn) {
  constexpr int32_t kUnknown = -1;
  for (DpGroup& group : groups_) {
    to_grow_.clear();
    size_t running = 0;
    for (Sequence* s : group.active) {
      if (runs(*s)) to_grow_.push_back(s);
      running += s->state == SequenceState::kRunning ? 1 : 0;
    }
    const auto stages = static_cast<size_t>(options_.pp);
    if (stages > 1) to_grow_.resize(std::min(to_grow_.size(), (running + stages - 1) / stages));
    // Who is retracted came later than the one that it is retracted for, so nobody loses pages that has a segment.
    for (Sequence* s : to_grow_) {
      if (!runs(*s)) continue;  // retracted for an older one
      const bool ahead = s->left() == 0;
      if (ahead) {
        s->tokens.push_back(kUnknown);
        s->awaits = true;
        note_owed(*s);
      }
      if (grow(*s, turn)) {
        add_segment(*s, 1, &turn->plan);
      } else if (ahead) {
        s->tokens.pop_back();
        s->awaits = false;
        note_owed(*s);
      }
    }
  }
}

// Makes room for the KV of all tokens of `s`. False: `s` sits this step out, or was itself retracted.
bool Scheduler::grow(Sequence& s, Turn* turn) {
  DpGroup& group = group_of(s);
  if (s.size() <= static_cast<int64_t>(s.pages.size()) * options_.page_tokens) return true;
  const int64_t missing = pages_for(s.size()) - static_cast<int64_t>(s.pages.size());
  for (;;) {
    auto fresh = group.memory.reserve(static_cast<int>(missing));
    if (fresh) {
      for (kv::PageLease& lease : *fresh) {
        s.page_numbers.push_back(lease.page().value());
        s.pages.push_back(std::move(lease));
      }
      note_owed(s);
      return true;
    }
    if (steps_under_way()) {
      turn->waits_for_steps = true;
      return false;
    }
    Sequence* victim = nullptr;  // the youngest that holds pages nobody else writes
    int candidates = 0;
    for (Sequence* other : group.active) {
      if (other->state != SequenceState::kRunning && other->state != SequenceState::kComputing) continue;
      victim = other;
      ++candidates;
    }
    // Alone, it waits for pages that transfers hold or that are quarantined; giving up its own would help no one.
    if (candidates == 1) return false;
    retract(*victim);
    turn->retracted.push_back(victim->id);
    if (victim == &s) return false;
  }
}

void Scheduler::retract(Sequence& s) {
  remember(s);
  deactivate(s);
  s.pages.clear();
  s.page_numbers.clear();
  s.planned = s.computed = s.cached = 0;
  s.entry = EntryMode::kCompute;
  enqueue(s);
  ++retractions_;
  retracted_prompt_tokens_ += static_cast<uint64_t>(s.prompt_tokens);
  retracted_new_tokens_ += static_cast<uint64_t>(s.size() - s.prompt_tokens);
}

void Scheduler::retract_all() {
  BATON_CHECK(!steps_under_way(), "a step is under way");
  BATON_CHECK(count(SequenceState::kDone) == 0, "a sequence computed to its end was neither appended to nor finished");
  std::vector<Sequence*> victims;
  for (DpGroup& group : groups_) {
    for (Sequence* s : group.active) {
      const bool computing = s->state == SequenceState::kComputing && s->entry != EntryMode::kHeld;
      if (computing || s->state == SequenceState::kRunning) victims.push_back(s);
    }
  }
  for (Sequence* s : victims) retract(*s);
}

// Of each group, by priority and then by arrival.
std::vector<std::vector<Sequence*>> Scheduler::computing_prompts() const {
  std::vector<std::vector<Sequence*>> prompts(groups_.size());
  for (size_t g = 0; g < groups_.size(); ++g) {
    for (Sequence* s : groups_[g].active) {
      if (s->state == SequenceState::kComputing && s->left() > 0) prompts[g].push_back(s);
    }
    std::sort(prompts[g].begin(), prompts[g].end(), [](const Sequence* a, const Sequence* b) {
      return a->priority != b->priority ? a->priority > b->priority : a->ticket < b->ticket;
    });
  }
  return prompts;
}

// How many tokens of each prompt the step computes.
std::vector<std::vector<int64_t>> Scheduler::cut_prompts(const std::vector<std::vector<Sequence*>>& prompts,
                                                         int64_t budget) const {
  std::vector<std::vector<PromptClaim>> claims(prompts.size());
  std::vector<std::vector<PromptPiece>> pieces(prompts.size());
  for (size_t g = 0; g < prompts.size(); ++g) {
    for (const Sequence* s : prompts[g]) {
      const bool overdue = s->passed_chunks >= kPassFactor * prompt_work(*s);
      claims[g].push_back({{s->planned, s->left()}, s->priority, overdue});
    }
    pieces[g] = queue_prompts(claims[g]);
  }
  const auto cut = [&] {
    std::vector<std::vector<ChunkWork>> work(pieces.size());
    for (size_t g = 0; g < pieces.size(); ++g) {
      for (const PromptPiece& piece : pieces[g]) work[g].push_back(piece.work);
    }
    const auto parts = cut_chunks(work, budget, options_.cost);
    std::vector<std::vector<int64_t>> counts(pieces.size());
    for (size_t g = 0; g < pieces.size(); ++g) {
      counts[g].resize(claims[g].size());
      for (size_t i = 0; i < pieces[g].size(); ++i) counts[g][pieces[g][i].claim] += parts[g][i];
    }
    return counts;
  };
  auto counts = cut();
  if (options_.policy != QueuePolicy::kFair) return counts;
  // What a group has of the step hardly depends on the order within the group.
  for (size_t g = 0; g < claims.size(); ++g) {
    const int64_t tokens = std::accumulate(counts[g].begin(), counts[g].end(), int64_t{0});
    pieces[g] = share_prompts(claims[g], tokens, options_.page_tokens);
  }
  return cut();
}

void Scheduler::plan_prompts(int64_t budget, Turn* turn) {
  if (!any_prompt()) return;
  const auto prompts = computing_prompts();
  auto counts = cut_prompts(prompts, budget);
  int64_t rows_left = options_.logits_rows_max;
  for (size_t g = 0; g < groups_.size(); ++g) {
    for (size_t i = 0; i < prompts[g].size(); ++i) {
      const Sequence& s = *prompts[g][i];
      int64_t& count = counts[g][i];
      if (s.logits_from >= 0) {
        count = std::min(count, std::max<int64_t>(0, s.logits_from - s.planned) + rows_left);
      }
      // A chunk that does not end its prompt ends at a page, so that whole pages can be handed over.
      const int64_t page_end = (s.planned + count) / options_.page_tokens * options_.page_tokens;
      if (count < s.left() && page_end > s.planned) count = page_end - s.planned;
      if (s.logits_from >= 0) rows_left -= std::max<int64_t>(0, s.planned + count - std::max(s.planned, s.logits_from));
    }
    note_passed_chunks(prompts[g], counts[g]);
    for (size_t i = 0; i < prompts[g].size(); ++i) {
      if (counts[g][i] > 0) add_segment(*prompts[g][i], counts[g][i], &turn->plan);
    }
  }
}

// Of each prompt that this step does not complete: what is computed of later ones.
void Scheduler::note_passed_chunks(const std::vector<Sequence*>& prompts, const std::vector<int64_t>& counts) {
  double later = 0;
  for (size_t i = prompts.size(); i-- > 0;) {
    Sequence& s = *prompts[i];
    if (counts[i] < s.left()) s.passed_chunks += later;
    later += options_.cost.chunk(s.planned, counts[i]);
  }
}

void Scheduler::add_segment(Sequence& s, int64_t count, kv::StepPlan* plan) {
  kv::Segment segment;
  segment.sequence = s.id;
  segment.dp_rank = s.group;
  segment.begin = s.planned;
  const int64_t end = s.planned + count;
  segment.tokens = std::span(s.tokens).subspan(static_cast<size_t>(s.planned), static_cast<size_t>(count));
  if (s.awaits) segment.drawn_by = s.last_segment;
  segment.pages = s.page_numbers;
  segment.logits_rows = end == s.size() ? 1 : 0;
  if (s.logits_from >= 0) {
    segment.logits_rows = std::max(segment.logits_rows, static_cast<int>(end - std::max(s.planned, s.logits_from)));
  }
  if (s.state == SequenceState::kComputing) ++changes_;
  s.planned = end;
  ++s.under_way;
  s.last_step = planned_steps_ + 1;
  s.last_segment = static_cast<int>(plan->segments.size());
  plan->segments.push_back(segment);
}

}  // namespace baton::scheduler
