// A whole MoE FFN of few rows, where reading the weights of the shared and of the chosen experts is the work. Nothing
// is permuted: a block finds out by itself who chose its expert. Weights of the shared FFN, which every row uses, come
// while the last kernel ends.
#include "kernels/cuda/small_rows.cuh"

namespace baton::kernels::cuda {
namespace {

constexpr int kRowsMax = kFewRowsMoe, kPairsMax = 32;

__device__ inline float silu(float v) { return v / (1 + __expf(-v)); }

// Eight columns of the gate and the same eight of up are the 16 rows of W of a block. The first `units` rows of blocks
// are the shared FFN's, block by block; after them comes a row for each pair of a row and a choice, of which the first
// one with its expert works for all.
__global__ void __launch_bounds__(kSmallRowsWarps * 32, 4)
    few_gate_up_kernel(const bf16* x, int rows, const int32_t* expert, const float* weight, int choices, int units,
                       SharedFfn shared, ExpertBank<bf16> bank, bf16* activated, bf16* shared_activated) {
  let_next_kernel_begin();
  extern __shared__ float total[];
  const int k = static_cast<int>(bank.hidden), lane = static_cast<int>(threadIdx.x % 32), row = lane / 4;
  const bool is_shared = static_cast<int>(blockIdx.y) < units;
  const int width = static_cast<int>(is_shared ? shared.width : bank.width);
  const int n0 = static_cast<int>(is_shared ? blockIdx.y * gridDim.x + blockIdx.x : blockIdx.x) * 8;
  const bf16* weights = shared.gate_up;
  WeightSteps steps;
  unsigned pairs = 0;  // of the expert
  if (is_shared) {
    load_first(steps, stored_row(weights, 0, width, k, n0 + row), stored_row(weights, 1, width, k, n0 + row), k);
    wait_for_last_kernel();
  } else {
    wait_for_last_kernel();
    const int pair = static_cast<int>(blockIdx.y) - units;
    const int mine = lane < rows * choices ? expert[lane] - bank.first : -1;
    const int e = __shfl_sync(~0U, mine, pair);
    pairs = __ballot_sync(~0U, mine == e);
    if (e < 0 || e >= bank.local || __ffs(static_cast<int>(pairs)) - 1 != pair) return;
    weights = bank.gate_up + static_cast<int64_t>(e) * 2 * width * k;
    load_first(steps, stored_row(weights, 0, width, k, n0 + row), stored_row(weights, 1, width, k, n0 + row), k);
  }
  if (n0 >= width) return;
  const int count = is_shared ? rows : __popc(pairs);
  const auto pair_at = [&](int i) { return static_cast<int>(__fns(pairs, 0, min(i, count - 1) + 1)); };
  const bf16* const from[1] = {x + static_cast<int64_t>(is_shared ? min(row, rows - 1) : pair_at(row) / choices) * k};
  float sum[1][4] = {};
  accumulate<1>(sum, stored_row(weights, 0, width, k, n0 + row), stored_row(weights, 1, width, k, n0 + row), from, k,
                steps);
  add_up_warps<1>(sum, total);
  __syncthreads();
  for (int at = static_cast<int>(threadIdx.x); at < 8 * count; at += static_cast<int>(blockDim.x)) {
    const int i = at / 8, column = n0 + at % 8;
    if (column >= width) continue;
    const float v = silu(total[i * 16 + at % 8]) * total[i * 16 + at % 8 + 8];
    if (is_shared) {
      shared_activated[static_cast<int64_t>(i) * width + column] = from_float<bf16>(v);
    } else {
      activated[static_cast<int64_t>(pair_at(i)) * width + column] = from_float<bf16>(v * weight[pair_at(i)]);
    }
  }
}

// 16 columns of y a block, of all that adds up to them: the shared FFN's steps of 64 and then those of one chosen
// expert after the other stand in one line that the warps share out.
constexpr int kDownWarps = 16;
__global__ void __launch_bounds__(kDownWarps * 32, 1)
    few_down_kernel(const bf16* activated, const bf16* shared_activated, int rows, const int32_t* expert, int choices,
                    SharedFfn shared, ExpertBank<bf16> bank, bf16* y) {
  let_next_kernel_begin();
  extern __shared__ float total[];
  __shared__ int expert_of[kPairsMax], pair_of[kPairsMax][kRowsMax], count;
  const int n = static_cast<int>(bank.hidden), width = static_cast<int>(bank.width),
            shared_width = static_cast<int>(shared.width);
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32), row = lane / 4;
  const int n0 = static_cast<int>(blockIdx.x) * 16, low = min(n0 + row, n - 1), high = min(n0 + row + 8, n - 1);
  const int shared_steps = ceil_div(shared_width, 64), each = ceil_div(width, 64);
  constexpr int kAhead = 4;
  uint4 a[kAhead][2], b[kAhead][2];
  const auto load = [&](int i, int step) {
    const bool is_shared = step < shared_steps;
    const int k = is_shared ? shared_width : width, chosen = is_shared ? 0 : (step - shared_steps) / each;
    const int column = (is_shared ? step : (step - shared_steps) % each) * 64 + lane % 4 * 8;
    const bf16* w = is_shared ? shared.down : bank.down + static_cast<int64_t>(expert_of[chosen]) * n * width;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int at = column + half * 32;
      a[i][half] = b[i][half] = uint4{0, 0, 0, 0};
      if (at >= k) continue;
      a[i][half] = load_weight(w + static_cast<int64_t>(low) * k + at);
      b[i][half] = load_weight(w + static_cast<int64_t>(high) * k + at);
    }
  };
#pragma unroll
  for (int i = 0; i < kAhead; ++i)
    if (warp + i * kDownWarps < shared_steps) load(i, warp + i * kDownWarps);
  wait_for_last_kernel();
  if (warp == 0) {
    const int mine = lane < rows * choices ? expert[lane] - bank.first : -1;
    const bool here = mine >= 0 && mine < bank.local;
    const unsigned pairs = __match_any_sync(~0U, here ? mine : -1 - lane);
    const bool leads = here && __ffs(static_cast<int>(pairs)) - 1 == lane;
    const unsigned leaders = __ballot_sync(~0U, leads);
    if (leads) {
      const int at = __popc(leaders & ((1U << lane) - 1));
      expert_of[at] = mine;
      for (int r = 0; r < kRowsMax; ++r) {
        const unsigned own = r < rows ? pairs >> r * choices & ((1U << choices) - 1) : 0;
        pair_of[at][r] = own == 0 ? -1 : r * choices + __ffs(static_cast<int>(own)) - 1;
      }
    }
    if (lane == 0) count = __popc(leaders);
  }
  __syncthreads();
  const int steps = shared_steps + count * each;
#pragma unroll
  for (int i = 0; i < kAhead; ++i) {
    const int step = warp + i * kDownWarps;
    if (shared_steps <= step && step < steps) load(i, step);
  }
  float sum[1][4] = {};
  for (int first = warp; first < steps; first += kAhead * kDownWarps) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int step = first + i * kDownWarps;
      if (step >= steps) break;
      const bool is_shared = step < shared_steps;
      const int k = is_shared ? shared_width : width, chosen = is_shared ? 0 : (step - shared_steps) / each;
      const int column = (is_shared ? step : (step - shared_steps) % each) * 64 + lane % 4 * 8;
      const int from = is_shared ? (row < rows ? row : -1) : pair_of[chosen][row];
      const bf16* const x[1] = {(is_shared ? shared_activated : activated) + static_cast<int64_t>(max(from, 0)) * k};
#pragma unroll
      for (int half = 0; half < 2; ++half)
        accumulate_16<1>(sum, a[i][half], b[i][half], x, column + half * 32, from >= 0 && column + half * 32 < k);
      if (step + kAhead * kDownWarps < steps) load(i, step + kAhead * kDownWarps);
    }
  }
  add_up_warps<1>(sum, total);
  for (int at = static_cast<int>(threadIdx.x); at < 16 * rows; at += static_cast<int>(blockDim.x)) {
    const int column = n0 + at % 16;
    if (column < n) y[static_cast<int64_t>(at / 16) * n + column] = from_float<bf16>(total[at]);
  }
}

}  // namespace

bool few_rows_moe(cudaStream_t stream, const bf16* x, int64_t rows, const int32_t* expert, const float* weight,
                  int choices, const SharedFfn& shared, const ExpertBank<bf16>& bank, bf16* activated,
                  bf16* shared_activated, bf16* y) {
  if (rows > kRowsMax || rows * choices > kPairsMax || choices >= 32) return false;
  if (bank.hidden % 8 != 0 || bank.width % 8 != 0 || shared.width % 8 != 0) return false;
  if (rows == 0) return true;
  const auto across = static_cast<unsigned>(ceil_div<int64_t>(bank.width, 8));
  const auto units = static_cast<unsigned>(ceil_div<int64_t>(shared.width, int64_t{across} * 8));
  const int warps = small_rows_warps(bank.hidden);
  launch_kernel(stream, few_gate_up_kernel, dim3(across, units + static_cast<unsigned>(rows * choices)),
                static_cast<unsigned>(warps * 32), small_rows_shared<1>(warps), x, static_cast<int>(rows), expert,
                weight, choices, static_cast<int>(units), shared, bank, activated, shared_activated);
  launch_kernel(stream, few_down_kernel, static_cast<unsigned>(ceil_div<int64_t>(bank.hidden, 16)), kDownWarps * 32,
                small_rows_shared<1>(kDownWarps), activated, shared_activated, static_cast<int>(rows), expert, choices,
                shared, bank, y);
  return true;
}

}  // namespace baton::kernels::cuda
