#include "layout/plan.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <map>
#include <set>

#include "base/random.h"
#include "layout/plan_check.h"

namespace baton::layout {
namespace {

constexpr KvGeometry kMla{.layers = 4, .kv_heads = 1, .k_dim = 40, .v_dim = 0, .element_size = 4};

Planner must(Result<Planner> planner) {
  BATON_CHECK(planner.ok(), "{}", planner.error().message);
  return std::move(*planner);
}

Layout random_layout(int attn_tp_max, int pp_max) {
  const int dp = *rc::gen::inRange(1, 4);
  return {.tp = dp * *rc::gen::inRange(1, attn_tp_max + 1), .dp = dp, .pp = *rc::gen::inRange(1, pp_max + 1)};
}

Planner random_planner(WriterPolicy policy, Fanout fanout) {
  const KvGeometry geometry{
      .layers = *rc::gen::inRange(4, 9), .kv_heads = *rc::gen::inRange(1, 10), .k_dim = 2, .v_dim = 2};
  const PlanSide prefill{random_layout(9, 4), *rc::gen::inRange(1, 5)};
  const PlanSide decode{random_layout(9, 4), *rc::gen::inRange(1, 5)};
  return must(Planner::make(geometry, prefill, decode, policy, fanout));
}

// Relative bytes of a piece; 1..9 replicas divide kWhole.
constexpr int64_t kWhole = 2520;
int64_t weight(const Piece& piece) {
  return int64_t{piece.layers.size()} * piece.heads.size() * (kWhole / piece.stripes);
}

std::vector<int> holders(const Planner& planner, const Piece& piece) {
  std::vector<int> found;
  for (int s = 0; s < planner.source_ranks(); ++s) {
    const PageShape& shape = planner.source_shape(s);
    const bool holds =
        intersect(shape.layers, piece.layers) == piece.layers && intersect(shape.heads, piece.heads) == piece.heads;
    if (holds) found.push_back(s);
  }
  return found;
}

// MLA, prefill TP4, decode TP4/DP2: each of the two decode ranks takes all from one prefill rank, another for either;
// two are dummy.
TEST(Plan, MlaTp4ToTp4Dp2) {
  const Planner planner = must(Planner::make(kMla, {{.tp = 4}, 64}, {{.tp = 4, .dp = 2}, 64}));
  ASSERT_EQ(planner.source_ranks(), 4);
  ASSERT_EQ(planner.destination_ranks(), 2);
  std::map<int, int> sent;
  constexpr int kAttempts = 4000;
  for (uint64_t attempt = 1; attempt <= kAttempts; ++attempt) {
    const Plan plan = planner.plan_for(AttemptId(attempt));
    ASSERT_EQ(plan.pieces.size(), 2u);
    EXPECT_NE(plan.pieces[0].source, plan.pieces[1].source);
    EXPECT_EQ(plan.links.size(), 8u);
    EXPECT_EQ(std::count_if(plan.links.begin(), plan.links.end(), [](const Plan::Link& l) { return l.real; }), 2);
    for (const Piece& piece : plan.pieces) {
      EXPECT_EQ(piece.layers, (Interval{0, 4}));
      ++sent[piece.source];
    }
  }
  for (int s = 0; s < 4; ++s) EXPECT_NEAR(sent[s], kAttempts * 2 / 4, kAttempts / 20) << "prefill rank " << s;
}

TEST(Plan, SixHeadsOnTp4ToTp2) {
  const KvGeometry geometry{.layers = 2, .kv_heads = 6, .k_dim = 2, .v_dim = 2};
  const Planner planner = must(Planner::make(geometry, {{.tp = 4}, 16}, {{.tp = 2}, 16}));
  const std::vector<Piece> expected{
      {.source = 0, .destination = 0, .layers = {0, 2}, .heads = {0, 2}, .unit_tokens = 16},
      {.source = 1, .destination = 0, .layers = {0, 2}, .heads = {2, 3}, .unit_tokens = 16},
      {.source = 1, .destination = 1, .layers = {0, 2}, .heads = {3, 4}, .unit_tokens = 16},
      {.source = 2, .destination = 1, .layers = {0, 2}, .heads = {4, 5}, .unit_tokens = 16},
      {.source = 3, .destination = 1, .layers = {0, 2}, .heads = {5, 6}, .unit_tokens = 16},
  };
  for (const uint64_t attempt : {1u, 2u, 3u}) EXPECT_EQ(planner.plan_for(AttemptId(attempt)).pieces, expected);
}

TEST(Plan, UnevenPipelineStagesToTp) {
  const KvGeometry geometry{.layers = 5, .kv_heads = 2, .k_dim = 2, .v_dim = 2};
  const Planner planner = must(Planner::make(geometry, {{.pp = 2}, 16}, {{.tp = 2}, 16}));
  const std::vector<Piece> expected{
      {.source = 0, .destination = 0, .layers = {0, 3}, .heads = {0, 1}, .unit_tokens = 16},
      {.source = 1, .destination = 0, .layers = {3, 5}, .heads = {0, 1}, .unit_tokens = 16},
      {.source = 0, .destination = 1, .layers = {0, 3}, .heads = {1, 2}, .unit_tokens = 16},
      {.source = 1, .destination = 1, .layers = {3, 5}, .heads = {1, 2}, .unit_tokens = 16},
  };
  EXPECT_EQ(planner.plan_for(AttemptId(1)).pieces, expected);
}

TEST(Plan, LocalFanoutStripesOverDifferentSources) {
  const Planner planner =
      must(Planner::make(kMla, {{.tp = 4}, 64}, {{.tp = 3}, 16}, WriterPolicy::kBalanced, Fanout::kLocal));
  const Plan plan = planner.plan_for(AttemptId(7));
  ASSERT_EQ(plan.pieces.size(), 3u);
  std::set<int> sources, stripes;
  for (const Piece& piece : plan.pieces) {
    sources.insert(piece.source);
    stripes.insert(piece.stripe);
    EXPECT_EQ(piece.stripes, 3);
    EXPECT_EQ(piece.unit_tokens, 64);
  }
  EXPECT_EQ(sources.size(), 3u);
  EXPECT_EQ(stripes.size(), 3u);
  EXPECT_EQ(plan.local_copies.size(), 6u);
}

TEST(Plan, PoliciesChooseAmongReplicas) {
  const auto sources = [](WriterPolicy policy) {
    const Planner planner = must(Planner::make(kMla, {{.tp = 4}, 64}, {{.tp = 2}, 64}, policy));
    std::set<int> seen;
    for (uint64_t attempt = 1; attempt <= 100; ++attempt) {
      for (const Piece& piece : planner.plan_for(AttemptId(attempt)).pieces) seen.insert(piece.source);
    }
    return seen;
  };
  EXPECT_EQ(sources(WriterPolicy::kFirst), (std::set<int>{0}));
  EXPECT_EQ(sources(WriterPolicy::kRandom).size(), 4u);
  EXPECT_EQ(sources(WriterPolicy::kBalanced).size(), 4u);
  for (const WriterPolicy policy : {WriterPolicy::kBalanced, WriterPolicy::kRandom, WriterPolicy::kFirst}) {
    EXPECT_EQ(*parse_writer_policy(writer_policy_name(policy)), policy);
  }
  EXPECT_FALSE(parse_writer_policy("fair").ok());
  for (const Fanout fanout : {Fanout::kDirect, Fanout::kLocal}) EXPECT_EQ(*parse_fanout(fanout_name(fanout)), fanout);
  EXPECT_FALSE(parse_fanout("").ok());
}

// Routers may pick DP groups by the remainder of the attempt id: the replicas must still share the work.
TEST(Plan, BalancedWhateverTheStrideOfAttemptIds) {
  const Planner planner = must(Planner::make(kMla, {{.tp = 4}, 64}, {{.tp = 1}, 64}));
  for (const uint64_t stride : {1u, 2u, 4u, 8u, 1024u}) {
    std::map<int, int> sent;
    for (uint64_t i = 1; i <= 2000; ++i) ++sent[planner.plan_for(AttemptId(i * stride)).pieces.at(0).source];
    for (int s = 0; s < 4; ++s) EXPECT_NEAR(sent[s], 500, 100) << "source " << s << ", stride " << stride;
  }
}

RC_GTEST_PROP(Plan, EveryPolicyPassesTheChecker, ()) {
  const auto policy = *rc::gen::element(WriterPolicy::kBalanced, WriterPolicy::kRandom, WriterPolicy::kFirst);
  const Planner planner = random_planner(policy, *rc::gen::element(Fanout::kDirect, Fanout::kLocal));
  const Status checked = check_plan(planner, planner.plan_for(AttemptId(*rc::gen::arbitrary<uint64_t>())));
  if (!checked) RC_FAIL(checked.error().message);
}

// Among the sources that hold the same slices none sends more than the mean of what they send together plus one piece.
RC_GTEST_PROP(Plan, NoSourceSendsMoreThanItsFairShare, ()) {
  const Planner planner = random_planner(WriterPolicy::kBalanced, *rc::gen::element(Fanout::kDirect, Fanout::kLocal));
  const Plan plan = planner.plan_for(AttemptId(*rc::gen::inRange<uint64_t>(1, 1000)));
  struct Load {
    int64_t total = 0, largest = 0;
    std::map<int, int64_t> of_source;
  };
  std::map<std::vector<int>, Load> loads;
  for (const Piece& piece : plan.pieces) {
    Load& load = loads[holders(planner, piece)];
    load.total += weight(piece);
    load.largest = std::max(load.largest, weight(piece));
    load.of_source[piece.source] += weight(piece);
  }
  for (const auto& [sources, load] : loads) {
    const auto share = static_cast<double>(load.total) / static_cast<double>(sources.size());
    for (const auto& [source, sent] : load.of_source)
      RC_ASSERT(static_cast<double>(sent) <= share + static_cast<double>(load.largest));
  }
}

RC_GTEST_PROP(Plan, ReplicasSendEquallyOverManyAttempts, ()) {
  const Planner planner = random_planner(WriterPolicy::kBalanced, *rc::gen::element(Fanout::kDirect, Fanout::kLocal));
  constexpr int kAttempts = 400;
  std::map<std::vector<int>, std::map<int, int64_t>> sent;
  std::map<std::vector<int>, int64_t> total;
  const uint64_t first = *rc::gen::arbitrary<uint64_t>();
  for (uint64_t i = 0; i < kAttempts; ++i) {
    for (const Piece& piece : planner.plan_for(AttemptId(first + i)).pieces) {
      const std::vector<int> sources = holders(planner, piece);
      sent[sources][piece.source] += weight(piece);
      total[sources] += weight(piece);
    }
  }
  for (const auto& [sources, bytes] : total) {
    const double share = static_cast<double>(bytes) / static_cast<double>(sources.size());
    // A seat's load is a multinomial count of 400 draws; five standard deviations of the worst case, all in one piece.
    const double deviation = 5 * static_cast<double>(bytes) / kAttempts * std::sqrt(kAttempts * 0.25);
    for (const int source : sources)
      RC_ASSERT(std::abs(static_cast<double>(sent[sources][source]) - share) <= deviation);
  }
}

RC_GTEST_PROP(Plan, LocalFanoutMovesUniqueBytesOnce, ()) {
  const Planner planner = random_planner(WriterPolicy::kBalanced, Fanout::kLocal);
  const Plan plan = planner.plan_for(AttemptId(*rc::gen::inRange<uint64_t>(1, 1000)));
  int64_t moved = 0;
  for (const Piece& piece : plan.pieces) moved += weight(piece);
  RC_ASSERT(moved == int64_t{planner.geometry().layers} * planner.geometry().kv_heads * kWhole);
}

TEST(Plan, HashSeparatesWhatMustAgree) {
  const KvGeometry geometry{.layers = 4, .kv_heads = 4, .k_dim = 8, .v_dim = 8};
  std::set<uint64_t> hashes;
  int planners = 0;
  for (const int k_dim : {8, 16}) {
    for (const Layout& layout :
         {Layout{.tp = 2}, Layout{.tp = 4}, Layout{.tp = 4, .dp = 2}, Layout{.tp = 2, .pp = 2}}) {
      for (const int page : {16, 64}) {
        for (const WriterPolicy policy : {WriterPolicy::kBalanced, WriterPolicy::kFirst}) {
          for (const Fanout fanout : {Fanout::kDirect, Fanout::kLocal}) {
            KvGeometry g = geometry;
            g.k_dim = k_dim;
            const uint64_t hash = must(Planner::make(g, {layout, page}, {{.tp = 8}, 64}, policy, fanout)).hash();
            EXPECT_EQ(hash, must(Planner::make(g, {layout, page}, {{.tp = 8}, 64}, policy, fanout)).hash());
            hashes.insert(hash);
            ++planners;
          }
        }
      }
    }
  }
  EXPECT_EQ(hashes.size(), static_cast<size_t>(planners));
  const PlanSide experts{{.tp = 4, .ep = 4}, 64};
  EXPECT_EQ(must(Planner::make(geometry, experts, experts)).hash(),
            must(Planner::make(geometry, {{.tp = 4}, 64}, {{.tp = 4}, 64})).hash());
}

TEST(Plan, RefusesWithBothSidesAndTheNumbers) {
  const KvGeometry good{.layers = 4, .kv_heads = 2, .k_dim = 8, .v_dim = 8};
  const PlanSide side{{.tp = 2}, 64};
  struct Case {
    KvGeometry geometry;
    PlanSide prefill, decode;
    ErrorCode code;
    const char* reason;
  };
  KvGeometry no_layers = good, no_k = good, negative_v = good, wide = good, endless = good;
  no_layers.layers = 0;
  no_k.k_dim = 0;
  negative_v.v_dim = -1;
  wide.layers = wide.kv_heads = 4096;
  wide.k_dim = wide.v_dim = 65536;
  endless.layers = 2147483647;
  KvGeometry big_page{.layers = 128, .kv_heads = 64, .k_dim = 2048, .v_dim = 2048, .element_size = 8};
  for (const Case& c :
       {Case{no_layers, side, side, ErrorCode::kInvalidArgument, "layers must be 1..4096"},
        {endless, side, side, ErrorCode::kInvalidArgument, "layers must be 1..4096"},
        {no_k, side, side, ErrorCode::kInvalidArgument, "K must have 1..65536 values"},
        {negative_v, side, side, ErrorCode::kInvalidArgument, "V 0..65536"},
        {wide, side, side, ErrorCode::kInvalidArgument, "bytes of KV a token"},
        {big_page, {{.tp = 1}, 128}, side, ErrorCode::kIncompatible, "prefill: a page of rank 0 has"},
        {good,
         {{.tp = 3, .dp = 2}, 64},
         side,
         ErrorCode::kInvalidArgument,
         "prefill: layout TP3/DP2: dp 2 does not divide tp 3"},
        {good, {{.tp = 2}, 0}, side, ErrorCode::kInvalidArgument, "prefill: pages of 0 tokens, must be 1..128"},
        {good, side, {{.tp = 2}, 129}, ErrorCode::kInvalidArgument, "decode: pages of 129 tokens, must be 1..128"},
        {good,
         side,
         {{.tp = 2, .pp = 5}, 64},
         ErrorCode::kIncompatible,
         "decode: 5 pipeline stages for 4 layers; use pp of at most 4"}}) {
    const Result<Planner> refused = Planner::make(c.geometry, c.prefill, c.decode);
    ASSERT_FALSE(refused.ok()) << c.reason;
    EXPECT_EQ(refused.error().code, c.code) << refused.error().message;
    EXPECT_NE(refused.error().message.find(c.reason), std::string::npos) << refused.error().message;
    EXPECT_EQ(refused.error().message.find('\n'), std::string::npos);
  }
  const std::string text = Planner::make(good, side, {{.tp = 2, .pp = 5}, 64}).error().message;
  EXPECT_NE(text.find("prefill TP2 page 64, decode TP2/PP5 page 64, KV of 4 layers x 2 heads x (8 K + 8 V) x 2 B"),
            std::string::npos)
      << text;
}

TEST(Plan, LargestWorldsArePlanned) {
  const KvGeometry r1{.layers = 61, .kv_heads = 1, .k_dim = 576, .v_dim = 0};
  for (const Fanout fanout : {Fanout::kDirect, Fanout::kLocal}) {
    const Planner planner = must(Planner::make(r1, {{.tp = 32, .pp = 32}, 64}, {{.tp = 256, .dp = 4, .pp = 4}, 64},
                                               WriterPolicy::kBalanced, fanout));
    EXPECT_TRUE(check_plan(planner, planner.plan_for(AttemptId(9))).ok());
  }
}

// A layout may come from a stranger: what it takes to plan for it is bounded before it is planned.
TEST(Plan, MoreSlicesThanAPlanMayHaveAreRefused) {
  const KvGeometry mla{.layers = 61, .kv_heads = 1, .k_dim = 576, .v_dim = 0};
  const PlanSide one{{.tp = 1}, 64}, most{{.tp = 512}, 64}, wide{{.tp = 1024}, 64};
  const auto make = [&](const PlanSide& decode, Fanout fanout) {
    return Planner::make(mla, one, decode, WriterPolicy::kBalanced, fanout);
  };
  EXPECT_TRUE(make(wide, Fanout::kDirect).ok());
  EXPECT_EQ(must(make(most, Fanout::kLocal)).plan_for(AttemptId(1)).local_copies.size(), 512u * 511u);
  const Result<Planner> refused = make(wide, Fanout::kLocal);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kIncompatible);
  EXPECT_NE(refused.error().message.find("1024 replicas on decode"), std::string::npos) << refused.error().message;
  // Every layer a piece of its own for each of the ranks.
  KvGeometry deep = mla;
  deep.layers = 1024;
  EXPECT_NE(Planner::make(deep, {{.tp = 1, .pp = 1024}, 64}, wide).error().message.find("pieces"), std::string::npos);
}

// Stripes of 341 and of 342 replicas repeat after 116,622 units: no proof by counting, and no memory for it.
TEST(Plan, ReplicasThatRepeatLateAreNotCounted) {
  const KvGeometry odd{.layers = 4, .kv_heads = 3, .k_dim = 8, .v_dim = 8};
  const Result<Planner> planner =
      Planner::make(odd, {{.tp = 1}, 64}, {{.tp = 700}, 64}, WriterPolicy::kBalanced, Fanout::kLocal);
  ASSERT_TRUE(planner.ok()) << planner.error().message;
}

// Each mutation breaks a plan in one way; the checker must see every one, or its "ok" above proves nothing.
TEST(PlanCheck, CatchesEveryMutation) {
  const KvGeometry geometry{.layers = 4, .kv_heads = 2, .k_dim = 8, .v_dim = 8};
  const Planner planner =
      must(Planner::make(geometry, {{.tp = 2, .pp = 2}, 64}, {{.tp = 4}, 16}, WriterPolicy::kBalanced, Fanout::kLocal));
  const Plan good = planner.plan_for(AttemptId(5));
  ASSERT_TRUE(check_plan(planner, good).ok());
  ASSERT_GE(good.pieces.size(), 4u);
  struct Mutation {
    const char* name;
    const char* message;
    std::function<void(Plan&, size_t)> apply;
  };
  const std::vector<Mutation> mutations{
      {"missing piece", "", [](Plan& p, size_t i) { p.pieces.erase(p.pieces.begin() + static_cast<ptrdiff_t>(i)); }},
      {"doubled piece", "2 writers", [](Plan& p, size_t i) { p.pieces.push_back(p.pieces[i]); }},
      {"a layer less", "", [](Plan& p, size_t i) { --p.pieces[i].layers.end; }},
      {"a layer too many", "not held",
       [](Plan& p, size_t i) {
         ++p.pieces[i].layers.end;
         --p.pieces[i].layers.begin;
       }},
      {"writer that holds other bytes", "not held",
       [](Plan& p, size_t i) { p.pieces[i].source = 3 - p.pieces[i].source; }},
      {"writer that does not exist", "ranks out of", [](Plan& p, size_t i) { p.pieces[i].source = 4; }},
      {"negative destination", "ranks out of", [](Plan& p, size_t i) { p.pieces[i].destination = -1; }},
      {"other stripe", "", [](Plan& p, size_t i) { p.pieces[i].stripe = 1 - p.pieces[i].stripe; }},
      {"stripe out of range", "stripe", [](Plan& p, size_t i) { p.pieces[i].stripe = p.pieces[i].stripes; }},
      {"whole in place of a stripe", "2 writers",
       [](Plan& p, size_t i) {
         p.pieces[i].stripe = 0;
         p.pieces[i].stripes = 1;
       }},
      {"other unit", "units of", [](Plan& p, size_t i) { p.pieces[i].unit_tokens = 16; }},
      {"missing local copy", "0 writers",
       [](Plan& p, size_t i) { p.local_copies.erase(p.local_copies.begin() + static_cast<ptrdiff_t>(i)); }},
      {"doubled local copy", "2 writers", [](Plan& p, size_t i) { p.local_copies.push_back(p.local_copies[i]); }},
      {"local copy of what never came", "does not receive",
       [](Plan& p, size_t i) { p.local_copies[i].stripe = 1 - p.local_copies[i].stripe; }},
      {"link silent", "should be listed as", [](Plan& p, size_t i) { p.links[i].real = !p.links[i].real; }},
      {"link missing", "should be listed as",
       [](Plan& p, size_t i) { p.links.erase(p.links.begin() + static_cast<ptrdiff_t>(i)); }},
      {"link of strangers", "no common bytes",
       [](Plan& p, size_t) { p.links.push_back({.source = 3, .destination = 3}); }},
  };
  for (const Mutation& mutation : mutations) {
    for (size_t i = 0; i < std::min({good.pieces.size(), good.local_copies.size(), good.links.size()}); ++i) {
      Plan bad = good;
      mutation.apply(bad, i);
      const Status checked = check_plan(planner, bad);
      ASSERT_FALSE(checked.ok()) << mutation.name << " at " << i;
      EXPECT_NE(checked.error().message.find(mutation.message), std::string::npos)
          << mutation.name << ": " << checked.error().message;
    }
  }
}

}  // namespace
}  // namespace baton::layout
