// Which requests a unified engine takes, in which order it serves them, and how it is paused.
#include <gtest/gtest.h>

#include <atomic>
#include <future>

#include "engine/test_rig.h"

namespace baton::engine {
namespace {

Status pause(Engine& engine, PauseMode mode) {
  std::promise<Status> paused;
  engine.pause(mode, [&paused](Status status) { paused.set_value(std::move(status)); });
  return paused.get_future().get();
}

Status resume(Engine& engine) {
  std::promise<Status> resumed;
  engine.resume([&resumed](Status status) { resumed.set_value(std::move(status)); });
  return resumed.get_future().get();
}

// No step may run while the engine is paused.
struct CountedSteps {
  std::atomic<int> steps{0};
  std::function<void(EngineLoopOptions&, FakeExecutorOptions&)> adjust() {
    return [this](EngineLoopOptions&, FakeExecutorOptions& fake) {
      fake.before_run = [this](const kv::StepPlan&) {
        ++steps;
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      };
    };
  }
};

TEST(EnginePause, WhatRunsGoesOnAsIfNothingHadBeen) {
  for (const PauseMode mode : {PauseMode::kInPlace, PauseMode::kRetract}) {
    CountedSteps counted;
    Rig rig({}, counted.adjust());
    const auto prompt = random_prompt(1, 50, 100), later = random_prompt(2, 10, 100);
    Client client, waiting;
    ASSERT_TRUE(rig.submit(request_of("a", prompt, 100), client).ok());
    ASSERT_TRUE(client.wait_tokens(5));
    ASSERT_TRUE(pause(*rig.engine, mode).ok());
    const int steps = counted.steps;
    ASSERT_TRUE(rig.submit(request_of("b", later, 3), waiting).ok());
    ASSERT_TRUE(eventually(*rig.engine, [&](const EngineStats& stats) {
      return mode == PauseMode::kRetract ? stats.waiting == 2 && stats.running == 0
                                         : stats.waiting == 1 && stats.running == 1;
    }));
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    EXPECT_EQ(counted.steps, steps);
    EXPECT_EQ(rig.engine->flush_cache().ok(), mode == PauseMode::kRetract);
    ASSERT_TRUE(resume(*rig.engine).ok());
    ASSERT_TRUE(client.wait());
    ASSERT_TRUE(waiting.wait());
    EXPECT_EQ(client.text(), FakeExecutor::greedy_text(prompt, 100, 100));
    EXPECT_EQ(waiting.text(), FakeExecutor::greedy_text(later, 3, 100));
    expect_all_pages_back(rig);
  }
}

TEST(EnginePause, AbortEndsWhatRunsAndHoldsWhatComes) {
  CountedSteps counted;
  Rig rig({}, counted.adjust());
  const auto prompt = random_prompt(1, 20, 100);
  Client running, waiting;
  ASSERT_TRUE(rig.submit(request_of("a", prompt, 150), running).ok());
  ASSERT_TRUE(running.wait_tokens(2));
  ASSERT_TRUE(pause(*rig.engine, PauseMode::kAbort).ok());
  ASSERT_TRUE(running.finished());
  EXPECT_EQ(running.finish().reason, FinishReason::kAbort);
  ASSERT_TRUE(rig.submit(request_of("b", prompt, 3), waiting).ok());
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_FALSE(waiting.finished());
  ASSERT_TRUE(resume(*rig.engine).ok());
  ASSERT_TRUE(waiting.wait());
  EXPECT_EQ(waiting.text(), FakeExecutor::greedy_text(prompt, 3, 100));
}

// What computes goes on to its end, what comes meanwhile waits, and then no step is computed.
TEST(EnginePause, WaitEndsWhatRunsAndHoldsTheRest) {
  CountedSteps counted;
  Rig rig({}, counted.adjust());
  const auto prompt = random_prompt(1, 20, 100), later = random_prompt(2, 10, 100);
  Client running, waiting, fresh;
  ASSERT_TRUE(rig.submit(request_of("a", prompt, 100), running).ok());
  ASSERT_TRUE(running.wait_tokens(2));
  EXPECT_FALSE(rig.engine->paused());
  std::promise<Status> waited;
  rig.engine->pause(PauseMode::kWait, [&waited](Status status) { waited.set_value(std::move(status)); });
  ASSERT_TRUE(rig.submit(request_of("b", later, 3), waiting).ok());  // there is room for it beside the one that runs
  ASSERT_TRUE(waited.get_future().get().ok());
  EXPECT_TRUE(running.finished());
  EXPECT_EQ(running.text(), FakeExecutor::greedy_text(prompt, 100, 100));
  EXPECT_TRUE(rig.engine->paused());
  ASSERT_TRUE(rig.submit(request_of("c", later, 3), fresh).ok());
  const int steps = counted.steps;
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_EQ(counted.steps, steps);
  EXPECT_FALSE(waiting.finished() || fresh.finished());
  EXPECT_TRUE(rig.engine->flush_cache().ok());
  ASSERT_TRUE(resume(*rig.engine).ok());
  EXPECT_FALSE(rig.engine->paused());
  for (Client* client : {&waiting, &fresh}) {
    ASSERT_TRUE(client->wait());
    EXPECT_EQ(client->text(), FakeExecutor::greedy_text(later, 3, 100));
  }
  expect_all_pages_back(rig);
}

TEST(EnginePause, AWaitIsCutShort) {
  for (const bool resumed : {true, false}) {
    CountedSteps counted;
    Rig rig({}, counted.adjust());
    const auto prompt = random_prompt(1, 20, 100);
    Client running;
    ASSERT_TRUE(rig.submit(request_of("a", prompt, 150), running).ok());
    ASSERT_TRUE(running.wait_tokens(2));
    std::promise<Status> waited;
    rig.engine->pause(PauseMode::kWait, [&](Status status) { waited.set_value(std::move(status)); });
    ASSERT_TRUE(resumed ? resume(*rig.engine).ok() : pause(*rig.engine, PauseMode::kInPlace).ok());
    EXPECT_EQ(waited.get_future().get().error().code, ErrorCode::kUnavailable);
    EXPECT_FALSE(running.finished());
    EXPECT_EQ(rig.engine->paused(), !resumed);
    ASSERT_TRUE(resume(*rig.engine).ok());
    ASSERT_TRUE(running.wait());
    EXPECT_EQ(running.text(), FakeExecutor::greedy_text(prompt, 150, 100));
  }
}

TEST(EnginePause, AnEngineThatIsPausedIsHealthyAndEnds) {
  Rig rig({}, [](EngineLoopOptions& loop, FakeExecutorOptions&) {
    loop.watchdog_timeout = std::chrono::milliseconds(150);
  });
  ASSERT_TRUE(pause(*rig.engine, PauseMode::kInPlace).ok());
  Client client;
  ASSERT_TRUE(rig.submit(request_of("a", random_prompt(1, 20, 100), 5), client).ok());
  std::this_thread::sleep_for(std::chrono::milliseconds(400));
  EXPECT_TRUE(rig.engine->healthy());
  rig.engine.reset();
  ASSERT_TRUE(client.finished());
  EXPECT_EQ(client.finish().error->code, ErrorCode::kUnavailable);
}

// Seven requests while one runs and three may wait: with priorities the least of those that wait makes room.
TEST(EngineQueue, TheLastInOrderIsRefusedWhenTooManyWait) {
  for (const bool priorities : {false, true}) {
    Rig rig({}, [&](EngineLoopOptions& loop, FakeExecutorOptions&) {
      loop.scheduler.max_running_requests = 1;
      loop.queue.waiting_max = 3;
      loop.queue.priorities = priorities;
    });
    ASSERT_TRUE(pause(*rig.engine, PauseMode::kInPlace).ok());
    std::vector<Client> clients(6);
    for (size_t i = 0; i < clients.size(); ++i) {
      Request request = request_of("r", random_prompt(i, 8, 100), 4);
      request.priority = static_cast<int>(i);
      ASSERT_TRUE(rig.submit(std::move(request), clients[i]).ok());
    }
    ASSERT_TRUE(resume(*rig.engine).ok());
    for (size_t i = 0; i < clients.size(); ++i) {
      ASSERT_TRUE(clients[i].wait());
      const bool refused = priorities ? i < 3 : i >= 3;
      EXPECT_EQ(clients[i].finish().reason, refused ? FinishReason::kAbort : FinishReason::kLength) << i;
      if (!refused) continue;
      EXPECT_EQ(clients[i].finish().error->code, ErrorCode::kUnavailable);
      EXPECT_EQ(clients[i].finish().error->message,
                priorities ? "The request is aborted by a higher priority request." : "The request queue is full.");
    }
    expect_all_pages_back(rig);
  }
}

TEST(EngineQueue, PrioritiesAreRefusedWhereTheFlagSaysSo) {
  Rig rig({}, [](EngineLoopOptions& loop, FakeExecutorOptions&) { loop.queue.refuse_priorities = true; });
  Client client;
  Request request = request_of("r", random_prompt(1, 8, 100), 4);
  request.priority = 0;
  const auto refused = rig.submit(std::move(request), client);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kUnavailable);
}

// The order in which clients hear their ends, with one sequence at a time.
TEST(EngineQueue, PrioritiesAndTheirDefaultsOrderTheQueue) {
  struct Case {
    bool low_first;
    std::optional<int> default_priority;
    std::vector<size_t> order;
  };
  // Of the requests 0 (no priority), 1 (-5), 2 (7).
  for (const Case& test :
       {Case{false, {}, {2, 1, 0}}, Case{true, {}, {1, 2, 0}}, Case{false, 0, {2, 0, 1}}, Case{true, 0, {1, 0, 2}}}) {
    Rig rig({}, [&](EngineLoopOptions& loop, FakeExecutorOptions&) {
      loop.scheduler.max_running_requests = 1;
      loop.queue.priorities = true;
      loop.queue.low_values_first = test.low_first;
      loop.queue.default_priority = test.default_priority;
    });
    ASSERT_TRUE(pause(*rig.engine, PauseMode::kInPlace).ok());
    std::mutex mutex;
    std::vector<size_t> order;
    const std::optional<int> priorities[] = {{}, -5, 7};
    for (size_t i = 0; i < 3; ++i) {
      Request request = request_of("r", random_prompt(i, 8, 100), 4);
      request.priority = priorities[i];
      const auto taken = rig.engine->submit(std::move(request), [&, i](const Output& output) {
        std::lock_guard lock(mutex);
        if (output.finish) order.push_back(i);
      });
      ASSERT_TRUE(taken.ok());
    }
    ASSERT_TRUE(resume(*rig.engine).ok());
    ASSERT_TRUE(eventually(*rig.engine, [&](const EngineStats&) {
      std::lock_guard lock(mutex);
      return order.size() == 3;
    }));
    rig.engine.reset();
    EXPECT_EQ(order, test.order);
  }
}

}  // namespace
}  // namespace baton::engine
