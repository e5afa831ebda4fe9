// Tokens that a card draws at the end of its steps, fetched a step later; and for how long the card was at work.
#pragma once

#include <cuda_runtime_api.h>

#include <atomic>
#include <bit>
#include <cstring>
#include <span>

#include "kernels/cuda/kernels_cuda.h"
#include "kernels/cuda/step_uploads.h"

namespace baton::kernels::cuda {

// Used by one thread, which may begin a step while the one before it is under way; but for busy_ns().
class StepDraws {
 public:
  StepDraws(cudaStream_t stream, int64_t rows_max)
      : stream_(stream),
        tokens_(allocate_on_card(static_cast<size_t>(rows_max) * sizeof(int32_t))),
        drawn_(allocate_on_card(static_cast<size_t>(rows_max) * sizeof(sampling::RowDrawn))) {
    for (Turn& turn : turns_) {
      turn.drawn = allocate_pinned(static_cast<size_t>(rows_max) * sizeof(sampling::RowDrawn));
      BATON_CUDA_CHECK(cudaEventCreate(&turn.begun), "a step");
      BATON_CUDA_CHECK(cudaEventCreate(&turn.done), "a step");
    }
  }
  ~StepDraws() {
    for (const Turn& turn : turns_) {
      (void)cudaEventDestroy(turn.begun);
      (void)cudaEventDestroy(turn.done);
    }
  }
  StepDraws(const StepDraws&) = delete;
  StepDraws& operator=(const StepDraws&) = delete;

  // What the last step drew, on the card.
  [[nodiscard]] const int32_t* tokens() const { return reinterpret_cast<const int32_t*>(tokens_.get()); }

  void step_begins() {
    BATON_CUDA_CHECK(cudaEventRecord(turns_[begun_ % 2].begun, stream_), "a step");
    timed_ = true;
  }
  // Of a step that drew nothing here, when all is done.
  cudaError_t step_ends() {
    Turn& turn = turns_[begun_ % 2];
    if (timed_) (void)cudaEventRecord(turn.done, stream_);
    const cudaError_t code = cudaStreamSynchronize(stream_);
    if (timed_ && code == cudaSuccess) count(turn);
    timed_ = false;
    return code;
  }

  bool begin(const float* logits, int64_t stride, int64_t columns, std::span<const sampling::RowDraw> draws,
             std::span<const sampling::LogitEdit> edits) {
    BATON_CHECK(begun_ - ended_ < 2, "{} steps' draws are under way", begun_ - ended_);
    Turn& turn = turns_[begun_ % 2];
    grow(draws.size_bytes() + edits.size_bytes());
    std::memcpy(turn.asked.get(), draws.data(), draws.size_bytes());
    if (!edits.empty()) std::memcpy(turn.asked.get() + draws.size_bytes(), edits.data(), edits.size_bytes());
    BATON_CUDA_CHECK(cudaMemcpyAsync(asked_.get(), turn.asked.get(), draws.size_bytes() + edits.size_bytes(),
                                     cudaMemcpyHostToDevice, stream_),
                     "{} draws", draws.size());
    auto* drawn = reinterpret_cast<sampling::RowDrawn*>(drawn_.get());
    const auto* asked = reinterpret_cast<const sampling::RowDraw*>(asked_.get());
    const auto m = static_cast<int64_t>(draws.size());
    if (!draw(stream_, logits, stride, m, columns, asked,
              reinterpret_cast<const sampling::LogitEdit*>(asked + draws.size()), drawn,
              reinterpret_cast<int32_t*>(tokens_.get())))
      return false;
    BATON_CUDA_CHECK(cudaMemcpyAsync(turn.drawn.get(), drawn, draws.size() * sizeof(sampling::RowDrawn),
                                     cudaMemcpyDeviceToHost, stream_),
                     "{} draws", draws.size());
    BATON_CUDA_CHECK(cudaEventRecord(turn.done, stream_), "{} draws", draws.size());
    timed_ = false;
    ++begun_;
    return true;
  }
  // Of the oldest draws that end() has not given.
  [[nodiscard]] bool ended() const {
    const bool not_ready = cudaEventQuery(turns_[ended_ % 2].done) == cudaErrorNotReady;
    if (not_ready) (void)cudaGetLastError();  // no error, but some runtimes keep it as one
    return !not_ready;
  }
  cudaError_t end(std::span<sampling::RowDrawn> drawn) {
    Turn& turn = turns_[ended_ % 2];
    const cudaError_t code = cudaEventSynchronize(turn.done);
    if (code != cudaSuccess) return code;
    std::memcpy(drawn.data(), turn.drawn.get(), drawn.size_bytes());
    count(turn);
    ++ended_;
    return code;
  }

  // Between the begin and the end of steps on the card. Any thread.
  [[nodiscard]] int64_t busy_ns() const { return busy_ns_; }

 private:
  struct Turn {
    std::shared_ptr<std::byte> asked, drawn;  // pinned
    cudaEvent_t begun = nullptr, done = nullptr;
  };
  void grow(size_t bytes) {
    if (bytes <= asked_bytes_) return;
    BATON_CUDA_CHECK(cudaStreamSynchronize(stream_), "before memory moves");
    asked_bytes_ = std::bit_ceil(bytes);
    asked_ = allocate_on_card(asked_bytes_);
    for (Turn& turn : turns_) turn.asked = allocate_pinned(asked_bytes_);
  }
  void count(const Turn& turn) {
    float ms = 0;
    if (cudaEventElapsedTime(&ms, turn.begun, turn.done) == cudaSuccess) busy_ns_ += static_cast<int64_t>(ms * 1e6F);
  }

  const cudaStream_t stream_;
  const std::shared_ptr<std::byte> tokens_, drawn_;
  std::shared_ptr<std::byte> asked_;
  size_t asked_bytes_ = 0;
  Turn turns_[2];  // even and odd draws
  uint64_t begun_ = 0, ended_ = 0;
  bool timed_ = false;
  std::atomic<int64_t> busy_ns_{0};
};

}  // namespace baton::kernels::cuda
