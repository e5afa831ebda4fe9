#include "model/step_batch.h"

#include <gtest/gtest.h>

#include "model/model_config.h"

namespace baton::model {
namespace {

constexpr int32_t kTokens[] = {5, 6};
constexpr uint32_t kPages[] = {0, 1};

bool is_decode(const std::string& model, const std::vector<std::pair<int64_t, size_t>>& begins_and_tokens) {
  const ModelConfig config = load_model_config(std::string(BATON_SOURCE_DIR) + "/models/" + model).value();
  RopeTable rope(config);
  kv::StepPlan plan;
  for (const auto& [begin, tokens] : begins_and_tokens) {
    kv::Segment segment;
    segment.begin = begin;
    segment.tokens = std::span(kTokens).first(tokens);
    segment.pages = kPages;
    plan.segments.push_back(segment);
  }
  StepBatch batch;
  batch.build(plan, {}, config, 1, MlaPath::kAuto, rope, nullptr);
  return batch.is_decode;
}

// What is done for a prompt depends on its context, so that a step with one must not be taken for another of its shape.
TEST(StepBatch, OnlyStepsOfDecodeAreSaidToBeSuch) {
  for (const char* model : {"tiny-mla", "tiny-gqa"}) {
    EXPECT_TRUE(is_decode(model, {{40, 1}, {7, 1}})) << model;
    EXPECT_FALSE(is_decode(model, {{40, 1}, {7, 2}})) << model;
  }
  EXPECT_FALSE(is_decode("tiny-mla", {{40, 1}, {0, 1}})) << "a prompt of one token, whose keys are expanded";
}

}  // namespace
}  // namespace baton::model
