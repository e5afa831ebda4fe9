#include "handoff/pairing.h"

#include <gtest/gtest.h>

#include <functional>

namespace baton::handoff {

using wire::Manifest;

namespace {

Manifest manifest(wire::InstanceRole role, layout::Layout layout) {
  Manifest m;
  m.incarnation = {1, static_cast<uint64_t>(role)};
  m.role = role;
  m.model_digest = {0x3f00000000000000, 1};
  m.geometry = {.layers = 4, .kv_heads = 1, .k_dim = 64, .v_dim = 0, .element_size = 2};
  m.kv_dtype = "bfloat16";
  m.layout = layout;
  m.page_tokens = 64;
  m.pages_per_group = 10;
  m.transport = "tcp";
  for (int rank = 0; rank < layout.world(); ++rank)
    m.regions.push_back({static_cast<uint32_t>(rank), 10 * 64 * 64 * 2 * 4});
  return m;
}

TEST(Pairing, LayoutsAndPageSizesMayDiffer) {
  const Manifest prefill = manifest(wire::InstanceRole::kPrefill, {.tp = 4});
  Manifest decode = manifest(wire::InstanceRole::kDecode, {.tp = 4, .dp = 2});
  decode.page_tokens = 16;
  decode.writer_policy = layout::WriterPolicy::kFirst;  // prefill's counts
  decode.fanout = layout::Fanout::kLocal;               // decode's counts
  const Result<layout::Planner> planner = agree(prefill, decode);
  ASSERT_TRUE(planner.ok()) << planner.error().message;
  EXPECT_EQ(planner->policy(), layout::WriterPolicy::kBalanced);
  EXPECT_EQ(planner->fanout(), layout::Fanout::kLocal);
  EXPECT_EQ(planner->destination_ranks(), 2);
}

// What travels and is counted is what decode holds, so both sides plan with decode's element type.
TEST(Pairing, ElementTypesMayDiffer) {
  const Manifest prefill = manifest(wire::InstanceRole::kPrefill, {.tp = 4});
  Manifest decode = manifest(wire::InstanceRole::kDecode, {.tp = 4, .dp = 2});
  decode.kv_dtype = "float8_e4m3fn";
  decode.geometry.element_size = 1;
  const Result<layout::Planner> planner = agree(prefill, decode);
  ASSERT_TRUE(planner.ok()) << planner.error().message;
  EXPECT_EQ(planner->geometry().element_size, 1);
  EXPECT_EQ(planner->source_shape(0).page_bytes(), 64U * 64 * 4);
}

TEST(Pairing, EveryDifferenceIsNamedWithBothSidesAndTheRemedy) {
  struct Case {
    std::function<void(Manifest&)> change;
    std::vector<std::string> words;
  };
  const std::vector<Case> cases = {
      {[](Manifest& d) {
         d.model_digest = {0x9a00000000000000, 1};
       },
       {"decode TP4/DP2 cannot take from prefill TP4", "model digest 9a", "3f", "--model-path", "page_tokens 64"}},
      {[](Manifest& d) { d.kv_dtype = "float32"; }, {"KV of float32 in 2 bytes"}},
      {[](Manifest& d) { d.kv_dtype = "float16"; }, {"KV of float16", "--kv-cache-dtype"}},
      {[](Manifest& d) { d.kv_dtype = "int4"; }, {"KV of int4", "--kv-cache-dtype"}},
      {[](Manifest& d) { d.geometry.layers = 5; }, {"KV 5 layers", "4 layers", "--model-path"}},
      {[](Manifest& d) { d.transport = "shm"; },
       {"transport shm here, tcp there", "--disaggregation-transfer-backend"}},
      {[](Manifest& d) { d.role = wire::InstanceRole::kPrefill; },
       {"both are prefill instances", "--disaggregation-mode"}},
      {[](Manifest& d) { d.regions.pop_back(); }, {"3 regions for 4 ranks"}},
      {[](Manifest& d) { d.regions[2].bytes = 5; }, {"rank 2 5 bytes"}},
      {[](Manifest& d) { d.layout.dp = 3; }, {"decode TP4/DP3 cannot take from prefill TP4"}},
      {[](Manifest& d) { d.page_tokens = 1 << 19; }, {"cannot take"}},
  };
  for (const Case& c : cases) {
    Manifest decode = manifest(wire::InstanceRole::kDecode, {.tp = 4, .dp = 2});
    c.change(decode);
    const Result<layout::Planner> planner = agree(manifest(wire::InstanceRole::kPrefill, {.tp = 4}), decode);
    ASSERT_FALSE(planner.ok()) << c.words[0];
    EXPECT_EQ(planner.error().code, ErrorCode::kIncompatible);
    for (const std::string& word : c.words)
      EXPECT_NE(planner.error().message.find(word), std::string::npos) << word << " in: " << planner.error().message;
    EXPECT_EQ(planner.error().message.find('\n'), std::string::npos);
  }
}

TEST(Pairing, WorldRanksOfAGroup) {
  const layout::Layout layout{.tp = 4, .dp = 2, .pp = 2};
  EXPECT_EQ(world_rank(layout, 1, 0), 2);
  EXPECT_EQ(world_rank(layout, 1, 1), 3);
  EXPECT_EQ(world_rank(layout, 1, 2), 6);
  EXPECT_EQ(world_rank(layout, 0, 3), 5);
}

}  // namespace
}  // namespace baton::handoff
