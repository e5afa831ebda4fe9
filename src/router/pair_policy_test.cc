// Placement: candidates, ties, refusals, and the shares that each policy gives.
#include "router/pair_policy.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <map>

namespace baton::router {
namespace {

const auto kNobody = [](size_t, size_t) { return false; };
std::vector<WorkerLoad> loads(std::initializer_list<uint64_t> outstanding) {
  std::vector<WorkerLoad> out;
  for (const uint64_t n : outstanding) out.push_back({true, n});
  return out;
}
constexpr PlacementPolicy kPolicies[] = {PlacementPolicy::kLeastLoaded, PlacementPolicy::kRoundRobin,
                                         PlacementPolicy::kRandom, PlacementPolicy::kPowerOfTwo};

TEST(PairPolicy, Names) {
  EXPECT_EQ(*parse_placement_policy("power_of_two"), PlacementPolicy::kPowerOfTwo);
  const auto wrong = parse_placement_policy("fastest");
  ASSERT_FALSE(wrong.ok());
  EXPECT_NE(wrong.error().message.find("least_loaded, round_robin, random, power_of_two"), std::string::npos);
}

TEST(PairPolicy, LeastLoadedTakesTheFewestAndTiesGoRound) {
  PairPolicy policy(PlacementPolicy::kLeastLoaded, PlacementPolicy::kLeastLoaded, 1);
  const auto choice = policy.choose(loads({3, 1, 2}), loads({5, 9, 4}), kNobody);
  ASSERT_TRUE(choice.has_value());
  EXPECT_EQ(choice->prefill, 1U);
  EXPECT_EQ(choice->decode, 2U);
  std::map<size_t, int> times;
  for (int i = 0; i < 30; ++i) ++times[policy.choose(loads({0, 7, 0, 0}), loads({0}), kNobody)->prefill];
  EXPECT_EQ(times, (std::map<size_t, int>{{0, 10}, {2, 10}, {3, 10}}));
}

TEST(PairPolicy, RoundRobinTakesTurnsAmongTheAvailable) {
  PairPolicy policy(PlacementPolicy::kRoundRobin, PlacementPolicy::kRoundRobin, 1);
  auto prefill = loads({0, 0, 0});
  prefill[1].available = false;
  std::vector<size_t> order;
  order.reserve(4);
  for (int i = 0; i < 4; ++i) order.push_back(policy.choose(prefill, loads({0}), kNobody)->prefill);
  EXPECT_EQ(order, (std::vector<size_t>{0, 2, 0, 2}));
}

TEST(PairPolicy, RandomOnesShareTheWorkAndTwoChoicesAvoidTheLoaded) {
  PairPolicy random(PlacementPolicy::kRandom, PlacementPolicy::kRandom, 7);
  PairPolicy two(PlacementPolicy::kPowerOfTwo, PlacementPolicy::kPowerOfTwo, 7);
  std::map<size_t, int> drawn, avoided;
  for (int i = 0; i < 3000; ++i) {
    ++drawn[random.choose(loads({9, 0, 0}), loads({0}), kNobody)->prefill];
    ++avoided[two.choose(loads({9, 0, 0}), loads({0}), kNobody)->prefill];
  }
  for (size_t i = 0; i < 3; ++i) EXPECT_NEAR(drawn[i], 1000, 150);
  EXPECT_NEAR(avoided[0], 333, 100);  // only when drawn twice
}

TEST(PairPolicy, APrefillThatOnlyRefusersAreLeftForIsNoCandidate) {
  PairPolicy policy(PlacementPolicy::kLeastLoaded, PlacementPolicy::kLeastLoaded, 1);
  auto decode = loads({0, 0});
  decode[1].available = false;
  const auto refused = [](size_t p, size_t d) { return p == 0 && d == 0; };
  for (int i = 0; i < 5; ++i) EXPECT_EQ(policy.choose(loads({0, 50}), decode, refused)->prefill, 1U);
}

// Whatever the policy: the choice is available and not refused, and there is one whenever a pair exists.
RC_GTEST_PROP(PairPolicy, ChoosesAPairExactlyWhenThereIsOne, ()) {
  const auto side = [] {
    return *rc::gen::container<std::vector<WorkerLoad>>(rc::gen::apply(
        [](bool available, uint64_t n) {
          return WorkerLoad{available, n % 5};
        },
        rc::gen::arbitrary<bool>(), rc::gen::arbitrary<uint64_t>()));
  };
  const std::vector<WorkerLoad> prefill = side(), decode = side();
  const auto bits = *rc::gen::arbitrary<uint64_t>();
  const auto refused = [&](size_t p, size_t d) { return (bits >> ((p * 7 + d) % 64) & 1) != 0; };
  bool exists = false;
  for (size_t p = 0; p < prefill.size(); ++p) {
    for (size_t d = 0; d < decode.size(); ++d)
      exists = exists || (prefill[p].available && decode[d].available && !refused(p, d));
  }
  for (const PlacementPolicy policy : kPolicies) {
    const auto choice = PairPolicy(policy, policy, bits).choose(prefill, decode, refused);
    RC_ASSERT(choice.has_value() == exists);
    if (!choice) continue;
    RC_ASSERT(prefill.at(choice->prefill).available && decode.at(choice->decode).available);
    RC_ASSERT(!refused(choice->prefill, choice->decode));
  }
}

}  // namespace
}  // namespace baton::router
