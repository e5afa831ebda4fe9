#include "handoff/converted_kv.h"

#include <gtest/gtest.h>

#include "handoff/pairing.h"
#include "handoff/rig_test.h"
#include "handoff/send_job.h"

namespace baton::handoff {
namespace {

// Pages are converted into again as soon as nobody holds them: a post must, whether its range goes on after it or not.
TEST(ConvertedKv, EveryPostHoldsThePagesThatItReads) {
  PairSpec spec{"", mla_geometry(), {{.tp = 1}, 8, 96, 1}, {{.tp = 1}, 8, 96, 1}};
  spec.prefill.kv = tensor::DType::kBF16;
  spec.decode.kv = tensor::DType::kF8E4M3;
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
  const auto converted =
      ConvertedKv::make(*transport, source.pools(), 1, tensor::DType::kBF16, tensor::DType::kF8E4M3, 1 << 20).value();
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

}  // namespace
}  // namespace baton::handoff
