#include "text/aho_corasick.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

namespace baton::text {
namespace {

// Strings over few letters, so that they overlap a lot.
rc::Gen<std::string> few_letters(int length_max) {
  return rc::gen::mapcat(rc::gen::inRange(0, length_max + 1),
                         [](int n) { return rc::gen::container<std::string>(n, rc::gen::element('a', 'b', 'c')); });
}

// The definition, tried at every place.
std::optional<AhoCorasick::Match> naive(const std::vector<std::string>& patterns, const std::string& text,
                                        size_t from) {
  for (size_t begin = from; begin < text.size(); ++begin) {
    std::optional<AhoCorasick::Match> best;
    for (size_t i = 0; i < patterns.size(); ++i) {
      const size_t end = begin + patterns[i].size();
      if (patterns[i].empty() || text.compare(begin, patterns[i].size(), patterns[i]) != 0) continue;
      if (!best || end > best->end) best = AhoCorasick::Match{begin, end, i, 0};
    }
    if (best) return best;
  }
  return std::nullopt;
}

RC_GTEST_PROP(AhoCorasick, FindsTheLeftmostLongest, ()) {
  const auto patterns = *rc::gen::container<std::vector<std::string>>(few_letters(5));
  const auto text = *few_letters(40);
  const AhoCorasick automaton(patterns);
  for (size_t from = 0; from <= text.size(); ++from) {
    const auto expected = naive(patterns, text, from);
    const auto found = automaton.find_leftmost_longest(text, from);
    RC_ASSERT(found.has_value() == expected.has_value());
    if (found) {
      RC_ASSERT(found->begin == expected->begin);
      RC_ASSERT(found->end == expected->end);
      RC_ASSERT(found->pattern == expected->pattern);
    }
  }
}

}  // namespace
}  // namespace baton::text
