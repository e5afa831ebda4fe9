#include "text/stop_matcher.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

namespace baton::text {
namespace {

struct Outcome {
  std::string text;
  std::optional<size_t> stop;
  bool operator==(const Outcome&) const = default;
};

// The definition: the first end of any stop string, there the longest one.
Outcome naive(const std::vector<std::string>& stops, const std::string& text, bool no_stop_trim) {
  for (size_t end = 1; end <= text.size(); ++end) {
    std::optional<size_t> best;
    for (size_t i = 0; i < stops.size(); ++i) {
      if (stops[i].empty() || !std::string_view(text).substr(0, end).ends_with(stops[i])) continue;
      if (!best || stops[i].size() > stops[*best].size()) best = i;
    }
    if (best) return {text.substr(0, no_stop_trim ? end : end - stops[*best].size()), best};
  }
  return {text, std::nullopt};
}

RC_GTEST_PROP(StopMatcher, EqualsTheDefinitionHoweverTheTextIsCut, (bool no_stop_trim)) {
  const auto string_of = [](int length_max) {
    return rc::gen::mapcat(rc::gen::inRange(0, length_max + 1),
                           [](int n) { return rc::gen::container<std::string>(n, rc::gen::element('a', 'b', 'c')); });
  };
  const auto stops = *rc::gen::container<std::vector<std::string>>(string_of(4));
  const auto chunks = *rc::gen::container<std::vector<std::string>>(string_of(6));
  StopMatcher matcher(stops, {.no_stop_trim = no_stop_trim});
  std::string all, sent;
  for (const std::string& chunk : chunks) {
    all += chunk;
    const StopMatcher::Output output = matcher.feed(chunk);
    sent += output.text;
    // What was sent is right whatever comes next.
    RC_ASSERT(naive(stops, all, no_stop_trim).text.starts_with(sent));
    RC_ASSERT(output.stop == matcher.stopped());
    // And no more is held than may begin a stop string.
    if (!output.stop) {
      const std::string held = all.substr(sent.size());
      RC_ASSERT(held.empty() ||
                std::any_of(stops.begin(), stops.end(), [&](const std::string& s) { return s.starts_with(held); }));
    }
  }
  sent += matcher.finish();
  RC_ASSERT((Outcome{sent, matcher.stopped()} == naive(stops, all, no_stop_trim)));
}

TEST(StopMatcher, NoneIsMetWhereNoneMayBe) {
  StopMatcher matcher({"ab", "bcd"}, {});
  std::string sent = matcher.feed("xab", false).text;
  EXPECT_FALSE(matcher.stopped());
  const auto last = matcher.feed("cd!");
  EXPECT_EQ(sent + last.text, "xa");  // "bcd" began before
  EXPECT_EQ(last.stop, 1u);
}

TEST(StopMatcher, HoldsBackAndTrims) {
  StopMatcher matcher({"</s>", "STOP"}, {});
  EXPECT_EQ(matcher.feed("one <").text, "one ");
  EXPECT_EQ(matcher.feed("b> ST").text, "<b> ");
  EXPECT_EQ(matcher.feed("A ST").text, "STA ");
  const auto last = matcher.feed("OP and more");
  EXPECT_EQ(last.text, "");
  EXPECT_EQ(last.stop, 1u);
  EXPECT_EQ(matcher.feed("more").text, "");
  EXPECT_EQ(matcher.finish(), "");
}

}  // namespace
}  // namespace baton::text
