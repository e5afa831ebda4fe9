// Matrix products with a weight that was packed once.
#include <vector>

#include "base/check.h"
#include "kernels/kernels.h"
#include "kernels/reference.h"

namespace baton {

struct Linear::Impl {
  int64_t n, k;
  Compute compute;
  std::vector<float> weight;
};

void set_gemm_threads(int threads) { BATON_CHECK(threads >= 1, "gemm threads {}", threads); }

Linear::Linear() = default;
Linear::~Linear() = default;
Linear::Linear(Linear&&) noexcept = default;
Linear& Linear::operator=(Linear&&) noexcept = default;

Linear::Linear(std::span<const float> weight, int64_t n, int64_t k, Compute compute) {
  BATON_CHECK(n >= 1 && k >= 1 && weight.size() == static_cast<size_t>(n) * static_cast<size_t>(k),
              "weight of {} values for n {} k {}", weight.size(), n, k);
  impl_ = std::make_unique<Impl>(Impl{n, k, compute, {weight.begin(), weight.end()}});
}

int64_t Linear::n() const { return impl_->n; }
int64_t Linear::k() const { return impl_->k; }

void Linear::apply(const float* x, int64_t x_stride, int64_t m, float* y, int64_t y_stride) const {
  linear_ref(impl_->weight.data(), impl_->n, impl_->k, impl_->compute, x, x_stride, m, y, y_stride);
}

}  // namespace baton
