#include "text/stop_matcher.h"

#include <utility>

namespace baton::text {

StopMatcher::Output StopMatcher::feed(std::string_view text, bool may_stop) {
  if (stop_) return {{}, stop_};
  for (size_t at = 0; at < text.size(); ++at) {
    state_ = automaton_.step(state_, static_cast<unsigned char>(text[at]));
    if (may_stop) stop_ = automaton_.pattern(state_);
    if (!stop_) continue;
    held_ += text.substr(0, at + 1);
    if (!options_.no_stop_trim) held_.resize(held_.size() - automaton_.pattern_length(*stop_));
    return {std::exchange(held_, {}), stop_};
  }
  held_ += text;
  const size_t safe = held_.size() - automaton_.depth(state_);
  Output output{held_.substr(0, safe), std::nullopt};
  held_.erase(0, safe);
  return output;
}

std::string StopMatcher::finish() {
  state_ = AhoCorasick::kRoot;
  return std::exchange(held_, {});
}

}  // namespace baton::text
