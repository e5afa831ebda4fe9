#include "layout/layout.h"

#include <algorithm>
#include <array>
#include <charconv>

namespace baton::layout {

Interval balanced_part(int total, int parts, int i) {
  BATON_CHECK(total >= 0 && parts > 0 && i >= 0 && i < parts, "part {} of {} parts of {}", i, parts, total);
  const int small = total / parts;
  const int larger = total % parts;  // the first `larger` parts have one more
  const int begin = i * small + std::min(i, larger);
  return {begin, begin + small + (i < larger ? 1 : 0)};
}

namespace {

// The i with balanced_part(total, parts, i).contains(at), for parts <= total.
int balanced_part_of(int total, int parts, int at) {
  const int small = total / parts;
  const int larger = total % parts;
  const int boundary = larger * (small + 1);
  return at < boundary ? at / (small + 1) : larger + (at - boundary) / small;
}

}  // namespace

std::string Layout::to_string() const {
  std::string text = fmt::format("TP{}", tp);
  if (dp != 1) text += fmt::format("/DP{}", dp);
  if (pp != 1) text += fmt::format("/PP{}", pp);
  if (ep != 1) text += fmt::format("/EP{}", ep);
  return text;
}

Status check_layout(const Layout& layout) {
  const auto [tp, dp, pp, ep] = layout;
  if (tp < 1 || dp < 1 || pp < 1 || ep < 1) {
    return error(ErrorCode::kInvalidArgument, "layout tp={},dp={},pp={},ep={}: every part must be at least 1", tp, dp,
                 pp, ep);
  }
  if (static_cast<int64_t>(tp) * pp > kWorldMax) {
    return error(ErrorCode::kInvalidArgument, "layout {}: {} ranks, at most {} are supported", layout.to_string(),
                 static_cast<int64_t>(tp) * pp, kWorldMax);
  }
  if (tp % dp != 0) {
    return error(ErrorCode::kInvalidArgument,
                 "layout {}: dp {} does not divide tp {}; attention groups are tp / dp ranks", layout.to_string(), dp,
                 tp);
  }
  if (tp % ep != 0) {
    return error(ErrorCode::kInvalidArgument, "layout {}: ep {} does not divide tp {}", layout.to_string(), ep, tp);
  }
  return {};
}

Result<Layout> parse_layout(std::string_view text) {
  Layout layout;
  struct Part {
    std::string_view key;
    int* value;
    bool seen = false;
  };
  std::array<Part, 4> parts{Part{"tp", &layout.tp}, {"dp", &layout.dp}, {"pp", &layout.pp}, {"ep", &layout.ep}};
  for (std::string_view rest = text;;) {
    const size_t comma = rest.find(',');
    const std::string_view item = rest.substr(0, comma);
    const size_t equals = item.find('=');
    const auto part =
        std::find_if(parts.begin(), parts.end(), [&](const Part& p) { return p.key == item.substr(0, equals); });
    if (equals == std::string_view::npos || part == parts.end()) {
      return error(ErrorCode::kInvalidArgument, "layout \"{}\": \"{}\" is not one of tp=N, dp=N, pp=N, ep=N", text,
                   item);
    }
    if (part->seen) return error(ErrorCode::kInvalidArgument, "layout \"{}\": {} stands twice", text, part->key);
    part->seen = true;
    const std::string_view number = item.substr(equals + 1);
    const auto [end, failure] = std::from_chars(number.data(), number.data() + number.size(), *part->value);
    if (failure != std::errc() || end != number.data() + number.size()) {
      return error(ErrorCode::kInvalidArgument, "layout \"{}\": {}={} is not a number of ranks", text, part->key,
                   number);
    }
    if (comma == std::string_view::npos) break;
    rest.remove_prefix(comma + 1);
  }
  BATON_TRY(check_layout(layout));
  return layout;
}

Status check_heads(const Layout& layout, int query_heads, int kv_heads) {
  if (query_heads < 1 || kv_heads < 1 || query_heads % kv_heads != 0) {
    return error(ErrorCode::kInvalidArgument, "{} query heads over {} kv heads: every kv head must serve equally many",
                 query_heads, kv_heads);
  }
  if (layout.attn_tp() > query_heads) {
    return error(ErrorCode::kIncompatible,
                 "layout {}: {} ranks share one attention group, the model has {} query heads; use dp of at least {}",
                 layout.to_string(), layout.attn_tp(), query_heads, (layout.tp + query_heads - 1) / query_heads);
  }
  return {};
}

Interval stage_layers(int layers, int pp, int stage) { return balanced_part(layers, pp, stage); }

Interval rank_kv_heads(int kv_heads, int attn_tp, int attn_tp_rank) {
  BATON_CHECK(kv_heads > 0 && attn_tp_rank >= 0 && attn_tp_rank < attn_tp, "rank {} of {} over {} kv heads",
              attn_tp_rank, attn_tp, kv_heads);
  if (attn_tp <= kv_heads) return balanced_part(kv_heads, attn_tp, attn_tp_rank);
  const int head = balanced_part_of(attn_tp, kv_heads, attn_tp_rank);
  return {head, head + 1};
}

Interval rank_query_heads(int query_heads, int kv_heads, int attn_tp, int attn_tp_rank) {
  BATON_CHECK(kv_heads > 0 && query_heads % kv_heads == 0 && attn_tp <= query_heads,
              "{} query heads, {} kv heads, attn_tp {}", query_heads, kv_heads, attn_tp);
  const int per_kv_head = query_heads / kv_heads;
  const Interval heads = rank_kv_heads(kv_heads, attn_tp, attn_tp_rank);
  if (attn_tp <= kv_heads) return {heads.begin * per_kv_head, heads.end * per_kv_head};
  const Interval replicas = balanced_part(attn_tp, kv_heads, heads.begin);
  const Interval part = balanced_part(per_kv_head, replicas.size(), attn_tp_rank - replicas.begin);
  return {heads.begin * per_kv_head + part.begin, heads.begin * per_kv_head + part.end};
}

PageShape rank_page_shape(const Layout& layout, int rank, const KvGeometry& geometry, int page_tokens) {
  BATON_CHECK(rank >= 0 && rank < layout.world(), "rank {} of a world of {}", rank, layout.world());
  const RankCoordinates at = layout.coordinates_of(rank);
  return {.layers = stage_layers(geometry.layers, layout.pp, at.pp_stage),
          .heads = rank_kv_heads(geometry.kv_heads, layout.attn_tp(), at.attn_tp_rank),
          .page_tokens = page_tokens,
          .geometry = geometry};
}

}  // namespace baton::layout
