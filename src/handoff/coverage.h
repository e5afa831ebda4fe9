// Which bytes make up each destination page, in an order that both sides agree on, and their checksums.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "handoff/events.h"
#include "layout/plan.h"

namespace baton::handoff {

// What the destination ranks of a group end up holding, as pieces whose `source` is the rank that computed them: those
// written to a rank directly and those it copies from a neighbour, sorted by (layers, heads, stripe). Ranks that hold
// the same bytes of the same sources are of one kind and share its pieces, whose `destination` says nothing.
struct Coverage {
  std::vector<std::vector<layout::Piece>> kinds;
  std::vector<size_t> kind_of;  // by destination rank
};
[[nodiscard]] Coverage coverage_of(const layout::Plan& plan, int destination_ranks);

// XXH3-64 over the tokens [begin, end) of `pieces`, piece by piece in canonical order. pool_of(piece) is the memory of
// the side that hashes and its page shape; `pages` are its pages of the sequence.
struct PoolView {
  std::span<const std::byte> bytes;
  const layout::PageShape* shape = nullptr;
};
template <typename PoolOf>
uint64_t checksum(const std::vector<layout::Piece>& pieces, PoolOf pool_of, int64_t begin, int64_t end,
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
uint64_t checksum(const std::vector<layout::Piece>& pieces, PoolOf pool_of, int64_t begin, int64_t end,
                  const std::vector<PageId>& pages) {
  PageHasher hasher;
  for (const layout::Piece& piece : pieces) {
    const PoolView pool = pool_of(piece);
    for (const layout::Run& run : layout::piece_runs(*pool.shape, piece, begin, end, pages))
      hasher.add(pool.bytes.subspan(run.offset, run.length));
  }
  return hasher.digest();
}

}  // namespace baton::handoff
