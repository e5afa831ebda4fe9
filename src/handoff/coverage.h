// Which bytes make up each destination page, in an order that both sides agree on, and their checksums.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "handoff/events.h"
#include "layout/plan.h"

namespace baton {

// All that destination rank `destination` of a group ends up holding: the pieces written to it and those it copies from
// a neighbour, each with the rank that computed it as its `source`. Sorted by (layers, heads, stripe).
[[nodiscard]] std::vector<Piece> pieces_of(const Plan& plan, int destination);

// XXH3-64 over the tokens [begin, end) of `pieces`, piece by piece in canonical order. pool_of(piece) is the memory of
// the side that hashes and its page shape; `pages` are its pages of the sequence.
struct PoolView {
  std::span<const std::byte> bytes;
  const PageShape* shape = nullptr;
};
template <typename PoolOf>
uint64_t checksum(const std::vector<Piece>& pieces, PoolOf pool_of, int64_t begin, int64_t end,
                  const std::vector<PageId>& pages);

// Streaming XXH3-64 without its header in ours.
class PageHasher {
 public:
  PageHasher();
  ~PageHasher();
  PageHasher(const PageHasher&) = delete;
  PageHasher& operator=(const PageHasher&) = delete;
  void add(std::span<const std::byte> bytes);
  [[nodiscard]] uint64_t digest() const;

 private:
  void* state_;
};

template <typename PoolOf>
uint64_t checksum(const std::vector<Piece>& pieces, PoolOf pool_of, int64_t begin, int64_t end,
                  const std::vector<PageId>& pages) {
  PageHasher hasher;
  for (const Piece& piece : pieces) {
    const PoolView pool = pool_of(piece);
    for (const Run& run : piece_runs(*pool.shape, piece, begin, end, pages))
      hasher.add(pool.bytes.subspan(run.offset, run.length));
  }
  return hasher.digest();
}

}  // namespace baton
