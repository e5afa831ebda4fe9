#include "kernels/kernels.h"
#include "kernels/reference.h"

namespace baton {

void write_kv(const PagedKv& kv, int64_t begin, int64_t m, int heads, const float* k, int64_t k_row_stride,
              const float* v, int64_t v_row_stride) {
  write_kv_ref(kv, begin, m, heads, k, k_row_stride, v, v_row_stride);
}
void read_kv(const PagedKv& kv, int64_t begin, int64_t m, int head, float* k, float* v) {
  read_kv_ref(kv, begin, m, head, k, v);
}

}  // namespace baton
