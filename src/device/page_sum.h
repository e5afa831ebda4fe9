// The checksum of a page: 16-byte words, each multiplied with keys of its own place in the canonical page
// (layout::WordRun) and summed. A sum can be made by any device, in any order, in parts that lie on several of them.
// What it detects is in docs/PROTOCOL.md; the arithmetic here is part of the protocol.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "layout/plan.h"

namespace baton::device {

// 128 bits, added modulo 2^128.
struct WordSum {
  uint64_t low = 0;
  uint64_t high = 0;
  constexpr bool operator==(const WordSum&) const = default;
  WordSum& operator+=(const WordSum& other);
};

// The keys of one attempt. Plain data: a kernel takes it as an argument.
//
// Word w of 64-bit halves (a, b), little endian, adds (a + key(first, w)) * (b + key(second, w)), where the sums are
// modulo 2^64 and the product has 128 bits: the hash NH of UMAC (Black et al., CRYPTO 1999).
struct PageKeys {
  struct Sequence {
    uint64_t start = 0;
    uint64_t mask = 0;
    constexpr bool operator==(const Sequence&) const = default;
  };
  Sequence first, second;
  WordSum fold_low, fold_high;  // of fold()

  explicit PageKeys(uint64_t seed);
  constexpr bool operator==(const PageKeys&) const = default;

  // 64 bits of the sum, by multiplications modulo 2^128 whose upper halves count (Dietzfelbinger 1996).
  [[nodiscard]] uint64_t fold(const WordSum& sum) const;
};

// The sum over rows in memory that this processor reads. `pool` is where the offsets of the runs count from.
[[nodiscard]] WordSum sum_words(std::span<const std::byte> pool, std::span<const layout::WordRun> runs,
                                const PageKeys& keys);

}  // namespace baton::device
