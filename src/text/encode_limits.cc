#include "text/encode_limits.h"

#include <ctime>

namespace baton::text {

std::chrono::nanoseconds EncodeBudget::now() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
}

bool EncodeBudget::look() {
  spent_ = 0;
  if (is_over()) return false;
  if (limits_.stop.stop_requested()) {
    fail(error(ErrorCode::kCancelled, "tokenizing was stopped"));
  } else if (now() > end_) {
    fail(
        error(ErrorCode::kInvalidArgument,
              "the text takes more than {} ms to tokenize: it is too long, or a pattern of tokenizer.json cannot match "
              "it in reasonable time",
              limits_.cpu_max.count()));
  }
  return !is_over();
}

bool EncodeBudget::allows_tokens(size_t count) {
  if (count <= limits_.tokens_max) return !is_over();
  fail(error(ErrorCode::kInvalidArgument, "the text has more than {} tokens", limits_.tokens_max));
  return false;
}

}  // namespace baton::text
