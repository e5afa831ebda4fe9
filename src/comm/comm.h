// What ranks exchange, as one rank of a group sees it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/check.h"
#include "base/result.h"
#include "tensor/dtype.h"

namespace baton::comm {

// Whose rows are whose in a buffer of rows: rank r's are [bounds[r], bounds[r + 1]), none if those are equal. (ranks +
// 1), ascending. Buffers begin at row bounds[0].
using RowBounds = std::span<const int64_t>;

// A buffer with all rows of a gathering. Rows are bytes: no arithmetic is done on them.
struct RowBuffer {
  void* rows = nullptr;
  size_t row_bytes = 0;
};

// What becomes of a sum that every rank wants: residual (rows, width) += sum, and normed (rows, width) =
// rms_norm(residual, weight, eps), or nothing if weight is null. All of the sum's type.
struct SumsTarget {
  void* residual = nullptr;
  const float* weight = nullptr;  // (width)
  float eps = 0;
  void* normed = nullptr;
};

// A rank's end of a group of ranks that call the same operations with the same bounds and sizes in the same order. It
// is used by the rank's thread, but for abort().
//
// 1. Buffers belong to the rank that passes them. What the others read of them (below) stays as it is until this rank's
//    next operation with the same ranks, or with more, has returned.
// 2. A sum is added up in the order of the ranks, so results do not depend on timing, nor on whose rows are whose.
// 3. A rank without rows takes part.
// 4. After abort() every operation, begun or to come, on whatever rank, fails with the error that abort() was given.
//    A group stays aborted. What others read must then stay until all ranks have returned.
class Comm {
 public:
  virtual ~Comm() = default;
  [[nodiscard]] virtual int rank() const = 0;
  [[nodiscard]] virtual int size() const = 0;

  // partial: (all rows, width) values of `dtype`, this rank's addend. In place: this rank's rows of it become the sums
  // over all ranks. The others read theirs.
  virtual Status reduce_scatter(void* partial, tensor::DType dtype, RowBounds bounds, int64_t width) = 0;

  // Up to kBuffersMax buffers at once. In place: each buffer has this rank's rows before and everybody's afterwards.
  // The others read this rank's.
  static constexpr size_t kBuffersMax = 4;
  virtual Status all_gather(std::span<const RowBuffer> buffers, RowBounds bounds) = 0;

  // Whether so many rows are better summed on every rank, by all_reduce(). The same on all ranks.
  [[nodiscard]] virtual bool sums_everywhere(int64_t rows, int64_t row_bytes) const {
    (void)rows, (void)row_bytes;
    return false;
  }
  // The sums over ranks of partial (rows, width), each rank's addend, go to each one's target. For those of
  // sums_everywhere() only.
  virtual Status all_reduce(const void* partial, tensor::DType dtype, int64_t rows, int64_t width,
                            const SumsTarget& target) {
    (void)partial, (void)dtype, (void)target;
    BATON_CHECK(false, "{} x {} sums on every rank", rows, width);
    return {};
  }

  // Bytes from one rank to another, in order; both mean the same number. send() may wait until what was sent before has
  // been received; what follows it may change the bytes.
  virtual Status send(int to, std::span<const std::byte> bytes) = 0;
  virtual Status receive(int from, std::span<std::byte> bytes) = 0;

  // Sums and gatherings are work in the device's queue and nothing else: they may be recorded there and done again
  // without a call. A rank may do so where another calls. The same on all ranks, but for what comes before the first.
  [[nodiscard]] virtual bool recordable() const = 0;

  // Thread safe. The first error stays.
  virtual void abort(Error failure) = 0;
  [[nodiscard]] virtual bool aborted() const = 0;
};

}  // namespace baton::comm
