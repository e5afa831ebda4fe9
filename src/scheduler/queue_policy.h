// In which order waiting requests are considered, and whether later ones may go before earlier ones.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace baton::scheduler {

// Of the same priority; a higher priority always comes first. With all but kFirstCome an earlier request is passed by
// later ones to a stated extent only (Scheduler's header).
enum class QueuePolicy : uint8_t {
  kFair,             // by arrival; short prompts share a step with long ones, what fits passes what does not
  kFirstCome,        // by arrival; a prompt is computed whole before the next, what does not fit holds up the rest
  kLongestPrefix,    // most tokens in the prefix tree first
  kLongestOutput,    // most new tokens first
  kShortestPrompt,   // fewest tokens to compute first
  kHighestResponse,  // (waited + own) / own work first, waits counted in work computed meanwhile
  kRandom,
};

// By the name that SGLang's --schedule-policy has; "fair" is ours.
[[nodiscard]] inline std::optional<QueuePolicy> queue_policy_of(std::string_view name) {
  constexpr struct {
    std::string_view name;
    QueuePolicy policy;
  } kNames[] = {{"fair", QueuePolicy::kFair},
                {"fcfs", QueuePolicy::kFirstCome},
                {"lpm", QueuePolicy::kLongestPrefix},
                {"lof", QueuePolicy::kLongestOutput},
                {"shortest-prefill-first", QueuePolicy::kShortestPrompt},
                {"hrrn", QueuePolicy::kHighestResponse},
                {"random", QueuePolicy::kRandom}};
  for (const auto& entry : kNames) {
    if (entry.name == name) return entry.policy;
  }
  return std::nullopt;
}

}  // namespace baton::scheduler
