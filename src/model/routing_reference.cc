#include "model/routing_reference.h"

#include <algorithm>

#include "base/check.h"

namespace baton::model {

bool RoutingReference::meet(int layer, int64_t row, std::span<const float> logits, std::span<int32_t> expert) {
  std::lock_guard lock(mutex_);
  const auto key = std::tuple(step_, layer, row);
  if (recording_) {
    choices_[key] = {{logits.begin(), logits.end()}, {expert.begin(), expert.end()}};
    return false;
  }
  const auto found = choices_.find(key);
  BATON_CHECK(found != choices_.end(), "step {}, layer {}, row {} was not recorded", step_, layer, row);
  const Choice& choice = found->second;
  if (std::is_permutation(expert.begin(), expert.end(), choice.expert.begin(), choice.expert.end())) return false;
  double difference = 0, norm = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    const double apart = logits[i] - choice.logits[i];
    difference += apart * apart;
    norm += static_cast<double>(choice.logits[i]) * choice.logits[i];
  }
  if (difference > tolerance_ * tolerance_ * norm) {
    ++differences_;
    return false;
  }
  ++ties_;
  std::copy(choice.expert.begin(), choice.expert.end(), expert.begin());
  return true;
}

}  // namespace baton::model
