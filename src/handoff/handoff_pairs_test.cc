// What decode holds equals what prefill computed, whatever the layouts, pages and element types of the two.
#include "handoff/both_test.h"

namespace baton::handoff {

using layout::Fanout;
using enum tensor::DType;

namespace {

std::vector<PairSpec> pair_table() {
  const layout::KvGeometry gqa = gqa_geometry(), mla = mla_geometry();
  layout::KvGeometry six = gqa;
  six.kv_heads = 6;
  return {
      spec_of("mla_tp4_to_tp4dp2", mla, {.tp = 4}, {.tp = 4, .dp = 2}),
      spec_of("mla_tp4_to_tp4dp2_local", mla, {.tp = 4}, {.tp = 4, .dp = 2}, 8, 8, Fanout::kLocal),
      spec_of("mla_tp8_to_tp8dp4", mla, {.tp = 8}, {.tp = 8, .dp = 4}),
      spec_of("mla_tp8dp2_to_tp8_local", mla, {.tp = 8, .dp = 2}, {.tp = 8}, 8, 8, Fanout::kLocal),
      spec_of("mla_tp1_to_tp3_pages", mla, {.tp = 1}, {.tp = 3}, 8, 4),
      spec_of("mla_tp2_to_tp4_local_pages", mla, {.tp = 2}, {.tp = 4}, 4, 16, Fanout::kLocal),
      spec_of("mla_pp2_to_tp2", mla, {.tp = 1, .pp = 2}, {.tp = 2}),
      // Grids of which neither divides the other, and the smallest and largest pages.
      spec_of("mla_tp1_to_tp3_local_pages_3_7", mla, {.tp = 1}, {.tp = 3}, 3, 7, Fanout::kLocal),
      spec_of("mla_tp2_to_tp2_local_pages_7_3", mla, {.tp = 2}, {.tp = 2}, 7, 3, Fanout::kLocal),
      spec_of("mla_tp2_to_tp4dp2_local_pages_1_128", mla, {.tp = 2}, {.tp = 4, .dp = 2}, 1, 128, Fanout::kLocal),
      spec_of("mla_tp4dp2_to_tp2_local_pages_128_1", mla, {.tp = 4, .dp = 2}, {.tp = 2}, 128, 1, Fanout::kLocal),
      spec_of("gqa_tp3_to_tp4pp2_pages_7_3", gqa, {.tp = 3}, {.tp = 4, .pp = 2}, 7, 3),
      spec_of("gqa_tp4_to_tp3_pages_64_1", gqa, {.tp = 4}, {.tp = 3}, 64, 1),
      spec_of("gqa_tp1_to_tp1", gqa, {.tp = 1}, {.tp = 1}),
      spec_of("gqa_tp2_to_tp4", gqa, {.tp = 2}, {.tp = 4}),
      spec_of("gqa_tp8_to_tp2", gqa, {.tp = 8}, {.tp = 2}),
      spec_of("gqa_tp3_to_tp4_pages", gqa, {.tp = 3}, {.tp = 4}, 16, 8),
      spec_of("gqa_tp4_to_tp4dp2_pages", gqa, {.tp = 4}, {.tp = 4, .dp = 2}, 8, 12),
      spec_of("gqa_six_heads_tp6_to_tp4", six, {.tp = 6}, {.tp = 4}),
      spec_of("gqa_pp2_to_tp2", gqa, {.tp = 1, .pp = 2}, {.tp = 2}),
      spec_of("gqa_tp2_to_pp2tp2", gqa, {.tp = 2}, {.tp = 2, .pp = 2}),
      spec_of("gqa_tp2pp2_to_tp4dp2_local", gqa, {.tp = 2, .pp = 2}, {.tp = 4, .dp = 2}, 8, 8, Fanout::kLocal),
      spec_of("gqa_replicas_tp4_to_tp8", {.layers = 3, .kv_heads = 2, .k_dim = 8, .v_dim = 8, .element_size = 2},
              {.tp = 4}, {.tp = 8}),
      spec_of("gqa_replicas_tp4_to_tp8_local", {.layers = 3, .kv_heads = 2, .k_dim = 8, .v_dim = 8, .element_size = 2},
              {.tp = 4}, {.tp = 8}, 8, 8, Fanout::kLocal),
      converting(spec_of("mla_bf16_to_fp8", mla, {.tp = 4}, {.tp = 4, .dp = 2}), kBF16, kF8E4M3),
      converting(spec_of("mla_bf16_to_fp8_local_pages_3_7", mla, {.tp = 1}, {.tp = 3}, 3, 7, Fanout::kLocal), kBF16,
                 kF8E4M3),
      converting(spec_of("mla_f32_to_fp8_pages_128_1", mla, {.tp = 2, .dp = 2}, {.tp = 2}, 128, 1), kF32, kF8E4M3),
      converting(spec_of("mla_f32_to_bf16_pages_1_128", mla, {.tp = 2}, {.tp = 4, .dp = 2}, 1, 128), kF32, kBF16),
      converting(spec_of("gqa_bf16_to_fp8_pages_7_3", gqa, {.tp = 3}, {.tp = 4, .pp = 2}, 7, 3), kBF16, kF8E4M3),
      converting(spec_of("gqa_bf16_to_fp8_pages_8_12", gqa, {.tp = 1, .pp = 2}, {.tp = 2}, 8, 12), kBF16, kF8E4M3),
      converting(spec_of("gqa_fp8_to_bf16", gqa, {.tp = 2, .pp = 2}, {.tp = 4, .dp = 2}), kF8E4M3, kBF16),
  };
}

class HandoffPairs : public testing::TestWithParam<PairSpec> {};

TEST_P(HandoffPairs, WhatDecodeHoldsIsWhatPrefillComputed) {
  const PairSpec& spec = GetParam();
  Both both(spec);
  const int page = spec.decode.page_tokens;
  struct Case {
    int64_t tokens, cached;
  };
  uint64_t bytes = 0;
  const std::vector<Case> cases = {
      {1, 0}, {page, 0}, {page + 1, 0}, {67, 0}, {100, 0}, {67, 40 / page * page}, {96, 80 / page * page}};
  for (size_t i = 0; i < cases.size(); ++i) {
    const Case& c = cases[i];
    const AttemptId attempt(1000 + i);
    both.start(attempt, static_cast<int>(i) % spec.prefill.layout.dp, static_cast<int>(i) % spec.decode.layout.dp,
               c.tokens, c.cached);
    ASSERT_TRUE(both.settle()) << c.tokens << " tokens";
    const TestDecode::Outcome& outcome = both.decode.outcome(attempt);
    ASSERT_TRUE(outcome.committed) << outcome.ended->message;
    EXPECT_EQ(outcome.difference, "") << c.tokens << " tokens, " << c.cached << " cached";
    EXPECT_EQ(outcome.first->token, 1000 + static_cast<int>(i));
    EXPECT_EQ(outcome.first->top_logprobs.size(), 2u);
    EXPECT_EQ(outcome.committed->bytes, expected_bytes(spec, c.tokens, c.cached))
        << c.tokens << " tokens, " << c.cached << " cached";
    EXPECT_EQ(both.prefill.ended().at(attempt).outcome, AttemptOutcome::kCommitted);
    EXPECT_EQ(both.prefill.ended().at(attempt).bytes, outcome.committed->bytes);
    const int64_t pages = (c.tokens + page - 1) / page - c.cached / page;
    EXPECT_EQ(outcome.committed->checksums,
              static_cast<uint64_t>(pages * spec.decode.layout.attn_tp() * spec.decode.layout.pp));
    bytes += outcome.committed->bytes;
  }
  const HandoffStats stats = both.prefill.stats();
  uint64_t linked = 0;
  for (const auto& [link, moved] : stats.links) linked += moved.bytes;
  EXPECT_EQ(linked, bytes);
  EXPECT_EQ(stats.bytes, bytes);
  EXPECT_EQ(stats.committed, cases.size());
  both.expect_clean();
}

// Every turn of the thread does as little as it can: one hash, or one post of a few blocks, of stripes of a page.
TEST_P(HandoffPairs, InTheSmallestSlicesToo) {
  const PairSpec& spec = GetParam();
  PrefillHandoffOptions prefill;
  prefill.work_slice_bytes = 1;
  prefill.stripe_bytes = 1;
  prefill.post_blocks_max = 3;
  prefill.post_bytes_max = 1000;
  DecodeHandoffOptions decode;
  decode.verify_slice_bytes = 1;
  Both both(spec, "loopback", prefill, decode);
  for (uint64_t attempt = 1; attempt <= 2; ++attempt) both.start(AttemptId(attempt), 0, 0, 40);
  ASSERT_TRUE(both.settle());
  for (uint64_t attempt = 1; attempt <= 2; ++attempt) {
    const TestDecode::Outcome& outcome = both.decode.outcome(AttemptId(attempt));
    ASSERT_TRUE(outcome.committed) << (outcome.ended ? outcome.ended->message : "");
    EXPECT_EQ(outcome.difference, "");
    EXPECT_EQ(outcome.committed->bytes, expected_bytes(spec, 40, 0));
  }
  both.expect_clean();
}

INSTANTIATE_TEST_SUITE_P(Layouts, HandoffPairs, testing::ValuesIn(pair_table()),
                         [](const testing::TestParamInfo<PairSpec>& param) { return param.param.name; });

}  // namespace
}  // namespace baton::handoff
