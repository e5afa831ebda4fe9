// Who sends which slices of a request's KV to whom, between a prefill instance and a decode instance of any two
// layouts. Pure: both sides compute it alone and compare its hash when they pair.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "layout/layout.h"
#include "layout/link_rate.h"

namespace baton::layout {

// One side of a pair, as far as the plan is concerned.
struct PlanSide {
  Layout layout;
  int page_tokens = 0;
  constexpr bool operator==(const PlanSide&) const = default;
};

enum class WriterPolicy : uint8_t {
  kBalanced,  // the least loaded replica, rotated by attempt id (default)
  kRandom,    // drawn from the attempt id
  kFirst,     // always the lowest rank, as SGLang does
};
Result<WriterPolicy> parse_writer_policy(std::string_view text);  // "balanced", "random", "first"
[[nodiscard]] const char* writer_policy_name(WriterPolicy policy);

// direct: every destination replica is written by a source. local: the replicas of one destination slice each receive a
// stripe of the tokens from a source and copy the rest from each other inside the instance, so unique bytes cross the
// fabric once.
enum class Fanout : uint8_t { kDirect, kLocal };
Result<Fanout> parse_fanout(std::string_view text);  // "direct", "local"
[[nodiscard]] const char* fanout_name(Fanout fanout);

// What one source rank writes to one destination rank. Both are numbered within one DP group of their side (pp_stage *
// attn_tp + attn_tp_rank), because a request lives in one group of either side. The sequence is counted in units of
// `unit_tokens` tokens, from its token 0: a page of the coarser of the two page grids. The piece carries those units u
// for which u % stripes is `stripe`. The planner always sets unit_tokens, also when there is one stripe.
struct Piece {
  int source = 0;
  int destination = 0;
  Interval layers;
  Interval heads;
  int stripe = 0;
  int stripes = 1;
  int unit_tokens = 0;
  constexpr bool operator==(const Piece&) const = default;
};

// A copy inside the destination instance (fanout local): `destination` takes the piece's stripe from `source`, also a
// destination rank.
struct LocalCopy {
  int source = 0;
  int destination = 0;
  Interval layers;
  Interval heads;
  int stripe = 0;
  int stripes = 1;
  int unit_tokens = 0;
  constexpr bool operator==(const LocalCopy&) const = default;
};

// A plan for an attempt is deterministic in (sides, geometry, policy, fanout, attempt).
struct Plan {
  std::vector<Piece> pieces;            // sorted by (destination, layers.begin, heads.begin)
  std::vector<LocalCopy> local_copies;  // sorted by (destination, layers.begin, heads.begin, source)
  // Every (source, destination) pair that holds common bytes, sorted; real: a piece crosses it, else dummy for this
  // attempt.
  struct Link {
    int source = 0;
    int destination = 0;
    bool real = false;
    constexpr bool operator==(const Link&) const = default;
  };
  std::vector<Link> links;
};

// Bounds that make() enforces, so that no offset or sum of bytes overflows 64 bits.
inline constexpr int kPageTokensMax = 128;
inline constexpr uint64_t kPageBytesMax = uint64_t{1} << 30;   // of one page on one rank; page numbers have 32 bits
inline constexpr uint64_t kTokenBytesMax = uint64_t{1} << 28;  // of one token over all layers and heads
inline constexpr int64_t kPlanTokensMax = int64_t{1} << 24;    // of one sequence
// Pieces and local copies of one plan, so that whoever shows us a layout cannot keep us busy with it: replicas that
// copy from each other need one copy for each two of them.
inline constexpr int64_t kPlanSlicesMax = int64_t{1} << 18;

// Everything a pair agrees on, computed once. The attempt only rotates the choice among replicas, so that every replica
// sends equally much over many attempts. Immutable after make(): any number of threads may call it.
class Planner {
 public:
  // Refuses, in one line with both sides, geometries and layouts that cannot work together: kInvalidArgument for what
  // is wrong alone, kIncompatible for a layout that the model cannot be cut into or a plan of more than kPlanSlicesMax
  // slices. Takes some hundred milliseconds at most, whatever the sides.
  static Result<Planner> make(const KvGeometry& geometry, const PlanSide& prefill, const PlanSide& decode,
                              WriterPolicy policy = WriterPolicy::kBalanced, Fanout fanout = Fanout::kDirect);

  [[nodiscard]] Plan plan_for(AttemptId attempt) const;
  // Equal on both sides when both would compute the same plan for every attempt.
  [[nodiscard]] uint64_t hash() const { return hash_; }
  [[nodiscard]] const KvGeometry& geometry() const { return geometry_; }
  [[nodiscard]] const PlanSide& prefill() const { return prefill_; }
  [[nodiscard]] const PlanSide& decode() const { return decode_; }
  [[nodiscard]] WriterPolicy policy() const { return policy_; }
  [[nodiscard]] Fanout fanout() const { return fanout_; }
  // The pages of source / destination rank r of a group.
  [[nodiscard]] const PageShape& source_shape(int r) const { return source_shapes_[static_cast<size_t>(r)]; }
  [[nodiscard]] const PageShape& destination_shape(int r) const { return destination_shapes_[static_cast<size_t>(r)]; }
  [[nodiscard]] int source_ranks() const { return static_cast<int>(source_shapes_.size()); }
  [[nodiscard]] int destination_ranks() const { return static_cast<int>(destination_shapes_.size()); }

 private:
  // Source ranks that hold the same slices: any of them can send any of them.
  struct ReplicaSet {
    std::vector<int> sources;  // ascending
  };
  // A rectangle of one destination rank with the same possible writers throughout.
  struct Slice {
    int destination = 0;
    Interval layers;
    Interval heads;
    int group = 0;
    int seat = 0;     // balanced: sources[(seat + rotation of the group) % size] writes
    int replica = 0;  // of the `replicas` destination ranks with this very slice
    int replicas = 1;
  };

  Planner() = default;
  Status cut_slices();
  void seat_slices();
  void link_ranks();
  [[nodiscard]] int64_t check_work() const;
  [[nodiscard]] uint64_t compute_hash() const;
  [[nodiscard]] std::vector<int> choose_sources(AttemptId attempt) const;
  [[nodiscard]] std::vector<LocalCopy> local_copies_of(const std::vector<Piece>& pieces) const;

  KvGeometry geometry_;
  PlanSide prefill_, decode_;
  WriterPolicy policy_ = WriterPolicy::kBalanced;
  Fanout fanout_ = Fanout::kDirect;
  std::vector<PageShape> source_shapes_, destination_shapes_;
  std::vector<ReplicaSet> groups_;
  std::vector<Slice> slices_;      // in the order of Plan::pieces
  std::vector<Plan::Link> links_;  // all dummy
  uint64_t hash_ = 0;
};

// One contiguous copy of a handoff: offsets in the two ranks' pools, in bytes.
struct Copy {
  uint64_t source_offset = 0;
  uint64_t destination_offset = 0;
  uint64_t length = 0;
  constexpr bool operator==(const Copy&) const = default;
};

// The copies of one piece for sequence tokens [begin, end), merged where both sides are adjacent. source_pages and
// destination_pages are the sequence's page numbers in token order on either side: page i holds the page_tokens tokens
// from i * page_tokens on, and both lists reach `end`, checked.
//
// Equal page sizes: a page that the range touches is copied whole (the sender zeroes the tail of a last, partial page
// first), in one copy for each page and head; in one for each page where the layers match on both sides; in one for a
// run of pages where the heads match too. `begin` must be at a page start, checked.
// Unequal page sizes: exactly the tokens of the range are copied, cut at the finer of the two grids: one copy for each
// cut, head, layer and k|v.
[[nodiscard]] std::vector<Copy> piece_copies(const Planner& planner, const Piece& piece, int64_t begin, int64_t end,
                                             const std::vector<PageId>& source_pages,
                                             const std::vector<PageId>& destination_pages);

// The sum of their lengths, whatever the pages.
[[nodiscard]] uint64_t piece_bytes(const Planner& planner, const Piece& piece, int64_t begin, int64_t end);

// The first token after `begin` at which the copies of a slice may be cut into two calls so that each makes about
// `copies` copies: whole units, the same copies in all.
[[nodiscard]] int64_t copies_cut(const Planner& planner, const Piece& slice, int64_t begin, int64_t copies);
[[nodiscard]] int64_t copies_cut(const Planner& planner, const LocalCopy& slice, int64_t begin, int64_t copies);

// The same for a copy inside the destination instance, whose ranks all use the sequence's one page list. Any `begin`;
// pages are copied whole where the stripes allow it and `begin` is at a page start.
[[nodiscard]] std::vector<Copy> local_copies(const Planner& planner, const LocalCopy& copy, int64_t begin, int64_t end,
                                             const std::vector<PageId>& pages);

struct Run {
  uint64_t offset = 0;
  uint64_t length = 0;
  constexpr bool operator==(const Run&) const = default;
};

// Bytes of a pool, as the numbered words of a canonical page, for checksums (device/page_sum.h). The canonical page is
// the one that an undivided instance of decode's page size holds: a word has the same number on every rank of either
// side, whatever their layouts and page sizes. K or V of a (layer, head, token) is a row, whose last word is filled up
// with zeros where 16 bytes do not divide it.
inline constexpr uint64_t kWordBytes = 16;
struct WordRun {
  uint64_t offset = 0;     // in the pool
  uint64_t length = 0;     // of whole rows, one after another in the pool and in the numbering
  uint64_t row_bytes = 0;  // kWordBytes where rows need no filling up
  uint64_t word = 0;       // the number of the first one
  constexpr bool operator==(const WordRun&) const = default;
};
[[nodiscard]] constexpr uint64_t row_words(uint64_t row_bytes) { return (row_bytes + kWordBytes - 1) / kWordBytes; }

// The words of a piece's tokens [begin, end), which lie in one canonical page of `canonical_tokens` tokens, checked.
// `shape` and `pages` are of the rank that holds them. Neighbours are merged: a full page of a whole slice is one run
// where the page sizes are equal and rows need no filling up.
[[nodiscard]] std::vector<WordRun> piece_words(const PageShape& shape, const Piece& piece, int canonical_tokens,
                                               int64_t begin, int64_t end, const std::vector<PageId>& pages);

// The bytes of page `page` of a pool that hold its tokens [used, shape.page_tokens).
[[nodiscard]] std::vector<Run> tail_runs(const PageShape& shape, PageId page, int used);

// What `baton plan` prints: both sides, the matrix of real (R) and dummy (.) links over all ranks, bytes and copies per
// link for `tokens` tokens (1..kPlanTokensMax, checked), total bytes over unique bytes, and a warning when the mean
// copy is under 16 KiB. Copies are counted for scattered pages: adjacent pages merge and give fewer. With `rate`, the
// time of each link alone, and of all when those of one rank go one after another and those of different ranks at once.
[[nodiscard]] std::string describe_plan(const Planner& planner, int64_t tokens, AttemptId attempt,
                                        const LinkRate* rate = nullptr);

}  // namespace baton::layout
