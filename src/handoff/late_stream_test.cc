// Both services on devices that work late: a stream whose work is done only when somebody waits for it.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <thread>

#include "handoff/pairing.h"
#include "handoff/rig_test.h"
#include "handoff/send_job.h"
#include "handoff/verify_job.h"

namespace baton::handoff {
namespace {

using namespace std::chrono_literals;

class LateStream final : public device::Stream {
 public:
  // `pending` counts what is not done yet.
  LateStream(device::Home home, std::atomic<int>* pending)
      : home_(home), real_(device::make_stream(home)), work_(std::make_shared<Work>(pending)) {}

  void zero(const device::Memory& memory, std::span<const layout::Run> runs) override {
    EXPECT_EQ(memory.home, home_);
    later([=, this, list = std::vector(runs.begin(), runs.end())] { real_->zero(memory, list); });
  }
  void copy(const device::Memory& from, const device::Memory& to, std::span<const layout::Copy> copies) override {
    EXPECT_EQ(to.home, home_);
    later([=, this, list = std::vector(copies.begin(), copies.end())] { real_->copy(from, to, list); });
  }
  void convert(const device::Memory& from, tensor::DType from_type, const device::Memory& to, tensor::DType to_type,
               std::span<const device::Conversion> conversions) override {
    EXPECT_EQ(to.home, home_);
    later([=, this, list = std::vector(conversions.begin(), conversions.end())] {
      real_->convert(from, from_type, to, to_type, list);
    });
  }
  void sum(const device::Memory& memory, std::span<const layout::WordRun> runs, const device::PageKeys& keys,
           device::WordSum* out) override {
    EXPECT_EQ(memory.home, home_);
    later([=, this, list = std::vector(runs.begin(), runs.end())] { real_->sum(memory, list, keys, out); });
  }
  std::unique_ptr<device::Event> record() override { return std::make_unique<LateEvent>(work_); }

 private:
  struct Work {
    explicit Work(std::atomic<int>* count) : pending(count) {}
    std::atomic<int>* pending;
    std::vector<std::function<void()>> steps;
  };
  class LateEvent final : public device::Event {
   public:
    explicit LateEvent(std::shared_ptr<Work> work) : work_(std::move(work)) {}
    [[nodiscard]] bool done() const override { return work_->steps.empty(); }
    void wait() override {
      for (const auto& step : work_->steps) step();
      *work_->pending -= static_cast<int>(work_->steps.size());
      work_->steps.clear();
    }

   private:
    std::shared_ptr<Work> work_;
  };
  void later(std::function<void()> step) {
    work_->steps.push_back(std::move(step));
    ++*work_->pending;
  }

  device::Home home_;
  std::unique_ptr<device::Stream> real_;
  std::shared_ptr<Work> work_;
};

// Two devices on either side: sums and copies of an attempt run on both, each on the one that its bytes lie on.
TEST(LateStreams, NothingIsSentComparedOrCommittedBeforeItsWorkIsDone) {
  for (const layout::Fanout fanout : {layout::Fanout::kDirect, layout::Fanout::kLocal}) {
    for (const tensor::DType kv : {tensor::DType::kBF16, tensor::DType::kF8E4M3}) {
      // Partial pages of unequal layouts; MLA, so that replicas copy from each other.
      PairSpec spec{"", mla_geometry(), {{.tp = 2}, 8, 96, 2}, {{.tp = 3}, 8, 96, 2, kv}, fanout};
      std::atomic<int> made{0}, pending{0};
      const device::StreamFactory make = [&](device::Home home) {
        ++made;
        return std::make_unique<LateStream>(home, &pending);
      };
      PrefillHandoffOptions prefill_options;
      prefill_options.make_stream = make;
      DecodeHandoffOptions decode_options;
      decode_options.make_stream = make;
      TestPrefill prefill(spec, transport_of("loopback"), prefill_options);
      TestDecode decode(spec, transport_of("loopback"), decode_options);
      for (uint64_t attempt = 1; attempt <= 4; ++attempt) {
        const auto tokens = static_cast<int64_t>(13 + 20 * attempt);
        ASSERT_TRUE(decode.request(AttemptId(attempt), "127.0.0.1", prefill.port(), 0, tokens));
        prefill.begin(AttemptId(attempt), 0, tokens);
      }
      const TimePoint until = SteadyClock().now() + 20s;
      while (!(decode.all_over() && prefill.idle()) && SteadyClock().now() < until) {
        prefill.pump();
        decode.pump();
        std::this_thread::sleep_for(200us);
      }
      for (uint64_t attempt = 1; attempt <= 4; ++attempt) {
        const TestDecode::Outcome& outcome = decode.outcome(AttemptId(attempt));
        ASSERT_TRUE(outcome.committed) << (outcome.ended ? outcome.ended->message : "not over");
        EXPECT_EQ(outcome.difference, "");
      }
      EXPECT_EQ(made, 4);
    }
  }
}

// An attempt may end between any two steps of its job, and then its pages are used again (S2): no work on them may be
// left that could still write. Of prefill's job sums may be under way, until it ends.
TEST(LateStreams, BetweenTheStepsOfAJobNoWritingIsPending) {
  const PairSpec spec{"", mla_geometry(), {{.tp = 1}, 8, 96, 1}, {{.tp = 2}, 8, 96, 2}, layout::Fanout::kLocal};
  const auto transport = transport_of("loopback"), peer_transport = transport_of("loopback");
  const Incarnation prefill = incarnation_of(*transport), decode = incarnation_of(*peer_transport);
  PatternPools source(spec.prefill, spec.geometry, *transport);
  PatternPools destination(spec.decode, spec.geometry, *peer_transport);
  const wire::Manifest self = complete_manifest(manifest_of(spec, spec.prefill, prefill), wire::InstanceRole::kPrefill,
                                                *transport, source.pools())
                                  .value();
  const wire::Manifest peer = complete_manifest(manifest_of(spec, spec.decode, decode), wire::InstanceRole::kDecode,
                                                *peer_transport, destination.pools())
                                  .value();
  const auto planner = std::make_shared<const layout::Planner>(agree(self, peer).value());
  wire::Grant grant;
  grant.attempt = AttemptId(5);
  grant.prompt_tokens = 35;
  std::vector<PageId> source_pages, pages;
  for (uint32_t i = 0; i < 5; ++i) {
    source_pages.emplace_back(40 + 2 * i);
    pages.emplace_back(7 + i);
    grant.pages.push_back({pages.back(), 0});
  }
  source.write(3, 0, source_pages, 0, grant.prompt_tokens);

  std::atomic<int> pending{0};
  device::Streams streams([&](device::Home home) { return std::make_unique<LateStream>(home, &pending); });
  {
    SendJob given_up(planner, self, 0, peer, grant, source.pools(), nullptr, streams, 1, 1 << 20, 64);
    given_up.extend(8, source_pages);
    given_up.step(1, source_pages);
    EXPECT_GT(pending, 0) << "no sum was under way";
  }
  EXPECT_EQ(pending, 0) << "a sum that would be written to nobody";
  SendJob send(planner, self, 0, peer, grant, source.pools(), nullptr, streams, 1, 1 << 20, 64);
  send.extend(grant.prompt_tokens, source_pages);
  EXPECT_EQ(pending, 0) << "the tail's zeros";
  wire::Commit commit;
  while (!send.idle()) {
    const SendJob::Step step = send.step(1, source_pages);
    if (!step.post) continue;
    for (const transport::Block& block : step.post->blocks) {
      const auto pool = std::ranges::find(destination.pools(), block.remote_region, &Pool::region);
      std::ranges::copy(source.pools()[0].memory.part(block.local_offset, block.length).host(),
                        pool->memory.part(block.remote_offset, block.length).host().begin());
    }
  }
  commit.checksum_pages = send.checksum_pages();
  commit.checksums = send.checksums();
  const ReceivePlan plan(planner, peer, grant, destination.pools());
  VerifyJob verify(plan, commit, streams);
  for (bool done = false; !done;) {
    done = verify.step(1);
    ASSERT_EQ(pending, 0);
  }
  EXPECT_TRUE(verify.status().ok()) << verify.status().error().message;
  EXPECT_GT(verify.local_copies(), 0u);
  EXPECT_EQ(destination.compare(3, 0, pages, 0, grant.prompt_tokens), "");
}

}  // namespace
}  // namespace baton::handoff
