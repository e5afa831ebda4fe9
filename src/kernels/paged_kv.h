// Where a token's K and V row lies in a paged pool (layout: PagedKv in kernels.h). Shared by the kernels and their
// reference.
#pragma once

#include "kernels/kernels.h"

namespace baton {

// First byte of K of `token` of the sequence for local kv head `head`. V lies `v_row_offset` further on.
[[nodiscard]] inline std::byte* k_row(const PagedKv& kv, int64_t token, int head) {
  const auto page = static_cast<size_t>(token / kv.page_tokens);
  const auto slot = static_cast<size_t>(token % kv.page_tokens);
  return kv.pool + kv.pages[page] * kv.page_stride + kv.layer_offset + static_cast<size_t>(head) * kv.head_stride +
         slot * static_cast<size_t>(kv.k_dim) * dtype_size(kv.dtype);
}

// First byte of V of `token`. kv.v_dim > 0.
[[nodiscard]] inline std::byte* v_row(const PagedKv& kv, int64_t token, int head) {
  const auto slot = static_cast<size_t>(token % kv.page_tokens);
  return k_row(kv, token - static_cast<int64_t>(slot), head) + kv.v_offset +
         slot * static_cast<size_t>(kv.v_dim) * dtype_size(kv.dtype);
}

}  // namespace baton
