#include "layout/layout.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

namespace baton::layout {
namespace {

TEST(BalancedPart, LargerPartsFirst) {
  struct Case {
    int total, parts;
    std::vector<int> sizes;
  };
  for (const Case& c : {Case{6, 4, {2, 2, 1, 1}},
                        {8, 4, {2, 2, 2, 2}},
                        {1, 1, {1}},
                        {2, 3, {1, 1, 0}},
                        {0, 2, {0, 0}},
                        {61, 2, {31, 30}}}) {
    int at = 0;
    for (int i = 0; i < c.parts; ++i) {
      const Interval part = balanced_part(c.total, c.parts, i);
      EXPECT_EQ(part.begin, at);
      EXPECT_EQ(part.size(), c.sizes[static_cast<size_t>(i)]) << c.total << " in " << c.parts << ", part " << i;
      at = part.end;
    }
    EXPECT_EQ(at, c.total);
  }
}

TEST(Layout, ParsesAndPrints) {
  struct Case {
    const char* text;
    Layout layout;
    const char* printed;
  };
  for (const Case& c : {Case{"tp=8,dp=2", {.tp = 8, .dp = 2}, "TP8/DP2"},
                        {"pp=2,tp=2,ep=2", {.tp = 2, .pp = 2, .ep = 2}, "TP2/PP2/EP2"},
                        {"tp=1", {}, "TP1"},
                        {"dp=1", {}, "TP1"},
                        {"tp=4,dp=2,pp=1,ep=1", {.tp = 4, .dp = 2}, "TP4/DP2"}}) {
    const Result<Layout> parsed = parse_layout(c.text);
    ASSERT_TRUE(parsed.ok()) << parsed.error().message;
    EXPECT_EQ(*parsed, c.layout);
    EXPECT_EQ(parsed->to_string(), c.printed);
  }
}

TEST(Layout, RefusesBadTextWithTheReason) {
  struct Case {
    const char* text;
    const char* reason;
  };
  for (const Case& c : {Case{"", "is not one of"},
                        {"tp", "is not one of"},
                        {"tp=", "not a number"},
                        {"tp=x", "not a number"},
                        {"tp=2x", "not a number"},
                        {"tp=99999999999", "not a number"},
                        {"tp=4,tp=4", "stands twice"},
                        {"cp=2", "is not one of"},
                        {"tp=4,", "is not one of"},
                        {"tp=0", "at least 1"},
                        {"tp=-2", "at least 1"},
                        {"tp=4,dp=3", "dp 3 does not divide tp 4"},
                        {"tp=4,ep=8", "ep 8 does not divide tp 4"},
                        {"tp=1024,pp=2", "2048 ranks"},
                        {"tp=2147483647,pp=2147483647", "ranks, at most 1024"}}) {
    const Result<Layout> parsed = parse_layout(c.text);
    ASSERT_FALSE(parsed.ok()) << c.text;
    EXPECT_EQ(parsed.error().code, ErrorCode::kInvalidArgument);
    EXPECT_NE(parsed.error().message.find(c.reason), std::string::npos) << parsed.error().message;
  }
}

TEST(Layout, ChecksAttentionHeads) {
  EXPECT_TRUE(check_heads({.tp = 8}, 32, 8).ok());
  EXPECT_TRUE(check_heads({.tp = 32}, 32, 8).ok());
  EXPECT_TRUE(check_heads({.tp = 64, .dp = 2}, 32, 8).ok());
  EXPECT_FALSE(check_heads({.tp = 8}, 30, 8).ok());
  const Status refused = check_heads({.tp = 64}, 32, 8);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kIncompatible);
  EXPECT_NE(refused.error().message.find("use dp of at least 2"), std::string::npos) << refused.error().message;
}

RC_GTEST_PROP(Layout, CoordinatesRoundTrip, ()) {
  const int dp = *rc::gen::inRange(1, 5);
  const int attn_tp = *rc::gen::inRange(1, 5);
  const Layout layout{.tp = dp * attn_tp, .dp = dp, .pp = *rc::gen::inRange(1, 5)};
  for (int rank = 0; rank < layout.world(); ++rank) {
    const RankCoordinates at = layout.coordinates_of(rank);
    RC_ASSERT(layout.rank_of(at) == rank);
    RC_ASSERT(at.pp_stage >= 0 && at.pp_stage < layout.pp && at.dp_rank >= 0 && at.dp_rank < dp);
    RC_ASSERT(at.attn_tp_rank >= 0 && at.attn_tp_rank < attn_tp);
  }
}

TEST(RankHeads, UnevenAndReplicated) {
  const auto kv = [](int heads, int attn_tp) {
    std::vector<std::pair<int, int>> parts;
    for (int r = 0; r < attn_tp; ++r) {
      const Interval part = rank_kv_heads(heads, attn_tp, r);
      parts.emplace_back(part.begin, part.end);
    }
    return parts;
  };
  using Parts = std::vector<std::pair<int, int>>;
  EXPECT_EQ(kv(6, 4), (Parts{{0, 2}, {2, 4}, {4, 5}, {5, 6}}));
  EXPECT_EQ(kv(1, 3), (Parts{{0, 1}, {0, 1}, {0, 1}}));
  EXPECT_EQ(kv(2, 5), (Parts{{0, 1}, {0, 1}, {0, 1}, {1, 2}, {1, 2}}));
}

// Every query head belongs to one rank, which holds its KV head.
RC_GTEST_PROP(RankHeads, QueryHeadsAreCoveredOnceBesideTheirKvHead, ()) {
  const int kv_heads = *rc::gen::inRange(1, 10);
  const int per_kv_head = *rc::gen::inRange(1, 6);
  const int query_heads = kv_heads * per_kv_head;
  const int attn_tp = *rc::gen::inRange(1, query_heads + 1);
  int next = 0;
  for (int r = 0; r < attn_tp; ++r) {
    const Interval queries = rank_query_heads(query_heads, kv_heads, attn_tp, r);
    const Interval kv = rank_kv_heads(kv_heads, attn_tp, r);
    RC_ASSERT(queries.begin == next);
    RC_ASSERT(!queries.empty());
    for (int q = queries.begin; q < queries.end; ++q) RC_ASSERT(kv.contains(q / per_kv_head));
    next = queries.end;
  }
  RC_ASSERT(next == query_heads);
}

TEST(PageShape, OffsetsFollowHeadLayerKvTokenDim) {
  const KvGeometry geometry{.layers = 6, .kv_heads = 4, .k_dim = 3, .v_dim = 2, .element_size = 2};
  const PageShape shape = rank_page_shape({.tp = 2, .pp = 2}, 3, geometry, 4);
  EXPECT_EQ(shape.layers, (Interval{3, 6}));
  EXPECT_EQ(shape.heads, (Interval{2, 4}));
  uint64_t at = 0;
  for (int head = 2; head < 4; ++head) {
    for (int layer = 3; layer < 6; ++layer) {
      for (int token = 0; token < 4; ++token, at += 6) EXPECT_EQ(shape.k_offset(layer, head, token), at);
      for (int token = 0; token < 4; ++token, at += 4) EXPECT_EQ(shape.v_offset(layer, head, token), at);
    }
  }
  EXPECT_EQ(shape.page_bytes(), at);
}

}  // namespace
}  // namespace baton::layout
