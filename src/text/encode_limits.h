// What the encoding of one text may cost, so that neither a text nor the patterns of a tokenizer.json can hold a thread
// for ever.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <stop_token>

#include "base/result.h"

namespace baton::text {

struct EncodeLimits {
  std::stop_token stop;  // asked every few milliseconds: kCancelled
  // kInvalidArgument as soon as the text has more; the special tokens around it count too.
  size_t tokens_max = std::numeric_limits<size_t>::max();
  // Of the calling thread, so that a busy machine fails nothing: kInvalidArgument. A megabyte of prose takes 0.2 s.
  std::chrono::milliseconds cpu_max = std::chrono::seconds(10);
};

// Counts the work of one encoding. Used by one thread.
class EncodeBudget {
 public:
  explicit EncodeBudget(const EncodeLimits& limits) : limits_(limits), end_(now() + limits.cpu_max) {}

  // Counts `units` of about a nanosecond to a microsecond each, and looks at the clock and the stop token now and then.
  // False once the encoding must end; status() says why.
  bool spend(size_t units) {
    spent_ += units;
    return spent_ < kLookEvery ? !is_over() : look();
  }
  // Whether that many tokens are allowed.
  bool allows_tokens(size_t count);
  void fail(Error why) { failure_ = std::move(why); }
  [[nodiscard]] bool is_over() const { return !failure_.ok(); }
  [[nodiscard]] const Status& status() const { return failure_; }

 private:
  static constexpr size_t kLookEvery = 1 << 14;
  static std::chrono::nanoseconds now();
  bool look();

  const EncodeLimits limits_;
  const std::chrono::nanoseconds end_;
  size_t spent_ = 0;
  Status failure_;
};

}  // namespace baton::text
