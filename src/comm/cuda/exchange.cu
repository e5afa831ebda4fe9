#include "comm/cuda/exchange.cuh"

namespace baton::comm::cuda {
namespace {

// ---- small messages ----

__device__ inline uint2 load_line(const uint32_t* words, int64_t at, int64_t end) {
  return {at < end ? words[at] : 0, at + 1 < end ? words[at + 1] : 0};
}
__device__ inline void store_line(uint32_t* words, int64_t at, int64_t end, uint2 line) {
  if (at < end) words[at] = line.x;
  if (at + 1 < end) words[at + 1] = line.y;
}

// parts: of words. The line of a block's first thread is sent and awaited also where a part has no words.
template <class T>
__global__ void __launch_bounds__(kThreads) reduce_scatter_lines(ExchangeGroup g, uint32_t* values, RankParts parts) {
  begin_kernel();
  const uint32_t round = rounds_done(g) + 1;
  const int64_t at = 2 * (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x);
  const bool always = threadIdx.x == 0;
  for (int i = 1; i < g.ranks; ++i) {
    const int to = (g.rank + i) % g.ranks;
    const int64_t n = parts.first[to + 1] - parts.first[to];
    if (at >= n && !always) continue;
    const uint2 line = load_line(values + parts.first[to], at, n);
    put_line(line_of(g, to, round, g.rank), line.x, line.y, round);
  }
  uint32_t* own = values + parts.first[g.rank];
  const int64_t n = parts.first[g.rank + 1] - parts.first[g.rank];
  if (at < n || always) {
    WordSums<T> x, y;
    for (int r = 0; r < g.ranks; ++r) {
      const uint2 line =
          r == g.rank ? load_line(own, at, n) : take_line(line_of(g, g.rank, round, r), round, g.aborted);
      x.add(line.x);
      y.add(line.y);
    }
    store_line(own, at, n, {x.word(), y.word()});
  }
  finish_rounds(g, round);
}

// Buffer b has the lines [first_line[b], first_line[b + 1]) of every rank, as many as its largest part needs.
struct LinesOfBuffers {
  uint32_t* words[GatheredRows::kMax];
  int64_t row_words[GatheredRows::kMax];
  int64_t first_line[GatheredRows::kMax + 1];
  int count;
};
__global__ void __launch_bounds__(kThreads) all_gather_lines(ExchangeGroup g, LinesOfBuffers buffers, RankParts rows) {
  begin_kernel();
  const uint32_t round = rounds_done(g) + 1;
  int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  uint32_t* words = buffers.words[0];
  int64_t row_words = buffers.row_words[0], line = at;
  bool has_any = at < buffers.first_line[buffers.count];
#pragma unroll
  for (int b = 1; b < GatheredRows::kMax; ++b) {
    if (b < buffers.count && at >= buffers.first_line[b]) {
      words = buffers.words[b];
      row_words = buffers.row_words[b];
      line = at - buffers.first_line[b];
    }
  }
  at = 2 * line;
  const bool always = threadIdx.x == 0;
  const auto count_of = [&](int r) { return has_any ? (rows.first[r + 1] - rows.first[r]) * row_words : 0; };
  if (const int64_t n = count_of(g.rank); at < n || always) {
    const uint2 own = load_line(words + rows.first[g.rank] * row_words, at, n);
    for (int i = 1; i < g.ranks; ++i) {
      const int to = (g.rank + i) % g.ranks;
      put_line(line_of(g, to, round, g.rank), own.x, own.y, round);
    }
  }
  for (int i = 1; i < g.ranks; ++i) {
    const int from = (g.rank + i) % g.ranks;
    const int64_t n = count_of(from);
    if (at >= n && !always) continue;
    const uint2 theirs = take_line(line_of(g, g.rank, round, from), round, g.aborted);
    store_line(words + rows.first[from] * row_words, at, n, theirs);
  }
  finish_rounds(g, round);
}

// ---- sums, and the norm behind them ----

// A block has a row of so many words; its lines are those of `lines` blocks, each with a count of its own.
constexpr int kNormLines = 4;
template <class T>
__global__ void __launch_bounds__(kThreads)
    all_reduce_norm_lines(ExchangeGroup g, const uint32_t* partial, int words, int lines, uint32_t* residual,
                          const float* weight, float eps, uint32_t* normed) {
  begin_kernel();
  const int64_t row = static_cast<int64_t>(blockIdx.x) * words;
  const int first = static_cast<int>(blockIdx.x) * lines;
  uint2 own[kNormLines];
  uint32_t round[kNormLines];
#pragma unroll
  for (int j = 0; j < kNormLines; ++j) {
    const int at = 2 * (j * kThreads + static_cast<int>(threadIdx.x));
    if (at >= words) continue;
    round[j] = rounds_done(g, first + j) + 1;
    own[j] = load_line(partial + row, at, words);
    for (int i = 1; i < g.ranks; ++i)
      put_line(line_of(g, (g.rank + i) % g.ranks, round[j], g.rank, first + j), own[j].x, own[j].y, round[j]);
  }
  float square = 0;
#pragma unroll
  for (int j = 0; j < kNormLines; ++j) {
    const int at = 2 * (j * kThreads + static_cast<int>(threadIdx.x));
    if (at >= words) continue;
    const uint2 before = load_line(residual + row, at, words);
    WordSums<T> x, y, new_x, new_y;
    for (int r = 0; r < g.ranks; ++r) {
      const uint2 line =
          r == g.rank ? own[j] : take_line(line_of(g, g.rank, round[j], r, first + j), round[j], g.aborted);
      x.add(line.x);
      y.add(line.y);
    }
    new_x.add(before.x);
    new_x.add(x.word());
    new_y.add(before.y);
    new_y.add(y.word());
    own[j] = {new_x.word(), new_y.word()};
    store_line(residual + row, at, words, own[j]);
    // Of a line that ends behind the row the second word is 0.
    square += WordSums<T>::square(own[j].x) + WordSums<T>::square(own[j].y);
  }
  __shared__ float of_warp[kThreads / 32];
#pragma unroll
  for (int lane = 16; lane > 0; lane /= 2) square += __shfl_xor_sync(~0U, square, lane);
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = square;
  __syncthreads();
  if (static_cast<int>(threadIdx.x) < lines)
    *rounds_of(g, first + static_cast<int>(threadIdx.x)) = rounds_done(g, first + static_cast<int>(threadIdx.x)) + 1;
  if (weight == nullptr) return;
  square = 0;
#pragma unroll
  for (const float of : of_warp) square += of;
  constexpr int kValues = sizeof(uint32_t) / sizeof(T);  // of a word
  const float scale = rsqrtf(square / static_cast<float>(words * kValues) + eps);
#pragma unroll
  for (int j = 0; j < kNormLines; ++j) {
    const int at = 2 * (j * kThreads + static_cast<int>(threadIdx.x));
    if (at < words) normed[row + at] = WordSums<T>::scaled(own[j].x, scale, weight + at * kValues);
    if (at + 1 < words) normed[row + at + 1] = WordSums<T>::scaled(own[j].y, scale, weight + (at + 1) * kValues);
  }
}

constexpr int64_t kLinesMax = int64_t{kLineBlocksMax} * kThreads;

template <class T>
__global__ void sum_in_place(RankAddends addends, int64_t first, int64_t n, T* to) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += step) {
    float sum = 0;
    for (int r = 0; r < addends.ranks; ++r)
      sum += static_cast<float>(static_cast<const T*>(addends.of_rank[r])[first + i]);
    to[i] = static_cast<T>(sum);
  }
}

}  // namespace

size_t inbox_bytes(int ranks) {
  return lines_bytes(ranks) + slots_bytes(ranks) + kBlocksMax * (static_cast<size_t>(ranks) + 1) * sizeof(uint32_t);
}

template <class T>
void push_reduce_scatter(cudaStream_t stream, const ExchangeGroup& g, T* values, const RankParts& parts) {
  const RankParts words = scaled(parts, g.ranks, sizeof(T), sizeof(uint32_t));
  const int64_t lines = ceil_div(largest_part(words, g.ranks), 2);
  if (lines <= kLinesMax) {
    launch_kernel(stream, reduce_scatter_lines<T>, std::max<int64_t>(1, ceil_div(lines, kThreads)), g,
                  reinterpret_cast<uint32_t*>(values), words);
  } else {
    reduce_scatter_large(stream, g, values, parts);
  }
}
template void push_reduce_scatter(cudaStream_t, const ExchangeGroup&, float*, const RankParts&);
template void push_reduce_scatter(cudaStream_t, const ExchangeGroup&, __nv_bfloat16*, const RankParts&);

void push_all_gather(cudaStream_t stream, const ExchangeGroup& g, const GatheredRows& buffers, const RankParts& parts) {
  // Those that are small travel together.
  const int64_t rows = largest_part(parts, g.ranks);
  LinesOfBuffers small{};
  for (int b = 0; b < buffers.count; ++b) {
    const int64_t row_words = buffers.row_bytes[b] / static_cast<int64_t>(sizeof(uint32_t));
    BATON_CHECK(row_words * static_cast<int64_t>(sizeof(uint32_t)) == buffers.row_bytes[b], "rows of {} bytes",
                buffers.row_bytes[b]);
    const int64_t end = small.first_line[small.count] + ceil_div(rows * row_words, 2);
    if (end <= kLinesMax) {
      small.words[small.count] = reinterpret_cast<uint32_t*>(buffers.rows[b]);
      small.row_words[small.count] = row_words;
      small.first_line[++small.count] = end;
    } else {
      all_gather_large(stream, g, buffers.rows[b], buffers.row_bytes[b], parts);
    }
  }
  if (small.count == 0) return;
  const int64_t lines = small.first_line[small.count];
  launch_kernel(stream, all_gather_lines, std::max<int64_t>(1, ceil_div(lines, kThreads)), g, small, parts);
}

bool can_all_reduce_norm(int ranks, int64_t rows, int64_t row_bytes) {
  // Everything goes to everybody, which takes less than the second of two waits while it is little.
  constexpr int64_t kBytesMax = 256 << 10;
  const int64_t lines = ceil_div(row_bytes, kThreads * int64_t{8});
  return row_bytes % 4 == 0 && lines <= kNormLines && rows * lines <= kBlocksMax &&
         rows * row_bytes * (ranks - 1) <= kBytesMax;
}

template <class T>
void push_all_reduce_norm(cudaStream_t stream, const ExchangeGroup& g, const T* partial, int64_t rows, int64_t width,
                          T* residual, const float* weight, float eps, T* normed) {
  const int64_t row_bytes = width * static_cast<int64_t>(sizeof(T));
  BATON_CHECK(can_all_reduce_norm(g.ranks, rows, row_bytes), "{} rows of {} bytes", rows, row_bytes);
  if (rows == 0) return;
  launch_kernel(stream, all_reduce_norm_lines<T>, rows, g, reinterpret_cast<const uint32_t*>(partial), row_bytes / 4,
                ceil_div(row_bytes, kThreads * int64_t{8}), reinterpret_cast<uint32_t*>(residual), weight, eps,
                reinterpret_cast<uint32_t*>(normed));
}
template void push_all_reduce_norm(cudaStream_t, const ExchangeGroup&, const float*, int64_t, int64_t, float*,
                                   const float*, float, float*);
template void push_all_reduce_norm(cudaStream_t, const ExchangeGroup&, const __nv_bfloat16*, int64_t, int64_t,
                                   __nv_bfloat16*, const float*, float, __nv_bfloat16*);

template <class T>
void sum_of_ranks(cudaStream_t stream, const RankAddends& addends, int64_t first, int64_t n, T* to) {
  if (n == 0) return;
  const auto blocks = static_cast<unsigned>(std::min<int64_t>(ceil_div(n, kThreads), 1024));
  sum_in_place<<<blocks, kThreads, 0, stream>>>(addends, first, n, to);
  BATON_CUDA_CHECK(cudaGetLastError(), "{} sums", n);
}
template void sum_of_ranks(cudaStream_t, const RankAddends&, int64_t, int64_t, float*);
template void sum_of_ranks(cudaStream_t, const RankAddends&, int64_t, int64_t, __nv_bfloat16*);

}  // namespace baton::comm::cuda
