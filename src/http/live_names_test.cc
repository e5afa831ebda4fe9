// Calls that run at a time have names of their own; a name is free again with its call's end.
#include "http/live_names.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "http/test_support.h"

namespace baton::http {
namespace {

using testing::HasSubstr;

ApiRequest request(const std::string& fields) {
  static const auto model = byte_model();
  auto body = boost::json::parse("{" + fields + "}").as_object();
  return parse_api_request(ApiKind::kGenerate, std::move(body), *model, engine::Role::kUnified).value();
}

TEST(LiveNames, ARunningCallKeepsItsName) {
  LiveNames names;
  auto first = names.claim(request(R"("text":"a","rid":"r")"));
  ASSERT_TRUE(first);
  const auto second = names.claim(request(R"("text":["b","c"],"rid":["s","r"])"));
  ASSERT_FALSE(second);
  EXPECT_THAT(second.error().message, HasSubstr("Duplicate request ID detected: r"));
  EXPECT_TRUE(names.claim(request(R"("text":"b","rid":"s")"))) << "a refused call keeps none";
  (*first)->release();
  auto again = names.claim(request(R"("text":"a","rid":"r")"));
  ASSERT_TRUE(again);
  first->reset();  // what was released is another's by now
  EXPECT_FALSE(names.claim(request(R"("text":"a","rid":"r")")));
}

TEST(LiveNames, SamplesShareTheNameOfTheirCall) {
  LiveNames names;
  const auto samples = names.claim(request(R"("text":"a","rid":"r","sampling_params":{"n":3})"));
  ASSERT_TRUE(samples);
  EXPECT_FALSE(names.claim(request(R"("text":"a","rid":"r")")));
}

TEST(LiveNames, CallsWithoutANameNeverMeet) {
  LiveNames names;
  const auto one = names.claim(request(R"("text":"a")"));
  EXPECT_TRUE(names.claim(request(R"("text":"a")")));
}

}  // namespace
}  // namespace baton::http
