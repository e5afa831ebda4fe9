#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "layout/plan.h"

namespace baton::layout {
namespace {

using testing::HasSubstr;
using testing::Not;

std::string describe(const KvGeometry& geometry, const PlanSide& prefill, const PlanSide& decode, int64_t tokens,
                     WriterPolicy policy = WriterPolicy::kFirst, Fanout fanout = Fanout::kDirect) {
  Result<Planner> planner = Planner::make(geometry, prefill, decode, policy, fanout);
  BATON_CHECK(planner.ok(), "{}", planner.error().message);
  return describe_plan(*planner, tokens, AttemptId(1));
}

constexpr KvGeometry kGqa{.layers = 4, .kv_heads = 8, .k_dim = 128, .v_dim = 128, .element_size = 2};

TEST(DescribePlan, MatrixLinksAndTotals) {
  const std::string text = describe(kGqa, {{.tp = 2}, 64}, {{.tp = 4, .dp = 2}, 64}, 128);
  EXPECT_THAT(text, HasSubstr("prefill  TP2              2 ranks, attention over 2, pages of 64 tokens\n"
                              "decode   TP4/DP2          4 ranks, attention over 2, pages of 64 tokens\n"
                              "KV       4 layers x 8 heads x (128 K + 128 V) x 2 B = 16.00 KiB a token\n"));
  EXPECT_THAT(text, HasSubstr("        0  1 |  2  3\n"
                              "    0   R    |  R\n"
                              "    1      R |     R\n"
                              "a request uses one of 1 x 2 pairs of DP groups"));
  EXPECT_THAT(text, HasSubstr("P->D 1 -> 1             0..3      4..7      1/1     1.00 MiB         2   512.00 KiB\n"));
  EXPECT_THAT(text, HasSubstr("total of 128 tokens: 2.00 MiB over the fabric in 4 copies, 2.00 MiB unique: 1.00 times\n"
                              "mean copy 512.00 KiB"));
  EXPECT_THAT(text, Not(HasSubstr("warning")));
}

TEST(DescribePlan, DummiesAndReplicas) {
  const KvGeometry mla{.layers = 2, .kv_heads = 1, .k_dim = 64, .v_dim = 0, .element_size = 2};
  const std::string direct = describe(mla, {{.tp = 2, .dp = 2}, 64}, {{.tp = 3}, 64}, 128);
  EXPECT_THAT(direct, HasSubstr("        0  1  2\n"
                                "    0   R  R  R\n"
                                "      ---------\n"
                                "    1   R  R  R\n"));
  EXPECT_THAT(direct, HasSubstr("unique: 3.00 times"));
  const std::string dummies = describe(mla, {{.tp = 2}, 64}, {{.tp = 2}, 64}, 128);
  EXPECT_THAT(dummies, HasSubstr("    0   R  R\n    1   .  .\n"));
  const std::string local = describe(mla, {{.tp = 2}, 64}, {{.tp = 2}, 64}, 128, WriterPolicy::kFirst, Fanout::kLocal);
  EXPECT_THAT(local,
              HasSubstr("D->D 1 -> 0             0..1      0..0      2/2    16.00 KiB         1    16.00 KiB\n"));
  EXPECT_THAT(local, HasSubstr("unique: 1.00 times\ninside decode: 32.00 KiB in 2 copies\n"));
}

// Of 2 MiB each rank sends and receives a half, and a copy of 512 KiB takes what its point says.
TEST(DescribePlan, EstimatesTimesFromRates) {
  const Planner planner = Planner::make(kGqa, {{.tp = 2}, 64}, {{.tp = 4, .dp = 2}, 64}, WriterPolicy::kFirst).value();
  const LinkRate rate = LinkRate::parse("4K:1,512K:1.048576").value();
  const std::string text = describe_plan(planner, 128, AttemptId(1), &rate);
  EXPECT_THAT(text, HasSubstr("1.00 MiB         2   512.00 KiB     1.00 ms\n"));
  EXPECT_THAT(text, HasSubstr("estimated 1.00 ms when every rank has a link of its own, 2.00 ms when all share one\n"));
  EXPECT_THAT(describe_plan(planner, 128, AttemptId(1)), Not(HasSubstr("estimated")));
}

TEST(DescribePlan, WarnsOfSmallCopies) {
  EXPECT_THAT(describe(kGqa, {{.tp = 8}, 1}, {{.tp = 8}, 1}, 10),
              HasSubstr("warning: mean copy under 16 KiB: use larger pages"));
  EXPECT_THAT(describe(kGqa, {{.tp = 8}, 64}, {{.tp = 8}, 16}, 100),
              HasSubstr("warning: mean copy under 16 KiB: use equal page sizes"));
}

// The counts by periods are those of the whole list.
TEST(DescribePlan, CountsLongSequencesByPeriods) {
  Result<Planner> planner = Planner::make(kGqa, {{.tp = 1}, 48}, {{.tp = 1}, 64});
  ASSERT_TRUE(planner.ok());
  constexpr int64_t kTokens = 1000;
  std::vector<PageId> source, destination;
  for (uint32_t i = 0; i < 2 * kTokens / 48 + 2; i += 2) source.emplace_back(i);
  for (uint32_t i = 0; i < 2 * kTokens / 64 + 2; i += 2) destination.emplace_back(i);
  const size_t copies =
      piece_copies(*planner, planner->plan_for(AttemptId(1)).pieces.at(0), 0, kTokens, source, destination).size();
  EXPECT_THAT(describe_plan(*planner, kTokens, AttemptId(1)),
              HasSubstr(fmt::format("over the fabric in {} copies", copies)));
}

TEST(DescribePlan, LargestInputsStayReadable) {
  const KvGeometry r1{.layers = 61, .kv_heads = 1, .k_dim = 576, .v_dim = 0};
  const std::string text = describe(r1, {{.tp = 16, .pp = 8}, 64}, {{.tp = 256, .dp = 4}, 64}, kPlanTokensMax);
  EXPECT_THAT(text, HasSubstr("128 x 256 ranks: the matrix is shown up to 64 a side"));
  EXPECT_THAT(text, HasSubstr("... and 256 more"));
}

}  // namespace
}  // namespace baton::layout
