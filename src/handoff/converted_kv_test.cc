#include "handoff/converted_kv.h"

#include "handoff/both_test.h"
#include "handoff/pairing.h"
#include "handoff/send_job.h"

namespace baton::handoff {

using enum tensor::DType;

namespace {

// Pages are converted into again as soon as nobody holds them: a post must, whether its range goes on after it or not.
TEST(ConvertedKv, EveryPostHoldsThePagesThatItReads) {
  const PairSpec spec = converting(spec_of("", mla_geometry(), {.tp = 1}, {.tp = 1}), kBF16, kF8E4M3);
  const auto transport = transport_of("loopback"), peer_transport = transport_of("loopback");
  PatternPools source(spec.prefill, spec.geometry, *transport);
  PatternPools destination(spec.decode, spec.geometry, *peer_transport);
  const wire::Manifest self = complete_manifest(manifest_of(spec, spec.prefill, incarnation_of(*transport)),
                                                wire::InstanceRole::kPrefill, *transport, source.pools())
                                  .value();
  const wire::Manifest peer = complete_manifest(manifest_of(spec, spec.decode, incarnation_of(*peer_transport)),
                                                wire::InstanceRole::kDecode, *peer_transport, destination.pools())
                                  .value();
  const auto planner = std::make_shared<const layout::Planner>(agree(self, peer).value());
  wire::Grant grant;
  grant.attempt = AttemptId(5);
  grant.prompt_tokens = 80;
  std::vector<PageId> pages;
  for (uint32_t i = 0; i < 10; ++i) {
    pages.emplace_back(40 + 2 * i);
    grant.pages.push_back({PageId(7 + i), 0});
  }
  source.write(3, 0, pages, 0, grant.prompt_tokens);
  const auto converted = ConvertedKv::make(*transport, source.pools(), 1, kBF16, kF8E4M3, 1 << 20).value();
  device::Streams streams;
  for (const size_t blocks : {size_t{1}, size_t{512}}) {  // several posts a range, and one
    SendJob send(planner, self, 0, peer, grant, source.pools(), converted.get(), streams, 1 << 20, 1 << 20, blocks);
    send.extend(grant.prompt_tokens, pages);
    int posts = 0;
    while (!send.idle()) {
      const SendJob::Step step = send.step(3000, pages);
      if (!step.post) continue;
      ++posts;
      EXPECT_NE(step.post->converted, nullptr) << "post " << posts;
    }
    EXPECT_GT(posts, 1);
  }
}

// Memory for one page of a peer: attempts wait for each other's, and all come to their end.
TEST(ConvertedKv, ConversionGoesOnInAsLittleMemoryAsThereIs) {
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
TEST(ConvertedKv, ABitFlippedAfterTheConversionIsCaught) {
  Both both(converting(small(), kBF16, kF8E4M3), "loopback", {}, {}, 1);
  both.start(AttemptId(3), 0, 0, 60);
  ASSERT_TRUE(both.settle());
  const TestDecode::Outcome& outcome = both.decode.outcome(AttemptId(3));
  ASSERT_TRUE(outcome.ended);
  EXPECT_TRUE(outcome.ended->corrupt);
  both.expect_clean();
}

}  // namespace
}  // namespace baton::handoff
