#include "router/pair_policy.h"

namespace baton::router {

Result<PlacementPolicy> parse_placement_policy(std::string_view name) {
  if (name == "least_loaded") return PlacementPolicy::kLeastLoaded;
  if (name == "round_robin") return PlacementPolicy::kRoundRobin;
  if (name == "random") return PlacementPolicy::kRandom;
  if (name == "power_of_two") return PlacementPolicy::kPowerOfTwo;
  return error(ErrorCode::kInvalidArgument, "policy '{}' is none of least_loaded, round_robin, random, power_of_two",
               name);
}

PairPolicy::PairPolicy(PlacementPolicy prefill, PlacementPolicy decode, uint64_t seed)
    : prefill_(prefill), decode_(decode), random_(seed) {}

size_t PairPolicy::choose_among(PlacementPolicy policy, const std::vector<WorkerLoad>& loads,
                                const std::vector<size_t>& candidates, size_t* turn) {
  const size_t n = candidates.size();
  switch (policy) {
    case PlacementPolicy::kRoundRobin:
      return candidates[(*turn)++ % n];
    case PlacementPolicy::kRandom:
      return candidates[random_.below(n)];
    case PlacementPolicy::kPowerOfTwo: {
      const size_t a = candidates[random_.below(n)], b = candidates[random_.below(n)];
      return loads[b].outstanding < loads[a].outstanding ? b : a;
    }
    case PlacementPolicy::kLeastLoaded:
      break;
  }
  std::vector<size_t> least;
  for (const size_t candidate : candidates) {
    if (!least.empty() && loads[candidate].outstanding > loads[least.front()].outstanding) continue;
    if (!least.empty() && loads[candidate].outstanding < loads[least.front()].outstanding) least.clear();
    least.push_back(candidate);
  }
  // Ties go round, so that idle workers share the work.
  return least[(*turn)++ % least.size()];
}

}  // namespace baton::router
