// That statistics are not made in every step, and yet say what is.
#include <gtest/gtest.h>

#include <memory>

#include "engine/engine_loop.h"
#include "engine/test_rig.h"

namespace baton::engine {
namespace {

// Its clock stands still, so that no interval ever passes.
struct StandingRig {
  explicit StandingRig(Duration step) {
    RigOptions options;
    options.pages_per_group = 1024;
    rig = std::make_unique<Rig>(options, [step](EngineLoopOptions& loop, FakeExecutorOptions& fake) {
      loop.clock = std::make_shared<FakeClock>();
      fake.before_run = [step](const kv::StepPlan&) { std::this_thread::sleep_for(step); };
    });
  }
  std::unique_ptr<Rig> rig;
};

TEST(EngineStats, WhoAsksAgainIsToldWhatIsNewer) {
  StandingRig standing(std::chrono::milliseconds(2));
  Rig& rig = *standing.rig;
  Client client;
  const auto id = rig.submit(request_of("a", {1, 2, 3}, 2000), client);
  ASSERT_TRUE(id.ok());
  for (uint64_t steps : {5, 20, 50})
    EXPECT_TRUE(eventually(*rig.engine, [steps](const EngineStats& stats) { return stats.steps_total >= steps; }));
  EXPECT_FALSE(client.finished());
  rig.engine->abort(*id);
  ASSERT_TRUE(client.wait());
}

// Nobody asked before, and nothing computes when somebody does.
TEST(EngineStats, AnIdleEngineHasSaidAll) {
  StandingRig standing(std::chrono::milliseconds(0));
  Rig& rig = *standing.rig;
  Client client;
  ASSERT_TRUE(rig.submit(request_of("a", {1, 2, 3}, 20), client).ok());
  ASSERT_TRUE(client.wait());
  std::this_thread::sleep_for(std::chrono::milliseconds(50));  // for the turn to end that told the client
  const EngineStats stats = rig.engine->stats();
  EXPECT_EQ(stats.generation_tokens_total, 20U);
  EXPECT_TRUE(is_idle(stats));
}

}  // namespace
}  // namespace baton::engine
