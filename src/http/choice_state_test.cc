// One token stream on its way to text: characters stay whole, and nothing that may begin a stop string is shown.
#include "http/choice_state.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "http/test_support.h"
#include "text/utf8.h"

namespace baton::http {

using engine::FinishReason;

namespace {

const ModelText& model() {
  static const auto made = byte_model();
  return *made;
}

struct Stream {
  explicit Stream(std::vector<std::string> stops = {}, ApiRequest wanted = {}, int stops_after = 0,
                  std::vector<text::StopPattern> stop_patterns = {})
      : call(std::move(wanted)) {
    ChoiceRequest choice;
    choice.engine.prompt = {1, 2, 3};
    choice.stops = std::move(stops);
    choice.stops_after = stops_after;
    choice.stop_patterns = std::move(stop_patterns);
    call.choices.push_back(choice);
    state.emplace(call.choices[0], call, model(), 0);
  }
  bool take(std::string_view text, std::optional<engine::Output::Finish> finish = std::nullopt) {
    engine::Output output;
    for (const char c : text) output.tokens.push_back({static_cast<unsigned char>(c), 0, {}});
    output.finish = std::move(finish);
    return state->take(std::move(output));
  }
  ApiRequest call;
  std::optional<ChoiceState> state;
};

TEST(ChoiceState, NeverSplitsACharacter) {
  Stream stream;
  const std::string text = "a\xC3\xA9\xF0\x9F\x98\x80z";  // a é 😀 z
  std::vector<size_t> shown;
  for (const char c : text) {
    stream.take(std::string_view(&c, 1));
    EXPECT_EQ(text::replace_invalid_utf8(stream.state->text), stream.state->text);
    shown.push_back(stream.state->text.size());
  }
  EXPECT_EQ(shown, (std::vector<size_t>{1, 1, 3, 3, 3, 3, 7, 8}));
  stream.take("\xE4\xB8", finished(FinishReason::kLength));
  EXPECT_EQ(stream.state->text, text + "\xEF\xBF\xBD");  // an unfinished character at the end
  EXPECT_EQ(stream.state->tokens.size(), text.size() + 2);
}

std::vector<text::StopPattern> patterns(const char* source) {
  return {{source, text::Regex::from_python(source).value()}};
}

// The text of a match stays, with what stop strings had held back.
TEST(ChoiceState, EndsWhereAPatternMatches) {
  Stream stream({"3z"}, {}, 0, patterns("[0-9]{2}"));
  EXPECT_FALSE(stream.take("ab1"));
  EXPECT_EQ(stream.state->text, "ab1");
  EXPECT_TRUE(stream.take("3z"));
  ASSERT_TRUE(stream.state->finish);
  EXPECT_EQ(stream.state->text, "ab13");
  EXPECT_EQ(stream.state->tokens.size(), 4U);
  EXPECT_EQ(stream.state->finish->reason, FinishReason::kStop);
  EXPECT_EQ(std::get<std::string>(stream.state->finish->matched), "[0-9]{2}");
}

TEST(ChoiceState, APatternWaitsForTheLeastTokens) {
  Stream stream({}, {}, 3, patterns("a."));
  EXPECT_FALSE(stream.take("aba"));
  EXPECT_TRUE(stream.take("b"));
  EXPECT_EQ(stream.state->text, "abab");
}

TEST(ChoiceState, APatternThatTakesTooLongEndsItWithAnError) {
  Stream stream({}, {}, 0, patterns("(a|a)*(a|a)*(a|a)*[bc]"));
  EXPECT_TRUE(stream.take(std::string(1000, 'a')));
  ASSERT_TRUE(stream.state->finish && stream.state->finish->error);
  EXPECT_EQ(stream.state->finish->reason, FinishReason::kAbort);
  EXPECT_EQ(stream.state->finish->error->code, ErrorCode::kInvalidArgument);
}

TEST(ChoiceState, HoldsWhatMayBeginAStopString) {
  Stream stream({"END", "\n\n"});
  stream.take("some E");
  EXPECT_EQ(stream.state->text, "some ");
  stream.take("N");
  EXPECT_EQ(stream.state->text, "some ");
  stream.take("T\n");
  EXPECT_EQ(stream.state->text, "some ENT");
  EXPECT_FALSE(stream.take("x"));
  EXPECT_EQ(stream.state->text, "some ENT\nx");
  EXPECT_TRUE(stream.take("yENDmore"));  // the engine does not know yet
  EXPECT_EQ(stream.state->text, "some ENT\nxy");
  ASSERT_TRUE(stream.state->finish.has_value());
  EXPECT_EQ(stream.state->finish->reason, FinishReason::kStop);
  EXPECT_EQ(std::get<std::string>(stream.state->finish->matched), "END");
  EXPECT_EQ(stream.state->tokens.size(), std::string("some ENT\nxyEND").size());  // up to the stop
  EXPECT_FALSE(stream.take("late"));
  EXPECT_EQ(stream.state->text, "some ENT\nxy");
}

// min_tokens: no stop string ends among the first ones, but one may begin there.
TEST(ChoiceState, StopStringsAreMetBehindTheLeastTokens) {
  Stream stream({"=", "abc"}, {}, 3);
  stream.take("=x");
  EXPECT_EQ(stream.state->text, "=x");
  stream.take("a");
  EXPECT_EQ(stream.state->text, "=x");
  EXPECT_FALSE(stream.state->finish.has_value());
  EXPECT_TRUE(stream.take("bc="));
  EXPECT_EQ(stream.state->text, "=x");
  EXPECT_EQ(std::get<std::string>(stream.state->finish->matched), "abc");
  // A special token that is a stop string is no other.
  Stream special({"</s>"}, {}, 2);
  special.take("a");
  engine::Output output;
  output.tokens.push_back({kTestEos, 0, {}});
  EXPECT_FALSE(special.state->take(std::move(output)));
  EXPECT_FALSE(special.state->finish.has_value());
  output = {};
  output.tokens.push_back({kTestEos, 0, {}});
  EXPECT_TRUE(special.state->take(std::move(output)));
  EXPECT_EQ(special.state->text, "a");
}

TEST(ChoiceState, ShowsWhatWasHeldWhenTheEndComes) {
  Stream stream({"END"});
  stream.take("E");
  stream.take("N", finished(FinishReason::kLength));
  EXPECT_EQ(stream.state->text, "EN");
  EXPECT_EQ(stream.state->finish->reason, FinishReason::kLength);
}

TEST(ChoiceState, AStopInTheLastDeliveryWinsOverItsReason) {
  Stream stream({"x"});
  EXPECT_FALSE(stream.take("ax", finished(FinishReason::kLength)));  // the engine has ended it already
  EXPECT_EQ(stream.state->finish->reason, FinishReason::kStop);
  EXPECT_EQ(stream.state->text, "a");
}

TEST(ChoiceState, StopTokensAreCountedAndNotShown) {
  for (const bool no_trim : {false, true}) {
    ApiRequest call;
    call.no_stop_trim = no_trim;
    Stream stream({}, call);
    engine::Output output;
    output.tokens = {{'a', 0, {}}, {'!', 0, {}}};
    output.finish = engine::Output::Finish{FinishReason::kStop, '!', std::nullopt};
    stream.state->take(std::move(output));
    EXPECT_EQ(stream.state->text, no_trim ? "a!" : "a");
    EXPECT_EQ(stream.state->tokens.size(), 2U);
    EXPECT_EQ(std::get<int32_t>(stream.state->finish->matched), '!');
  }
}

// The text leaves special tokens out, so a stop string that is one is met in the tokens.
TEST(ChoiceState, ASpecialTokenMayBeAStopString) {
  for (const bool no_trim : {false, true}) {
    for (const bool skip : {true, false}) {
      ApiRequest call;
      call.no_stop_trim = no_trim;
      call.skip_special_tokens = skip;
      Stream stream({"ab!", "<s>"}, call);
      engine::Output output;
      for (const int id : {int{'x'}, int{'a'}, int{'b'}, 256, int{'y'}}) output.tokens.push_back({id, 0, {}});
      EXPECT_TRUE(stream.state->take(std::move(output)));
      EXPECT_EQ(stream.state->text, no_trim ? "xab<s>" : "xab");
      EXPECT_EQ(stream.state->tokens.size(), 4U);
      ASSERT_TRUE(stream.state->finish.has_value());
      EXPECT_EQ(std::get<std::string>(stream.state->finish->matched), "<s>");
    }
  }
}

// However the bytes are cut into deliveries, the text is that of all at once, and what was shown is never taken back.
RC_GTEST_PROP(ChoiceState, DoesNotDependOnTheCuts, ()) {
  const auto text = *rc::gen::container<std::string>(rc::gen::elementOf(std::string("ab\xC3\xA9\xE4\xB8\xAD")));
  const std::vector<std::string> stops{"aba", "b\xC3\xA9"};
  Stream whole(stops), cut(stops);
  whole.take(text, finished(FinishReason::kLength));
  std::string shown;
  for (size_t at = 0; at < text.size() && !cut.state->finish;) {
    const size_t n = std::min<size_t>(*rc::gen::inRange<size_t>(1, 5), text.size() - at);
    const bool last = at + n == text.size();
    cut.take(std::string_view(text).substr(at, n),
             last ? std::optional(finished(FinishReason::kLength)) : std::nullopt);
    RC_ASSERT(cut.state->text.starts_with(shown));
    shown = cut.state->text;
    at += n;
  }
  if (text.empty()) cut.take("", finished(FinishReason::kLength));
  RC_ASSERT(cut.state->text == whole.state->text);
  RC_ASSERT(cut.state->finish->reason == whole.state->finish->reason);
  RC_ASSERT(cut.state->tokens.size() == whole.state->tokens.size());
}

}  // namespace
}  // namespace baton::http
