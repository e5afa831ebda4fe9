// MLA over expanded keys and values: the cached latents of a block of the context become K and V, and attention over
// blocks (attention.cc) does the rest.
#include <algorithm>
#include <cstring>
#include <limits>

#include "kernels/cpu/context_blocks.h"
#include "kernels/cpu/growing_buffer.h"
#include "kernels/kernels.h"

namespace baton::kernels {
namespace {

// Context tokens expanded at a time.
constexpr int64_t kExpandTokens = 1024;

struct Scratch {
  GrowingBuffer entries, key_up, key, value, row_max, row_sum;
};
thread_local Scratch scratch;

// q and out are the sequence's own.
void attend(const float* q, const PagedRows& s, const ExpansionLayers& up, const PagedKv& kv, float scale,
            Compute compute, float* out) {
  const int64_t heads = up.heads, lora = up.key->k(), qk = up.nope + up.rope;
  const int64_t context = s.begin + s.tokens;
  auto* row_max = scratch.row_max.get<float>(s.tokens * heads);
  auto* row_sum = scratch.row_sum.get<float>(s.tokens * heads);
  std::fill_n(row_max, s.tokens * heads, -std::numeric_limits<float>::infinity());
  std::fill_n(row_sum, s.tokens * heads, 0.0f);
  std::fill_n(out, s.tokens * heads * up.v_dim, 0.0f);
  auto* entries = scratch.entries.get<float>(kExpandTokens * kv.k_dim);
  auto* nope = scratch.key_up.get<float>(kExpandTokens * heads * up.nope);
  auto* key = scratch.key.get<float>(kExpandTokens * heads * qk);
  auto* value = scratch.value.get<float>(kExpandTokens * heads * up.v_dim);
  for (int64_t begin = 0; begin < context; begin += kExpandTokens) {
    const int64_t n = std::min(kExpandTokens, context - begin);
    read_kv(kv, begin, n, 0, entries, nullptr);
    up.key->apply(entries, kv.k_dim, n, nope, up.key->n());
    up.value->apply(entries, kv.k_dim, n, value, up.value->n());
    // A key is its head's part and then the part that all heads share.
    copy_columns(nope, up.nope, n * heads, up.nope, key, qk);
    for (int64_t h = 0; h < heads; ++h)
      copy_columns(entries + lora, kv.k_dim, n, up.rope, key + h * qk + up.nope, heads * qk);
    attention_block(q, s.begin, s.tokens, up.heads, static_cast<int>(qk), up.v_dim, key, value, begin, n, scale,
                    compute, out, row_max, row_sum);
  }
  attention_finish(s.tokens, up.heads, up.v_dim, out, row_sum);
}

}  // namespace

void mla_expanded_attention(const float* q, std::span<const PagedRows> sequences, const ExpansionLayers& up,
                            const PagedKv& kv, float scale, Compute compute, float* out) {
  for (const PagedRows& s : sequences) {
    const int64_t row = s.row * up.heads;
    attend(q + row * (up.nope + up.rope), s, up, s.own(kv), scale, compute, out + row * up.v_dim);
  }
}

void copy_columns(const float* x, int64_t x_stride, int64_t m, int64_t n, float* y, int64_t y_stride) {
  for (int64_t r = 0; r < m; ++r)
    std::memcpy(y + r * y_stride, x + r * x_stride, static_cast<size_t>(n) * sizeof(float));
}

}  // namespace baton::kernels
