// Both services in one process: every end ends free. What decode holds: handoff_pairs_test.cc, converted_kv_test.cc.
#include "handoff/both_test.h"
#include "wire/frame_codec.h"

namespace baton::handoff {

using layout::Fanout;

namespace {

using namespace std::chrono_literals;

TEST(Handoff, LocalFanoutMovesUniqueBytesOnceAndCopiesTheRestInside) {
  PairSpec spec = spec_of("", mla_geometry(), {.tp = 4}, {.tp = 4}, 8, 8, Fanout::kLocal);
  Both both(spec);
  both.start(AttemptId(5), 0, 0, 80);
  ASSERT_TRUE(both.settle());
  const DecodeCommitted& committed = *both.decode.outcome(AttemptId(5)).committed;
  EXPECT_EQ(committed.bytes, 80 * spec.geometry.token_bytes());
  EXPECT_EQ(committed.local_bytes, 3 * 80 * spec.geometry.token_bytes());
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
