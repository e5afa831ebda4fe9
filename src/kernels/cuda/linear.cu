// Linear layers: cuBLASLt, and for few rows a kernel that reads the weight at memory's rate.
#include <cublasLt.h>

#include <limits>
#include <map>
#include <tuple>

#include "kernels/cuda/grouped.cuh"
#include "kernels/cuda/small_rows.cuh"

namespace baton::kernels::cuda {
namespace {

constexpr size_t kWorkspaceBytes = 32 << 20;

void check_library(cublasStatus_t status) {
  if (status != CUBLAS_STATUS_SUCCESS) check_failed(__FILE__, __LINE__, "cuBLASLt", cublasLtGetStatusString(status));
}

// Group g of blockIdx.y has its own weight, columns of x and columns of y (heads).
struct Groups {
  int count = 1;
  int64_t w = 0, x = 0, y = 0;  // elements from a group to the next; w: n * k
};

template <int kTiles, class Y>
__global__ void __launch_bounds__(kSmallRowsWarps * 32)
    small_rows_kernel(const bf16* w, int n, int k, const bf16* x, int64_t x_stride, int m, Y* y, int64_t y_stride,
                      Groups groups) {
  let_next_kernel_begin();
  extern __shared__ float total[];
  x += blockIdx.y * groups.x;
  y += blockIdx.y * groups.y;
  const int n0 = static_cast<int>(blockIdx.x) * 16, m0 = static_cast<int>(blockIdx.z) * 8 * kTiles;
  const int row = static_cast<int>(threadIdx.x % 32) / 4;
  float sum[kTiles][4] = {};
  const bf16* rows[kTiles];
#pragma unroll
  for (int i = 0; i < kTiles; ++i) rows[i] = x + min(m0 + i * 8 + row, m - 1) * x_stride;
  const bf16 *const w0 = stored_row(w, blockIdx.y, n, k, n0 + row), *const w1 =
                                                                        stored_row(w, blockIdx.y, n, k, n0 + row + 8);
  // The first weights come while the last kernel, which makes x, ends.
  WeightSteps steps;
  load_first(steps, w0, w1, k);
  wait_for_last_kernel();
  accumulate<kTiles>(sum, w0, w1, rows, k, steps);
  add_up_warps<kTiles>(sum, total);
  for (int at = static_cast<int>(threadIdx.x); at < 16 * 8 * kTiles; at += static_cast<int>(blockDim.x)) {
    const int token = m0 + at / 16, column = n0 + at % 16;
    if (token < m && column < n) y[token * y_stride + column] = from_float<Y>(total[at]);
  }
}

template <int kTiles, class Y>
void small_rows(cudaStream_t stream, const bf16* w, int64_t n, int64_t k, const bf16* x, int64_t x_stride, int64_t m,
                Y* y, int64_t y_stride, const Groups& groups) {
  const dim3 grid(static_cast<unsigned>(ceil_div<int64_t>(n, 16)), static_cast<unsigned>(groups.count),
                  static_cast<unsigned>(ceil_div<int64_t>(m, 8 * kTiles)));
  const int warps = small_rows_warps(k);
  launch_kernel(stream, small_rows_kernel<kTiles, Y>, grid, static_cast<unsigned>(warps * 32),
                small_rows_shared<kTiles>(warps), w, static_cast<int>(n), static_cast<int>(k), x, x_stride,
                static_cast<int>(m), y, y_stride, groups);
}

template <class T>
constexpr cudaDataType kDataType = std::is_same_v<T, float> ? CUDA_R_32F : CUDA_R_16BF;

}  // namespace

struct Products::Impl {
  // Types, n, k, m, strides of x and y, groups with their strides.
  using Shape = std::tuple<int, int, int64_t, int64_t, int64_t, int64_t, int64_t, int, int64_t, int64_t, int64_t>;
  struct Plan {
    cublasLtMatmulDesc_t product = nullptr;
    cublasLtMatrixLayout_t w = nullptr, x = nullptr, y = nullptr;
    cublasLtMatmulAlgo_t algorithm{};
  };

  cublasLtHandle_t handle = nullptr;
  void* workspace = nullptr;
  // Beyond either, the library is as fast or faster: our kernel holds a card that the next one is already set up on, so
  // that a model of large weights takes half as long again.
  int64_t small_rows = 4, small_values = int64_t{1} << 24;
  std::map<Shape, Plan> plans;
  std::map<Shape, Plan> fp8_plans;  // product null: the library has none
  bool fp8_library = true;

  Impl() {
    check_library(cublasLtCreate(&handle));
    check_cuda(cudaMalloc(&workspace, kWorkspaceBytes));
  }
  ~Impl() {
    plans.merge(fp8_plans);
    for (auto& [shape, plan] : plans) destroy(plan);
    cudaFree(workspace);
    cublasLtDestroy(handle);
  }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  static void destroy(const Plan& plan) {
    if (plan.product == nullptr) return;
    cublasLtMatmulDescDestroy(plan.product);
    for (cublasLtMatrixLayout_t layout : {plan.w, plan.x, plan.y}) cublasLtMatrixLayoutDestroy(layout);
  }

  static cublasLtMatrixLayout_t layout(cudaDataType type, int64_t rows, int64_t columns, int64_t stride, int groups,
                                       int64_t group_stride) {
    cublasLtMatrixLayout_t made = nullptr;
    check_library(
        cublasLtMatrixLayoutCreate(&made, type, static_cast<uint64_t>(rows), static_cast<uint64_t>(columns), stride));
    if (groups > 1) {
      check_library(
          cublasLtMatrixLayoutSetAttribute(made, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &groups, sizeof(groups)));
      check_library(cublasLtMatrixLayoutSetAttribute(made, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &group_stride,
                                                     sizeof(group_stride)));
    }
    return made;
  }

  // The library stores by columns: to it, y is (n, m) = W^T (n, k) * x (k, m).
  Plan make_plan(cudaDataType type, cudaDataType y_type, int64_t n, int64_t k, int64_t m, int64_t x_stride,
                 int64_t y_stride, const Groups& groups, const float* scales_of_w = nullptr,
                 const float* scales_of_x = nullptr) const {
    Plan plan;
    check_library(cublasLtMatmulDescCreate(&plan.product, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    const cublasOperation_t transposed = CUBLAS_OP_T;
    check_library(
        cublasLtMatmulDescSetAttribute(plan.product, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof(transposed)));
    if (scales_of_w != nullptr) {
      const int32_t weights = CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F,
                    rows = CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F;
      set(plan.product, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, weights);
      set(plan.product, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, rows);
      set(plan.product, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, scales_of_w);
      set(plan.product, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, scales_of_x);
    }
    plan.w = layout(type, k, n, k, groups.count, groups.w);
    plan.x = layout(type, k, m, x_stride, groups.count, groups.x);
    plan.y = layout(y_type, n, m, y_stride, groups.count, groups.y);
    cublasLtMatmulPreference_t preference = nullptr;
    check_library(cublasLtMatmulPreferenceCreate(&preference));
    check_library(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                       &kWorkspaceBytes, sizeof(kWorkspaceBytes)));
    const uint32_t alignment = 16;
    for (const auto which : {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                             CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
      check_library(cublasLtMatmulPreferenceSetAttribute(preference, which, &alignment, sizeof(alignment)));
    cublasLtMatmulHeuristicResult_t best{};
    int found = 0;
    const cublasStatus_t looked = cublasLtMatmulAlgoGetHeuristic(handle, plan.product, plan.w, plan.x, plan.y, plan.y,
                                                                 preference, 1, &best, &found);
    if (scales_of_w == nullptr) check_library(looked);
    if (looked != CUBLAS_STATUS_SUCCESS) found = 0;
    check_library(cublasLtMatmulPreferenceDestroy(preference));
    if (found == 1) {
      plan.algorithm = best.algo;
      return plan;
    }
    BATON_CHECK(scales_of_w != nullptr);
    destroy(plan);
    return {};
  }

  template <class Value>
  static void set(cublasLtMatmulDesc_t product, cublasLtMatmulDescAttributes_t attribute, const Value& value) {
    check_library(cublasLtMatmulDescSetAttribute(product, attribute, &value, sizeof(value)));
  }

  // Whether the library has done it: it has blocks of 128 x 128 alone, and scales of x in fours.
  bool run_fp8(cudaStream_t stream, const Fp8Rows& x, const Fp8Weight& w, bf16* y, int64_t y_stride) {
    if (!fp8_library || w.row_shift != 7 || w.k % 16 != 0 || x.m % 4 != 0) return false;
    const Shape shape{CUDA_R_8F_E4M3, CUDA_R_16BF, w.n, w.k, x.m, w.k, y_stride, 1, 0, 0, 0};
    auto at = fp8_plans.find(shape);
    if (at == fp8_plans.end())
      at = fp8_plans
               .emplace(shape, make_plan(CUDA_R_8F_E4M3, CUDA_R_16BF, w.n, w.k, x.m, w.k, y_stride, Groups{}, w.scales,
                                         x.scales))
               .first;
    const Plan& plan = at->second;
    if (plan.product == nullptr) return false;
    set(plan.product, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, w.scales);
    set(plan.product, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, x.scales);
    const float one = 1, zero = 0;
    check_library(cublasLtMatmul(handle, plan.product, &one, w.values, plan.w, x.values, plan.x, &zero, y, plan.y, y,
                                 plan.y, &plan.algorithm, workspace, kWorkspaceBytes, stream));
    return true;
  }

  template <class T, class Y>
  void run(cudaStream_t stream, const T* w_data, int64_t n, int64_t k, const T* x_data, int64_t x_stride, int64_t m,
           Y* y_data, int64_t y_stride, const Groups& groups) {
    if (m == 0) return;
    if constexpr (std::is_same_v<T, bf16>) {
      if (m <= small_rows && n * k <= small_values && k % 8 == 0 && packable<T>(x_data, x_stride) &&
          packable<T>(w_data, groups.w) && groups.x % 8 == 0) {
        if (m <= 8) return cuda::small_rows<1>(stream, w_data, n, k, x_data, x_stride, m, y_data, y_stride, groups);
        return cuda::small_rows<2>(stream, w_data, n, k, x_data, x_stride, m, y_data, y_stride, groups);
      }
    }
    const Shape shape{kDataType<T>, kDataType<Y>, n,        k,        m,       x_stride,
                      y_stride,     groups.count, groups.w, groups.x, groups.y};
    auto at = plans.find(shape);
    if (at == plans.end())
      at = plans.emplace(shape, make_plan(kDataType<T>, kDataType<Y>, n, k, m, x_stride, y_stride, groups)).first;
    const Plan& plan = at->second;
    const float one = 1, zero = 0;
    check_library(cublasLtMatmul(handle, plan.product, &one, w_data, plan.w, x_data, plan.x, &zero, y_data, plan.y,
                                 y_data, plan.y, &plan.algorithm, workspace, kWorkspaceBytes, stream));
  }
};

Products::Products() : impl_(std::make_unique<Impl>()) {}
Products::~Products() = default;
Products::Products(Products&&) noexcept = default;
Products& Products::operator=(Products&&) noexcept = default;

void Products::set_small_rows(int64_t rows) {
  impl_->small_rows = rows;
  impl_->small_values = std::numeric_limits<int64_t>::max();
}

template <class T, class Y>
void Products::linear(cudaStream_t stream, const T* w, int64_t n, int64_t k, const T* x, int64_t x_stride, int64_t m,
                      Y* y, int64_t y_stride) {
  impl_->run(stream, w, n, k, x, x_stride, m, y, y_stride, Groups{});
}

template <class T>
void Products::linear_heads(cudaStream_t stream, const T* w, int heads, int64_t n, int64_t k, const T* x,
                            int64_t x_stride, int64_t x_head_stride, int64_t m, T* y, int64_t y_stride,
                            int64_t y_head_stride) {
  impl_->run(stream, w, n, k, x, x_stride, m, y, y_stride, Groups{heads, n * k, x_head_stride, y_head_stride});
}

void Products::linear_fp8(cudaStream_t stream, const Fp8Rows& x, const Fp8Weight& w, bf16* y, int64_t y_stride) {
  BATON_CHECK(x.k == w.k);
  if (!impl_->run_fp8(stream, x, w, y, y_stride)) dense_fp8(stream, x, w, y, y_stride);
}
void Products::set_fp8_library(bool asked) { impl_->fp8_library = asked; }

#define BATON_INSTANTIATE(T, Y)                                                                                  \
  template void Products::linear<T, Y>(cudaStream_t, const T*, int64_t, int64_t, const T*, int64_t, int64_t, Y*, \
                                       int64_t);
BATON_INSTANTIATE(float, float)
BATON_INSTANTIATE(bf16, bf16)
BATON_INSTANTIATE(bf16, float)
#undef BATON_INSTANTIATE
template void Products::linear_heads<float>(cudaStream_t, const float*, int, int64_t, int64_t, const float*, int64_t,
                                            int64_t, int64_t, float*, int64_t, int64_t);
template void Products::linear_heads<bf16>(cudaStream_t, const bf16*, int, int64_t, int64_t, const bf16*, int64_t,
                                           int64_t, int64_t, bf16*, int64_t, int64_t);

}  // namespace baton::kernels::cuda
