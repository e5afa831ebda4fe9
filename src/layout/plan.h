// Who sends which slices of a request's KV to whom, between a prefill instance and a decode instance of any two layouts. Pure: both
// sides compute it alone and compare its hash when they pair.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "layout/layout.h"

namespace baton {

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
Result<WriterPolicy> parse_writer_policy(std::string_view text);

// direct: every destination replica is written by a source. local: the replicas of one destination slice each receive a stripe of the
// pages from a source and copy the rest from each other inside the instance, so unique bytes cross the fabric once.
enum class Fanout : uint8_t { kDirect, kLocal };
Result<Fanout> parse_fanout(std::string_view text);

// Source rank and destination rank are ranks *within one DP group*: pp_stage * attn_tp + attn_tp_rank of its side, because one request
// lives in one group of either side. Stripe: of every `stripes` consecutive pages of the coarser grid the piece carries number `stripe`.
struct Piece {
  int source = 0;
  int destination = 0;
  Interval layers;
  Interval heads;
  int stripe = 0;
  int stripes = 1;
  constexpr bool operator==(const Piece&) const = default;
};

// A copy inside the destination instance (fanout local): `destination` takes the piece's stripe from `source`, also a destination rank.
struct LocalCopy {
  int source = 0;
  int destination = 0;
  Interval layers;
  Interval heads;
  int stripe = 0;
  int stripes = 1;
  constexpr bool operator==(const LocalCopy&) const = default;
};

// Which source ranks could serve a destination slice and which does: the planner's table before an attempt is known.
// A plan for an attempt is deterministic in (sides, geometry, policy, fanout, attempt).
struct Plan {
  std::vector<Piece> pieces;       // sorted by (destination, layers.begin, heads.begin, stripe)
  std::vector<LocalCopy> local_copies;
  // dummy[i]: (source, destination) pairs that hold the same bytes as a piece and stay silent for this attempt.
  struct Link {
    int source;
    int destination;
    bool real;
    constexpr bool operator==(const Link&) const = default;
  };
  std::vector<Link> links;
};

// Everything a pair agrees on, computed once. attempt only rotates the choice among replicas.
class Planner {
 public:
  // Refuses, in words with both sides, geometries and layouts that cannot work together.
  static Result<Planner> make(const KvGeometry& geometry, const PlanSide& prefill, const PlanSide& decode,
                              WriterPolicy policy = WriterPolicy::kBalanced, Fanout fanout = Fanout::kDirect);

  [[nodiscard]] Plan plan_for(AttemptId attempt) const;
  // Equal on both sides when both would compute the same plan for every attempt.
  [[nodiscard]] uint64_t hash() const { return hash_; }
  [[nodiscard]] const KvGeometry& geometry() const { return geometry_; }
  [[nodiscard]] const PlanSide& prefill() const { return prefill_; }
  [[nodiscard]] const PlanSide& decode() const { return decode_; }
  // The pages of source / destination rank r of a group.
  [[nodiscard]] const PageShape& source_shape(int r) const { return source_shapes_[static_cast<size_t>(r)]; }
  [[nodiscard]] const PageShape& destination_shape(int r) const { return destination_shapes_[static_cast<size_t>(r)]; }
  [[nodiscard]] int source_ranks() const { return static_cast<int>(source_shapes_.size()); }
  [[nodiscard]] int destination_ranks() const { return static_cast<int>(destination_shapes_.size()); }

 private:
  Planner() = default;
  KvGeometry geometry_;
  PlanSide prefill_, decode_;
  WriterPolicy policy_ = WriterPolicy::kBalanced;
  Fanout fanout_ = Fanout::kDirect;
  std::vector<PageShape> source_shapes_, destination_shapes_;
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
// destination_pages: the sequence's page numbers in token order on either side; page i holds tokens [i*page_tokens, ...).
// With equal page sizes a page touched by the range is copied whole (the sender zeroes the tail of a last, partial page first), with
// unequal ones exactly the tokens of the range are. Precondition, checked: with equal page sizes `begin` is at a page start.
[[nodiscard]] std::vector<Copy> piece_copies(const Planner& planner, const Piece& piece, int64_t begin, int64_t end,
                                             const std::vector<PageId>& source_pages, const std::vector<PageId>& destination_pages);

// The bytes of a piece inside destination page number `index` of the sequence, tokens [begin, end) of it that the range covers, in
// canonical order (head, layer, k|v, token, dim): what both sides hash for the commit. Offsets into the pool of that rank.
// `shape` and `page` are of the side that hashes: the caller gives the runs of its own memory.
struct Run {
  uint64_t offset = 0;
  uint64_t length = 0;
  constexpr bool operator==(const Run&) const = default;
};
[[nodiscard]] std::vector<Run> piece_runs(const PageShape& shape, const Piece& piece, int64_t begin, int64_t end, const std::vector<PageId>& pages);

// What `baton plan` prints: both sides, the matrix of real (R) and dummy (.) links over all ranks, bytes and copies per link for
// `tokens` tokens, total bytes over unique bytes, and a warning when the mean copy is under 16 KiB.
[[nodiscard]] std::string describe_plan(const Planner& planner, int64_t tokens, AttemptId attempt);

}  // namespace baton
