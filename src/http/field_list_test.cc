// The walk over the fields of compatibility.inc: each is read, taken or refused, and by its name.
#include "http/field_list.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "http/test_support.h"

namespace baton::http {
namespace {

namespace json = boost::json;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr FieldPlace kPlaces[] = {kGenerate, kParams, kCompletions, kChat};

// A good call with `value` at `name`. A decode instance reads the most.
Result<ApiRequest> call_with(FieldPlace place, std::string_view name, const json::value& value) {
  static const auto model = byte_model();
  json::object body{{"bootstrap_room", 1}};
  if (place == kChat) {
    body["messages"] = json::array{json::object{{"role", "user"}, {"content", "ab"}}};
  } else {
    body[place == kCompletions ? "prompt" : "text"] = "ab";
  }
  if (place == kParams) {
    body["sampling_params"] = json::object{{name, value}};
  } else {
    body[name] = value;
  }
  if (name == "input_ids") body.erase("text");
  const ApiKind kind = place == kChat          ? ApiKind::kChat
                       : place == kCompletions ? ApiKind::kCompletion
                                               : ApiKind::kGenerate;
  return parse_api_request(kind, std::move(body), *model, engine::Role::kDecode);
}

struct AtPlace {
  FieldPlace place;
  const FieldRow& row;
};
std::vector<AtPlace> rows_of(FieldDeed deed) {
  std::vector<AtPlace> found;
  for (const FieldRow& row : field_rows()) {
    for (const FieldPlace place : kPlaces) {
      if (row.deed == deed && (row.where & place) != 0) found.push_back({place, row});
    }
  }
  return found;
}

TEST(FieldList, EachFieldStandsOnceAtAPlace) {
  std::map<std::pair<int, std::string_view>, int> seen;
  for (const FieldRow& row : field_rows()) {
    EXPECT_NE(row.where, 0) << row.name;
    for (const FieldPlace place : kPlaces) {
      if ((row.where & place) == 0) continue;
      int& times = seen[{place, row.name}];
      EXPECT_EQ(++times, 1) << row.name;
    }
  }
}

// A value of no field's type: whoever reads the field says so.
TEST(FieldList, WhatIsDoneIsRead) {
  const json::value nonsense = json::parse("[[{}]]");
  for (const auto& [place, row] : rows_of(FieldDeed::kDone)) {
    const auto refused = call_with(place, row.name, nonsense);
    ASSERT_FALSE(refused.ok()) << row.name << " at " << place;
    EXPECT_EQ(refused.error().code, ErrorCode::kInvalidArgument) << row.name;
    EXPECT_THAT(refused.error().message, StartsWith(std::string(row.name))) << "at " << place;
  }
}

TEST(FieldList, WhatHasNoEffectIsTakenWhateverItIs) {
  for (const auto& [place, row] : rows_of(FieldDeed::kNoEffect)) {
    for (const char* value : {"null", "true", "1", "\"x\"", "[1]", "{\"a\":1}"})
      EXPECT_TRUE(call_with(place, row.name, json::parse(value)).ok()) << row.name << ": " << value;
  }
}

TEST(FieldList, WhatIsRefusedIsNamedUnlessItAsksForNothing) {
  for (const auto& [place, row] : rows_of(FieldDeed::kRefused)) {
    std::vector<std::string> off = {"null", "false", "\"\"", "[]", "{}", "[null]", "[[],null]", "{\"a\":null}"};
    if (!row.off.empty()) off.emplace_back(row.off);
    for (const std::string& value : off) {
      const auto taken = call_with(place, row.name, json::parse(value));
      EXPECT_TRUE(taken.ok()) << row.name << ": " << value << ": " << (taken.ok() ? "" : taken.error().message);
    }
    for (const char* value : {"true", "7", "0.5", "\"x\"", "[1]", "[null,\"x\"]", "{\"a\":[{\"b\":\"c\"}]}"}) {
      const auto refused = call_with(place, row.name, json::parse(value));
      ASSERT_FALSE(refused.ok()) << row.name << ": " << value;
      EXPECT_EQ(refused.error().code, ErrorCode::kInvalidArgument);
      EXPECT_THAT(refused.error().message, StartsWith(fmt::format("{}: ", row.name)));
      EXPECT_THAT(refused.error().message, HasSubstr("not supported")) << row.name;
    }
  }
}

// Each asked for another text than came, with 200.
TEST(FieldList, WhatOnceWasIgnored) {
  for (const char* name :
       {"guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs", "use_beam_search",
        "logprob_token_ids", "return_hidden_states", "session_params", "custom_logit_processor"}) {
    EXPECT_FALSE(call_with(kCompletions, name, json::parse(R"({"a":"b"})")).ok()) << name;
    EXPECT_FALSE(call_with(kChat, name, json::parse(R"({"a":"b"})")).ok()) << name;
  }
  for (const char* name : {"input_embeds", "image_data", "custom_logit_processor", "session_params"})
    EXPECT_FALSE(call_with(kGenerate, name, json::parse("[[1.5]]")).ok()) << name;
  EXPECT_FALSE(call_with(kChat, "functions", json::parse(R"([{"name":"f"}])")).ok());
}

}  // namespace
}  // namespace baton::http
