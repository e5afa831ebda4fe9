#include "device/page_sum.h"

#include <bit>
#include <cstring>

#include "base/check.h"
#include "base/random.h"
#include "device/page_word.h"

namespace baton::device {
namespace {

static_assert(std::endian::native == std::endian::little, "words are read as they lie in memory");

// Walks along the words of a row.
struct Walk {
  const PageKeys keys;  // a copy, which stays in registers
  KeyWalk at;
  Uint128 sum = 0;

  inline void step(const std::byte* word) {
    uint64_t a, b;
    std::memcpy(&a, word, 8);
    std::memcpy(&b, word + 8, 8);
    sum += at.term(keys, a, b);
    at.advance(1);
  }
};

constexpr uint64_t kWord = layout::kWordBytes;
// The processor's own prefetching stops at the end of every 4 KiB of memory, which costs more than the arithmetic.
constexpr uint64_t kAhead = 1024;

Uint128 sum_row(const std::byte* row, uint64_t bytes, uint64_t word, const PageKeys& keys) {
  Walk walk{keys, {keys, word}};
  uint64_t at = 0;
  for (; at + 4 * kWord <= bytes; at += 4 * kWord) {
    __builtin_prefetch(row + at + kAhead);
    walk.step(row + at);
    walk.step(row + at + kWord);
    walk.step(row + at + 2 * kWord);
    walk.step(row + at + 3 * kWord);
  }
  for (; at + kWord <= bytes; at += kWord) walk.step(row + at);
  if (at < bytes) {
    std::byte last[kWord] = {};
    std::memcpy(last, row + at, bytes - at);
    walk.step(last);
  }
  return walk.sum;
}

}  // namespace

WordSum& WordSum::operator+=(const WordSum& other) { return *this = narrow(wide(*this) + wide(other)); }

PageKeys::PageKeys(uint64_t seed) {
  Random random(seed);
  for (uint64_t* number : {&first.start, &first.mask, &second.start, &second.mask, &fold_low.low, &fold_low.high,
                           &fold_high.low, &fold_high.high})
    *number = random.next();
}

uint64_t PageKeys::fold(const WordSum& sum) const {
  return static_cast<uint64_t>((wide(fold_low) * sum.low + wide(fold_high) * sum.high) >> 64);
}

WordSum sum_words(std::span<const std::byte> pool, std::span<const layout::WordRun> runs, const PageKeys& keys) {
  Uint128 sum = 0;
  for (const layout::WordRun& run : runs) {
    const std::span<const std::byte> bytes = pool.subspan(run.offset, run.length);
    if (run.row_bytes % kWord == 0) {
      sum += sum_row(bytes.data(), bytes.size(), run.word, keys);
      continue;
    }
    BATON_CHECK(run.row_bytes > 0 && run.length % run.row_bytes == 0, "rows of {} bytes in {}", run.row_bytes,
                run.length);
    uint64_t word = run.word;
    for (uint64_t at = 0; at < run.length; at += run.row_bytes) {
      sum += sum_row(bytes.data() + at, run.row_bytes, word, keys);
      word += layout::row_words(run.row_bytes);
    }
  }
  return narrow(sum);
}

}  // namespace baton::device
