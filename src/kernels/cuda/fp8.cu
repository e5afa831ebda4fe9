// Into fp8 and out of it: weights on their way to the card, activations before a product.
#include "kernels/cuda/common.cuh"

namespace baton::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr float kFp8Max = 448;

__global__ void uniform_rows_kernel(const uint64_t* row_keys, int64_t first_col, int64_t k, float scale, bf16* rows) {
  begin_kernel();
  const int64_t row = blockIdx.y, column = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x;
  if (column >= k) return;
  const uint64_t key = row_keys[row];
  uint32_t z = static_cast<uint32_t>(first_col + column) * 0x9e3779b9U + static_cast<uint32_t>(key);
  z = (z ^ z >> 16) * 0x7feb352dU;
  z ^= static_cast<uint32_t>(key >> 32);
  z = (z ^ z >> 15) * 0x846ca68bU;
  z ^= z >> 16;
  rows[row * k + column] = __float2bfloat16_rn(__int2float_rn(static_cast<int>(z)) * scale);
}

// A block of threads has a block of w.
__global__ void quantize_weight_kernel(const bf16* w, int64_t n, int64_t k, int64_t row, int64_t rows, int64_t column,
                                       Fp8Layout to, int64_t at, fp8* values, float* scales) {
  begin_kernel();
  __shared__ float part[kThreads / 32];
  const int64_t r0 = (row / kScaleBlock + blockIdx.y) * kScaleBlock, c0 = column + blockIdx.x * kScaleBlock;
  const int64_t height = min(n - r0, int64_t{kScaleBlock}), width = min(k - c0, int64_t{kScaleBlock});
  const bf16* from = w + r0 * k + c0;
  float top = 0;
  for (int i = static_cast<int>(threadIdx.x); i < height * kScaleBlock; i += kThreads)
    if (i % kScaleBlock < width) top = fmaxf(top, fabsf(to_float(from[i / kScaleBlock * k + i % kScaleBlock])));
  top = warp_max(top);
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = top;
  __syncthreads();
  top = warp_max(part[threadIdx.x % (kThreads / 32)]);
  const float scale = top == 0 ? 1 : top / kFp8Max;
  const int64_t begin = max(row, r0), end = min(row + rows, r0 + height);  // rows that are wanted
  const int64_t target = at + begin - row;
  for (int i = static_cast<int>(threadIdx.x); i < (end - begin) * kScaleBlock; i += kThreads) {
    const int64_t r = i / kScaleBlock, c = i % kScaleBlock;
    if (c0 - column + c < to.k)
      values[(target + r) * to.stride() + c0 - column + c] = fp8(to_float(w[(begin + r) * k + c0 + c]) / scale);
  }
  const int64_t first = target >> to.row_shift, last = (target + end - begin - 1) >> to.row_shift;
  for (int64_t i = first + threadIdx.x; i <= last; i += kThreads) scales[i * to.scale_stride() + blockIdx.x] = scale;
}

__global__ void dequantize_weight_kernel(Fp8Weight w, bf16* rows) {
  begin_kernel();
  const int64_t row = blockIdx.y, column = (blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x) * 8;
  if (column >= w.k) return;
  const float scale = w.scales[(row >> w.row_shift) * w.scale_stride() + column / kScaleBlock];
  const auto packed = *reinterpret_cast<const uint2*>(w.values + row * w.stride() + column);
  const auto* values = reinterpret_cast<const fp8*>(&packed);
  Pack<bf16> v;
#pragma unroll
  for (int i = 0; i < 8; ++i) v.v[i] = from_float<bf16>(static_cast<float>(values[i]) * scale);
  store_pack(rows + row * w.k + column, v);
}

// A warp has 128 columns of a row.
__global__ void quantize_rows_kernel(const bf16* x, int64_t x_stride, Fp8Rows to) {
  begin_kernel();
  const int64_t row = blockIdx.x, lane = threadIdx.x % 32;
  for (int64_t block = threadIdx.x / 32; block * kScaleBlock < to.k; block += blockDim.x / 32) {
    const int64_t column = block * kScaleBlock + lane * 4;
    float v[4] = {};
    if (column < to.k) {
      const auto packed = *reinterpret_cast<const uint2*>(x + row * x_stride + column);
      const auto* values = reinterpret_cast<const bf16*>(&packed);
#pragma unroll
      for (int i = 0; i < 4; ++i) v[i] = to_float(values[i]);
    }
    const float top = warp_max(fmaxf(fmaxf(fabsf(v[0]), fabsf(v[1])), fmaxf(fabsf(v[2]), fabsf(v[3]))));
    const float scale = top == 0 ? 1 : top / kFp8Max;
    if (column < to.stride())
      *reinterpret_cast<__nv_fp8x4_e4m3*>(to.values + row * to.stride() + column) =
          __nv_fp8x4_e4m3(float4{v[0] / scale, v[1] / scale, v[2] / scale, v[3] / scale});
    if (lane == 0) to.scales[block * to.scale_stride() + row] = scale;
  }
}

dim3 row_grid(int64_t rows, int64_t columns) {
  return {static_cast<unsigned>(ceil_div<int64_t>(columns, kThreads)), static_cast<unsigned>(rows)};
}

}  // namespace

void uniform_rows(cudaStream_t stream, const uint64_t* row_keys, int64_t n, int64_t first_col, int64_t k, float scale,
                  bf16* rows) {
  constexpr int64_t kRowsAtOnce = 65535;  // of a grid
  for (int64_t r = 0; r < n; r += kRowsAtOnce)
    launch_kernel(stream, uniform_rows_kernel, row_grid(n - r < kRowsAtOnce ? n - r : kRowsAtOnce, k), kThreads, 0,
                  row_keys + r, first_col, k, scale * 0x1p-31F, rows + r * k);
}

void quantize_weight(cudaStream_t stream, const bf16* w, int64_t n, int64_t k, int64_t row, int64_t rows,
                     int64_t column, const Fp8Layout& to, int64_t at, fp8* values, float* scales) {
  BATON_CHECK(column % kScaleBlock == 0 && column + to.k <= k && row + rows <= n);
  const dim3 grid(static_cast<unsigned>(ceil_div<int64_t>(to.k, kScaleBlock)),
                  static_cast<unsigned>((row + rows - 1) / kScaleBlock - row / kScaleBlock + 1));
  launch_kernel(stream, quantize_weight_kernel, grid, kThreads, 0, w, n, k, row, rows, column, to, at, values, scales);
}

Fp8Rows quantize_rows(cudaStream_t stream, const bf16* x, int64_t x_stride, int64_t m, int64_t k, void* memory) {
  BATON_CHECK(k % 8 == 0 && packable<bf16>(x, x_stride, 8));  // x is read by four values
  Fp8Rows rows{m, k, static_cast<fp8*>(memory), nullptr};
  rows.scales = reinterpret_cast<float*>(rows.values + rows.scale_stride() * rows.stride());
  const int64_t warps = ceil_div<int64_t>(k, kScaleBlock);
  launch_kernel(stream, quantize_rows_kernel, static_cast<unsigned>(m),
                static_cast<unsigned>(32 * (warps < 16 ? warps : 16)), 0, x, x_stride, rows);
  return rows;
}

void dequantize_weight(cudaStream_t stream, const Fp8Weight& w, bf16* rows) {
  BATON_CHECK(w.n <= 65535);
  launch_kernel(stream, dequantize_weight_kernel, row_grid(w.n, w.k / 8), kThreads, 0, w, rows);
}

}  // namespace baton::kernels::cuda
