// What the probe makes of time that it did not see pass, and of workers that do not meet.
#include "router/worker_probe.h"

#include <atomic>
#include <thread>

#include "router/test_support.h"

namespace baton::router {
namespace {

using namespace std::chrono_literals;

class JumpingClock final : public Clock {
 public:
  [[nodiscard]] TimePoint now() const override { return std::chrono::steady_clock::now() + jumped_.load(); }
  void jump(Duration by) { jumped_ = jumped_.load() + by; }

 private:
  std::atomic<Duration> jumped_{Duration(0)};
};

struct Probed {
  explicit Probed(
      const PlayedWorker::Play& decode_play = [](const http::Exchange& x) { x.reply("{}"); }, Duration timeout = 5s)
      : prefill([](const http::Exchange& x) { x.reply("{}"); }), decode(decode_play) {
    EXPECT_TRUE(registry.add({engine::Role::kPrefill, prefill.url(), 8998}).ok());
    EXPECT_TRUE(registry.add({engine::Role::kDecode, decode.url(), 0}).ok());
    probe = std::make_unique<WorkerProbe>(WorkerProbe::Options{20ms, timeout, ""}, registry, calls, client, clock);
  }
  JumpingClock clock;
  PlayedWorker prefill, decode;
  WorkerRegistry registry{{.silence_max = 5s},
                          PairPolicy(PlacementPolicy::kLeastLoaded, PlacementPolicy::kLeastLoaded, 1)};
  OpenCalls calls;
  http::HttpClient client;
  std::unique_ptr<WorkerProbe> probe;
};

// The router was stopped, or its host slept: nobody was silent meanwhile, it was not listened to.
TEST(WorkerProbe, TimeInWhichTheRouterItselfDidNotRunIsNotSilence) {
  Probed probed;
  ASSERT_TRUE(probed.probe->wait_ready(10s).ok());
  std::atomic<int> ended{0};
  for (const WorkerView& view : probed.registry.view())
    probed.calls.add({view.id}, OpenCalls::kNoDeadline, [&](uint64_t, const Error&) { ++ended; });
  for (int i = 0; i < 5; ++i) {
    const size_t asked = probed.decode.asked().size();
    probed.clock.jump(60s);
    ASSERT_TRUE(probed.decode.wait_asked(asked + 2));
  }
  EXPECT_EQ(ended, 0);
  EXPECT_TRUE(probed.registry.can_serve());
}

// An address where nothing ever answers: what is wrong is said, once it is known.
TEST(WorkerProbe, AWorkerThatNeverAnsweredSaysSo) {
  Probed probed([](const http::Exchange&) {}, 100ms);
  const auto problem = [&] { return probed.registry.view()[1].problem; };
  for (int i = 0; i < 2000 && problem() == "not probed yet"; ++i) std::this_thread::sleep_for(5ms);
  EXPECT_NE(problem().find("timeout"), std::string::npos) << problem();
}

// A decode instance that cannot meet prefill yet is asked again with each round, not as fast as it answers.
TEST(WorkerProbe, WorkersThatDoNotMeetAreToldToOnceARound) {
  std::atomic<int> health{0}, pair{0};
  Probed probed([&](const http::Exchange& x) {
    if (x.request.path != "/pair") {
      ++health;
      return x.reply("{}");
    }
    ++pair;
    x.refuse(503, "prefill cannot be reached");
  });
  for (int i = 0; i < 2000 && health < 20; ++i) std::this_thread::sleep_for(5ms);
  EXPECT_GE(health, 20);
  EXPECT_GE(pair, 2);
  EXPECT_LE(pair, health + 3);
  EXPECT_FALSE(probed.probe->wait_ready(1ms).ok());
}

}  // namespace
}  // namespace baton::router
