#include "kernels/kernels.h"
#include "kernels/reference.h"

namespace baton {

void rms_norm(const float* x, int64_t x_stride, const float* weight, float eps, int64_t m, int64_t n, float* y,
              int64_t y_stride) {
  rms_norm_ref(x, x_stride, weight, eps, m, n, y, y_stride);
}
void rope_interleaved(float* x, int64_t m, int64_t row_stride, int heads, int64_t head_stride, int dim,
                      const float* cos, const float* sin) {
  rope_interleaved_ref(x, m, row_stride, heads, head_stride, dim, cos, sin);
}
void rope_half(float* x, int64_t m, int64_t row_stride, int heads, int64_t head_stride, int dim, const float* cos,
               const float* sin) {
  rope_half_ref(x, m, row_stride, heads, head_stride, dim, cos, sin);
}
void silu_mul(const float* gate_up, int64_t m, int64_t n, float* y) { silu_mul_ref(gate_up, m, n, y); }
void axpy(int64_t n, float a, const float* x, float* y) { axpy_ref(n, a, x, y); }

}  // namespace baton
