#include "handoff/coverage.h"

#include <algorithm>
#include <map>
#include <tuple>

#include "base/check.h"

namespace baton::handoff {

using layout::Piece;

namespace {

// In the order of the pieces of a rank.
auto key_of(const Piece& p) {
  return std::tuple(p.layers.begin, p.heads.begin, p.stripe, p.layers.end, p.heads.end, p.stripes, p.source,
                    p.unit_tokens);
}
// Of the place of a slice, wherever it comes from.
template <typename Slice>
auto place_of(int rank, const Slice& s) {
  return std::tuple(rank, s.layers.begin, s.layers.end, s.heads.begin, s.heads.end, s.stripe, s.stripes);
}

}  // namespace

Coverage coverage_of(const layout::Plan& plan, int destination_ranks) {
  std::vector<std::vector<Piece>> pieces(static_cast<size_t>(destination_ranks));
  std::map<std::tuple<int, int, int, int, int, int, int>, const Piece*> written;
  for (const Piece& piece : plan.pieces) {
    pieces[static_cast<size_t>(piece.destination)].push_back(piece);
    if (!plan.local_copies.empty()) written[place_of(piece.destination, piece)] = &piece;
  }
  for (const layout::LocalCopy& copy : plan.local_copies) {
    const auto origin = written.find(place_of(copy.source, copy));
    BATON_CHECK(origin != written.end(), "rank {} copies from rank {} what no one wrote there", copy.destination,
                copy.source);
    pieces[static_cast<size_t>(copy.destination)].push_back(*origin->second);
  }
  const auto before = [](const Piece& a, const Piece& b) { return key_of(a) < key_of(b); };
  const auto all_before = [&](const std::vector<Piece>& a, const std::vector<Piece>& b) {
    return std::lexicographical_compare(a.begin(), a.end(), b.begin(), b.end(), before);
  };
  std::map<std::vector<Piece>, size_t, decltype(all_before)> kinds(all_before);
  Coverage coverage;
  for (std::vector<Piece>& own : pieces) {
    for (Piece& piece : own) piece.destination = 0;
    std::sort(own.begin(), own.end(), before);
    const auto [kind, added] = kinds.try_emplace(std::move(own), coverage.kinds.size());
    if (added) coverage.kinds.push_back(kind->first);
    coverage.kind_of.push_back(kind->second);
  }
  return coverage;
}

void PageSums::begin(const std::vector<Piece>& pieces, const std::function<const Pool&(const Piece&)>& pool_of,
                     int page_tokens, int64_t begin, int64_t end, const std::vector<PageId>& pages) {
  for (const Piece& piece : pieces) {
    const Pool& pool = pool_of(piece);
    const std::vector<layout::WordRun> words = layout::piece_words(pool.shape, piece, page_tokens, begin, end, pages);
    if (!words.empty()) streams_.of(pool.memory).sum(pool.memory, words, keys_, &sums_.emplace_back());
  }
  ends_.push_back(sums_.size());
}

std::vector<uint64_t> PageSums::take() {
  streams_.wait();
  std::vector<uint64_t> checksums;
  checksums.reserve(ends_.size());
  auto sum = sums_.begin();
  for (const size_t end : ends_) {
    device::WordSum page;
    for (; sum != sums_.begin() + static_cast<ptrdiff_t>(end); ++sum) page += *sum;
    checksums.push_back(keys_.fold(page));
  }
  sums_.clear();
  ends_.clear();
  return checksums;
}

}  // namespace baton::handoff
