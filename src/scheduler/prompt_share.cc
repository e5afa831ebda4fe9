#include "scheduler/prompt_share.h"

#include <algorithm>
#include <numeric>

namespace baton::scheduler {
namespace {

// Half of a step of `tokens`, up to a page's end if it has room for two pages.
int64_t half_of(int64_t tokens, int page_tokens) {
  if (tokens < int64_t{2} * page_tokens) return (tokens + 1) / 2;
  return ((tokens + 1) / 2 + page_tokens - 1) / page_tokens * page_tokens;
}

}  // namespace

std::vector<PromptPiece> queue_prompts(const std::vector<PromptClaim>& claims) {
  std::vector<PromptPiece> pieces;
  pieces.reserve(claims.size());
  for (size_t i = 0; i < claims.size(); ++i) pieces.push_back({i, claims[i].work});
  return pieces;
}

std::vector<PromptPiece> share_prompts(const std::vector<PromptClaim>& claims, int64_t tokens, int page_tokens) {
  if (claims.size() < 2) return queue_prompts(claims);
  const auto overdue =
      std::find_if(claims.begin(), claims.end(), [](const PromptClaim& claim) { return claim.overdue; });
  std::vector<size_t> order(claims.size());
  std::iota(order.begin(), order.end(), size_t{0});
  // Up to the overdue one, shortest first; what came after it stays behind it.
  const auto shared = overdue == claims.end() ? order.end() : order.begin() + (overdue - claims.begin()) + 1;
  std::stable_sort(order.begin(), shared, [&claims](size_t a, size_t b) {
    if (claims[a].priority != claims[b].priority) return claims[a].priority > claims[b].priority;
    return claims[a].work.left < claims[b].work.left;
  });
  const ChunkWork first = claims.front().work;
  const int64_t half = std::min(first.left, half_of(tokens, page_tokens));
  std::vector<PromptPiece> pieces{{0, {first.begin, half}}};
  for (const size_t i : order) {
    const ChunkWork rest = i == 0 ? ChunkWork{first.begin + half, first.left - half} : claims[i].work;
    if (rest.left > 0) pieces.push_back({i, rest});
  }
  return pieces;
}

}  // namespace baton::scheduler
