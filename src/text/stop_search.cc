#include "text/stop_search.h"

#include <chrono>

namespace baton::text {

Result<std::optional<std::string>> StopSearch::feed(std::string_view text, bool may_stop) {
  if (patterns_.empty() || text.empty()) return std::optional<std::string>();
  tail_ += text;
  if (tail_.size() > kTailBytes) {
    size_t cut = tail_.size() - kTailBytes;
    while (cut < tail_.size() && (static_cast<unsigned char>(tail_[cut]) & 0xC0) == 0x80) ++cut;
    tail_.erase(0, cut);
  }
  if (!may_stop) return std::optional<std::string>();
  constexpr std::chrono::milliseconds kCpuMax{50};  // of one search: other streams wait for its thread
  for (const StopPattern& pattern : patterns_) {
    EncodeLimits limits;
    limits.cpu_max = kCpuMax;
    EncodeBudget budget(limits);
    const auto found = pattern.regex.is_in(tail_, budget);
    if (!found) {
      return error(ErrorCode::kInvalidArgument,
                   "stop_regex: \"{}\" takes too long to be looked for in the text that was generated",
                   pattern.source.substr(0, 100));
    }
    if (*found) return std::optional<std::string>(pattern.source);
  }
  return std::optional<std::string>();
}

}  // namespace baton::text
