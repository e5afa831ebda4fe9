// The checksum against a plain model of its formula, and each class of damage that docs/PROTOCOL.md names.
#include "device/page_sum.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <functional>
#include <utility>
#include <vector>

#include "base/random.h"

namespace baton::device {
namespace {

using Bytes = std::vector<std::byte>;
using layout::kWordBytes;
using layout::WordRun;

constexpr size_t kWords = 256;

WordRun whole(const Bytes& bytes, uint64_t word = 0) {
  return {.offset = 0, .length = bytes.size(), .row_bytes = kWordBytes, .word = word};
}

uint64_t checksum(const Bytes& bytes, uint64_t seed, uint64_t word = 0) {
  const PageKeys keys(seed);
  const WordRun run = whole(bytes, word);
  return keys.fold(sum_words(bytes, std::span(&run, 1), keys));
}

Bytes random_bytes(size_t size, uint64_t seed) {
  Random random(seed);
  Bytes bytes(size);
  for (std::byte& b : bytes) b = static_cast<std::byte>(random.next());
  return bytes;
}

TEST(PageSum, ItsValuesArePartOfTheProtocol) {
  Bytes bytes(64);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * 7);
  const PageKeys keys(42);
  const WordRun run = whole(bytes, 1000);
  // From an implementation in Python, of PROTOCOL.md's words alone.
  EXPECT_EQ(sum_words(bytes, std::span(&run, 1), keys),
            (WordSum{.low = 0xa16a3fc77f0931c2, .high = 0xd3e9527fbe997205}));
  EXPECT_EQ(checksum(bytes, 42, 1000), 0xaa311007f173c347u);
  EXPECT_EQ(checksum({}, 42), 0u);
}

TEST(PageSum, AnyOrderAndAnyCutGiveTheSameSum) {
  const PageKeys keys(3);
  Random random(1);
  for (const uint64_t row : {16, 48, 6, 20, 72}) {
    const uint64_t rows = 40;
    const Bytes bytes = random_bytes(row * rows, row);
    const uint64_t words = layout::row_words(row), row_bytes = row % 16 == 0 ? 16 : row;
    const WordRun one{.offset = 0, .length = row * rows, .row_bytes = row_bytes, .word = 7};
    const WordSum expected = sum_words(bytes, std::span(&one, 1), keys);
    std::vector<WordRun> parts;
    for (uint64_t at = 0; at < rows;) {
      const uint64_t count = std::min(rows - at, 1 + random.below(5));
      parts.push_back({.offset = at * row, .length = count * row, .row_bytes = row_bytes, .word = 7 + at * words});
      at += count;
    }
    for (size_t i = parts.size(); i > 1; --i) std::swap(parts[i - 1], parts[random.below(i)]);
    EXPECT_EQ(sum_words(bytes, parts, keys), expected) << row;
    WordSum added;
    for (const WordRun& part : parts) added += sum_words(bytes, std::span(&part, 1), keys);
    EXPECT_EQ(added, expected) << row << ": parts of several devices";
  }
}

TEST(PageSum, ARowIsFilledUpWithZeros) {
  const PageKeys keys(9);
  const Bytes rows = random_bytes(3 * 20, 4);
  Bytes filled(3 * 32);
  for (size_t r = 0; r < 3; ++r) std::memcpy(&filled[r * 32], &rows[r * 20], 20);
  const WordRun uneven{.offset = 0, .length = 60, .row_bytes = 20, .word = 5};
  const WordRun even{.offset = 0, .length = 96, .row_bytes = 16, .word = 5};
  EXPECT_EQ(sum_words(rows, std::span(&uneven, 1), keys), sum_words(filled, std::span(&even, 1), keys));
}

// Damage of every class, on pages that are random, all zeros, all ones, and of one repeated word (which equal keys for
// all words, or keys in equal steps, would let through), each with several keys.
TEST(PageSum, DamageOfEveryClassChangesIt) {
  struct Damage {
    const char* name;
    std::function<void(Bytes&, Random&)> apply;
  };
  const auto half = [](Bytes& b, size_t i) { return b.data() + i * 8; };
  const auto swap_bytes = [](std::byte* a, std::byte* b, size_t n) { std::swap_ranges(a, a + n, b); };
  const std::vector<Damage> damages = {
      {"a bit", [](Bytes& b, Random& r) { b[r.below(b.size())] ^= std::byte{1} << static_cast<int>(r.below(8)); }},
      {"a word", [&](Bytes& b, Random& r) { *half(b, 2 * r.below(kWords)) ^= std::byte{5}; }},
      {"the highest bits of two words",
       [&](Bytes& b, Random& r) {
         const size_t i = r.below(kWords - 1);
         b[i * 16 + 7] ^= std::byte{0x80};
         b[(i + 1) * 16 + 7] ^= std::byte{0x80};
       }},
      {"two halves by as much, up and down",
       [&](Bytes& b, Random& r) {
         const size_t i = 2 * r.below(kWords / 2), j = i + kWords;
         const uint64_t step = r.next();
         for (const auto& [at, by] : {std::pair(i, step), std::pair(j, uint64_t{0} - step)}) {
           uint64_t value;
           std::memcpy(&value, half(b, at), 8);
           value += by;
           std::memcpy(half(b, at), &value, 8);
         }
       }},
      {"words swapped",
       [&](Bytes& b, Random& r) {
         const size_t i = r.below(kWords / 2), j = kWords / 2 + r.below(kWords / 2);
         swap_bytes(&b[i * 16], &b[j * 16], 16);
       }},
      {"halves of a word swapped",
       [&](Bytes& b, Random& r) {
         const size_t i = r.below(kWords);
         swap_bytes(half(b, 2 * i), half(b, 2 * i + 1), 8);
       }},
      {"blocks of 1 KiB swapped", [&](Bytes& b, Random&) { swap_bytes(b.data(), b.data() + 2048, 1024); }},
      {"a run of zeros",
       [](Bytes& b, Random& r) { std::fill_n(b.begin() + static_cast<ptrdiff_t>(r.below(3000)), 100, std::byte{0}); }},
      {"nothing written", [](Bytes& b, Random&) { std::fill(b.begin(), b.end(), std::byte{0xee}); }},
      {"a run moved by 1 byte", [](Bytes& b, Random&) { std::memmove(&b[1], b.data(), 999); }},
      {"a run moved by 8 bytes", [](Bytes& b, Random&) { std::memmove(&b[8], b.data(), 1000); }},
      {"a run moved by 16 bytes", [](Bytes& b, Random&) { std::memmove(&b[16], b.data(), 1600); }},
      {"a run moved by 24 bytes", [](Bytes& b, Random&) { std::memmove(&b[24], b.data(), 1600); }},
      {"all turned by a word", [](Bytes& b, Random&) { std::rotate(b.begin(), b.begin() + 16, b.end()); }},
      {"noise", [](Bytes& b, Random& r) { b = random_bytes(b.size(), r.next()); }},
  };
  std::vector<Bytes> pages = {random_bytes(kWords * 16, 1), Bytes(kWords * 16), Bytes(kWords * 16, std::byte{0xff})};
  Bytes repeated = random_bytes(16, 2);
  for (size_t i = 1; i < kWords; ++i) repeated.insert(repeated.end(), repeated.begin(), repeated.begin() + 16);
  pages.push_back(std::move(repeated));
  Bytes sparse(kWords * 16);  // a value here and there among zeros
  for (size_t i = 0; i < sparse.size(); i += 200) sparse[i] = std::byte{1};
  pages.push_back(std::move(sparse));
  Random random(7);
  for (const Damage& damage : damages) {
    int changed = 0;
    for (const Bytes& page : pages) {
      for (uint64_t seed = 0; seed < 50; ++seed) {
        Bytes damaged = page;
        damage.apply(damaged, random);
        if (damaged == page) continue;
        ++changed;
        ASSERT_NE(checksum(damaged, seed), checksum(page, seed)) << damage.name << ", keys of seed " << seed;
      }
    }
    EXPECT_GT(changed, 0) << damage.name;
  }
}

TEST(PageSum, TheSameBytesAtAnotherPlaceOrOfAnotherAttemptSumToSomethingElse) {
  for (const Bytes& page : {random_bytes(1024, 3), Bytes(1024), Bytes(1024, std::byte{0xff})}) {
    EXPECT_NE(checksum(page, 1, 0), checksum(page, 1, 1));
    EXPECT_NE(checksum(page, 1, 0), checksum(page, 1, 64));
    EXPECT_NE(checksum(page, 1, 0), checksum(page, 2, 0));
  }
}

// Bits of the checksum that a flipped bit flips: half of them, wherever it was.
TEST(PageSum, AFlippedBitFlipsHalfOfTheBits) {
  const Bytes page = random_bytes(1024, 8);
  int64_t flipped = 0, tries = 0;
  for (size_t bit = 0; bit < page.size() * 8; bit += 13, ++tries) {
    Bytes damaged = page;
    damaged[bit / 8] ^= std::byte{1} << static_cast<int>(bit % 8);
    flipped += std::popcount(checksum(page, bit) ^ checksum(damaged, bit));
  }
  EXPECT_NEAR(static_cast<double>(flipped) / static_cast<double>(tries), 32, 1.5);
}

TEST(PageSumDeathTest, HalfARowStops) {
  const Bytes bytes(64);
  const WordRun half{.offset = 0, .length = 30, .row_bytes = 20, .word = 0};
  EXPECT_DEATH((void)sum_words(bytes, std::span(&half, 1), PageKeys(1)), "rows of 20 bytes in 30");
}

}  // namespace
}  // namespace baton::device
