// Ends a stream of text where one of some regular expressions matches.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "text/regex.h"

namespace baton::text {

struct StopPattern {
  std::string source;
  Regex regex;
};

// One for each stream; used by one thread at a time. A pattern is looked for in the last kTailBytes of the text, after
// every piece of it: so what one looks for may not be longer, and what a piece costs does not grow with the text.
class StopSearch {
 public:
  static constexpr size_t kTailBytes = 4096;

  explicit StopSearch(std::vector<StopPattern> patterns) : patterns_(std::move(patterns)) {}

  // More text, of whole characters: the first pattern of the list that matches now, unless without `may_stop`.
  // kInvalidArgument: a pattern takes too many steps or too much of a processor's time.
  [[nodiscard]] Result<std::optional<std::string>> feed(std::string_view text, bool may_stop = true);

 private:
  std::vector<StopPattern> patterns_;
  std::string tail_;
};

}  // namespace baton::text
