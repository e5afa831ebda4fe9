// Which prefill and which decode instance take a request. Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "base/random.h"
#include "base/result.h"

namespace baton::router {

struct WorkerLoad {
  bool available = false;    // healthy and its breaker closed
  uint64_t outstanding = 0;  // requests sent by this router and not ended
};

enum class PlacementPolicy : uint8_t {
  kLeastLoaded,  // fewest outstanding requests, ties in turn (default)
  kRoundRobin,
  kRandom,
  kPowerOfTwo,  // the less loaded of two drawn at random
};
Result<PlacementPolicy> parse_placement_policy(std::string_view name);

class PairPolicy {
 public:
  PairPolicy(PlacementPolicy prefill, PlacementPolicy decode, uint64_t seed);

  struct Choice {
    size_t prefill;
    size_t decode;
  };
  // Indices into the two lists; none if no available pair is compatible. `refused(p, d)`: these two instances cannot
  // work together.
  template <typename Refused>
  std::optional<Choice> choose(const std::vector<WorkerLoad>& prefill, const std::vector<WorkerLoad>& decode,
                               Refused refused) {
    // A worker that refuses all others is no candidate; the second choice is among those that accept the first.
    const auto p = pick(prefill_, prefill, &prefill_turn_, [&](size_t i) {
      for (size_t d = 0; d < decode.size(); ++d) {
        if (decode[d].available && !refused(i, d)) return true;
      }
      return false;
    });
    if (!p) return std::nullopt;
    const auto d = pick(decode_, decode, &decode_turn_, [&](size_t i) { return !refused(*p, i); });
    if (!d) return std::nullopt;
    return Choice{*p, *d};
  }

 private:
  template <typename Allowed>
  std::optional<size_t> pick(PlacementPolicy policy, const std::vector<WorkerLoad>& loads, size_t* turn,
                             Allowed allowed) {
    std::vector<size_t> candidates;
    for (size_t i = 0; i < loads.size(); ++i) {
      if (loads[i].available && allowed(i)) candidates.push_back(i);
    }
    if (candidates.empty()) return std::nullopt;
    return choose_among(policy, loads, candidates, turn);
  }
  size_t choose_among(PlacementPolicy policy, const std::vector<WorkerLoad>& loads,
                      const std::vector<size_t>& candidates, size_t* turn);

  PlacementPolicy prefill_, decode_;
  Random random_;
  size_t prefill_turn_ = 0, decode_turn_ = 0;
};

}  // namespace baton::router
