// What generation_config.json gives the OpenAI endpoints as defaults.
#include <gtest/gtest.h>

#include "base/test_dir.h"
#include "http/model_text.h"

namespace baton::http {
namespace {

TEST(GenerationDefaults, AreThoseOfTheFile) {
  const TempDir directory;
  directory.write(
      "generation_config.json",
      R"({"temperature":0.5,"top_p":0.25,"top_k":0,"min_p":0.125,"repetition_penalty":1.5,"do_sample":true})");
  ModelTextOptions options;
  options.model_path = directory.path();
  options.skip_tokenizer = true;
  auto model = load_model_text(options);
  ASSERT_TRUE(model.ok()) << model.error().message;
  (*model)->context_length = 64;
  (*model)->vocab = 10;
  const auto sampling = [&](ApiKind kind, const char* body) {
    return parse_api_request(kind, body, **model, engine::Role::kUnified)->choices[0].engine.sampling;
  };
  const engine::SamplingParams p = sampling(ApiKind::kCompletion, R"({"prompt":[1]})");
  EXPECT_EQ(p.temperature, 0.5);
  EXPECT_EQ(p.top_p, 0.25);
  EXPECT_EQ(p.top_k, -1);
  EXPECT_EQ(p.min_p, 0.125);
  EXPECT_EQ(p.repetition_penalty, 1.5);
  EXPECT_TRUE(p.repetition_of_prompt);  // as a request's own
  EXPECT_EQ(sampling(ApiKind::kCompletion, R"({"prompt":[1],"min_p":0})").min_p, 0);
  EXPECT_EQ(sampling(ApiKind::kGenerate, R"({"input_ids":[1]})").repetition_penalty, 1);  // SGLang's own has its own
}

}  // namespace
}  // namespace baton::http
