// The arithmetic of the page checksum for one word, the same on every device (device/page_sum.h says what it is for).
#pragma once

#include <cstdint>

#include "device/page_sum.h"

namespace baton::device {

using Uint128 = unsigned __int128;

// 2^64 over the golden ratio: by what the states of two neighbouring words differ.
inline constexpr uint64_t kKeyStride = 0x9e3779b97f4a7c15;

constexpr Uint128 wide(const WordSum& sum) { return Uint128{sum.high} << 64 | sum.low; }
constexpr WordSum narrow(Uint128 sum) { return {static_cast<uint64_t>(sum), static_cast<uint64_t>(sum >> 64)}; }

// wyrand (Wang Yi): the key that belongs to a state.
constexpr uint64_t key_of(uint64_t state, uint64_t mask) {
  const Uint128 product = Uint128{state} * (state ^ mask);
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

// The states of both keys at a word.
struct KeyWalk {
  uint64_t first, second;

  constexpr KeyWalk(const PageKeys& keys, uint64_t word)
      : first(keys.first.start + word * kKeyStride), second(keys.second.start + word * kKeyStride) {}
  constexpr void advance(uint64_t words) {
    first += words * kKeyStride;
    second += words * kKeyStride;
  }
  // What the word of halves (a, b) adds.
  [[nodiscard]] constexpr Uint128 term(const PageKeys& keys, uint64_t a, uint64_t b) const {
    return Uint128{a + key_of(first, keys.first.mask)} * (b + key_of(second, keys.second.mask));
  }
};

}  // namespace baton::device
