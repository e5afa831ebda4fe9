// A prefill and a decode engine in one process over real handoff services and transports, with the fake executor.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>

#include "base/log.h"
#include "base/random.h"
#include "engine/make_engine.h"
#include "engine/test_rig.h"

namespace baton::engine {

inline constexpr int kVocab = 100;

struct SideOptions {
  layout::Layout layout;
  int page_tokens = 4;
  int pages_per_group = 64;
};

struct PairOptions {
  const char* name = "";
  SideOptions prefill, decode;
  std::string backend = "loopback";
  layout::Fanout fanout = layout::Fanout::kDirect;
};

class EnginePair {
 public:
  explicit EnginePair(PairOptions options, const std::function<void(EngineOptions&)>& adjust = {},
                      layout::KvGeometry geometry = small_geometry())
      : options_(std::move(options)), adjust_(adjust), geometry_(geometry) {
    prefill = make(Role::kPrefill, options_.prefill);
    decode = make(Role::kDecode, options_.decode);
  }

  std::unique_ptr<Engine> make(Role role, const SideOptions& side) {
    EngineOptions options;
    options.role = role;
    options.executor.layout = side.layout;
    options.executor.page_tokens = side.page_tokens;
    options.pool.max_total_tokens = int64_t{side.pages_per_group} * side.page_tokens * side.layout.dp;
    options.chunked_prefill_size = 24;
    options.reserved_decode_tokens = 16;
    options.transfer.backend = options_.backend;
    options.transfer.bootstrap_port = 0;
    options.transfer.fanout = options_.fanout;
    options.transfer.attempt_timeout = std::chrono::seconds(15);
    if (adjust_) adjust_(options);
    ModelFacts facts;
    facts.geometry = geometry_;
    facts.vocab = role == Role::kPrefill ? prefill_vocab : kVocab;
    facts.context = 4096;
    facts.digest = {1, 2};
    auto made = make_engine_over(
        options, facts, [&](const std::vector<device::Memory>& pools) -> Result<std::unique_ptr<model::Executor>> {
          RigOptions rig{side.layout, side.pages_per_group, side.page_tokens, facts.vocab, 4096, {}};
          FakeExecutorOptions fake = fake_options(rig);
          fake.geometry = geometry_;
          if (role == Role::kPrefill) fake.before_run = before_prefill;
          return std::unique_ptr<model::Executor>(std::make_unique<FakeExecutor>(fake, host_bytes(pools)));
        });
    EXPECT_TRUE(made.ok()) << (made.ok() ? "" : made.error().message);
    return std::move(made).value();
  }

  // What a router does.
  void submit(Request request, Client& prefill_client, Client& decode_client) {
    request.disaggregation = address();
    const auto to_prefill = prefill->submit(request, prefill_client.sink());
    ASSERT_TRUE(to_prefill.ok()) << to_prefill.error().message;
    const auto to_decode = decode->submit(std::move(request), decode_client.sink());
    ASSERT_TRUE(to_decode.ok()) << to_decode.error().message;
  }
  Disaggregation address() { return {"127.0.0.1", prefill->info().bootstrap_port, draw_attempt(), false}; }

  void expect_idle() {
    EXPECT_TRUE(eventually(*prefill, is_idle));
    EXPECT_TRUE(eventually(*decode, is_idle));
  }

  // Set before the constructor makes engines: a static of the test process, reset by each test.
  static inline std::function<void(const kv::StepPlan&)> before_prefill;
  static inline int prefill_vocab = kVocab;

  std::unique_ptr<Engine> prefill, decode;

 private:
  PairOptions options_;
  std::function<void(EngineOptions&)> adjust_;
  layout::KvGeometry geometry_;
};

class DisaggregationTest : public testing::Test {
 protected:
  // Before any thread: spdlog makes its registry at the first line, in code that ThreadSanitizer cannot see into.
  static void SetUpTestSuite() { log_init(LogLevel::kError, ""); }
  void SetUp() override {
    EnginePair::before_prefill = {};
    EnginePair::prefill_vocab = kVocab;
  }
};

inline PairOptions simple() { return PairOptions{"simple", {{1, 1, 1, 1}}, {{1, 1, 1, 1}}}; }

}  // namespace baton::engine
