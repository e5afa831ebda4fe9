#include "kernels/kernels.h"
#include "kernels/reference.h"

namespace baton {

void gqa_attention(const float* q, int64_t q_row_stride, int64_t begin, int64_t m, int q_heads, const int* kv_head_of,
                   const PagedKv& kv, float scale, Compute, float* out) {
  gqa_attention_ref(q, q_row_stride, begin, m, q_heads, kv_head_of, kv, scale, out);
}
void mla_attention(const float* q, int64_t begin, int64_t m, int heads, int lora, const PagedKv& kv, float scale,
                   Compute, float* out) {
  mla_attention_ref(q, begin, m, heads, lora, kv, scale, out);
}
void attention_block(const float* q, int64_t begin, int64_t m, int heads, int qk_dim, int v_dim, const float* k,
                     const float* v, int64_t block_begin, int64_t n, float scale, Compute, float* acc, float* row_max,
                     float* row_sum) {
  attention_block_ref(q, begin, m, heads, qk_dim, v_dim, k, v, block_begin, n, scale, acc, row_max, row_sum);
}
void attention_finish(int64_t m, int heads, int v_dim, float* acc, const float* row_sum) {
  attention_finish_ref(m, heads, v_dim, acc, row_sum);
}

}  // namespace baton
