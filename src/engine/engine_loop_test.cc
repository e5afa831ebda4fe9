#include "engine/engine_loop.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <future>

#include "base/random.h"
#include "engine/test_rig.h"

namespace baton::engine {
namespace {

TEST(EngineLoop, GeneratesTheTextOfTheModel) {
  Rig rig;
  Client client;
  const auto prompt = random_prompt(1, 50, 100);
  ASSERT_TRUE(rig.submit(request_of("a", prompt, 20), client).ok());
  ASSERT_TRUE(client.wait());
  EXPECT_EQ(client.text(), FakeExecutor::greedy_text(prompt, 20, 100));
  EXPECT_EQ(client.finish().reason, FinishReason::kLength);
  EXPECT_EQ(client.last().prompt_tokens, 50);
  expect_all_pages_back(rig);
}

// Ids are given in the order in which the engine takes the requests, whichever threads they come from.
TEST(EngineLoop, ThreadsMaySubmitAtOnce) {
  RigOptions options;
  options.pages_per_group = 4096;
  Rig rig(options);
  constexpr int kThreads = 8, kEach = 500;
  const std::vector<int32_t> prompt = {1};
  std::vector<Client> clients(kThreads * kEach);
  std::atomic<int> ready{0};
  std::vector<std::thread> threads;
  threads.reserve(kThreads);
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      ++ready;
      while (ready < kThreads) std::this_thread::yield();
      for (int i = 0; i < kEach; ++i)
        EXPECT_TRUE(rig.submit(request_of("a", prompt, 1), clients[static_cast<size_t>(t * kEach + i)]).ok());
    });
  }
  for (std::thread& thread : threads) thread.join();
  const auto text = FakeExecutor::greedy_text(prompt, 1, options.vocab);
  for (Client& client : clients) {
    ASSERT_TRUE(client.wait());
    EXPECT_EQ(client.text(), text);
  }
  expect_all_pages_back(rig);
}

struct Mix {
  const char* name;
  layout::Layout layout;
  int pages;
  bool mixed, cache;
  int reserved;
};

class EngineMix : public testing::TestWithParam<Mix> {};

// Many requests at once, with shared prefixes, on pools so small that sequences are retracted; some are aborted half
// way. Each text is what the model says (or a beginning of it), each client hears one end, every page comes back.
TEST_P(EngineMix, TextsAreRightWhateverHappensAround) {
  const Mix mix = GetParam();
  RigOptions options;
  options.layout = mix.layout;
  options.pages_per_group = mix.pages;
  Rig rig(options, [&](EngineLoopOptions& loop, FakeExecutorOptions&) {
    loop.scheduler.mixed_chunk = mix.mixed;
    loop.scheduler.prefix_cache = mix.cache;
    loop.scheduler.reserved_decode_tokens = mix.reserved;
  });
  constexpr int kRequests = 60;
  Random random(5);
  std::vector<Client> clients(kRequests);
  std::vector<Request> requests;
  for (int i = 0; i < kRequests; ++i) {
    // A third of the prompts begin alike.
    auto prompt = random_prompt(random.below(3) == 0 ? 1 : 100 + static_cast<uint64_t>(i),
                                static_cast<int>(1 + random.below(40)), 100);
    for (int32_t extra : random_prompt(static_cast<uint64_t>(i), static_cast<int>(random.below(6)), 100))
      prompt.push_back(extra);
    requests.push_back(request_of("r" + std::to_string(i), prompt, static_cast<int>(1 + random.below(40))));
    if (random.below(4) == 0)
      requests.back().dp_rank = static_cast<int>(random.below(static_cast<uint64_t>(mix.layout.dp)));
    ASSERT_TRUE(rig.submit(requests.back(), clients[static_cast<size_t>(i)]).ok());
    if (random.below(5) == 0)
      rig.engine->abort("r" + std::to_string(random.below(static_cast<uint64_t>(i) + 1)), [](size_t) {});
  }
  int whole = 0;
  for (size_t i = 0; i < kRequests; ++i) {
    ASSERT_TRUE(clients[i].wait()) << "request " << i;
    const auto expected = FakeExecutor::greedy_text(requests[i].prompt, requests[i].sampling.max_new_tokens, 100);
    const auto text = clients[i].text();
    ASSERT_LE(text.size(), expected.size());
    EXPECT_TRUE(std::equal(text.begin(), text.end(), expected.begin())) << "request " << i;
    const bool aborted = clients[i].finish().reason == FinishReason::kAbort;
    if (aborted) {
      EXPECT_EQ(clients[i].finish().error->code, ErrorCode::kCancelled);
    }
    EXPECT_TRUE(aborted || text.size() == expected.size());
    whole += !aborted;
  }
  EXPECT_GT(whole, kRequests / 2);
  const EngineStats stats = rig.engine->stats();
  EXPECT_EQ(stats.preemptions_total > 0, mix.reserved == 0);
  uint64_t told = 0;
  for (const Client& client : clients) told += static_cast<uint64_t>(client.last().preemptions);
  EXPECT_EQ(told, stats.preemptions_total);
  EXPECT_EQ(stats.retracted, 0);
  EXPECT_EQ(stats.cached_tokens_total > 0, mix.cache);
  expect_all_pages_back(rig);
}

INSTANTIATE_TEST_SUITE_P(
    All, EngineMix,
    testing::Values(Mix{"plain", {1, 1, 1, 1}, 256, false, true, 40}, Mix{"mixed", {1, 1, 1, 1}, 256, true, true, 40},
                    Mix{"tiny", {1, 1, 1, 1}, 30, false, true, 0}, Mix{"tiny_mixed", {2, 1, 1, 1}, 30, true, false, 0},
                    Mix{"dp2", {4, 2, 1, 1}, 64, false, true, 40}, Mix{"dp2_tiny", {2, 2, 1, 1}, 30, true, true, 0},
                    Mix{"pp2_dp3", {3, 3, 2, 1}, 64, false, true, 40}),
    [](const auto& mix) { return mix.param.name; });

TEST(EngineLoop, SeededTextDoesNotDependOnTheBatch) {
  std::vector<std::vector<int32_t>> texts;
  for (const int neighbours : {0, 7}) {
    Rig rig;
    Client client;
    std::vector<Client> others(static_cast<size_t>(neighbours));
    for (int i = 0; i < neighbours; ++i) {
      ASSERT_TRUE(
          rig.submit(request_of("n" + std::to_string(i), random_prompt(50 + static_cast<uint64_t>(i), 20, 100), 20),
                     others[static_cast<size_t>(i)])
              .ok());
    }
    Request request = request_of("a", random_prompt(2, 30, 100), 20);
    request.sampling.temperature = 8;
    request.sampling.seed = 1234;
    ASSERT_TRUE(rig.submit(request, client).ok());
    ASSERT_TRUE(client.wait());
    texts.push_back(client.text());
  }
  EXPECT_EQ(texts[0], texts[1]);
  EXPECT_NE(texts[0], FakeExecutor::greedy_text(random_prompt(2, 30, 100), 20, 100));
}

float logprob_after(std::span<const int32_t> tokens, int32_t token) {
  const auto logits = FakeExecutor::logits_after(tokens, 100);
  double total = 0;
  for (const float x : logits) total += std::exp(static_cast<double>(x));
  return static_cast<float>(logits[static_cast<size_t>(token)] - std::log(total));
}

TEST(EngineLoop, LogprobsOfPromptAndText) {
  Rig rig;
  // Three chunks. The second round finds a cached prefix, which must not swallow wanted positions.
  for (const auto& [length, start] :
       std::vector<std::pair<int, int>>{{70, 0}, {70, 0}, {70, 1}, {70, 33}, {70, 69}, {1, 0}, {2, 0}, {2, 1}}) {
    const auto prompt = random_prompt(3, length, 100);
    Client client;
    Request request = request_of("a", prompt, 4);
    request.logprobs = 2;
    request.prompt_logprob_start = start;
    ASSERT_TRUE(rig.submit(request, client).ok());
    ASSERT_TRUE(client.wait());
    const auto& scored = client.prompt_logprobs();
    ASSERT_EQ(scored.size(), prompt.size() - static_cast<size_t>(start));
    for (size_t i = 0; i < scored.size(); ++i) {
      const size_t position = static_cast<size_t>(start) + i;
      EXPECT_EQ(scored[i].token, prompt[position]);
      EXPECT_EQ(scored[i].logprob.has_value(), position > 0);
      if (position > 0) {
        EXPECT_NEAR(*scored[i].logprob, logprob_after(std::span(prompt).first(position), prompt[position]), 1e-4);
      }
      EXPECT_EQ(scored[i].top.size(), position > 0 ? 2u : 0u);
    }
    auto tokens = prompt;
    for (const GeneratedToken& token : client.tokens()) {
      EXPECT_NEAR(token.logprob, logprob_after(tokens, token.id), 1e-4);
      EXPECT_EQ(token.top.at(0).token, token.id);  // greedy
      tokens.push_back(token.id);
    }
  }
}

TEST(EngineLoop, Endings) {
  const auto prompt = random_prompt(4, 10, 100);
  const auto text = FakeExecutor::greedy_text(prompt, 12, 100);
  const auto first = [&](int32_t id) { return std::find(text.begin(), text.end(), id) - text.begin() + 1; };
  RigOptions options;
  options.eos_ids = {text[7]};
  options.context = 20;
  Rig rig(options);
  struct Case {
    const char* name;
    std::function<void(SamplingParams&)> set;
    size_t length;
    FinishReason reason;
    std::optional<int32_t> matched;
  };
  const Case cases[] = {
      {"eos", [](SamplingParams&) {}, static_cast<size_t>(first(text[7])), FinishReason::kStop, text[7]},
      {"stop token", [&](SamplingParams& p) { p.stop_token_ids = {text[3]}; }, static_cast<size_t>(first(text[3])),
       FinishReason::kStop, text[3]},
      {"length", [](SamplingParams& p) { p.max_new_tokens = 2; }, 2, FinishReason::kLength, {}},
      {"none wanted", [](SamplingParams& p) { p.max_new_tokens = 0; }, 0, FinishReason::kLength, {}},
      {"context", [](SamplingParams& p) { p.ignore_eos = true; }, 10, FinishReason::kLength, {}},
  };
  for (const Case& c : cases) {
    Client client;
    Request request = request_of("a", prompt, 1000);
    c.set(request.sampling);
    ASSERT_TRUE(rig.submit(request, client).ok());
    ASSERT_TRUE(client.wait()) << c.name;
    EXPECT_EQ(client.text(), std::vector(text.begin(), text.begin() + static_cast<ptrdiff_t>(c.length))) << c.name;
    EXPECT_EQ(client.finish().reason, c.reason) << c.name;
    EXPECT_EQ(client.finish().matched_token, c.matched) << c.name;
  }
}

TEST(EngineLoop, RefusalsNameTheNumbersAndTheRemedy) {
  RigOptions options;
  options.context = 30;
  Rig narrow(options);
  options.context = 1000;
  options.pages_per_group = 10;
  Rig shallow(options);
  struct Case {
    Rig& rig;
    std::function<void(Request&)> set;
    std::vector<const char*> says;
  };
  const Case cases[] = {
      {narrow, [](Request& r) { r.prompt.assign(30, 1); }, {"30", "--context-length"}},
      {shallow, [](Request& r) { r.prompt.assign(40, 1); }, {"40", "--max-total-tokens", "--mem-fraction-static"}},
      {narrow, [](Request& r) { r.prompt.clear(); }, {"no tokens"}},
      {narrow, [](Request& r) { r.prompt = {100}; }, {"100"}},
      {narrow, [](Request& r) { r.dp_rank = 1; }, {"routed_dp_rank: 1 is not in [0, 0]"}},
      {narrow, [](Request& r) { r.prompt_logprob_start = 3; }, {"logprob_start_len: 3 is higher than", "[-1, 2]"}},
      {narrow, [](Request& r) { r.sampling.top_p = 2; }, {"top_p"}},
  };
  for (const Case& c : cases) {
    Request request = request_of("a", {1, 2, 3}, 4);
    c.set(request);
    Client client;
    const auto status = c.rig.submit(request, client);
    ASSERT_FALSE(status.ok());
    EXPECT_EQ(status.error().code, ErrorCode::kInvalidArgument);
    for (const char* word : c.says)
      EXPECT_NE(status.error().message.find(word), std::string::npos) << status.error().message;
    EXPECT_FALSE(client.finished());
  }
}

// Holds the executor until opened.
struct Gate {
  std::promise<void> open;
  std::shared_future<void> opened = open.get_future().share();
  [[nodiscard]] std::function<void(const kv::StepPlan&)> hook() const {
    return [opened = opened](const kv::StepPlan&) { opened.wait(); };
  }
};

TEST(EngineLoop, TheNumberOfRequestsIsBounded) {
  Gate gate;
  Rig rig({}, [&](EngineLoopOptions& loop, FakeExecutorOptions& fake) {
    loop.requests_max = 3;
    fake.before_run = gate.hook();
  });
  std::vector<Client> clients(3);
  for (size_t i = 0; i < 3; ++i) ASSERT_TRUE(rig.submit(request_of(std::to_string(i), {1, 2, 3}, 2), clients[i]).ok());
  Client extra;
  EXPECT_EQ(rig.submit(request_of("more", {1}, 1), extra).error().code, ErrorCode::kResourceExhausted);
  EXPECT_EQ(rig.engine->flush_cache().error().code, ErrorCode::kUnavailable);
  gate.open.set_value();
  for (Client& client : clients) ASSERT_TRUE(client.wait());
  Client again;
  EXPECT_TRUE(rig.submit(request_of("0", {1, 2, 3}, 2), again).ok());
  EXPECT_TRUE(again.wait());
}

TEST(EngineLoop, AFailedRankEndsAllRequestsWithAnError) {
  std::atomic<bool> broken{false};
  Rig rig({}, [&](EngineLoopOptions&, FakeExecutorOptions& fake) {
    fake.fault = [&]() -> Status {
      if (broken) return error(ErrorCode::kUnavailable, "rank 0 is gone");
      return {};
    };
  });
  std::vector<Client> clients(3);
  for (size_t i = 0; i < 3; ++i)
    ASSERT_TRUE(rig.submit(request_of(std::to_string(i), {1, 2, 3}, 200), clients[i]).ok());
  ASSERT_TRUE(clients[0].wait_tokens(2));
  broken = true;
  for (Client& client : clients) {
    ASSERT_TRUE(client.wait());
    EXPECT_EQ(client.finish().reason, FinishReason::kAbort);
    EXPECT_EQ(client.finish().error->code, ErrorCode::kUnavailable);
  }
  EXPECT_FALSE(rig.engine->healthy());
  Client late;
  EXPECT_EQ(rig.submit(request_of("late", {1}, 1), late).error().code, ErrorCode::kUnavailable);
}

// Nothing runs after the failed step, so nothing else would end what was queued while it ran.
TEST(EngineLoop, ARequestQueuedDuringTheFailingStepEndsToo) {
  Gate gate;
  Rig rig({}, [&](EngineLoopOptions&, FakeExecutorOptions& fake) {
    fake.before_run = gate.hook();
    fake.fault = [&]() -> Status { return error(ErrorCode::kUnavailable, "rank 0 is gone"); };
  });
  Client first, queued;
  ASSERT_TRUE(rig.submit(request_of("first", {1, 2, 3}, 5), first).ok());
  ASSERT_TRUE(eventually(*rig.engine, [](const EngineStats&) { return true; }));
  std::this_thread::sleep_for(std::chrono::milliseconds(50));  // the step has begun
  ASSERT_TRUE(rig.submit(request_of("queued", {1, 2, 3}, 5), queued).ok());
  gate.open.set_value();
  ASSERT_TRUE(first.wait());
  ASSERT_TRUE(queued.wait());
  EXPECT_EQ(queued.finish().error->code, ErrorCode::kUnavailable);
}

TEST(EngineLoop, AbortEndsARequestAtOnceAndAbortAllEveryOne) {
  Rig rig;
  std::vector<Client> clients(4);
  for (size_t i = 0; i < 4; ++i)
    ASSERT_TRUE(rig.submit(request_of(std::to_string(i), {1, 2, static_cast<int32_t>(i)}, 200), clients[i]).ok());
  ASSERT_TRUE(clients[2].wait_tokens(1));
  const auto ended = [&](const char* name) {
    std::promise<size_t> told;
    rig.engine->abort(name, [&](size_t n) { told.set_value(n); });
    return told.get_future().get();
  };
  EXPECT_EQ(ended("unknown"), 0U);
  EXPECT_EQ(ended("2"), 1U);
  ASSERT_TRUE(clients[2].wait());
  EXPECT_EQ(ended("2"), 0U);
  EXPECT_EQ(clients[2].finish().error->code, ErrorCode::kCancelled);
  rig.engine->abort_all();
  for (Client& client : clients) ASSERT_TRUE(client.wait());
  expect_all_pages_back(rig);
}

TEST(EngineLoop, ShutDownEndsEveryRequestAndTakesNoMore) {
  Rig rig;
  std::vector<Client> clients(3);
  for (size_t i = 0; i < 3; ++i)
    ASSERT_TRUE(rig.submit(request_of(std::to_string(i), {1, 2, static_cast<int32_t>(i)}, 200), clients[i]).ok());
  rig.engine->shut_down();
  for (Client& client : clients) {
    ASSERT_TRUE(client.wait());
    if (client.finish().error.has_value()) {
      EXPECT_EQ(client.finish().error->code, ErrorCode::kUnavailable);
    }
  }
  Client late;
  EXPECT_EQ(rig.submit(request_of("late", {1}, 5), late).error().code, ErrorCode::kUnavailable);
  expect_all_pages_back(rig);
}

TEST(EngineLoop, RequestsMayShareARidAndEachEndsAlone) {
  Rig rig({}, [](EngineLoopOptions&, FakeExecutorOptions& fake) {  // steps slow enough for none to reach its end
    fake.before_run = [](const kv::StepPlan&) { std::this_thread::sleep_for(std::chrono::milliseconds(5)); };
  });
  std::vector<Client> clients(4);
  std::vector<SequenceId> ids;
  for (size_t i = 0; i < 4; ++i) {
    Request request = request_of(i < 3 ? "r" : "r-3", {1, 2, static_cast<int32_t>(i)}, 1'000'000);
    request.call = i == 3 ? "r" : "";
    request.sampling.ignore_eos = true;
    ids.push_back(rig.submit(std::move(request), clients[i]).value());
    ASSERT_TRUE(clients[i].wait_tokens(1));
  }
  rig.engine->abort(ids[0]);
  ASSERT_TRUE(clients[0].wait());
  EXPECT_EQ(clients[0].finish().error->code, ErrorCode::kCancelled);
  rig.engine->stop(ids[1]);
  ASSERT_TRUE(clients[1].wait());
  EXPECT_EQ(clients[1].finish().reason, FinishReason::kStop);
  rig.engine->abort("r", [](size_t) {});
  for (size_t i = 2; i < 4; ++i) {
    ASSERT_TRUE(clients[i].wait());
    EXPECT_EQ(clients[i].finish().error->code, ErrorCode::kCancelled);
  }
  for (const SequenceId id : ids) rig.engine->stop(id);  // ended long ago
  expect_all_pages_back(rig);
  EXPECT_EQ(rig.engine->stats().aborted_total, 3U) << "a stop is not an abort";
}

TEST(EngineLoop, ShutdownEndsEveryRequest) {
  Client running, waiting;
  {
    Rig rig;
    ASSERT_TRUE(rig.submit(request_of("a", random_prompt(1, 200, 100), 50), running).ok());
    ASSERT_TRUE(rig.submit(request_of("b", random_prompt(2, 200, 100), 50), waiting).ok());
    ASSERT_TRUE(running.wait_tokens(1));
  }
  EXPECT_TRUE(running.finished());
  EXPECT_TRUE(waiting.finished());
  EXPECT_EQ(waiting.finish().error->code, ErrorCode::kUnavailable);
}

class SettableClock final : public Clock {
 public:
  [[nodiscard]] TimePoint now() const override { return TimePoint(Duration(ns_.load())); }
  void advance(Duration by) { ns_ += by.count(); }

 private:
  std::atomic<int64_t> ns_{0};
};

TEST(EngineLoop, IsHealthyWhileWorkMovesOrNoneWaits) {
  Gate gate;
  auto clock = std::make_shared<SettableClock>();
  Rig rig({}, [&](EngineLoopOptions& loop, FakeExecutorOptions& fake) {
    loop.clock = clock;
    loop.watchdog_timeout = std::chrono::seconds(10);
    fake.before_run = gate.hook();
  });
  clock->advance(std::chrono::hours(1));
  EXPECT_TRUE(rig.engine->healthy()) << "nothing waits";
  Client client;
  ASSERT_TRUE(rig.submit(request_of("a", {1, 2, 3}, 3), client).ok());
  std::this_thread::sleep_for(std::chrono::milliseconds(50));  // the step has begun and hangs
  EXPECT_TRUE(rig.engine->healthy()) << "the hour was idle, the step is young";
  clock->advance(std::chrono::seconds(11));
  EXPECT_FALSE(rig.engine->healthy());
  gate.open.set_value();
  ASSERT_TRUE(client.wait());
  ASSERT_TRUE(eventually(*rig.engine, is_idle));
  EXPECT_TRUE(rig.engine->healthy());
}

// A role that never computes anything, as one whose peers are gone.
class StuckRole final : public RolePart {
 public:
  explicit StuckRole(EngineCore& core) : core_(core) {}
  Status accept(LiveRequest& live) override {
    core_.add_sequence(live, scheduler::EntryMode::kHeld, 1);
    return {};
  }
  void poll(TimePoint) override {}
  void admitted(LiveRequest&) override {}
  void computed(LiveRequest&, int64_t) override {}
  void sampled(LiveRequest&, GeneratedToken) override {}
  void release(LiveRequest& live, const std::string&) override { core_.scheduler().finish(live.sequence); }
  void machine_failed(const std::string&) override {}
  void pair(const std::string&, int, bool, std::function<void(Status)>) override {}
  void fill(EngineStats*) const override {}
  [[nodiscard]] std::string describe_pairs() const override { return {}; }
  [[nodiscard]] int listening_port() const override { return 0; }

 private:
  EngineCore& core_;
};

TEST(EngineLoop, RequestsThatComeWhileNoneMovesAreNoSignOfHealth) {
  auto clock = std::make_shared<SettableClock>();
  const RigOptions rig;
  EngineLoopOptions options = loop_options(rig);
  options.clock = clock;
  options.watchdog_timeout = std::chrono::seconds(10);
  std::vector<std::byte> pool(pool_bytes(rig, 0));
  auto engine = EngineLoop::start(std::move(options),
                                  std::make_unique<FakeExecutor>(fake_options(rig), std::vector{std::span(pool)}),
                                  [](EngineCore& core, std::function<void()>) -> Result<std::unique_ptr<RolePart>> {
                                    return std::unique_ptr<RolePart>(std::make_unique<StuckRole>(core));
                                  })
                    .value();
  std::vector<Client> clients(3);
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(engine->healthy()) << i;
    ASSERT_TRUE(engine->submit(request_of(std::to_string(i), {1, 2}, 1), clients[static_cast<size_t>(i)].sink()).ok());
    ASSERT_TRUE(eventually(*engine, [i](const EngineStats& stats) { return stats.waiting == i + 1; }));
    clock->advance(std::chrono::seconds(4));
  }
  EXPECT_FALSE(engine->healthy());
  engine->abort_all();
  for (Client& client : clients) ASSERT_TRUE(client.wait());
  ASSERT_TRUE(eventually(*engine, is_idle));
  EXPECT_TRUE(engine->healthy()) << "nothing waits";
}

TEST(EngineLoop, StatsCountWhatWasDone) {
  Rig rig;
  for (int i = 0; i < 2; ++i) {
    Client client;
    ASSERT_TRUE(rig.submit(request_of("a", random_prompt(9, 40, 100), 5), client).ok());
    ASSERT_TRUE(client.wait());
    EXPECT_EQ(client.last().cached_tokens, i == 0 ? 0 : 36);
  }
  ASSERT_TRUE(eventually(*rig.engine, is_idle));
  const EngineStats stats = rig.engine->stats();
  EXPECT_EQ(stats.requests_total, 2u);
  EXPECT_EQ(stats.prompt_tokens_total, 80u);
  EXPECT_EQ(stats.generation_tokens_total, 10u);
  EXPECT_EQ(stats.cached_tokens_total, 36u);
  EXPECT_DOUBLE_EQ(stats.cache_hit_rate, 36.0 / 80);
  EXPECT_EQ(stats.steps_total, 2u + 4u + 1u + 4u);
  EXPECT_EQ(stats.steps.prompt_tokens, 40u + 4u);
  EXPECT_EQ(stats.steps.cached_tokens, 36u);
  EXPECT_EQ(stats.steps.decode_tokens, 4u + 4u);
  EXPECT_GT(stats.steps.prompt_s, 0);
  EXPECT_GT(stats.steps.decode_s, 0);
  EXPECT_EQ(stats.steps.mixed_s, 0);
}

}  // namespace
}  // namespace baton::engine
