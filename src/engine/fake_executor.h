// An Executor without a model, for tests: it writes recognisable KV into real page pools and derives the next token
// from what it reads back, so a token that was computed from a wrong, stale or half-written page is a wrong token.
//
// The KV of position p holds h(p) = mix(h(p - 1), token p) in every (layer, head, k|v), disguised differently in each.
// h(begin - 1) is read from the pages, never remembered, and the next token depends on h of every position, read from
// every rank that holds it. The text is a function of the prompt alone, whatever the layout, the chunks, the pages and
// the prefix cache did.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "kv/plan_testing.h"
#include "layout/layout.h"
#include "model/executor.h"
#include "sampling/vocabulary_sampler.h"

namespace baton::engine {

struct FakeExecutorOptions {
  layout::Layout layout;
  layout::KvGeometry geometry;  // k_dim * element_size >= 8
  int page_tokens = 4;
  int vocab = 100;
  std::function<void(const kv::StepPlan&)> before_run;  // may be empty
  std::function<Status()> fault;                        // may be empty; an error fails the step
};

class FakeExecutor final : public model::Executor {
 public:
  // pools[r] as for make_thread_executor.
  FakeExecutor(FakeExecutorOptions options, std::vector<std::span<std::byte>> pools);
  [[nodiscard]] int steps_max() const override { return std::max(2, options_.layout.pp); }
  [[nodiscard]] int stages_at_once() const override { return options_.layout.pp; }
  model::Ticket submit(const kv::StepPlan& plan, std::span<const sampling::RowsWanted> wanted) override;
  Result<model::StepOutput*> collect(model::Ticket ticket) override;

  // What a greedy request generates.
  [[nodiscard]] static std::vector<int32_t> greedy_text(const std::vector<int32_t>& prompt, int count, int vocab);
  // The logits after `tokens`.
  [[nodiscard]] static std::vector<float> logits_after(std::span<const int32_t> tokens, int vocab);

 private:
  struct Slot {
    std::byte* k = nullptr;
    uint64_t k_bytes = 0, v_bytes = 0;
    std::byte* v = nullptr;
    uint64_t disguise = 0;
  };
  // Every place that holds the KV of a position: (rank, layer, head).
  template <typename Visit>
  void for_each_slot(const kv::Segment& segment, int64_t position, Visit visit) const;
  void write(const kv::Segment& segment, int64_t position, uint64_t h) const;
  [[nodiscard]] uint64_t read(const kv::Segment& segment, int64_t position) const;

  // A submitted step, with copies of all that was borrowed.
  struct Step {
    kv::KeptPlan plan;
    std::vector<std::shared_ptr<sampling::Recipe>> recipes;
    std::vector<sampling::RowWanted> wanted;  // of all rows
    model::StepOutput output;
  };
  void compute(Step& step, const Step& before);

  const FakeExecutorOptions options_;
  const std::vector<std::span<std::byte>> pools_;
  std::vector<layout::PageShape> shapes_;  // of each world rank
  sampling::VocabularySampler sampler_;
  std::vector<Step> steps_;  // one more than may be under way; step n is n % size()
  model::Ticket submitted_ = 0, collected_ = 0;
};

}  // namespace baton::engine
