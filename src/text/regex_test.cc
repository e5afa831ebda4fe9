#include "text/regex.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "text/regex_syntax.h"

namespace baton::text {
namespace {

std::vector<std::string> matches_of(std::string_view pattern, std::string_view text) {
  const auto regex = Regex::from_onig(pattern);
  EXPECT_TRUE(regex.ok()) << pattern << ": " << regex.error().message;
  std::vector<std::string> found;
  EncodeBudget budget({});
  const auto ranges = regex->find_all(text, budget);
  EXPECT_TRUE(ranges.ok()) << pattern << ": " << ranges.error().message;
  for (const TextRange& range : *ranges) found.emplace_back(text.substr(range.begin, range.end - range.begin));
  return found;
}

struct MatchCase {
  const char* pattern;
  const char* text;
  std::vector<std::string> matches;
};

// Each expectation is what Oniguruma (in the tokenizers 0.23.3 wheel) answers.
TEST(Regex, MatchesAsOnigurumaDoes) {
  const MatchCase cases[] = {
      {R"(\s)", "a\xE1\xA0\x8E\xE3\x80\x80\xC2\x85", {"\xE3\x80\x80", "\xC2\x85"}},  // U+180E is no space
      {R"([^\s]+)", "a\xE1\xA0\x8E b", {"a\xE1\xA0\x8E", "b"}},
      {R"((?i:'s))", "'s'S'\xC5\xBF", {"'s", "'S", "'\xC5\xBF"}},  // U+017F folds to s
      {R"(\w+)", "x\xC2\xBD", {"x\xC2\xBD"}},                      // U+00BD, but not within a class
      {R"([\w]+)", "x\xC2\xBD", {"x"}},
      {R"(\p{S})", "\xF0\x9F\xAB\xA8", {"\xF0\x9F\xAB\xA8"}},  // U+1FAE8, of Unicode 15
      {R"(\P{S})", "\xF0\x9F\xAB\xA8", {}},
      {R"(\p{^S})", "\xF0\x9F\xAB\xA8.", {"."}},
      {R"(\v)", "\n\x0B", {"\x0B"}},
      {R"(\s+$)", "a  \n b  ", {"  ", "  "}},
      {R"(^.)", "ab\nc\n", {"a", "c"}},
      {R"(x{,2})", "xxx", {"xx", "x"}},
      {R"([\w-]+)", "a-b c", {"a-b", "c"}},
      {R"(x*)", "axb", {"", "x", ""}},
      {R"([\S\n]+)", "a\n b", {"a\n", "b"}},
      {"\\x{4e2d}|\\u6587|\\x41", "A\xE4\xB8\xAD\xE6\x96\x87", {"A", "\xE4\xB8\xAD", "\xE6\x96\x87"}},
  };
  for (const MatchCase& c : cases) EXPECT_EQ(matches_of(c.pattern, c.text), c.matches) << c.pattern;
}

TEST(Regex, RefusesWhatTheEnginesReadDifferently) {
  const char* patterns[] = {"a(?i)b",  "(?<name>a)", "(?#c)",       "(*UTF)a",     R"(\1)",
                            R"(\h)",   R"(\b)",      R"(\p{Han})",  R"(\p{C})",    R"(\X)",
                            "[[a]b]",  "[a&&b]",     "[[:alpha:]]", R"([^\P{L}])", "(?i:stra\u00DFe)",
                            "(?i:ss)", "a{2}+",      "a{2}?",       "a{,}",        "(a",
                            "a)",      "[a",         "[]a]",        "a\\",         R"(\xE4)",
                            R"(\p{L)", "*a",         "(?i:[\\w])",  R"([a-\w])"};
  for (const char* pattern : patterns) {
    const auto regex = Regex::from_onig(pattern);
    ASSERT_FALSE(regex.ok()) << pattern;
    EXPECT_THAT(regex.error().message, testing::StartsWith("regular expression,")) << pattern;
  }
}

TEST(Regex, LiteralsMatchThemselves) {
  for (const std::string text : {".", "a+b", "\\", "[x]", "\xE4\xB8\xAD", "^$", "\n", "a b"}) {
    const auto regex = Regex::from_literal(text);
    ASSERT_TRUE(regex.ok());
    EncodeBudget budget({});
    EXPECT_EQ(regex->find_all("_" + text + text + "_", budget).value(),
              (std::vector<TextRange>{{1, 1 + text.size()}, {1 + text.size(), 1 + 2 * text.size()}}));
  }
}

std::string nested_groups(size_t depth) { return std::string(depth, '(') + "a" + std::string(depth, ')'); }

// Each of these would run for minutes to centuries, or take gigabytes.
TEST(Regex, PatternsThatCannotEndFail) {
  const std::string as(200'000, 'a'), spaces(1 << 20, ' ');
  const std::string digits_last = as + "1";
  const struct {
    const char* pattern;
    std::string text;
  } cases[] = {
      {R"((a+)+$)", as + "b"},
      {R"((a|a)*[bc])", as},
      {R"((a|aa)+$)", as + "b"},
      {R"((?:a?){40}a{40}[bc])", as},
      {R"((.*)*[xy])", as},
      {R"((\w+\s?)+$)", as + "!"},
      {R"(a*a*a*a*a*[bc])", as},
      {R"((a+)+[bc])", as + "\n"},
      {R"((?=(a+)+$)[bc])", as + "b"},
      {R"(\s+(?=$))", spaces + "x"},  // from every space to the end
      {R"(\w+?\d)", as},              // from every letter to the end
      {R"(\w+(?=\w*+\d))", as},       // once, but reading all from each place it comes back to
      {R"((?:a(?=\w*+\d))+|(?:a(?!\w*+\d))+)", as},
      {R"((?:\w{2,}\w{2,})+\d)", as},
      {R"([^x]+[^y]+[^z]+\d)", as},
      {R"(\p{L}*(?!\p{L}*+\P{L})\d|b)", as},
  };
  for (const auto& c : cases) {
    const auto regex = Regex::from_onig(c.pattern);
    ASSERT_TRUE(regex.ok()) << c.pattern << regex.error().message;
    EncodeLimits limits;
    limits.cpu_max = std::chrono::milliseconds(300);
    EncodeBudget budget(limits);
    const auto begin = std::chrono::steady_clock::now();
    const auto found = regex->find_all(c.text, budget);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    EXPECT_FALSE(found.ok()) << c.pattern;
    if (found) continue;
    EXPECT_EQ(found.error().code, ErrorCode::kInvalidArgument);
    EXPECT_THAT(found.error().message,
                testing::AnyOf(testing::HasSubstr("too many steps"), testing::HasSubstr("300 ms"),
                               testing::HasSubstr("too much memory")))
        << c.pattern;
    EXPECT_LT(seconds.count(), 20) << c.pattern;  // far below the minutes, far above a busy machine's delays
  }
}

TEST(Regex, StopsWhenAsked) {
  std::stop_source source;
  source.request_stop();
  EncodeLimits limits;
  limits.stop = source.get_token();
  EncodeBudget budget(limits);
  const auto found = Regex::from_onig(R"(\w+?\d)")->find_all(std::string(200'000, 'a'), budget);
  ASSERT_FALSE(found.ok());
  EXPECT_EQ(found.error().code, ErrorCode::kCancelled);
}

TEST(Regex, PatternsWithoutEndAreRefused) {
  for (const std::string& pattern : {nested_groups(100'000), nested_groups(30'000), std::string(1 << 20, 'a'),
                                     std::string("((a{1000}){1000}){1000}")}) {
    EXPECT_FALSE(Regex::from_onig(pattern).ok()) << pattern.substr(0, 30);
  }
}

// One match of a million characters: neither the match limit nor the JIT stack may end it.
TEST(Regex, TakesLongMatches) {
  const std::string letters(1 << 20, 'x');
  EXPECT_EQ(matches_of(R"((?:\p{L}|\p{N})+)", letters), std::vector<std::string>{letters});
  const std::string spaces = std::string(1 << 20, ' ') + "x";
  EXPECT_EQ(matches_of(R"(\s+$)", spaces), std::vector<std::string>{});  // hours, if tried at every space
  EXPECT_EQ(matches_of(R"(\s*[\r\n]+|\s+(?!\S)|\s+)", spaces),
            (std::vector<std::string>{spaces.substr(0, (1 << 20) - 1), " "}));
}

}  // namespace
}  // namespace baton::text
