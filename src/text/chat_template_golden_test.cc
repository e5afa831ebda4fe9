// Walks tests/fixtures/chat_templates/golden.json, made by tools/chat_template_golden.py with Jinja itself.
#include <gtest/gtest.h>

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>

#include <cstdlib>
#include <ctime>
#include <fstream>
#include <iterator>
#include <string>

#include "text/chat_template.h"

namespace baton::text {
namespace {

class Golden : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    setenv("TZ", "UTC", 1);
    tzset();
    std::ifstream file(BATON_SOURCE_DIR "/tests/fixtures/chat_templates/golden.json");
    const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    ASSERT_FALSE(text.empty());
    boost::json::parse_options options;
    options.max_depth = 64;
    golden_ = boost::json::parse(text, {}, options);
  }

  static Result<std::string> render(std::string_view source, const boost::json::object& context) {
    BATON_ASSIGN(ChatTemplate parsed, ChatTemplate::parse(std::string(source)));
    jinja::RenderLimits limits;
    limits.now = golden_.at("now").as_int64();
    return parsed.render(context, limits);
  }

  // Both the text, or both an error.
  static void compare(const Result<std::string>& result, const boost::json::value& expected, const std::string& what) {
    if (expected.is_null()) {
      EXPECT_FALSE(result.ok()) << what << "\nrendered: " << *result;
    } else if (result.ok()) {
      EXPECT_EQ(*result, std::string_view(expected.as_string())) << what;
    } else {
      ADD_FAILURE() << what << "\nexpected: " << expected.as_string() << "\nfailed:   " << result.error().message;
    }
  }

  static boost::json::value golden_;
};

boost::json::value Golden::golden_;

TEST_F(Golden, SmallTemplates) {
  const auto& context = golden_.at("expression_context").as_object();
  const auto& expressions = golden_.at("expressions").as_array();
  ASSERT_GT(expressions.size(), 1000U);
  for (const boost::json::value& pair : expressions) {
    const std::string source(pair.at(0).as_string());
    compare(render(source, context), pair.at(1), source);
  }
}

TEST_F(Golden, WholeTemplates) {
  const auto& contexts = golden_.at("contexts").as_array();
  for (const boost::json::value& entry : golden_.at("templates").as_array()) {
    const auto parsed = ChatTemplate::parse(std::string(entry.at("source").as_string()));
    ASSERT_TRUE(parsed.ok()) << entry.at("name").as_string() << ": " << parsed.error().message;
    const auto& expected = entry.at("expected").as_array();
    ASSERT_EQ(expected.size(), contexts.size());
    jinja::RenderLimits limits;
    limits.now = golden_.at("now").as_int64();
    for (std::size_t i = 0; i < contexts.size(); ++i) {
      compare(parsed->render(contexts[i].as_object(), limits), expected[i],
              std::string(entry.at("name").as_string()) + " with " + boost::json::serialize(contexts[i]));
    }
  }
}

}  // namespace
}  // namespace baton::text
