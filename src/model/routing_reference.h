// The expert choices of one run, for a second run of the same steps in another precision.
//
// A gate whose best scores lie within the rounding error of the arithmetic may choose either expert, and what follows
// is then another computation: no tolerance on the logits says anything about it. So that lower precision can be held
// against a golden result all the same, a run in float32 is recorded, and the second run follows its choice at such
// ties and nowhere else.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <span>
#include <tuple>
#include <vector>

namespace baton::model {

// Gates call meet() from any thread; the owner of the steps calls the rest between two of them.
class RoutingReference {
 public:
  // A choice is a tie if the norm of the difference of the gate's logits is at most `tolerance` of their norm.
  explicit RoutingReference(double tolerance) : tolerance_(tolerance) {}

  // The first run is recorded until follow().
  void follow() { recording_ = false; }
  [[nodiscard]] bool following() const { return !recording_; }
  // Steps of both runs are numbered alike and hold the same rows.
  void begin_step(int step) { step_ = step; }

  // `logits` (experts) and the chosen `expert` of a row. When following: true if `expert` was changed to the recorded
  // choice.
  bool meet(int layer, int64_t row, std::span<const float> logits, std::span<int32_t> expert);

  // Rows of a layer in which the choice was a tie and was changed.
  [[nodiscard]] int ties() const { return ties_; }
  // Those in which it differed and was not a tie, and was left.
  [[nodiscard]] int differences() const { return differences_; }

 private:
  struct Choice {
    std::vector<float> logits;
    std::vector<int32_t> expert;
  };
  const double tolerance_;
  bool recording_ = true;
  int step_ = 0;
  std::mutex mutex_;
  std::map<std::tuple<int, int, int64_t>, Choice> choices_;  // by step, layer, row
  int ties_ = 0, differences_ = 0;
};

}  // namespace baton::model
