// A prefill and a decode engine in one process: the text must be that of one instance.
#include "engine/disaggregation_test.h"

#include <atomic>
#include <future>

namespace baton::engine {
namespace {

class DisaggregationPairs : public DisaggregationTest, public testing::WithParamInterface<PairOptions> {};

// Requests with shared prefixes, several at once.
TEST_P(DisaggregationPairs, TextEqualsThatOfOneInstance) {
  EnginePair pair(GetParam());
  constexpr size_t kRequests = 24;
  Random random(3);
  std::vector<Client> prefill(kRequests), decode(kRequests);
  std::vector<Request> requests;
  for (size_t i = 0; i < kRequests; ++i) {
    auto prompt = random_prompt(i % 3 == 0 ? 1 : i, static_cast<int>(1 + random.below(60)), kVocab);
    requests.push_back(request_of("r" + std::to_string(i), prompt, static_cast<int>(1 + random.below(20))));
    pair.submit(requests.back(), prefill[i], decode[i]);
  }
  for (size_t i = 0; i < kRequests; ++i) {
    ASSERT_TRUE(decode[i].wait()) << i;
    ASSERT_TRUE(prefill[i].wait()) << i;
    ASSERT_EQ(decode[i].finish().reason, FinishReason::kLength) << decode[i].finish().error->message;
    EXPECT_EQ(decode[i].text(),
              FakeExecutor::greedy_text(requests[i].prompt, requests[i].sampling.max_new_tokens, kVocab))
        << i;
    EXPECT_TRUE(prefill[i].last().handed_over);
    EXPECT_EQ(prefill[i].finish().reason, FinishReason::kLength);
    EXPECT_TRUE(prefill[i].text().empty()) << "a token is delivered once, by decode";
  }
  pair.expect_idle();
  EXPECT_FALSE(pair.decode->describe_pairs().empty());
  EXPECT_FALSE(pair.prefill->stats().links.empty());
}

INSTANTIATE_TEST_SUITE_P(
    All, DisaggregationPairs,
    testing::Values(PairOptions{"same", {{1, 1, 1, 1}}, {{1, 1, 1, 1}}},
                    PairOptions{"tp2_to_tp4dp2", {{2, 1, 1, 1}}, {{4, 2, 1, 1}}},
                    PairOptions{"tp4_to_tp2", {{4, 1, 1, 1}}, {{2, 1, 1, 1}}},
                    PairOptions{"pp2_to_tp2", {{1, 1, 2, 1}}, {{2, 1, 1, 1}}},
                    PairOptions{"dp2_to_tp2", {{2, 2, 1, 1}}, {{2, 1, 1, 1}}},
                    PairOptions{"pages_4_to_8", {{2, 1, 1, 1}, 4, 64}, {{2, 1, 1, 1}, 8, 32}},
                    PairOptions{"pages_8_to_4", {{1, 1, 1, 1}, 8, 32}, {{2, 2, 1, 1}, 4, 64}},
                    PairOptions{"tiny_decode", {{1, 1, 1, 1}, 4, 64}, {{1, 1, 1, 1}, 4, 24}},
                    PairOptions{"tiny_prefill", {{1, 1, 1, 1}, 4, 17}, {{2, 1, 1, 1}, 4, 64}},
                    PairOptions{"shm", {{2, 1, 1, 1}}, {{4, 2, 1, 1}}, "shm"},
                    PairOptions{"tcp", {{2, 1, 1, 1}}, {{4, 2, 1, 1}}, "tcp"},
                    PairOptions{"fanout_local", {{1, 1, 1, 1}}, {{4, 1, 1, 1}}, "loopback", layout::Fanout::kLocal}),
    [](const auto& pair) { return pair.param.name; });

TEST_F(DisaggregationTest, ADecodePrefixIsNotSentAgain) {
  EnginePair pair(simple());
  const auto prompt = random_prompt(1, 40, kVocab);
  uint64_t bytes = 0;
  for (int round = 0; round < 2; ++round) {
    Client prefill, decode;
    pair.submit(request_of("a", prompt, 6), prefill, decode);
    ASSERT_TRUE(decode.wait());
    EXPECT_EQ(decode.text(), FakeExecutor::greedy_text(prompt, 6, kVocab));
    EXPECT_EQ(decode.last().cached_tokens, round == 0 ? 0 : 36);
    ASSERT_TRUE(prefill.wait());
    ASSERT_TRUE(eventually(*pair.prefill, is_idle));
    const uint64_t total = pair.prefill->stats().links.at(0).bytes;
    if (round == 0) bytes = total;
    EXPECT_EQ(total, round == 0 ? bytes : bytes + bytes / 10) << "ten pages, then one";
  }
}

TEST_F(DisaggregationTest, TheFirstTokenMayBeTheLast) {
  const auto prompt = random_prompt(7, 20, kVocab);
  const auto text = FakeExecutor::greedy_text(prompt, 2, kVocab);
  struct Case {
    const char* name;
    std::function<void(Request&)> set;
    size_t length;
    FinishReason reason;
  };
  const Case cases[] = {
      {"length 1", [](Request& r) { r.sampling.max_new_tokens = 1; }, 1, FinishReason::kLength},
      {"stop token", [&](Request& r) { r.sampling.stop_token_ids = {text[0]}; }, 1, FinishReason::kStop},
      {"nothing wanted", [](Request& r) { r.sampling.max_new_tokens = 0; }, 0, FinishReason::kLength},
  };
  EnginePair pair(simple());
  for (const Case& c : cases) {
    Client prefill, decode;
    Request request = request_of("a", prompt, 9);
    c.set(request);
    pair.submit(request, prefill, decode);
    ASSERT_TRUE(decode.wait()) << c.name;
    ASSERT_TRUE(prefill.wait()) << c.name;
    EXPECT_EQ(decode.text().size(), c.length) << c.name;
    EXPECT_EQ(decode.finish().reason, c.reason) << c.name;
  }
  pair.expect_idle();
}

// A stop string in the first token ends the request while its KV is still being verified. The prefill leg has done its
// work and says so: a cancel would make its answer, with the logprobs of the prompt, an error.
TEST_F(DisaggregationTest, AStopAtTheFirstTokenLetsThePrefillLegEndWell) {
  EnginePair pair(simple(), {}, {16, 2, 1 << 13, 1 << 13, 2});
  for (int i = 0; i < 3; ++i) {
    Request request = request_of("a", random_prompt(static_cast<uint64_t>(i), 60, kVocab), 9);
    request.disaggregation = pair.address();
    Client prefill;
    std::promise<void> ended;
    std::atomic<SequenceId::rep> id{0};
    ASSERT_TRUE(pair.prefill->submit(request, prefill.sink()).ok());
    const auto submitted = pair.decode->submit(std::move(request), [&](const Output& output) {
      if (output.finish) return ended.set_value();
      if (output.completion_tokens == 1) pair.decode->stop(SequenceId(id.load()));
    });
    ASSERT_TRUE(submitted.ok());
    id = submitted->value();
    ASSERT_TRUE(prefill.wait());
    EXPECT_TRUE(prefill.last().handed_over) << prefill.finish().error->message;
    ended.get_future().wait();
  }
  pair.expect_idle();
}

// Aborts on either side at any moment, and legs that come late or never.
TEST_F(DisaggregationTest, CancelledRequestsLeaveNothingBehind) {
  // A leg whose other leg never announced itself ends by its deadline.
  EnginePair pair({"", {{2, 1, 1, 1}, 4, 48}, {{2, 2, 1, 1}, 4, 32}},
                  [](EngineOptions& options) { options.transfer.attempt_timeout = std::chrono::seconds(3); });
  constexpr size_t kRequests = 80;
  Random random(11);
  std::vector<Client> prefill(kRequests), decode(kRequests);
  std::vector<Request> requests;
  for (size_t i = 0; i < kRequests; ++i) {
    requests.push_back(request_of("r" + std::to_string(i),
                                  random_prompt(i, static_cast<int>(1 + random.below(60)), kVocab),
                                  static_cast<int>(1 + random.below(20))));
    pair.submit(requests.back(), prefill[i], decode[i]);
    const std::string victim = "r" + std::to_string(random.below(i + 1));
    if (random.below(4) == 0) pair.prefill->abort(victim, [](size_t) {});
    if (random.below(4) == 0) pair.decode->abort(victim, [](size_t) {});
    if (random.below(4) == 0) std::this_thread::sleep_for(std::chrono::microseconds(random.below(3000)));
  }
  int whole = 0;
  for (size_t i = 0; i < kRequests; ++i) {
    ASSERT_TRUE(decode[i].wait()) << i;
    ASSERT_TRUE(prefill[i].wait()) << i;
    const auto expected = FakeExecutor::greedy_text(requests[i].prompt, requests[i].sampling.max_new_tokens, kVocab);
    const auto text = decode[i].text();
    ASSERT_LE(text.size(), expected.size());
    EXPECT_TRUE(std::equal(text.begin(), text.end(), expected.begin())) << i;
    if (decode[i].finish().reason == FinishReason::kAbort) continue;
    EXPECT_EQ(text.size(), expected.size());
    ++whole;
  }
  EXPECT_GT(whole, 10);
  pair.expect_idle();
}

TEST_F(DisaggregationTest, OneLegAloneEndsWithAnErrorWhenItsTimeIsUp) {
  EnginePair pair(simple(),
                  [](EngineOptions& options) { options.transfer.attempt_timeout = std::chrono::milliseconds(300); });
  Client prefill, decode;
  Request request = request_of("a", random_prompt(1, 10, kVocab), 5);
  request.disaggregation = pair.address();
  ASSERT_TRUE(pair.prefill->submit(request, prefill.sink()).ok());
  request.disaggregation = pair.address();
  ASSERT_TRUE(pair.decode->submit(request, decode.sink()).ok());
  for (Client* client : {&prefill, &decode}) {
    ASSERT_TRUE(client->wait());
    EXPECT_EQ(client->finish().reason, FinishReason::kAbort);
    EXPECT_TRUE(client->text().empty());
  }
  pair.expect_idle();
}

TEST_F(DisaggregationTest, ADecodeInstanceWithoutRoomWaitsInOrderAndGivesUpInTime) {
  std::atomic<bool> hold{true};
  EnginePair::before_prefill = [&](const kv::StepPlan&) {
    while (hold) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  };
  EnginePair pair({"", {{1, 1, 1, 1}}, {{1, 1, 1, 1}, 4, 16}}, [](EngineOptions& options) {
    if (options.role == Role::kDecode) options.transfer.attempt_timeout = std::chrono::milliseconds(600);
  });
  // The first takes nearly all pages and its prefill hangs, so the second never gets any.
  Client prefill[2], decode[2];
  for (int i = 0; i < 2; ++i)
    pair.submit(request_of(std::to_string(i), random_prompt(static_cast<uint64_t>(i), 50, kVocab), 5), prefill[i],
                decode[i]);
  EXPECT_TRUE(
      eventually(*pair.decode, [](const EngineStats& s) { return s.waiting_grant == 1 && s.transferring == 1; }));
  for (Client& client : decode) {
    ASSERT_TRUE(client.wait());
    EXPECT_EQ(client.finish().reason, FinishReason::kAbort);
  }
  EXPECT_EQ(decode[1].finish().error->code, ErrorCode::kDeadlineExceeded);
  hold = false;
  for (Client& client : prefill) ASSERT_TRUE(client.wait());
  pair.expect_idle();
}

// The second request has its grant while prefill is in the middle of the first one's step: it waits in prefill's queue,
// not for the transfer.
TEST_F(DisaggregationTest, TheWaitForARunningStepIsTheQueuesAndThePartsAddUp) {
  using std::chrono::milliseconds;
  constexpr milliseconds kHeld(300);
  std::atomic<bool> hold{true}, running{false};
  EnginePair::before_prefill = [&](const kv::StepPlan&) {
    running = true;
    while (hold) std::this_thread::sleep_for(milliseconds(1));
  };
  EnginePair pair(simple());
  Client prefill[2], decode;
  TtftParts parts;
  double elapsed_ms = 0;
  const auto begun = std::chrono::steady_clock::now();
  pair.submit(request_of("0", random_prompt(0, 20, kVocab), 1), prefill[0], decode);
  while (!running) std::this_thread::sleep_for(milliseconds(1));
  Request second = request_of("1", random_prompt(1, 20, kVocab), 2);
  second.disaggregation = pair.address();
  std::atomic<bool> over{false};
  ASSERT_TRUE(pair.prefill->submit(second, prefill[1].sink()).ok());
  ASSERT_TRUE(pair.decode
                  ->submit(std::move(second),
                           [&](const Output& output) {
                             if (output.completion_tokens == 1) {
                               parts = output.ttft;
                               elapsed_ms = to_ms(std::chrono::steady_clock::now() - begun);
                             }
                             if (output.finish) over = true;
                           })
                  .ok());
  EXPECT_TRUE(eventually(*pair.decode, [](const EngineStats& s) { return s.transferring == 2; }));
  std::this_thread::sleep_for(kHeld);
  hold = false;
  while (!over) std::this_thread::sleep_for(milliseconds(1));
  EXPECT_GE(parts.prefill_queue_ms, 0.2 * to_ms(kHeld));
  for (const double part : {parts.grant_ms, parts.prefill_ms, parts.transfer_ms, parts.first_step_ms})
    EXPECT_GE(part, 0);
  EXPECT_LE(parts.grant_ms + parts.prefill_queue_ms + parts.prefill_ms + parts.transfer_ms + parts.first_step_ms,
            elapsed_ms);
  EXPECT_TRUE(prefill[0].wait() && prefill[1].wait() && decode.wait());
  pair.expect_idle();
}

TEST_F(DisaggregationTest, WhenPrefillGoesAwayDecodeSaysSoAndGetsItsPagesBack) {
  EnginePair pair(simple());
  constexpr size_t kRequests = 12;
  std::vector<Client> prefill(kRequests), decode(kRequests);
  for (size_t i = 0; i < kRequests; ++i) {
    pair.submit(request_of("r" + std::to_string(i), random_prompt(i, 60, kVocab), 10), prefill[i], decode[i]);
  }
  pair.prefill.reset();
  for (size_t i = 0; i < kRequests; ++i) {
    ASSERT_TRUE(prefill[i].wait());
    ASSERT_TRUE(decode[i].wait());
    EXPECT_TRUE(decode[i].finish().reason == FinishReason::kAbort || decode[i].text().size() == 10u);
  }
  EXPECT_TRUE(eventually(*pair.decode, is_idle));
  // A new instance serves without a restart of decode.
  pair.prefill = pair.make(Role::kPrefill, simple().prefill);
  Client again_prefill, again_decode;
  pair.submit(request_of("again", random_prompt(1, 20, kVocab), 5), again_prefill, again_decode);
  ASSERT_TRUE(again_decode.wait());
  EXPECT_EQ(again_decode.text(), FakeExecutor::greedy_text(random_prompt(1, 20, kVocab), 5, kVocab));
}

TEST_F(DisaggregationTest, RefusalsAreClear) {
  EnginePair pair(simple());
  Request request = request_of("a", {1, 2, 3}, 4);
  Client nobody;
  EXPECT_NE(pair.decode->submit(request, nobody.sink()).error().message.find("bootstrap room"), std::string::npos);
  Client first, second, bad;
  request.disaggregation = pair.address();
  ASSERT_TRUE(pair.prefill->submit(request, first.sink()).ok());
  request.rid = "b";
  ASSERT_TRUE(pair.prefill->submit(request, second.sink()).ok());
  ASSERT_TRUE(second.wait());
  EXPECT_EQ(second.finish().error->code, ErrorCode::kInvalidArgument) << "the room is in use";
  request.disaggregation->bootstrap_port = 0;
  ASSERT_TRUE(pair.decode->submit(request, bad.sink()).ok());
  ASSERT_TRUE(bad.wait());
  EXPECT_EQ(bad.finish().error->code, ErrorCode::kInvalidArgument);
  pair.prefill->abort("a", [](size_t) {});
  ASSERT_TRUE(first.wait());
  pair.expect_idle();
}

Status ask(Engine& engine, const std::string& host, int port, bool told = false) {
  auto answer = std::make_shared<std::promise<Status>>();
  engine.pair(host, port, told, [answer](Status status) { answer->set_value(std::move(status)); });
  auto future = answer->get_future();
  if (future.wait_for(std::chrono::seconds(20)) == std::future_status::ready) return future.get();
  return error(ErrorCode::kDeadlineExceeded, "no answer");
}

TEST_F(DisaggregationTest, PairingOverIPv6IsAnswered) {
  EnginePair pair(simple(), [](EngineOptions& options) { options.transfer.bootstrap_host = "::1"; });
  const int port = pair.prefill->info().bootstrap_port;
  for (int round = 0; round < 2; ++round) {
    const Status met = ask(*pair.decode, "::1", port);
    EXPECT_TRUE(met.ok()) << met.error().message;
  }
  EXPECT_FALSE(pair.decode->describe_pairs().empty());
}

TEST_F(DisaggregationTest, ARequestThatLeadsToAStrangerIsForbiddenAtOnce) {
  EnginePair pair(simple());
  EXPECT_EQ(ask(*pair.decode, "192.0.2.1", 8998).error().code, ErrorCode::kForbidden);
  Client client;
  Request request = request_of("a", random_prompt(3, 20, kVocab), 5);
  request.disaggregation = Disaggregation{"prefill.example", 8998, draw_attempt(), false};
  ASSERT_TRUE(pair.decode->submit(std::move(request), client.sink()).ok());
  ASSERT_TRUE(client.wait());
  ASSERT_EQ(client.finish().reason, FinishReason::kAbort);
  EXPECT_EQ(client.finish().error->code, ErrorCode::kForbidden);
  EXPECT_NE(client.finish().error->message.find("--handoff-key-file"), std::string::npos);
  EXPECT_TRUE(eventually(*pair.decode, is_idle));
}

TEST_F(DisaggregationTest, WithOneKeyOnBothSidesKvIsHandedOverAndWithTwoItIsNot) {
  int made = 0;
  bool same = true;
  const auto with_keys = [&](EngineOptions& options) {
    options.transfer.handoff_key = std::string(32, same || made++ == 0 ? 'a' : 'b');
  };
  {
    EnginePair pair(simple(), with_keys);
    Client prefill, decode;
    pair.submit(request_of("a", random_prompt(3, 20, kVocab), 5), prefill, decode);
    ASSERT_TRUE(decode.wait());
    EXPECT_EQ(decode.text(), FakeExecutor::greedy_text(random_prompt(3, 20, kVocab), 5, kVocab));
  }
  same = false;
  EnginePair pair(simple(), with_keys);
  const Status met = ask(*pair.decode, "127.0.0.1", pair.prefill->info().bootstrap_port);
  ASSERT_FALSE(met.ok());
  EXPECT_NE(met.error().message.find("--handoff-key-file"), std::string::npos) << met.error().message;
}

// 65 x 64 ranks hold the one head: more pairs of ranks than are shown.
TEST_F(DisaggregationTest, LinksThatAreShownAreBoundedWhateverTheLayouts) {
  EnginePair pair({"wide", {{65, 1, 1, 1}, 4, 4}, {{64, 1, 1, 1}, 4, 4}}, {},
                  {.layers = 1, .kv_heads = 1, .k_dim = 8, .v_dim = 0, .element_size = 2});
  ASSERT_TRUE(ask(*pair.decode, "127.0.0.1", pair.prefill->info().bootstrap_port).ok());
  EXPECT_TRUE(eventually(*pair.decode, [](const EngineStats& stats) { return !stats.links.empty(); }));
  EXPECT_EQ(pair.decode->stats().links.size(), 4096u);
}

TEST_F(DisaggregationTest, PairingAheadOfRequests) {
  EnginePair pair(simple());
  const int port = pair.prefill->info().bootstrap_port;
  EXPECT_GT(port, 0);
  EXPECT_TRUE(ask(*pair.decode, "127.0.0.1", port).ok());
  EXPECT_TRUE(ask(*pair.decode, "127.0.0.1", port).ok());
  EXPECT_FALSE(ask(*pair.decode, "127.0.0.1", 1).ok());
  EXPECT_FALSE(ask(*pair.prefill, "127.0.0.1", port).ok());
  EXPECT_TRUE(eventually(*pair.decode, [&](const EngineStats&) {
    return pair.decode->describe_pairs().find("TP1") != std::string::npos;
  }));
}

}  // namespace
}  // namespace baton::engine
