// A step plan with tokens and pages of its own, for tests that look at a plan when its owner has gone on.
#pragma once

#include <cstdint>
#include <vector>

#include "kv/step_plan.h"

namespace baton::kv {

class KeptPlan {
 public:
  KeptPlan() = default;
  explicit KeptPlan(const StepPlan& plan) : plan_(plan) {
    for (Segment& segment : plan_.segments) {
      tokens_.emplace_back(segment.tokens.begin(), segment.tokens.end());
      pages_.emplace_back(segment.pages.begin(), segment.pages.end());
      segment.tokens = tokens_.back();  // what a vector holds stays where it is when the vector moves
      segment.pages = pages_.back();
    }
  }
  KeptPlan(KeptPlan&&) = default;
  KeptPlan& operator=(KeptPlan&&) = default;
  ~KeptPlan() = default;
  KeptPlan(const KeptPlan&) = delete;
  KeptPlan& operator=(const KeptPlan&) = delete;

  [[nodiscard]] const StepPlan& plan() const { return plan_; }
  // Of segment i.
  [[nodiscard]] std::vector<int32_t>& tokens(size_t i) { return tokens_[i]; }

 private:
  StepPlan plan_;
  std::vector<std::vector<int32_t>> tokens_;
  std::vector<std::vector<uint32_t>> pages_;
};

}  // namespace baton::kv
