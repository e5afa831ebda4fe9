#include "engine/pool_size.h"

#include <algorithm>
#include <limits>

namespace baton::engine {
namespace {

constexpr int64_t kDefaultTokens = 65536;
constexpr double kDefaultFraction = 0.25;
constexpr double kGiB = 1024.0 * 1024 * 1024;

}  // namespace

Result<int> pages_per_group(const layout::Layout& layout, const layout::KvGeometry& geometry, int page_tokens,
                            const PoolWish& wish, uint64_t available, uint64_t weights) {
  if (page_tokens < 1)
    return error(ErrorCode::kInvalidArgument, "--page-size is {}; it must be at least 1", page_tokens);
  uint64_t step = 0;  // bytes of one page in every group, on all its ranks
  for (int r = 0; r < layout.world(); ++r)
    step += layout::rank_page_shape(layout, r, geometry, page_tokens).page_bytes();
  // Of `bytes`, what is left beside the weights.
  const auto fit_in = [&](double bytes) {
    const double left = std::max(0.0, bytes - static_cast<double>(weights));
    return static_cast<uint64_t>(left / static_cast<double>(std::max<uint64_t>(step, 1)));
  };
  const uint64_t fit = fit_in(static_cast<double>(available));
  const int64_t step_tokens = int64_t{page_tokens} * layout.dp;
  const auto gib = [](uint64_t bytes) { return static_cast<double>(bytes) / kGiB; };
  uint64_t pages = 0;
  if (wish.max_total_tokens) {
    if (*wish.max_total_tokens < step_tokens) {
      return error(ErrorCode::kInvalidArgument,
                   "--max-total-tokens is {}; one page of {} tokens in each of {} DP groups needs {}",
                   *wish.max_total_tokens, page_tokens, layout.dp, step_tokens);
    }
    pages = static_cast<uint64_t>(*wish.max_total_tokens / step_tokens);
    if (pages > fit) {
      return error(ErrorCode::kInvalidArgument,
                   "KV of {} tokens needs {:.2f} GiB; {:.2f} GiB are available, {:.2f} of them for weights: lower "
                   "--max-total-tokens, or leave it out and use --mem-fraction-static",
                   *wish.max_total_tokens, gib(step) * static_cast<double>(pages), gib(available), gib(weights));
    }
  } else if (wish.mem_fraction_static) {
    const double fraction = *wish.mem_fraction_static;
    if (!(fraction > 0 && fraction < 1))
      return error(ErrorCode::kInvalidArgument, "--mem-fraction-static is {}; it must be in (0, 1)", fraction);
    pages = fit_in(static_cast<double>(available) * fraction);
  } else {
    const auto wanted = static_cast<uint64_t>((kDefaultTokens + step_tokens - 1) / step_tokens);
    const auto share = static_cast<uint64_t>(static_cast<double>(available) * kDefaultFraction);
    pages = std::min({wanted, fit, share / std::max<uint64_t>(step, 1)});
  }
  if (pages == 0) {
    return error(
        ErrorCode::kResourceExhausted,
        "one KV page in each DP group needs {:.2f} GiB; {:.2f} GiB are available, {:.2f} of them for weights: raise "
        "--mem-fraction-static, set --max-total-tokens, or lower --page-size",
        gib(step), gib(available), gib(weights));
  }
  return static_cast<int>(
      std::min<uint64_t>(pages, static_cast<uint64_t>(std::numeric_limits<int>::max() / page_tokens)));
}

}  // namespace baton::engine
