// Proof that a plan is right, by counting cells: it shares no code with the planner.
#pragma once

#include "base/result.h"
#include "layout/plan.h"

namespace baton::layout {

// kCorrupt with the first fault found: a (layer, head, unit) of a destination with no writer or with two (S1), a writer
// that does not hold what it sends, a local copy of bytes that its source did not receive from the fabric, a rank out
// of range, or links that disagree with the pieces. Work: destination ranks x layers x heads x stripes.
[[nodiscard]] Status check_plan(const Planner& planner, const Plan& plan);

}  // namespace baton::layout
