// Both services in one process: what decode holds equals what prefill computed, whatever the layouts; every end ends
// free.
#include <gtest/gtest.h>

#include <thread>

#include "handoff/rig_test.h"
#include "wire/frame_codec.h"

namespace baton::handoff {

using layout::Fanout;
using enum tensor::DType;

namespace {

using namespace std::chrono_literals;

struct Both {
  explicit Both(const PairSpec& spec, const std::string& transport = "loopback",
                PrefillHandoffOptions prefill_options = {}, DecodeHandoffOptions decode_options = {},
                int corrupt_post = 0)
      : prefill(spec, corrupting_transport(transport_of(transport), corrupt_post), prefill_options),
        decode(spec, transport_of(transport), std::move(decode_options)) {}

  template <typename Done>
  bool run_until(Done done, Duration timeout = 20s) {
    const TimePoint until = SteadyClock().now() + timeout;
    while (SteadyClock().now() < until) {
      prefill.pump();
      decode.pump();
      if (done()) return true;
      std::this_thread::sleep_for(200us);
    }
    return false;
  }
  void start(AttemptId attempt, int dp_prefill, int dp_decode, int64_t tokens, int64_t cached = 0,
             Duration timeout = 20s) {
    ASSERT_TRUE(decode.request(attempt, "127.0.0.1", prefill.port(), dp_decode, tokens, cached, timeout));
    prefill.begin(attempt, dp_prefill, tokens, timeout);
  }
  bool settle(Duration timeout = 20s) {
    return run_until([&] { return decode.all_over() && prefill.idle() && prefill.all_free() && decode.all_free(); },
                     timeout);
  }
  void expect_clean() {
    EXPECT_TRUE(prefill.all_free());
    EXPECT_TRUE(decode.all_free());
    EXPECT_EQ(decode.touched_free_pages(), "");
    EXPECT_EQ(prefill.stats().attempts_live, 0u);
    EXPECT_EQ(decode.stats().attempts_live, 0u);
    EXPECT_EQ(decode.stats().attempts_quarantined, 0u);
  }

  TestPrefill prefill;
  TestDecode decode;
};

PairSpec spec_of(std::string name, layout::KvGeometry geometry, layout::Layout prefill, layout::Layout decode,
                 int prefill_page = 8, int decode_page = 8, Fanout fanout = Fanout::kDirect) {
  // 96 pages, or what the longest prompt here needs.
  const auto pages = [](int page) { return std::max(96, 256 / page); };
  return {std::move(name),
          geometry,
          {prefill, prefill_page, pages(prefill_page)},
          {decode, decode_page, pages(decode_page)},
          fanout};
}

PairSpec converting(PairSpec spec, tensor::DType from, tensor::DType to) {
  spec.prefill.kv = from;
  spec.decode.kv = to;
  return spec;
}

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

PairSpec small() { return spec_of("small", gqa_geometry(), {.tp = 2}, {.tp = 4, .dp = 2}); }

TEST(Handoff, LocalFanoutMovesUniqueBytesOnceAndCopiesTheRestInside) {
  PairSpec spec = spec_of("", mla_geometry(), {.tp = 4}, {.tp = 4}, 8, 8, Fanout::kLocal);
  Both both(spec);
  both.start(AttemptId(5), 0, 0, 80);
  ASSERT_TRUE(both.settle());
  const DecodeCommitted& committed = *both.decode.outcome(AttemptId(5)).committed;
  EXPECT_EQ(committed.bytes, 80 * spec.geometry.token_bytes());
  EXPECT_EQ(committed.local_bytes, 3 * 80 * spec.geometry.token_bytes());
}

// Memory for one page of a peer: attempts wait for each other's, and all come to their end.
TEST(Handoff, ConversionGoesOnInAsLittleMemoryAsThereIs) {
  for (const std::string transport : {"loopback", "shm", "tcp"}) {
    PairSpec spec = converting(small(), kBF16, kF8E4M3);
    spec.prefill.page_tokens = 128;
    PrefillHandoffOptions options;
    options.converted_bytes_max = 1;
    options.post_bytes_max = 512;
    Both both(spec, transport, options);
    for (uint64_t attempt = 1; attempt <= 12; ++attempt)
      both.start(AttemptId(attempt), 0, static_cast<int>(attempt % 2), 8 + static_cast<int64_t>(attempt * 37 % 160));
    ASSERT_TRUE(both.run_until([&] { return both.prefill.stats().bytes > 0; }));
    both.decode.cancel(AttemptId(5));
    both.prefill.cancel(AttemptId(6));
    ASSERT_TRUE(both.settle()) << transport;
    for (const auto& [attempt, outcome] : both.decode.outcomes()) {
      EXPECT_TRUE(outcome.committed || attempt == AttemptId(5) || attempt == AttemptId(6)) << outcome.ended->message;
      EXPECT_EQ(outcome.difference, "") << transport << " attempt " << attempt.value();
    }
    both.expect_clean();
  }
}

// The checksum is of what decode holds: of the converted bytes.
TEST(Handoff, ABitFlippedAfterTheConversionIsCaught) {
  Both both(converting(small(), kBF16, kF8E4M3), "loopback", {}, {}, 1);
  both.start(AttemptId(3), 0, 0, 60);
  ASSERT_TRUE(both.settle());
  const TestDecode::Outcome& outcome = both.decode.outcome(AttemptId(3));
  ASSERT_TRUE(outcome.ended);
  EXPECT_TRUE(outcome.ended->corrupt);
  both.expect_clean();
}

// A frame cannot hold them.
TEST(Handoff, LogprobsOfThePromptComeWithTheFirstTokenHoweverMany) {
  constexpr int kRows = 1000, kTops = 1000, kListed = 40;
  Both both(small());
  wire::PromptRow row{true, -1.5f, {}, std::vector<float>(kListed, -2.5f)};
  for (int32_t i = 0; i < kTops; ++i) row.top_logprobs.push_back({i, -0.25f * static_cast<float>(i)});
  both.prefill.prompt_rows.assign(kRows, row);
  both.prefill.prompt_rows.front() = {};
  for (int i = 0; i < kRows; ++i) both.prefill.prompt_rows[static_cast<size_t>(i)].logprob = static_cast<float>(-i);
  both.decode.prompt_rows = kRows;
  both.decode.beside_max = kTops + kListed;
  for (uint64_t attempt = 1; attempt <= 3; ++attempt) both.start(AttemptId(attempt), 0, 0, 40);
  ASSERT_TRUE(both.settle());
  for (uint64_t attempt = 1; attempt <= 3; ++attempt) {
    const TestDecode::Outcome& outcome = both.decode.outcome(AttemptId(attempt));
    ASSERT_TRUE(outcome.committed) << outcome.ended->message;
    EXPECT_TRUE(outcome.prompt_rows == both.prefill.prompt_rows);
  }
  EXPECT_EQ(both.decode.stats().peers_lost, 0u);
  both.expect_clean();
}

TEST(Handoff, ManyAtOnceOnEveryTransport) {
  for (const std::string transport : {"loopback", "shm", "tcp"}) {
    PrefillHandoffOptions options;
    options.post_bytes_max = 4096;
    Both both(small(), transport, options);
    uint64_t next = 1;
    for (int wave = 0; wave < 4; ++wave) {
      for (int i = 0; i < 12; ++i, ++next)
        both.start(AttemptId(next), 0, i % 2, 8 + static_cast<int64_t>(next * 7 % 60));
      ASSERT_TRUE(both.settle()) << transport;
    }
    for (const auto& [attempt, outcome] : both.decode.outcomes()) {
      ASSERT_TRUE(outcome.committed) << transport << ": " << outcome.ended->message;
      EXPECT_EQ(outcome.difference, "") << transport << " attempt " << attempt.value();
    }
    EXPECT_EQ(both.decode.stats().committed, next - 1);
    EXPECT_EQ(both.decode.paired(), 1);
    both.expect_clean();
  }
}

TEST(Handoff, TheGrantMayComeBeforeTheRequestOrAfterIt) {
  Both both(small());
  ASSERT_TRUE(both.decode.request(AttemptId(1), "127.0.0.1", both.prefill.port(), 0, 40));
  ASSERT_TRUE(both.run_until([&] { return both.decode.stats().peers == 1; }));
  both.run_until([] { return false; }, 50ms);
  both.prefill.begin(AttemptId(1), 0, 40);
  ASSERT_TRUE(both.settle());
  EXPECT_TRUE(both.decode.outcome(AttemptId(1)).committed);

  both.prefill.begin(AttemptId(2), 0, 40);
  both.run_until([] { return false; }, 50ms);
  ASSERT_TRUE(both.decode.request(AttemptId(2), "127.0.0.1", both.prefill.port(), 0, 40));
  ASSERT_TRUE(both.settle());
  EXPECT_TRUE(both.decode.outcome(AttemptId(2)).committed);
  both.expect_clean();
}

TEST(Handoff, AHostNameIsLookedUp) {
  Both both(small());
  ASSERT_TRUE(both.decode.request(AttemptId(1), "localhost", both.prefill.port(), 0, 40));
  both.prefill.begin(AttemptId(1), 0, 40);
  ASSERT_TRUE(both.settle());
  EXPECT_TRUE(both.decode.outcome(AttemptId(1)).committed) << both.decode.outcome(AttemptId(1)).ended->message;
}

TEST(Handoff, CancelAtRandomMomentsFromEitherSide) {
  for (const std::string transport : {"loopback", "shm", "tcp"}) {
    PrefillHandoffOptions options;
    options.post_bytes_max = 2048;
    Both both(small(), transport, options);
    both.prefill.chunk = 8;
    Random random(7);
    for (uint64_t next = 1; next <= 60; ++next) {
      const AttemptId attempt(next);
      if (next % 6 == 0) both.settle();
      both.start(attempt, 0, static_cast<int>(next % 2), 100);
      const uint64_t pause = random.below(40);
      for (uint64_t i = 0; i < pause; ++i) {
        both.prefill.pump();
        both.decode.pump();
        std::this_thread::sleep_for(50us);
      }
      if (random.below(3) == 0) continue;
      if (random.below(2) == 0)
        both.decode.cancel(attempt);
      else
        both.prefill.cancel(attempt);
    }
    ASSERT_TRUE(both.settle()) << transport;
    for (const auto& [attempt, outcome] : both.decode.outcomes()) {
      const AttemptOutcome there = both.prefill.ended().at(attempt).outcome;
      EXPECT_EQ(outcome.committed.has_value(), there == AttemptOutcome::kCommitted)
          << transport << " attempt " << attempt.value();
      EXPECT_EQ(outcome.difference, "");
      if (outcome.ended) {
        EXPECT_EQ(outcome.ended->outcome, AttemptOutcome::kCancelled) << outcome.ended->message;
      }
    }
    both.expect_clean();
  }
}

TEST(Handoff, ABitFlippedInTheSourceAfterTheChecksumIsCaught) {
  Both both(small(), "loopback", {}, {}, 2);
  both.start(AttemptId(3), 0, 0, 60);
  ASSERT_TRUE(both.settle());
  const TestDecode::Outcome& outcome = both.decode.outcome(AttemptId(3));
  ASSERT_TRUE(outcome.ended);
  EXPECT_TRUE(outcome.ended->corrupt);
  EXPECT_NE(outcome.ended->message.find("sums to"), std::string::npos) << outcome.ended->message;
  EXPECT_EQ(both.prefill.ended().at(AttemptId(3)).outcome, AttemptOutcome::kFailed);
  EXPECT_EQ(both.decode.stats().checksum_mismatches, 1u);
  EXPECT_EQ(both.decode.stats().committed, 0u);
  both.start(AttemptId(4), 0, 0, 60);
  ASSERT_TRUE(both.settle());
  EXPECT_TRUE(both.decode.outcome(AttemptId(4)).committed) << "one fault harms no other attempt";
  both.expect_clean();
}

TEST(Handoff, ABitFlippedAtDecodeBeforeVerificationIsCaught) {
  for (const Fanout fanout : {Fanout::kDirect, Fanout::kLocal}) {
    PairSpec spec = spec_of("", mla_geometry(), {.tp = 2}, {.tp = 2}, 8, 8, fanout);
    TestDecode* decode = nullptr;
    DecodeHandoffOptions options;
    std::atomic<int> flips{0};
    std::vector<PageId> pages;
    options.before_verify = [&](AttemptId) {
      const Pool& pool = decode->memory().pools()[1];
      // Page 2 of the sequence: its stripe comes from a neighbour when the fanout is local, so flip rank 0 too.
      for (const Pool* each : {&pool, &decode->memory().pools()[0]})
        each->memory.host()[pages[2].value() * each->shape.page_bytes() + 17] ^= std::byte{1};
      ++flips;
    };
    Both both(spec, "loopback", {}, options);
    decode = &both.decode;
    ASSERT_TRUE(both.decode.request(AttemptId(9), "127.0.0.1", both.prefill.port(), 0, 40));
    pages = both.decode.pages_of(AttemptId(9));
    both.prefill.begin(AttemptId(9), 0, 40);
    ASSERT_TRUE(both.settle());
    EXPECT_EQ(flips, 1);
    ASSERT_TRUE(both.decode.outcome(AttemptId(9)).ended);
    EXPECT_TRUE(both.decode.outcome(AttemptId(9)).ended->corrupt);
    both.expect_clean();
  }
}

// Whole pages travel; what an earlier tenant left in the rest of the last one must not (S12).
TEST(Handoff, TheTailOfTheLastPageTravelsAsZeros) {
  const PairSpec spec = spec_of("", gqa_geometry(), {.tp = 1}, {.tp = 1});
  TestDecode* decode = nullptr;
  DecodeHandoffOptions options;
  std::atomic<int> old_bytes{-1};
  std::vector<PageId> pages;
  options.before_verify = [&](AttemptId) {
    const Pool& pool = decode->memory().pools()[0];
    const std::byte* page = pool.memory.host().data() + pages[2].value() * pool.shape.page_bytes();
    const layout::KvGeometry& g = pool.shape.geometry;
    int others = 0;
    const auto count = [&](uint64_t offset, int dim) {
      for (int i = 0; i < dim * g.element_size; ++i) others += page[offset + static_cast<uint64_t>(i)] != std::byte{0};
    };
    for (int head = 0; head < g.kv_heads; ++head) {
      for (int layer = 0; layer < g.layers; ++layer) {
        for (int token = 4; token < 8; ++token) {
          count(pool.shape.k_offset(layer, head, token), g.k_dim);
          count(pool.shape.v_offset(layer, head, token), g.v_dim);
        }
      }
    }
    old_bytes = others;
  };
  Both both(spec, "loopback", {}, options);
  decode = &both.decode;
  ASSERT_TRUE(both.decode.request(AttemptId(9), "127.0.0.1", both.prefill.port(), 0, 20));
  pages = both.decode.pages_of(AttemptId(9));
  both.prefill.begin(AttemptId(9), 0, 20);
  ASSERT_TRUE(both.settle());
  EXPECT_TRUE(both.decode.outcome(AttemptId(9)).committed);
  EXPECT_EQ(old_bytes, 0);
}

TEST(Handoff, DeadlinesEndBothSides) {
  Both both(small());
  // Decode waits for a request that never reaches prefill.
  ASSERT_TRUE(both.decode.request(AttemptId(1), "127.0.0.1", both.prefill.port(), 0, 40, 0, 150ms));
  // Prefill waits for a grant that never comes.
  both.prefill.begin(AttemptId(2), 0, 40, 150ms);
  // Prefill computes too slowly.
  both.prefill.paused = true;
  both.start(AttemptId(3), 0, 1, 40, 0, 150ms);
  ASSERT_TRUE(both.settle(5s));
  EXPECT_EQ(both.decode.outcome(AttemptId(1)).ended->outcome, AttemptOutcome::kFailed);
  EXPECT_EQ(both.prefill.ended().at(AttemptId(2)).outcome, AttemptOutcome::kFailed);
  EXPECT_EQ(both.prefill.ended().at(AttemptId(3)).outcome, AttemptOutcome::kFailed);
  EXPECT_EQ(both.decode.outcome(AttemptId(3)).ended->outcome, AttemptOutcome::kFailed);
  EXPECT_EQ(both.prefill.stats().failures["deadline"] + both.prefill.stats().failures["peer"], 2u);
  // The request of an attempt whose grant ran out is told at once.
  both.prefill.paused = false;
  const TimePoint before = SteadyClock().now();
  both.prefill.begin(AttemptId(1), 0, 40);
  ASSERT_TRUE(both.run_until([&] { return both.prefill.ended().contains(AttemptId(1)); }));
  EXPECT_LT(SteadyClock().now() - before, 2s);
  both.expect_clean();
}

TEST(Handoff, TheTwoLegsMustCarryTheSamePrompt) {
  Both both(small());
  ASSERT_TRUE(both.decode.request(AttemptId(1), "127.0.0.1", both.prefill.port(), 0, 40));
  both.prefill.begin(AttemptId(1), 0, 41);
  ASSERT_TRUE(both.settle());
  EXPECT_NE(both.decode.outcome(AttemptId(1)).ended->message.find("41 tokens on prefill and 40 on decode"),
            std::string::npos);
  both.expect_clean();
}

TEST(Handoff, AnUnreachablePrefillFailsTheAttemptSoon) {
  Both both(small());
  const uint16_t port = both.prefill.port();
  both.prefill.stop();
  ASSERT_TRUE(both.decode.request(AttemptId(1), "127.0.0.1", port, 0, 40));
  const TimePoint before = SteadyClock().now();
  while (!both.decode.over(AttemptId(1)) && SteadyClock().now() - before < 5s) both.decode.pump();
  ASSERT_TRUE(both.decode.outcome(AttemptId(1)).ended);
  EXPECT_TRUE(both.decode.outcome(AttemptId(1)).ended->quiet);
  EXPECT_TRUE(both.decode.all_free());
}

TEST(Handoff, DifferentModelsRefuseEachOtherAndSayWhy) {
  PairSpec spec = small();
  PairSpec other = spec;
  other.geometry.layers = 7;
  TestPrefill prefill(spec, transport_of("loopback"));
  TestDecode decode(other, transport_of("loopback"));
  ASSERT_TRUE(decode.request(AttemptId(1), "127.0.0.1", prefill.port(), 0, 40));
  const TimePoint before = SteadyClock().now();
  while (!decode.over(AttemptId(1)) && SteadyClock().now() - before < 5s) decode.pump();
  ASSERT_TRUE(decode.outcome(AttemptId(1)).ended);
  EXPECT_NE(decode.refusal().find("decode TP4/DP2 cannot take from prefill TP2"), std::string::npos)
      << decode.refusal();
  EXPECT_NE(decode.refusal().find("--model-path"), std::string::npos) << decode.refusal();
  EXPECT_EQ(prefill.stats().refusals, 1u);
  EXPECT_EQ(decode.stats().failures["refused"], 1u);
}

TEST(Handoff, BadCallsAreRefusedWithoutAnEvent) {
  Both both(small());
  const TimePoint deadline = SteadyClock().now() + 1s;
  PrefillHandoff& prefill = both.prefill.handoff();
  EXPECT_FALSE(prefill.begin(AttemptId(0), 0, 10, deadline).ok());
  EXPECT_FALSE(prefill.begin(AttemptId(1), 1, 10, deadline).ok());
  EXPECT_FALSE(prefill.begin(AttemptId(1), 0, 0, deadline).ok());
  both.prefill.begin(AttemptId(1), 0, 10, 100ms);
  EXPECT_FALSE(prefill.begin(AttemptId(1), 0, 10, deadline).ok()) << "live already";
  DecodeRequest request{.attempt = AttemptId(1),
                        .host = "127.0.0.1",
                        .port = 1,
                        .dp_rank = 0,
                        .prompt_tokens = 9,
                        .cached_tokens = 0,
                        .pages = {{PageId(0), 1}, {PageId(1), 1}},
                        .deadline = deadline};
  const auto refused = [&](auto change) {
    DecodeRequest bad = request;
    change(bad);
    return !both.decode.handoff().receive(std::move(bad)).ok();
  };
  EXPECT_TRUE(refused([](DecodeRequest& r) { r.attempt = AttemptId(0); }));
  EXPECT_TRUE(refused([](DecodeRequest& r) { r.dp_rank = 2; }));
  EXPECT_TRUE(refused([](DecodeRequest& r) { r.pages.pop_back(); }));
  EXPECT_TRUE(refused([](DecodeRequest& r) { r.pages[1].page = PageId(96); }));
  EXPECT_TRUE(refused([](DecodeRequest& r) { r.cached_tokens = 4; }));
  EXPECT_TRUE(refused([](DecodeRequest& r) { r.cached_tokens = 16; }));
  EXPECT_TRUE(refused([](DecodeRequest& r) { r.port = 0; }));
  EXPECT_TRUE(refused([](DecodeRequest& r) {  // more than a grant frame may name
    r.pages.assign(wire::kGrantPagesMax + 1, {PageId(0), 1});
    r.prompt_tokens = int64_t{wire::kGrantPagesMax + 1} * 8;
  }));
  EXPECT_TRUE(both.settle());
}

TEST(Handoff, StoppingEndsWhatIsLive) {
  for (const bool prefill_first : {true, false}) {
    Both both(small());
    both.prefill.paused = true;
    for (uint64_t i = 1; i <= 4; ++i) both.start(AttemptId(i), 0, 0, 40);
    ASSERT_TRUE(both.run_until([&] { return both.decode.stats().peers == 1; }));
    both.run_until([] { return false; }, 30ms);
    if (prefill_first)
      both.prefill.stop();
    else
      both.decode.stop();
    EXPECT_TRUE(both.settle()) << prefill_first;
    EXPECT_EQ(both.decode.touched_free_pages(), "");
  }
}

}  // namespace
}  // namespace baton::handoff
