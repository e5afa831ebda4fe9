// Rows of K and V into and out of pages.
#include <algorithm>
#include <cstring>

#include "kernels/cpu/context_blocks.h"
#include "kernels/cpu/convert.h"
#include "kernels/kernels.h"
#include "kernels/paged_kv.h"

namespace baton::kernels {
namespace {

void store_row(tensor::DType dtype, const float* from, int64_t count, std::byte* to) {
  if (dtype == tensor::DType::kF32)
    std::memcpy(to, from, static_cast<size_t>(count) * sizeof(float));
  else if (dtype == tensor::DType::kBF16)
    bf16_from_floats(from, count, reinterpret_cast<uint16_t*>(to));
  else
    f8_from_floats(from, count, reinterpret_cast<uint8_t*>(to));
}

void load_row(tensor::DType dtype, const std::byte* from, int64_t count, float* to) {
  if (dtype == tensor::DType::kF32)
    std::memcpy(to, from, static_cast<size_t>(count) * sizeof(float));
  else if (dtype == tensor::DType::kBF16)
    floats_from_bf16(reinterpret_cast<const uint16_t*>(from), count, to);
  else
    floats_from_f8(reinterpret_cast<const uint8_t*>(from), count, to);
}

}  // namespace

void write_kv(const PagedKv& table, std::span<const PagedRows> sequences, int heads, const float* k,
              int64_t k_row_stride, const float* v, int64_t v_row_stride) {
  for (const PagedRows& s : sequences) {
    const PagedKv kv = s.own(table);
    for (int64_t r = 0; r < s.tokens; ++r)
      for (int h = 0; h < heads; ++h) {
        const float* k_from = k + (s.row + r) * k_row_stride + int64_t{h} * kv.k_dim;
        store_row(kv.dtype, k_from, kv.k_dim, k_row(kv, s.begin + r, h));
        if (kv.v_dim == 0) continue;
        const float* v_from = v + (s.row + r) * v_row_stride + int64_t{h} * kv.v_dim;
        store_row(kv.dtype, v_from, kv.v_dim, v_row(kv, s.begin + r, h));
      }
  }
}

void read_kv(const PagedKv& kv, int64_t begin, int64_t m, int head, float* k, float* v) {
  // Rows of one page are one run.
  for (int64_t r = 0; r < m;) {
    const int64_t run = std::min<int64_t>(m - r, kv.page_tokens - (begin + r) % kv.page_tokens);
    load_row(kv.dtype, k_row(kv, begin + r, head), run * kv.k_dim, k + r * kv.k_dim);
    if (kv.v_dim > 0) load_row(kv.dtype, v_row(kv, begin + r, head), run * kv.v_dim, v + r * kv.v_dim);
    r += run;
  }
}

}  // namespace baton::kernels
