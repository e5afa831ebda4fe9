// Weights as a card has them, and how they come there.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cuda/kernels_cuda.h"
#include "kernels/cuda/pinned_staging.h"

namespace baton::kernels::cuda {

struct CardWeight final : Weight {
  CardWeight(int64_t n, int64_t k, std::shared_ptr<std::byte> on_card) : Weight(n, k), memory(std::move(on_card)) {}
  [[nodiscard]] Fp8Weight fp8_weight() const {
    return {layout, reinterpret_cast<const fp8*>(memory.get()), reinterpret_cast<const float*>(scales.get())};
  }

  std::shared_ptr<std::byte> memory;  // (n, k) of the backend's activations, or fp8
  std::shared_ptr<std::byte> scales;  // of fp8, else null
  Fp8Layout layout;                   // of fp8
};

// The experts of a rank, one after another: `gate_up` and `down` are the first one's.
struct CardExperts final : ExpertSet {
  std::shared_ptr<CardWeight> gate_up, down;
  int count = 0;
};

// Of one backend. Everything is in the order of its stream; what is passed from the processor has been read when a
// function returns.
class WeightLoader {
 public:
  explicit WeightLoader(cudaStream_t stream) : stream_(stream) {}
  // The slices one below the other, as T; with `keep_fp8` as they are where each is fp8, and its blocks can be a grid
  // of 2^3 to 2^7 rows by 128 columns.
  template <class T>
  std::shared_ptr<CardWeight> load(std::span<const tensor::MatrixSlice> stacked, bool keep_fp8);
  // The weights move: those of `experts` are let go.
  std::shared_ptr<CardExperts> stack(std::vector<GatedWeights>& experts, size_t value_bytes);
  // Lets go of what only loading needs.
  void release();

 private:
  template <class T>
  void load_values(const tensor::MatrixSlice& slice, std::byte* to);
  std::shared_ptr<CardWeight> load_fp8(std::span<const tensor::MatrixSlice> stacked);
  void make_uniform(const tensor::UniformMatrix& m, int64_t cols, bf16* to);
  std::shared_ptr<CardWeight> one_after_another(std::vector<GatedWeights>& experts, WeightPtr GatedWeights::*which,
                                                size_t value_bytes, bool keep_fp8);
  std::byte* scratch(size_t bytes);
  PinnedStaging& staging() { return staging_ ? *staging_ : staging_.emplace(stream_); }

  cudaStream_t stream_;
  std::optional<PinnedStaging> staging_;
  std::shared_ptr<std::byte> scratch_;  // of weights before they are quantized
  size_t scratch_bytes_ = 0;
};

}  // namespace baton::kernels::cuda
