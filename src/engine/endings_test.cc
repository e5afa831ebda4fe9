#include "engine/endings.h"

#include <gtest/gtest.h>

namespace baton::engine {
namespace {

TEST(Endings, AStopTokenWinsOverTheLength) {
  const std::vector<int32_t> eos = {9};
  SamplingParams params;
  params.max_new_tokens = 3;
  params.stop_token_ids = {4};
  EXPECT_FALSE(finish_after(eos, 1, 2, params));
  EXPECT_EQ(finish_after(eos, 1, 3, params)->reason, FinishReason::kLength);
  EXPECT_EQ(finish_after(eos, 9, 1, params)->reason, FinishReason::kStop);
  EXPECT_EQ(finish_after(eos, 9, 3, params)->matched_token, 9);
  EXPECT_EQ(finish_after(eos, 4, 1, params)->matched_token, 4);
  params.ignore_eos = true;
  EXPECT_FALSE(finish_after(eos, 9, 1, params));
  EXPECT_TRUE(finish_after(eos, 4, 1, params));
}

}  // namespace
}  // namespace baton::engine
