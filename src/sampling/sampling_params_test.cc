#include "sampling/sampling_params.h"

#include <gtest/gtest.h>

#include <cmath>

namespace baton::sampling {
namespace {

TEST(SamplingParams, RangesAreNamed) {
  struct Bad {
    const char* names;
    void (*set)(SamplingParams&);
  };
  const Bad table[] = {
      {"temperature", [](SamplingParams& p) { p.temperature = -0.1; }},
      {"temperature", [](SamplingParams& p) { p.temperature = std::nan(""); }},
      {"temperature", [](SamplingParams& p) { p.temperature = HUGE_VAL; }},
      {"top_p", [](SamplingParams& p) { p.top_p = 0; }},
      {"top_p", [](SamplingParams& p) { p.top_p = 1.01; }},
      {"top_k", [](SamplingParams& p) { p.top_k = 0; }},
      {"top_k", [](SamplingParams& p) { p.top_k = -2; }},
      {"min_p", [](SamplingParams& p) { p.min_p = 1.5; }},
      {"frequency_penalty", [](SamplingParams& p) { p.frequency_penalty = 2.1; }},
      {"presence_penalty", [](SamplingParams& p) { p.presence_penalty = -2.1; }},
      {"repetition_penalty", [](SamplingParams& p) { p.repetition_penalty = 0; }},
      {"max_new_tokens", [](SamplingParams& p) { p.max_new_tokens = -1; }},
      {"min_new_tokens", [](SamplingParams& p) { p.min_new_tokens = 129; }},
      {"stop_token_ids", [](SamplingParams& p) { p.stop_token_ids = {10}; }},
      {"logit_bias",
       [](SamplingParams& p) {
         p.logit_bias = {{1, 101.0}};
       }},
      {"logit_bias",
       [](SamplingParams& p) {
         p.logit_bias = {{-1, 1.0}};
       }},
      {"allowed_token_ids", [](SamplingParams& p) { p.allowed_token_ids = {10}; }},
      {"bad_words",
       [](SamplingParams& p) {
         p.bad_words = {{3, -1}};
       }},
      {"bad_words", [](SamplingParams& p) { p.bad_words.resize(1); }},
  };
  EXPECT_TRUE(validate({}, 10).ok());
  for (const Bad& bad : table) {
    SamplingParams params;
    bad.set(params);
    const Status status = validate(params, 10);
    ASSERT_FALSE(status.ok()) << bad.names;
    EXPECT_EQ(status.error().code, ErrorCode::kInvalidArgument);
    EXPECT_NE(status.error().message.find(bad.names), std::string::npos) << status.error().message;
  }
}

}  // namespace
}  // namespace baton::sampling
