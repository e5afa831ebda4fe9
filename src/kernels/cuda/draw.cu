// Tokens drawn from logits, as sampling/vocabulary_sampler.h means it, with its weights bit for bit.
//
// A row is drawn by a cluster, whose blocks keep a part of it in shared memory: it is read once. All sums are of
// integers, so their order is free. What top_k or top_p keeps is found without sorting: a histogram of the cluster says
// in which bin the last kept token is, the next one cuts that bin into finer ones, until a bin is a single value.
#include <cooperative_groups.h>

#include <cfloat>

#include "kernels/cuda/common.cuh"
#include "sampling/token_weight.h"

namespace baton::kernels::cuda {
namespace {

using sampling::LogitEdit;
using sampling::RowDraw;
using sampling::RowDrawn;
using sampling::weight_of;
using u64 = unsigned long long;

constexpr int kThreads = 512, kWarps = kThreads / 32, kBlocks = 8;
constexpr int kBins = 1024, kOwnBins = kBins / kBlocks;
constexpr u64 kAll = ~0ULL;

// What a block has found of its part.
struct PartBest {
  float raw, value;  // the largest raw logit, and the largest that is drawn from
  int at;            // the first token with `value`
  int sound;
};
struct PartSums {
  u64 total, kept, raw_total;  // weights of all tokens, of those that min_p leaves, of the raw logits
  float lowest;                // logit that min_p leaves
};
struct Bin {
  u64 mass;
  u64 count;
};
// Of a line of tokens or bins: where a sum is reached, and the sum before.
struct Found {
  int at;
  Bin before;
};

struct Shared {
  u64 scan[kWarps];
  PartBest bests[kWarps], best, all_best;
  PartSums sums[kWarps], sum, all_sums;
  u64 in_order, before[kBlocks];  // a part's sum for find_in_order(); the sums of the parts before
  unsigned low[kBins], high[kBins], count[kBins];
  Bin merged[kOwnBins];
  Found found;
  unsigned first[kWarps], last[kWarps], range[2], all_range[2];
};

__device__ inline u64 warp_add(u64 v) {
#pragma unroll
  for (int lane = 16; lane > 0; lane /= 2) v += __shfl_xor_sync(~0U, v, lane);
  return v;
}
__device__ inline PartSums warp_add(const PartSums& v) {
  float lowest = v.lowest;
#pragma unroll
  for (int lane = 16; lane > 0; lane /= 2) lowest = fminf(lowest, __shfl_xor_sync(~0U, lowest, lane));
  return {warp_add(v.total), warp_add(v.kept), warp_add(v.raw_total), lowest};
}
__device__ inline PartBest better(PartBest a, PartBest b) {
  const bool second = b.value > a.value || (b.value == a.value && b.at < a.at);
  return {fmaxf(a.raw, b.raw), second ? b.value : a.value, second ? b.at : a.at, a.sound & b.sound};
}
__device__ inline PartBest warp_best(PartBest v) {
#pragma unroll
  for (int lane = 16; lane > 0; lane /= 2)
    v = better(v, {__shfl_xor_sync(~0U, v.raw, lane), __shfl_xor_sync(~0U, v.value, lane),
                   __shfl_xor_sync(~0U, v.at, lane), __shfl_xor_sync(~0U, v.sound, lane)});
  return v;
}

// Ascends as logits descend.
__device__ inline unsigned key_of(float x) {
  const unsigned bits = __float_as_uint(x == 0 ? 0.0F : x);
  return (bits >> 31) != 0 ? bits : ~(bits | 0x80000000U);
}
__device__ inline float logit_of(unsigned key) { return __uint_as_float((key >> 31) != 0 ? key : ~key & 0x7fffffffU); }

// A block's part of a row, in the hands of one of its threads.
class Part {
 public:
  __device__ Part(const RowDraw& how, const LogitEdit* edits, const float* row, int n, float* x, Shared& shared)
      : how_(how), edits_(edits), row_(row), x_(x), s_(shared) {
    const int each = ceil_div(n, kBlocks), block = static_cast<int>(cluster().block_rank());
    begin_ = min(block * each, n);
    size_ = min(each, n - begin_);
  }
  static __device__ cooperative_groups::cluster_group cluster() { return cooperative_groups::this_cluster(); }

  // Reads the row, edits it and finds its best.
  __device__ PartBest load() {
    PartBest part{-INFINITY, -INFINITY, INT32_MAX, 1};
    constexpr int kAhead = 4;
    for (int first = thread(); first < size_; first += kAhead * kThreads) {
      float v[kAhead];
#pragma unroll
      for (int i = 0; i < kAhead; ++i) v[i] = first + i * kThreads < size_ ? row_[begin_ + first + i * kThreads] : 0;
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        if (first + i * kThreads >= size_) break;
        x_[first + i * kThreads] = v[i];
        part.raw = v[i] > part.raw ? v[i] : part.raw;
        part.sound &= static_cast<int>(v[i] <= FLT_MAX);
      }
    }
    if (how_.edits_end > how_.edits_begin || how_.barred != 0) edit();
    for (int i = thread(); i < size_; i += kThreads)
      if (x_[i] > part.value) {
        part.value = x_[i];
        part.at = begin_ + i;
      }
    part = warp_best(part);
    if (lane() == 0) s_.bests[warp()] = part;
    __syncthreads();
    if (warp() == 0) {
      part = warp_best(s_.bests[lane() % kWarps]);
      if (lane() == 0) s_.best = part;
    }
    cluster().sync();
    if (warp() == 0) {
      part = warp_best(cluster().map_shared_rank(&s_, lane() % kBlocks)->best);
      if (lane() == 0) s_.all_best = part;
    }
    __syncthreads();
    best_ = s_.all_best.value;
    return s_.all_best;
  }

  __device__ PartSums add_up(float raw_best) {
    PartSums sums{0, 0, 0, best_};
    for (int i = thread(); i < size_; i += kThreads) {
      const u64 w = weight(x_[i]);
      sums.total += w;
      if (w >= how_.least_weight) {
        sums.kept += w;
        sums.lowest = fminf(sums.lowest, x_[i]);
      }
      if (how_.rates != 0) sums.raw_total += weight_of(row_[begin_ + i], raw_best, 1);
    }
    sums = warp_add(sums);
    if (lane() == 0) s_.sums[warp()] = sums;
    __syncthreads();
    if (warp() == 0) {
      sums = warp_add(lane() < kWarps ? s_.sums[lane()] : PartSums{0, 0, 0, best_});
      if (lane() == 0) s_.sum = sums;
    }
    cluster().sync();
    if (warp() == 0) {
      sums = warp_add(lane() < kBlocks ? cluster().map_shared_rank(&s_, lane())->sum : PartSums{0, 0, 0, best_});
      if (lane() == 0) s_.all_sums = sums;
    }
    __syncthreads();
    const float range = best_ - s_.all_sums.lowest;
    bins_a_unit_ = range > 0 ? static_cast<float>(kBins) / range : 0;
    return s_.all_sums;
  }

  // Of the tokens that min_p leaves, best first and equal ones by id, the first so many whose weights reach `mass` or
  // whose number reaches `count`; one of both is reached.
  struct Prefix {
    unsigned key;  // of the last one
    u64 before;    // weights of those that are better than it
    u64 equal;     // how many with its key there are in the prefix, >= 1
    u64 weight;    // of each of these
    __device__ u64 mass() const { return before + equal * weight; }
  };
  __device__ Prefix find_prefix(u64 mass, u64 count) {
    Bin before{0, 0};
    const int linear = find_bin(mass, count, &before, [&](float x) { return linear_bin(x); });
    unsigned first = ~0U, last = 0;
    for (int i = thread(); i < size_; i += kThreads) {
      if (!kept(x_[i]) || linear_bin(x_[i]) != linear) continue;
      first = min(first, key_of(x_[i]));
      last = max(last, key_of(x_[i]));
    }
    merge_range(&first, &last);
    while (first < last) {
      const int shift = max(0, 32 - __clz(static_cast<int>(last - first)) - 10);
      const int bin = find_bin(mass, count, &before, [&](float x) {
        const unsigned key = key_of(x);
        return key < first || key > last ? -1 : static_cast<int>((key - first) >> shift);
      });
      first += static_cast<unsigned>(bin) << shift;
      last = min(last, first + (1U << shift) - 1);
    }
    const u64 each = weight(logit_of(first));
    u64 equal = mass == kAll ? kAll : (mass - before.mass + each - 1) / each;
    equal = min(equal, count - before.count);
    return {first, before.mass, equal, each};
  }

  // The token at which the sum of `value`, token by token, is first beyond `target`; -1 unless this thread has it.
  template <class Value>
  __device__ int find_in_order(u64 target, Value value) {
    const int chunk = ceil_div(ceil_div(size_, kThreads), 2) * 2 + 1;  // odd: no two threads in one bank
    const int from = min(thread() * chunk, size_), to = min(from + chunk, size_);
    u64 own = 0;
    for (int i = from; i < to; ++i) own += value(x_[i]);
    u64 upto = scan(own);
    if (thread() == kThreads - 1) s_.in_order = upto;
    cluster().sync();
    const int block = static_cast<int>(cluster().block_rank());
    if (thread() < kBlocks)
      s_.before[thread()] = thread() < block ? cluster().map_shared_rank(&s_, thread())->in_order : 0;
    __syncthreads();
    for (int b = 0; b < kBlocks; ++b) upto += s_.before[b];
    u64 sum = upto - own;
    if (target < sum || target >= upto) return -1;
    for (int i = from; i < to; ++i) {
      sum += value(x_[i]);
      if (sum > target) return begin_ + i;
    }
    return -1;
  }

  __device__ u64 weight(float x) const { return weight_of(x, best_, how_.inverse_temperature); }
  __device__ bool kept(float x) const { return weight(x) >= how_.least_weight; }
  static __device__ int thread() { return static_cast<int>(threadIdx.x); }

 private:
  static __device__ int lane() { return static_cast<int>(threadIdx.x % 32); }
  static __device__ int warp() { return static_cast<int>(threadIdx.x / 32); }

  __device__ void edit() {
    __syncthreads();
    if (how_.barred != 0) {
      for (int i = thread(); i < size_; i += kThreads) x_[i] = -INFINITY;
      __syncthreads();
    }
    const int turns[] = {how_.edits_begin, how_.penalties_begin, how_.bars_begin, how_.edits_end};
    for (int turn = 0; turn < 3; ++turn) {
      for (int e = turns[turn] + thread(); e < turns[turn + 1]; e += kThreads) {
        const LogitEdit edit = edits_[e];
        const int at = edit.token - begin_;
        if (at < 0 || at >= size_) continue;
        float x = x_[at];
        if (edit.kind == LogitEdit::Kind::kBias) {
          x += edit.a;
        } else if (edit.kind == LogitEdit::Kind::kAllow) {
          x = row_[edit.token] + edit.a;
        } else if (edit.kind == LogitEdit::Kind::kBar) {
          x = -INFINITY;
        } else {
          if (x != -INFINITY)
            x = fminf(fmaxf(x > 0 ? __fdiv_rn(x, edit.a) : __fmul_rn(x, edit.a), -sampling::kPenalisedMax),
                      sampling::kPenalisedMax);
          x = __fadd_rn(x, -edit.b);
        }
        x_[at] = x;
      }
      __syncthreads();
    }
  }

  // The logits that min_p leaves, evenly, so that their counts are added up in many places.
  __device__ int linear_bin(float x) const {
    return min(kBins - 1, static_cast<int>(__fmul_rn(__fadd_rn(best_, -x), bins_a_unit_)));
  }

  // Inclusive.
  __device__ u64 scan(u64 v) {
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const u64 other = __shfl_up_sync(~0U, v, step);
      if (lane() >= step) v += other;
    }
    __syncthreads();  // who still reads the last one's
    if (lane() == 31) s_.scan[warp()] = v;
    __syncthreads();
    for (int w = 0; w < warp(); ++w) v += s_.scan[w];
    return v;
  }

  // The first of kBins bins, of which bin_of(x) names a kept token's (-1: none), with which the bins from the first on,
  // and `before` them, reach mass or count. Adds those before it to `before`.
  template <class BinOf>
  __device__ int find_bin(u64 mass, u64 count, Bin* before, BinOf bin_of) {
    for (int b = thread(); b < kBins; b += kThreads) s_.low[b] = s_.high[b] = s_.count[b] = 0;
    __syncthreads();
    for (int i = thread(); i < size_; i += kThreads) {
      const int bin = bin_of(x_[i]);
      if (bin < 0) continue;
      const u64 w = weight(x_[i]);
      if (w < how_.least_weight) continue;
      const auto low = static_cast<unsigned>(w);
      const unsigned old = atomicAdd(&s_.low[bin], low);
      const unsigned high = static_cast<unsigned>(w >> 32) + static_cast<unsigned>(old + low < old);
      if (high != 0) atomicAdd(&s_.high[bin], high);
      atomicAdd(&s_.count[bin], 1U);
    }
    cluster().sync();
    if (thread() < kOwnBins) {
      const int bin = static_cast<int>(cluster().block_rank()) * kOwnBins + thread();
      Bin sum{0, 0};
      for (int b = 0; b < kBlocks; ++b) {
        const Shared* other = cluster().map_shared_rank(&s_, b);
        sum.mass += (static_cast<u64>(other->high[bin]) << 32) + other->low[bin];
        sum.count += other->count[bin];
      }
      s_.merged[thread()] = sum;
    }
    cluster().sync();
    constexpr int kEach = kBins / kThreads;
    Bin own[kEach], all{0, 0};
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int bin = thread() * kEach + i;
      own[i] = cluster().map_shared_rank(&s_, bin / kOwnBins)->merged[bin % kOwnBins];
      all.mass += own[i].mass;
      all.count += own[i].count;
    }
    Bin upto{before->mass + scan(all.mass) - all.mass, 0};
    upto.count = before->count + scan(all.count) - all.count;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const Bin with{upto.mass + own[i].mass, upto.count + own[i].count};
      const bool reached = upto.mass >= mass || upto.count >= count;
      if (!reached && (with.mass >= mass || with.count >= count)) s_.found = {thread() * kEach + i, upto};
      upto = with;
    }
    __syncthreads();
    *before = s_.found.before;
    return s_.found.at;
  }

  __device__ void merge_range(unsigned* first, unsigned* last) {
    *first = __reduce_min_sync(~0U, *first);
    *last = __reduce_max_sync(~0U, *last);
    if (lane() == 0) {
      s_.first[warp()] = *first;
      s_.last[warp()] = *last;
    }
    __syncthreads();
    if (warp() == 0) {
      s_.range[0] = __reduce_min_sync(~0U, s_.first[lane() % kWarps]);
      s_.range[1] = __reduce_max_sync(~0U, s_.last[lane() % kWarps]);
    }
    cluster().sync();
    if (warp() == 0) {
      const Shared* other = cluster().map_shared_rank(&s_, lane() % kBlocks);
      s_.all_range[0] = __reduce_min_sync(~0U, other->range[0]);
      s_.all_range[1] = __reduce_max_sync(~0U, other->range[1]);
    }
    __syncthreads();
    *first = s_.all_range[0];
    *last = s_.all_range[1];
  }

  const RowDraw& how_;
  const LogitEdit* edits_;
  const float* row_;
  float* x_;
  Shared& s_;
  int begin_ = 0, size_ = 0;
  float best_ = 0, bins_a_unit_ = 0;
};

// Whose weights sum up to `mass` > 0.
__device__ inline u64 target_of(double uniform, u64 mass) {
  const auto at = static_cast<u64>(__dmul_rn(uniform, static_cast<double>(mass)));
  return at < mass ? at : mass - 1;
}

__device__ inline int draw_token(Part& part, const RowDraw& how, const PartSums& sums) {
  if (how.cuts == 0) {
    return part.find_in_order(target_of(how.uniform, sums.kept), [&](float x) {
      const u64 w = part.weight(x);
      return w >= how.least_weight ? w : 0;
    });
  }
  u64 wanted = kAll;
  if (how.top_p < 1) {
    wanted = static_cast<u64>(__dmul_rn(how.top_p, static_cast<double>(sums.total)));
    if (wanted == 0) wanted = 1;
  }
  // What is kept may end before either limit.
  u64 mass = sums.kept;
  if (wanted < mass || how.count_max < kAll) {
    const u64 reached = min(wanted, sums.kept);
    mass = part.find_prefix(reached, how.count_max).mass();
  }
  const u64 target = target_of(how.uniform, mass);
  const auto drawn = part.find_prefix(target + 1, kAll);
  return part.find_in_order(drawn.equal - 1,
                            [&](float x) { return static_cast<u64>(x > -INFINITY && key_of(x) == drawn.key); });
}

__global__ void __cluster_dims__(kBlocks, 1, 1) __launch_bounds__(kThreads)
    draw_kernel(const float* logits, int64_t stride, int n, const RowDraw* draws, const LogitEdit* edits,
                RowDrawn* drawn, int32_t* tokens) {
  begin_kernel();
  extern __shared__ float x[];
  __shared__ Shared shared;
  const int64_t row = blockIdx.x / kBlocks;
  const RowDraw how = draws[row];
  const float* in = logits + row * stride;
  Part part(how, edits, in, n, x, shared);
  const PartBest best = part.load();
  PartSums sums{0, 0, 0, 0};
  const bool possible = best.sound != 0 && best.value > -INFINITY;
  const bool draws_one = possible && how.greedy == 0;
  if (best.sound != 0 && best.raw > -INFINITY && (draws_one || how.rates != 0)) sums = part.add_up(best.raw);
  // One thread of the cluster has a token.
  int token = -1;
  if (draws_one) {
    token = draw_token(part, how, sums);
  } else if (blockIdx.x % kBlocks == 0 && threadIdx.x == 0) {
    token = possible ? best.at : 0;
  }
  if (token >= 0) {
    drawn[row] = {token, in[token], best.raw, best.sound, static_cast<int32_t>(possible), sums.raw_total};
    tokens[row] = token;
  }
  Part::cluster().sync();  // others may still read what is shared
}

}  // namespace

bool draw(cudaStream_t stream, const float* logits, int64_t stride, int64_t m, int64_t n, const RowDraw* draws,
          const LogitEdit* edits, RowDrawn* drawn, int32_t* tokens) {
  constexpr int64_t kTokensMax = 48 << 10;  // of a block
  const int64_t each = ceil_div<int64_t>(n, kBlocks);
  if (each > kTokensMax) return false;
  if (m == 0) return true;
  // A thread has one card.
  thread_local const cudaError_t allowed = cudaFuncSetAttribute(
      draw_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(kTokensMax * sizeof(float)));
  check_cuda(allowed);
  launch_kernel(stream, draw_kernel, static_cast<unsigned>(m * kBlocks), kThreads, each * sizeof(float), logits, stride,
                static_cast<int>(n), draws, edits, drawn, tokens);
  return true;
}

}  // namespace baton::kernels::cuda
