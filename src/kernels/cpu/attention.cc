// Causal attention in one pass over the context (FlashAttention: Dao et al. 2022).
//
// Many query rows: a tile of up to 128 rows (tokens, and the query heads that share a KV head) meets blocks of 64
// context tokens. Scores are computed transposed, S^T = K Q^T, with the packed queries as the columns: then K is read
// as it lies, softmax goes down the columns a vector of rows at a time, and the probabilities need no transposing for P
// V. With vdpbf16ps and Compute::kBF16 all operands are bfloat16 pairs, and K pairs are what the pages already hold.
// Few rows (decode of one token with up to four query heads a KV head): plain dot products against the pages where they
// lie.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <functional>
#include <limits>

#include "base/check.h"
#include "kernels/cpu/attention_steps.h"
#include "kernels/cpu/attention_tile.h"
#include "kernels/cpu/context_blocks.h"
#include "kernels/cpu/convert.h"
#include "kernels/cpu/product.h"
#include "kernels/kernels.h"
#include "kernels/paged_kv.h"

namespace baton::kernels {
namespace {

constexpr float kNothing = -std::numeric_limits<float>::infinity();

// Tokens [begin, begin + tokens) of the pages as bfloat16 rows, dense.
void read_bf16(const PagedKv& kv, int64_t begin, int tokens, int head, uint16_t* k, uint16_t* v) {
  const auto copy = [&](const std::byte* from, int64_t count, uint16_t* to) {
    if (kv.dtype == tensor::DType::kBF16)
      std::memcpy(to, from, static_cast<size_t>(count) * sizeof(uint16_t));
    else if (kv.dtype == tensor::DType::kF8E4M3)
      bf16_from_f8(reinterpret_cast<const uint8_t*>(from), count, to);
    else
      bf16_from_floats(reinterpret_cast<const float*>(from), count, to);
  };
  for (int64_t t = 0; t < tokens;) {
    const int64_t run = std::min<int64_t>(tokens - t, kv.page_tokens - (begin + t) % kv.page_tokens);
    copy(k_row(kv, begin + t, head), run * kv.k_dim, k + t * kv.k_dim);
    if (kv.v_dim > 0) copy(v_row(kv, begin + t, head), run * kv.v_dim, v + t * kv.v_dim);
    t += run;
  }
}

// v_dim is the width of V: kv.v_dim, or for MLA the first values of K.
ContextBlock load_block(const Tile& tile, const PagedKv& kv, int head, int64_t v_dim, int64_t begin, int tokens) {
  // A product may read the padding columns of the last row of V.
  const int64_t k_size = int64_t{kBlockTokens} * kv.k_dim + kProductColumns,
                v_size = int64_t{kBlockTokens} * kv.v_dim + kProductColumns;
  AttentionScratch& scratch = attention_scratch();
  ContextBlock block{.begin = begin, .tokens = tokens};
  const int64_t v_stride = kv.v_dim > 0 ? kv.v_dim : kv.k_dim;
  if (tile.pairs) {
    auto* k = scratch.k.get<uint16_t>(k_size);
    auto* v = scratch.v.get<uint16_t>(v_size);
    read_bf16(kv, begin, tokens, head, k, v);
    block.k = k;
    block.k_stride = kv.k_dim / 2;
    auto* pairs = scratch.v_pairs.get<uint32_t>(kBlockTokens / 2 * tile.v_columns);
    pair_tokens(kv.v_dim > 0 ? v : k, v_stride, tokens, v_dim, pairs, tile.v_columns);
    block.v = pairs;
    block.v_stride = tile.v_columns;
  } else {
    auto* k = scratch.k.get<float>(k_size);
    auto* v = scratch.v.get<float>(v_size);
    read_kv(kv, begin, tokens, head, k, v);
    block.k = k;
    block.k_stride = kv.k_dim;
    block.v = kv.v_dim > 0 ? v : k;
    block.v_stride = v_stride;
  }
  return block;
}

// One head's K and V in float32, n tokens each.
struct DenseHead {
  const float* k;
  int64_t k_stride, k_dim;
  const float* v;
  int64_t v_stride, v_dim;
  int64_t n;
};

// The same as the products read it; every tile of queries walks over it.
struct Context {
  bool pairs;
  const std::byte* k;  // float32 rows, or rows of bfloat16 pairs; strides in 4-byte units
  int64_t k_stride;
  const std::byte* v;  // float32 rows, or rows of pairs of tokens
  int64_t v_stride;

  // `at` is a multiple of two.
  [[nodiscard]] ContextBlock block(int64_t begin, int64_t at, int tokens) const {
    return {.begin = begin + at,
            .tokens = tokens,
            .k = k + at * k_stride * 4,
            .k_stride = k_stride,
            .v = v + (pairs ? at / 2 : at) * v_stride * 4,
            .v_stride = v_stride};
  }
};

Context read_context(const DenseHead& head, bool pairs) {
  const auto bytes = [](const auto* p) { return reinterpret_cast<const std::byte*>(p); };
  AttentionScratch& scratch = attention_scratch();
  const int64_t v_columns = round_up(head.v_dim, kProductColumns);
  Context context{pairs, bytes(head.k), head.k_stride, bytes(head.v), head.v_stride};
  if (pairs) {
    auto* k = scratch.k.get<uint16_t>(head.n * head.k_dim);
    auto* v = scratch.v.get<uint16_t>(head.n * head.v_dim);
    for (int64_t t = 0; t < head.n; ++t) {
      round_bf16_natively(head.k + t * head.k_stride, head.k_dim, k + t * head.k_dim);
      round_bf16_natively(head.v + t * head.v_stride, head.v_dim, v + t * head.v_dim);
    }
    auto* v_pairs = scratch.v_pairs.get<uint32_t>((head.n + 1) / 2 * v_columns);
    pair_tokens(v, head.v_dim, head.n, head.v_dim, v_pairs, v_columns);
    context.k = bytes(k);
    context.k_stride = head.k_dim / 2;
    context.v = bytes(v_pairs);
    context.v_stride = v_columns;
  } else if (head.v_dim != v_columns) {
    // Padding columns must be readable, also behind the last row.
    auto* padded = scratch.v.get<float>(head.n * v_columns);
    for (int64_t t = 0; t < head.n; ++t)
      std::memcpy(padded + t * v_columns, head.v + t * head.v_stride, static_cast<size_t>(head.v_dim) * sizeof(float));
    context.v = bytes(padded);
    context.v_stride = v_columns;
  }
  return context;
}

// One token, few heads of one KV head.
void attend_directly(const float* q, const int* heads, int count, int64_t tokens, const PagedKv& kv, int kv_head,
                     int64_t v_dim, float scale, float* out) {
  AttentionScratch& scratch = attention_scratch();
  auto* queries = scratch.queries.get<float>(int64_t{count} * kv.k_dim);
  auto* acc = scratch.acc.get<float>(count * v_dim);
  auto* scores = scratch.scores.get<float>(kBlockTokens * kTileRows);
  float row_max[kDirectRowsMax], row_sum[kDirectRowsMax] = {};
  std::fill(row_max, row_max + count, kNothing);
  std::fill(acc, acc + count * v_dim, 0.0f);
  for (int r = 0; r < count; ++r)
    scale_row(q + int64_t{heads[r]} * kv.k_dim, kv.k_dim, scale, queries + int64_t{r} * kv.k_dim);

  DirectRun runs[kBlockTokens];
  for (int64_t begin = 0; begin < tokens; begin += kBlockTokens) {
    const int n = static_cast<int>(std::min<int64_t>(kBlockTokens, tokens - begin));
    int run_count = 0;
    for (int t = 0; t < n;) {
      DirectRun& run = runs[run_count++];
      run.tokens = static_cast<int>(std::min<int64_t>(n - t, kv.page_tokens - (begin + t) % kv.page_tokens));
      run.dtype = kv.dtype;
      run.k = k_row(kv, begin + t, kv_head);
      run.k_stride = kv.k_dim;
      run.v = kv.v_dim > 0 ? v_row(kv, begin + t, kv_head) : run.k;
      run.v_stride = kv.v_dim > 0 ? kv.v_dim : kv.k_dim;
      direct_scores(run, queries, count, kv.k_dim, scores + t);
      t += run.tokens;
    }
    for (int r = 0; r < count; ++r) {
      const float decay = softmax_row(scores + r * kBlockTokens, n, row_max[r], row_sum[r]);
      if (decay != 1) scale_row(acc + r * v_dim, v_dim, decay, acc + r * v_dim);
    }
    int t = 0;
    for (int i = 0; i < run_count; ++i) {
      direct_values(runs[i], scores + t, count, v_dim, acc);
      t += runs[i].tokens;
    }
  }
  for (int r = 0; r < count; ++r) scale_row(acc + r * v_dim, v_dim, 1 / row_sum[r], out + heads[r] * v_dim);
}

// Queries of m tokens at [begin, begin + m) over one sequence. out: (m, out_heads, v_dim).
struct PagedQueries {
  const float* q;
  int64_t q_row_stride, begin, m, out_heads;
  PagedKv kv;
  int64_t v_dim;
  float scale;
  Compute compute;
  float* out;

  // What a sequence has of a batch's q, out and block table.
  [[nodiscard]] PagedQueries of(const PagedRows& s) const {
    PagedQueries one = *this;
    one.q += s.row * q_row_stride;
    one.begin = s.begin;
    one.m = s.tokens;
    one.kv = s.own(kv);
    one.out += s.row * out_heads * v_dim;
    return one;
  }
};

// The query heads `heads` (count of them), which all read kv_head.
struct HeadGroup {
  const int* heads;
  int count, kv_head;
};

// Rows of a group are (token, head) pairs; a tile takes those from `first` on.
void attend_tile(const PagedQueries& p, const HeadGroup& group, int64_t first) {
  const PagedKv& kv = p.kv;
  Tile tile;
  const int rows = static_cast<int>(std::min<int64_t>(kTileRows, p.m * group.count - first));
  start_tile(tile, rows, kv.k_dim, p.v_dim, p.compute);
  for (int r = 0; r < rows; ++r) {
    const int64_t token = (first + r) / group.count, head = group.heads[(first + r) % group.count];
    tile.visible[r] = p.begin + token + 1;
    pack_query(tile, r, p.q + token * p.q_row_stride + head * kv.k_dim, kv.k_dim, p.scale);
  }
  const int64_t context = tile.visible[rows - 1];
  for (int64_t at = 0; at < context; at += kBlockTokens) {
    const int tokens = static_cast<int>(std::min<int64_t>(kBlockTokens, context - at));
    attend(tile, load_block(tile, kv, group.kv_head, p.v_dim, at, tokens), kv.k_dim);
  }
  for (int r = 0; r < rows; ++r) {
    const int64_t token = (first + r) / group.count, head = group.heads[(first + r) % group.count];
    scale_row(tile.acc + r * tile.v_columns, p.v_dim, 1 / tile.row_sum[r],
              p.out + (token * p.out_heads + head) * p.v_dim);
  }
}

// The tiles of a batch, taken one by one as threads become free: one that the system holds up delays the others by one
// tile. Who computes a tile changes none of its bits. Every thread walks over all tiles and asks whose they are.
class TileClaims {
 public:
  explicit TileClaims(std::atomic<int64_t>& next) : next_(next), mine_(claim()) {}
  // Whether the tile that the walk has come to is this thread's.
  bool take() {
    if (at_++ != mine_) return false;
    mine_ = claim();
    return true;
  }

 private:
  int64_t claim() { return next_.fetch_add(1, std::memory_order_relaxed); }

  std::atomic<int64_t>& next_;
  int64_t at_ = 0, mine_;
};

void attend_groups(const PagedQueries& p, std::span<const HeadGroup> groups, TileClaims& claims) {
  const PagedKv& kv = p.kv;
  const bool direct = p.m == 1 && kv.k_dim % kProductColumns == 0 && p.v_dim % kProductColumns == 0;
  for (const HeadGroup& group : groups) {
    for (int64_t first = 0; first < p.m * group.count; first += kTileRows) {
      if (!claims.take()) continue;
      if (direct && group.count <= kDirectRowsMax)
        attend_directly(p.q, group.heads, group.count, p.begin + 1, kv, group.kv_head, p.v_dim, p.scale, p.out);
      else
        attend_tile(p, group, first);
    }
  }
}

void attend_paged(const PagedQueries& all, std::span<const PagedRows> sequences, std::span<const HeadGroup> groups) {
  std::atomic<int64_t> next{0};
  const auto part = [&](int, int) {
    TileClaims claims(next);
    for (const PagedRows& s : sequences) attend_groups(all.of(s), groups, claims);
  };
  int64_t pairs = 0;
  for (const PagedRows& s : sequences) pairs += s.tokens * (s.begin + s.tokens);
  if (pairs * all.out_heads * all.kv.k_dim < kInlineWork)
    part(0, 1);
  else
    on_gemm_threads(std::ref(part));
}

}  // namespace

void gqa_attention(const float* q, int64_t q_row_stride, std::span<const PagedRows> sequences, int q_heads,
                   const int* kv_head_of, const PagedKv& kv, float scale, Compute compute, float* out) {
  // Heads in groups by the KV head they read, in whatever order they come.
  AttentionScratch& scratch = attention_scratch();
  auto* heads = scratch.heads.get<int>(q_heads);
  auto* groups = scratch.groups.get<HeadGroup>(q_heads);
  int group_count = 0;
  for (int h = 0; h < q_heads; ++h) {
    if (std::find(kv_head_of, kv_head_of + h, kv_head_of[h]) != kv_head_of + h) continue;
    HeadGroup& group = groups[group_count++] = {heads, 0, kv_head_of[h]};
    for (int other = h; other < q_heads; ++other)
      if (kv_head_of[other] == kv_head_of[h]) *heads++ = other, ++group.count;
  }
  attend_paged({q, q_row_stride, 0, 0, q_heads, kv, kv.v_dim, scale, compute, out}, sequences,
               {groups, static_cast<size_t>(group_count)});
}

void mla_attention(const float* q, std::span<const PagedRows> sequences, int heads, int lora, const PagedKv& kv,
                   float scale, Compute compute, float* out) {
  BATON_CHECK(kv.v_dim == 0 && lora <= kv.k_dim, "v_dim {} lora {} k_dim {}", kv.v_dim, lora, kv.k_dim);
  auto* all = attention_scratch().heads.get<int>(heads);
  for (int h = 0; h < heads; ++h) all[h] = h;
  const HeadGroup group{all, heads, 0};
  attend_paged({q, int64_t{heads} * kv.k_dim, 0, 0, heads, kv, lora, scale, compute, out}, sequences, {&group, 1});
}

void attention_block(const float* q, int64_t begin, int64_t m, int heads, int qk_dim, int v_dim, const float* k,
                     const float* v, int64_t block_begin, int64_t n, float scale, Compute compute, float* acc,
                     float* row_max, float* row_sum) {
  Tile tile;
  for (int h = 0; h < heads; ++h) {
    const DenseHead head{k + int64_t{h} * qk_dim,
                         int64_t{heads} * qk_dim,
                         qk_dim,
                         v + int64_t{h} * v_dim,
                         int64_t{heads} * v_dim,
                         v_dim,
                         n};
    const Context context = read_context(head, use_pairs(qk_dim, compute));
    for (int64_t first = 0; first < m; first += kTileRows) {
      const int rows = static_cast<int>(std::min<int64_t>(kTileRows, m - first));
      const int64_t visible =
          std::min(n, begin + first + rows - block_begin);  // of this block, what the tile's last row sees
      if (visible <= 0) continue;
      start_tile(tile, rows, qk_dim, v_dim, compute);
      for (int r = 0; r < rows; ++r) {
        const int64_t row = (first + r) * heads + h;
        tile.visible[r] = begin + first + r + 1;
        tile.row_max[r] = row_max[row];
        tile.row_sum[r] = row_sum[row];
        std::memcpy(tile.acc + r * tile.v_columns, acc + row * v_dim, static_cast<size_t>(v_dim) * sizeof(float));
        pack_query(tile, r, q + row * qk_dim, qk_dim, scale);
      }
      for (int64_t at = 0; at < visible; at += kBlockTokens) {
        const int tokens = static_cast<int>(std::min<int64_t>(kBlockTokens, visible - at));
        attend(tile, context.block(block_begin, at, tokens), qk_dim);
      }
      for (int r = 0; r < rows; ++r) {
        const int64_t row = (first + r) * heads + h;
        row_max[row] = tile.row_max[r];
        row_sum[row] = tile.row_sum[r];
        std::memcpy(acc + row * v_dim, tile.acc + r * tile.v_columns, static_cast<size_t>(v_dim) * sizeof(float));
      }
    }
  }
}

void attention_finish(int64_t m, int heads, int v_dim, float* acc, const float* row_sum) {
  for (int64_t row = 0; row < m * heads; ++row)
    scale_row(acc + row * v_dim, v_dim, 1 / row_sum[row], acc + row * v_dim);
}

}  // namespace baton::kernels
