// Which bytes make up each destination page, and their checksums.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <vector>

#include "device/stream.h"
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

// Checksums of destination pages, several at a time: sums run on the devices that the bytes lie on, and are awaited
// once.
class PageSums {
 public:
  // `seed`: the digest of the attempt's grant. `streams` must outlive the object.
  PageSums(device::Streams& streams, uint64_t seed) : streams_(streams), keys_(seed) {}
  // Waits for what was begun and not taken, which is to be written here.
  ~PageSums() {
    if (!ends_.empty()) streams_.wait();
  }
  PageSums(const PageSums&) = delete;
  PageSums& operator=(const PageSums&) = delete;

  // Begins the checksum of the page of `page_tokens` tokens that tokens [begin, end) lie in: of the words of `pieces`.
  // pool_of(piece) is the rank of the side that sums, `pages` its pages of the sequence.
  void begin(const std::vector<layout::Piece>& pieces, const std::function<const Pool&(const layout::Piece&)>& pool_of,
             int page_tokens, int64_t begin, int64_t end, const std::vector<PageId>& pages);
  // In the order of begin(), all that were begun since the last take(). Waits for them.
  [[nodiscard]] std::vector<uint64_t> take();
  [[nodiscard]] size_t begun() const { return ends_.size(); }

 private:
  device::Streams& streams_;
  device::PageKeys keys_;
  std::deque<device::WordSum> sums_;  // of each piece, because two may lie on different devices
  std::vector<size_t> ends_;          // of each page's in sums_
};

}  // namespace baton::handoff
