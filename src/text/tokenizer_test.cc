#include "text/tokenizer.h"

#include <gtest/gtest.h>

#include "text/json_node.h"

namespace baton {
namespace {

const std::filesystem::path kFixtures = std::filesystem::path(BATON_SOURCE_DIR) / "tests/fixtures/tokenizers";

TEST(Smoke, Golden) {
  for (const char* name : {"deepseek", "llama3", "qwen2"}) {
    auto t = Tokenizer::load(kFixtures / (std::string(name) + ".json"));
    ASSERT_TRUE(t.ok()) << t.error().message;
    auto doc = JsonDocument::load(kFixtures / (std::string(name) + ".golden.json"));
    ASSERT_TRUE(doc.ok());
    const auto cases = doc->root().array();
    for (const auto& c : cases.value()) {
      EXPECT_EQ(t->encode(c.member("text")->string().value(), false), c.member("ids")->indices().value());
      EXPECT_EQ(t->decode(c.member("ids")->indices().value(), false), c.member("decoded")->string().value());
    }
  }
}

}  // namespace
}  // namespace baton
