// The KV of sequences in pages, and where a token's K and V rows lie in them. Shared by the kernels and their
// reference.
#pragma once

#include <cstddef>
#include <cstdint>

#include "tensor/dtype.h"

namespace baton::kernels {

// The KV of one layer, as one rank holds it: views into pool[page][kv head][layer][k|v][token][dim]. Page i of the
// block table begins at pool + pages[i] * page_stride. From there, for local kv head h and token t of the page:
//
// - K is at layer_offset + h * head_stride + t * k_dim * size,
// - V is at layer_offset + h * head_stride + v_offset + t * v_dim * size,
//
// where size is the bytes of one value of `dtype`.
struct PagedKv {
  std::byte* pool = nullptr;
  size_t page_stride = 0;           // bytes
  size_t head_stride = 0;           // bytes between local kv heads of a page
  size_t layer_offset = 0;          // bytes from a head's start to this layer
  size_t v_offset = 0;              // bytes from a (head, layer)'s K to its V: page_tokens * k_dim * size
  const uint32_t* pages = nullptr;  // the block table: page numbers of a sequence in token order, then another's
  int page_tokens = 0;
  int k_dim = 0;
  int v_dim = 0;                               // 0 for MLA: V is the first kv_lora_rank values of K
  tensor::DType dtype = tensor::DType::kBF16;  // kF32, kBF16 or kF8E4M3, whose scale is 1
};

// One sequence's part of a batch.
struct PagedRows {
  int64_t row = 0;    // of its first new token, in the buffers of the batch
  int64_t begin = 0;  // that token's position: so many tokens are stored already
  int64_t tokens = 0;
  int64_t first_page = 0;  // of the sequence, in the block table

  // `kv` as this sequence alone has it.
  [[nodiscard]] PagedKv own(PagedKv kv) const {
    kv.pages += first_page;
    return kv;
  }
};

// First byte of K of `token` of the sequence whose pages are first in the block table, for local kv head `head`. V: see
// v_row().
[[nodiscard]] inline std::byte* k_row(const PagedKv& kv, int64_t token, int head) {
  const auto page = static_cast<size_t>(token / kv.page_tokens);
  const auto slot = static_cast<size_t>(token % kv.page_tokens);
  return kv.pool + kv.pages[page] * kv.page_stride + kv.layer_offset + static_cast<size_t>(head) * kv.head_stride +
         slot * static_cast<size_t>(kv.k_dim) * tensor::dtype_size(kv.dtype);
}

// First byte of V of `token`. kv.v_dim > 0.
[[nodiscard]] inline std::byte* v_row(const PagedKv& kv, int64_t token, int head) {
  const auto slot = static_cast<size_t>(token % kv.page_tokens);
  return k_row(kv, token - static_cast<int64_t>(slot), head) + kv.v_offset +
         slot * static_cast<size_t>(kv.v_dim) * tensor::dtype_size(kv.dtype);
}

}  // namespace baton::kernels
