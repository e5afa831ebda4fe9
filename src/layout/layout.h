// The parallel layout of an instance, and which part of the KV each of its ranks holds. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/interval.h"
#include "base/result.h"

namespace baton::layout {

// Part i of [0, total) cut into `parts` intervals whose sizes differ by at most one, the larger first: 6 in 4 is
// 2,2,1,1. 0 <= i < parts; parts may exceed total (then the last ones are empty).
[[nodiscard]] Interval balanced_part(int total, int parts, int i);

struct RankCoordinates {
  int pp_stage = 0;
  int dp_rank = 0;
  int attn_tp_rank = 0;
  constexpr bool operator==(const RankCoordinates&) const = default;
};

// tp ranks of each pipeline stage, cut into dp attention groups of attn_tp; experts cut over ep. All >= 1, dp and ep
// divide tp.
struct Layout {
  int tp = 1;
  int dp = 1;
  int pp = 1;
  int ep = 1;
  constexpr bool operator==(const Layout&) const = default;
  [[nodiscard]] constexpr int attn_tp() const { return tp / dp; }
  [[nodiscard]] constexpr int world() const { return tp * pp; }
  // world = pp_stage * tp + dp_rank * attn_tp + attn_tp_rank
  [[nodiscard]] constexpr int rank_of(RankCoordinates c) const {
    return c.pp_stage * tp + c.dp_rank * attn_tp() + c.attn_tp_rank;
  }
  [[nodiscard]] constexpr RankCoordinates coordinates_of(int rank) const {
    return {rank / tp, rank % tp / attn_tp(), rank % attn_tp()};
  }
  [[nodiscard]] std::string to_string() const;  // "TP4/DP2", "TP2/PP2/EP2"; parts of one are left out, TP always stands
};

inline constexpr int kWorldMax = 1024;

// "tp=4,dp=2,pp=1,ep=1"; what is left out is 1. Checks divisibility and kWorldMax.
Result<Layout> parse_layout(std::string_view text);
Status check_layout(const Layout& layout);
// Whether a model's attention can be cut that way: attn_tp <= query_heads, a multiple of kv_heads (MLA: kv_heads 1).
Status check_heads(const Layout& layout, int query_heads, int kv_heads);

// The KV of a model, whatever the layout: layers x kv heads x tokens, each entry k_dim + v_dim values of element_size
// bytes. MLA has one head of k_dim = kv_lora_rank + rope values and v_dim 0.
struct KvGeometry {
  int layers = 0;
  int kv_heads = 0;
  int k_dim = 0;
  int v_dim = 0;
  int element_size = 2;  // bytes: 1 float8 e4m3, 2 bfloat16, 4 float32
  constexpr bool operator==(const KvGeometry&) const = default;
  // Of one token in one (layer, head).
  [[nodiscard]] constexpr uint64_t entry_bytes() const {
    return static_cast<uint64_t>(k_dim + v_dim) * static_cast<uint64_t>(element_size);
  }
  [[nodiscard]] constexpr uint64_t token_bytes() const {
    return entry_bytes() * static_cast<uint64_t>(layers) * static_cast<uint64_t>(kv_heads);
  }
};

// Layers of a pipeline stage: balanced, the larger first.
[[nodiscard]] Interval stage_layers(int layers, int pp, int stage);

// KV heads of a rank. attn_tp <= kv_heads: a balanced part of the heads. More ranks than heads: the ranks are cut into
// kv_heads balanced parts and every rank of part h holds head h (replicas).
[[nodiscard]] Interval rank_kv_heads(int kv_heads, int attn_tp, int attn_tp_rank);

// Query heads of a rank: those that read its KV heads, shared among replicas of one KV head in balanced parts.
// query_heads is a multiple of kv_heads and attn_tp <= query_heads, so no rank is empty.
[[nodiscard]] Interval rank_query_heads(int query_heads, int kv_heads, int attn_tp, int attn_tp_rank);

// Where the bytes of a rank's page lie: [local head][local layer][k|v][token][dim], so that the bytes of one head over
// all layers of the rank are one run.
struct PageShape {
  Interval layers;  // of the model
  Interval heads;   // kv heads of the model
  int page_tokens = 0;
  KvGeometry geometry;
  constexpr bool operator==(const PageShape&) const = default;

  [[nodiscard]] constexpr uint64_t layer_bytes() const {
    return geometry.entry_bytes() * static_cast<uint64_t>(page_tokens);
  }
  [[nodiscard]] constexpr uint64_t head_bytes() const { return layer_bytes() * static_cast<uint64_t>(layers.size()); }
  [[nodiscard]] constexpr uint64_t page_bytes() const { return head_bytes() * static_cast<uint64_t>(heads.size()); }
  [[nodiscard]] constexpr uint64_t v_offset() const {
    return static_cast<uint64_t>(page_tokens) * static_cast<uint64_t>(geometry.k_dim) *
           static_cast<uint64_t>(geometry.element_size);
  }
  // Offset inside a page of K of (model layer, model head, token of the page); both must be held here.
  [[nodiscard]] constexpr uint64_t k_offset(int layer, int head, int token) const {
    return static_cast<uint64_t>(head - heads.begin) * head_bytes() +
           static_cast<uint64_t>(layer - layers.begin) * layer_bytes() +
           static_cast<uint64_t>(token) * static_cast<uint64_t>(geometry.k_dim) *
               static_cast<uint64_t>(geometry.element_size);
  }
  // The same of V; geometry.v_dim > 0.
  [[nodiscard]] constexpr uint64_t v_offset(int layer, int head, int token) const {
    return k_offset(layer, head, 0) + v_offset() +
           static_cast<uint64_t>(token) * static_cast<uint64_t>(geometry.v_dim) *
               static_cast<uint64_t>(geometry.element_size);
  }
};

// The pages of rank `rank` of an instance with this layout.
[[nodiscard]] PageShape rank_page_shape(const Layout& layout, int rank, const KvGeometry& geometry, int page_tokens);

}  // namespace baton::layout
