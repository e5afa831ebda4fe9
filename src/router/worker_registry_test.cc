// Health, breakers, pairings and counts of a router's workers.
#include "router/worker_registry.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace baton::router {
namespace {

using ::testing::HasSubstr;
using namespace std::chrono_literals;
using Blame = WorkerRegistry::Blame;

const TimePoint kNow{1000s};
const http::Url kP1{"p", 1, ""}, kP2{"p", 2, ""}, kD1{"d", 1, ""}, kD2{"d", 2, ""};

struct Known : WorkerRegistry {
  explicit Known(const std::vector<http::Url>& prefill = {kP1}, const std::vector<http::Url>& decode = {kD1})
      : WorkerRegistry({.failures_to_open = 2, .breaker_time = 5s},
                       PairPolicy(PlacementPolicy::kLeastLoaded, PlacementPolicy::kLeastLoaded, 1)) {
    for (const http::Url& url : prefill) join(engine::Role::kPrefill, url);
    for (const http::Url& url : decode) join(engine::Role::kDecode, url);
  }
  void join(engine::Role role, const http::Url& url) {
    EXPECT_TRUE(add({role, url, 8998}).ok());
    set_health(url, true, "");
  }
  WorkerView of(const http::Url& url) {
    for (const WorkerView& v : view()) {
      if (v.address.url.authority() == url.authority()) return v;
    }
    ADD_FAILURE() << url.authority();
    return {};
  }
};

TEST(WorkerRegistry, NothingIsUsableBeforeItIsSeenHealthy) {
  Known registry;
  EXPECT_TRUE(registry.can_serve());
  registry.set_health(kD1, false, "connection refused");
  EXPECT_FALSE(registry.can_serve());
  const auto pair = registry.begin_request(kNow);
  ASSERT_FALSE(pair.ok());
  EXPECT_EQ(pair.error().code, ErrorCode::kUnavailable);
  EXPECT_THAT(pair.error().message, HasSubstr("1 of 1 prefill and 0 of 1 decode"));
  EXPECT_EQ(registry.of(kD1).problem, "connection refused");
}

TEST(WorkerRegistry, CountsWhatIsOutstanding) {
  Known registry({kP1, kP2});
  const auto one = registry.begin_request(kNow), two = registry.begin_request(kNow);
  EXPECT_NE(one->prefill.url.authority(), two->prefill.url.authority());
  EXPECT_EQ(registry.of(kD1).outstanding, 2U);
  registry.end_request(*one, Blame::kNobody, kNow);
  EXPECT_EQ(registry.of(kD1).outstanding, 1U);
  EXPECT_EQ(registry.of(kD1).requests, 2U);
}

TEST(WorkerRegistry, ABreakerKeepsRequestsAwayAfterFailuresInARow) {
  Known registry({kP1}, {kD1, kD2});
  const auto fail_first = [&](TimePoint now) {
    for (bool done = false; !done;) {
      const auto pair = registry.begin_request(now);
      done = pair->decode.url.host == kD1.host && pair->decode.url.port == kD1.port;
      registry.end_request(*pair, done ? Blame::kDecode : Blame::kNobody, now);
    }
  };
  const auto shares = [&](TimePoint now) {  // of eight requests, those that the first decode instance gets
    int first = 0;
    for (int i = 0; i < 8; ++i) {
      const auto pair = registry.begin_request(now);
      first += pair->decode.url.port == kD1.port;
      registry.end_request(*pair, Blame::kUnclear, now);
    }
    return first;
  };
  fail_first(kNow);
  while (registry.of(kD1).outstanding == 0) {  // a success between: not in a row
    const auto pair = registry.begin_request(kNow);
    const bool first = pair->decode.url.port == kD1.port;
    registry.end_request(*pair, Blame::kNobody, kNow);
    if (first) break;
  }
  fail_first(kNow);
  EXPECT_FALSE(registry.of(kD1).breaker_open);
  fail_first(kNow);
  EXPECT_TRUE(registry.of(kD1).breaker_open);
  EXPECT_EQ(shares(kNow + 4s), 0);
  EXPECT_EQ(shares(kNow + 5s), 4);
  fail_first(kNow + 5s);  // the trial fails: passed over for another while
  EXPECT_EQ(shares(kNow + 9s), 0);
  EXPECT_EQ(registry.of(kD1).failures, 4U);
  EXPECT_EQ(registry.of(kP1).failures, 0U);  // the innocent leg
}

// A breaker chooses among several; where nothing else is left, a worker that answers its probe is used.
TEST(WorkerRegistry, TheOnlyWorkerIsUsedWithItsBreakerOpen) {
  Known registry;
  for (int i = 0; i < 3; ++i) registry.end_request(*registry.begin_request(kNow), Blame::kDecode, kNow);
  EXPECT_TRUE(registry.of(kD1).breaker_open);
  EXPECT_TRUE(registry.can_serve());
  const auto pair = registry.begin_request(kNow);
  ASSERT_TRUE(pair.ok());
  registry.end_request(*pair, Blame::kNobody, kNow);
  EXPECT_FALSE(registry.of(kD1).breaker_open);
}

// An instance that went down and came back is not held back for what it did before.
TEST(WorkerRegistry, AnInstanceThatIsSeenHealthyAnewStartsWithAClosedBreaker) {
  Known registry;
  for (int i = 0; i < 2; ++i) registry.end_request(*registry.begin_request(kNow), Blame::kDecode, kNow);
  EXPECT_TRUE(registry.of(kD1).breaker_open);
  EXPECT_TRUE(registry.set_health(kD1, false, "connection refused"));
  EXPECT_FALSE(registry.set_health(kD1, false, "connection refused"));
  EXPECT_TRUE(registry.set_health(kD1, true, ""));
  EXPECT_FALSE(registry.of(kD1).breaker_open);
}

TEST(WorkerRegistry, AWorkerThatSaysNothingIsNotHealthyUntilItIsHeard) {
  Known registry({kP1}, {kD1, kD2});
  const uint64_t first = registry.of(kD1).id, prefill = registry.of(kP1).id;
  const auto pass = [&](Duration time) {
    registry.heard(prefill);
    registry.heard(registry.of(kD2).id);
    return registry.pass(time);
  };
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(pass(3s).empty());
  registry.heard(first);  // bytes of an answer are as good as a probe's
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(pass(3s).empty());
  EXPECT_TRUE(registry.of(kD1).healthy);
  const auto lost = pass(1s);
  ASSERT_EQ(lost.size(), 1U);
  EXPECT_EQ(lost[0].view.id, first);
  EXPECT_TRUE(lost[0].fresh);
  EXPECT_FALSE(registry.of(kD1).healthy);
  EXPECT_EQ(registry.of(kD1).problem, "nothing was heard from it for 10.0 s");
  ASSERT_EQ(pass(1s).size(), 1U);  // still
  EXPECT_FALSE(pass(1s)[0].fresh);
  registry.set_health(kD1, true, "");
  EXPECT_TRUE(pass(9s).empty());
}

TEST(WorkerRegistry, ASilentWorkerIsTakenOnlyWhereNoOtherCanServe) {
  Known registry({kP1}, {kD1, kD2});
  registry.pass(4s);
  registry.heard(registry.of(kD2).id);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(registry.begin_request(kNow)->decode.url.port, kD2.port);
  registry.set_health(kD2, false, "down");
  EXPECT_EQ(registry.begin_request(kNow)->decode.url.port, kD1.port);
}

TEST(WorkerRegistry, AnUnclearFailureCountsForAndAgainstNobody) {
  Known registry;
  const auto end_with = [&](Blame blame) { registry.end_request(*registry.begin_request(kNow), blame, kNow); };
  for (int i = 0; i < 5; ++i) end_with(Blame::kUnclear);
  EXPECT_TRUE(registry.can_serve());
  end_with(Blame::kDecode);
  end_with(Blame::kUnclear);
  end_with(Blame::kDecode);
  EXPECT_TRUE(registry.of(kD1).breaker_open);
}

TEST(WorkerRegistry, AvoidsAWorkerAsLongAsAnotherCanServe) {
  Known registry({kP1, kP2}, {kD1});
  const auto first = registry.begin_request(kNow);
  const auto again = registry.begin_request(kNow, {first->prefill_id, first->decode_id});
  EXPECT_NE(again->prefill_id, first->prefill_id);
  EXPECT_EQ(again->decode_id, first->decode_id);  // there is no other
  const auto last = registry.begin_request(kNow, {first->prefill_id, again->prefill_id});
  EXPECT_TRUE(last.ok());
}

TEST(WorkerRegistry, AFailureOfOneLegSaysNothingOfTheOther) {
  Known registry;
  registry.end_request(*registry.begin_request(kNow), Blame::kDecode, kNow);
  registry.end_request(*registry.begin_request(kNow), Blame::kPrefill, kNow);
  registry.end_request(*registry.begin_request(kNow), Blame::kDecode, kNow);
  EXPECT_TRUE(registry.of(kD1).breaker_open);
  EXPECT_FALSE(registry.of(kP1).breaker_open);
}

TEST(WorkerRegistry, PairsThatRefuseEachOtherStayApartUntilOneIsSeenAnew) {
  Known registry({kP1, kP2}, {kD1, kD2});
  EXPECT_EQ(registry.unpaired().size(), 4U);
  registry.set_pairing(kP1, kD1, true, "page_tokens 64 here, 128 there");
  registry.set_pairing(kP1, kD2, false, "");
  EXPECT_EQ(registry.unpaired().size(), 2U);
  EXPECT_TRUE(registry.can_serve(true));
  registry.set_health(kP2, false, "down");
  for (int i = 0; i < 4; ++i) EXPECT_EQ(registry.begin_request(kNow)->decode.url.port, kD2.port);
  registry.set_health(kD2, false, "down");
  const auto none = registry.begin_request(kNow);
  EXPECT_THAT(none.error().message, HasSubstr("1 of 2 prefill and 1 of 2 decode"));
  EXPECT_THAT(none.error().message, HasSubstr("page_tokens 64 here"));
  registry.set_health(kD1, false, "restarting");
  registry.set_health(kD1, true, "");
  EXPECT_EQ(registry.refusals(), "");
  EXPECT_TRUE(registry.begin_request(kNow).ok());
}

TEST(WorkerRegistry, KnowsEachWorkerOnce) {
  Known registry;
  EXPECT_EQ(registry.add({engine::Role::kDecode, kP1, 1}).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(registry.remove(kP2).error().code, ErrorCode::kNotFound);
}

// A worker that was removed and came back at the same address is another: what the old one left behind is not its.
TEST(WorkerRegistry, AWorkerThatComesBackStartsFromZero) {
  Known registry;
  const auto pair = registry.begin_request(kNow);
  registry.set_pairing(kP1, kD1, true, "refused");
  ASSERT_TRUE(registry.remove(kD1).ok());
  EXPECT_EQ(registry.refusals(), "");
  registry.join(engine::Role::kDecode, kD1);
  registry.end_request(*pair, Blame::kDecode, kNow);
  EXPECT_EQ(registry.of(kD1).outstanding, 0U);
  EXPECT_EQ(registry.of(kD1).failures, 0U);
  EXPECT_EQ(registry.of(kP1).outstanding, 0U);
}

}  // namespace
}  // namespace baton::router
