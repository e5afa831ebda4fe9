#include "text/stop_search.h"

#include <gtest/gtest.h>

namespace baton::text {
namespace {

StopSearch search_for(std::vector<std::string> sources) {
  std::vector<StopPattern> patterns;
  for (const std::string& source : sources) patterns.push_back({source, Regex::from_python(source).value()});
  return StopSearch(std::move(patterns));
}

// How many of the pieces are read until one of the patterns matches; 0: none does.
size_t pieces_read(const std::string& source, const std::vector<std::string>& pieces) {
  StopSearch search = search_for({source});
  for (size_t i = 0; i < pieces.size(); ++i) {
    const auto found = search.feed(pieces[i]);
    EXPECT_TRUE(found.ok());
    if (!*found) continue;
    EXPECT_EQ(**found, source);
    return i + 1;
  }
  return 0;
}

// Each expectation is Python's re.search() over what came so far.
TEST(StopSearch, MatchesAsPythonDoes) {
  struct Case {
    const char* pattern;
    std::vector<std::string> pieces;
    size_t read;
  };
  const Case cases[] = {
      {"and|or", {"x ", "o", "ra", "nd"}, 3},
      {R"([.!?]\s*$)", {"a", ".b", ".", " "}, 3},
      {R"(\d+)", {"a", "12"}, 2},
      {R"(\d{3})", {"1", "2", "x12", "3"}, 4},
      {R"(^b)", {"a\n", "b"}, 0},
      {R"(a$)", {"a\n"}, 1},
      {R"(a\Z)", {"a\n"}, 0},
      {R"(\Aab)", {"a", "b"}, 2},
      {R"(\bor\b)", {"for ", "or"}, 2},
      {R"((?i)stop)", {"STO", "P"}, 2},
      {R"((?s)a.b)", {"a\nb"}, 1},
      {R"(a.b)", {"a\nb"}, 0},
      {R"((?P<year>\d\d)x)", {"1", "2", "x"}, 3},
      {R"(\{"a"})", {"{\"a\"}"}, 1},
      {R"(})", {"a}"}, 1},
      {R"(x{,2}y{)", {"xxy{"}, 1},
      {R"([[\]]z)", {"]z"}, 1},
      {R"(\w\xe9)", {"\xC3\xA9\xC3\xA9"}, 1},
      {R"((a|b){2}?c)", {"abc"}, 1},
  };
  for (const Case& c : cases) EXPECT_EQ(pieces_read(c.pattern, c.pieces), c.read) << c.pattern;
  for (const char* bad : {"(", "*a", R"(\1)", "(?m)a", "(?P=a)", R"([\W])", "[a"})
    EXPECT_FALSE(Regex::from_python(bad).ok()) << bad;
}

TEST(StopSearch, TheFirstOfTheListThatMatches) {
  StopSearch search = search_for({"b+", "a+"});
  EXPECT_EQ(search.feed("x").value(), std::nullopt);
  EXPECT_EQ(search.feed("ab").value(), "b+");
}

TEST(StopSearch, NotBeforeItMay) {
  StopSearch search = search_for({"a+b"});
  EXPECT_EQ(search.feed("ab", false).value(), std::nullopt);
  EXPECT_EQ(search.feed("b").value(), "a+b");
}

TEST(StopSearch, LooksAtTheLastOfALongText) {
  StopSearch search = search_for({"a[^z]*z"});
  const std::string character = "\xE4\xB8\xAD";
  EXPECT_EQ(search.feed("a").value(), std::nullopt);
  for (size_t i = 0; i < 2 * StopSearch::kTailBytes; ++i) ASSERT_EQ(search.feed(character).value(), std::nullopt);
  EXPECT_EQ(search.feed("z").value(), std::nullopt);
  EXPECT_EQ(search.feed("az").value(), "a[^z]*z");
}

// A pattern that goes through every division of the text is given up.
TEST(StopSearch, APatternThatTakesTooLongIsAnError) {
  StopSearch search = search_for({"(a|a)*(a|a)*(a|a)*[bc]"});
  const auto found = search.feed(std::string(StopSearch::kTailBytes, 'a'));
  ASSERT_FALSE(found.ok());
  EXPECT_EQ(found.error().code, ErrorCode::kInvalidArgument);
  EXPECT_TRUE(found.error().message.starts_with("stop_regex: "));
}

}  // namespace
}  // namespace baton::text
