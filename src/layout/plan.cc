#include "layout/plan.h"

#include <xxhash.h>

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <numeric>
#include <set>
#include <tuple>

#include "base/random.h"
#include "layout/plan_check.h"
#include "layout/sweep.h"

namespace baton::layout {

namespace {

// Raised when plans for the same inputs change, so that two builds that would disagree refuse each other.
constexpr int64_t kPlanVersion = 1;
constexpr uint64_t kHashedAttempts[] = {1, 2, 3, 0x7123456789abcdef};

// make() proves its first plan by counting cells where that takes no longer than some milliseconds: all but exotic
// worlds.
constexpr int64_t kCheckWorkMax = 1 << 22;

constexpr int kLayersMax = 1 << 12;
constexpr int kHeadsMax = 1 << 12;
constexpr int kDimMax = 1 << 16;

struct PairText {
  const KvGeometry& geometry;
  const PlanSide& prefill;
  const PlanSide& decode;

  // What every refusal ends with: both sides, so that the reader of either log sees the pair.
  [[nodiscard]] std::string operator()() const {
    return fmt::format("prefill {} page {}, decode {} page {}, KV of {} layers x {} heads x ({} K + {} V) x {} B",
                       prefill.layout.to_string(), prefill.page_tokens, decode.layout.to_string(), decode.page_tokens,
                       geometry.layers, geometry.kv_heads, geometry.k_dim, geometry.v_dim, geometry.element_size);
  }
};

Status check_geometry(const KvGeometry& g, const PairText& pair) {
  const auto in_range = [](int value, int low, int high) { return low <= value && value <= high; };
  if (!in_range(g.layers, 1, kLayersMax) || !in_range(g.kv_heads, 1, kHeadsMax)) {
    return error(ErrorCode::kInvalidArgument, "layers must be 1..{} and kv heads 1..{} ({})", kLayersMax, kHeadsMax,
                 pair());
  }
  if (!in_range(g.k_dim, 1, kDimMax) || !in_range(g.v_dim, 0, kDimMax) || !in_range(g.element_size, 1, 8)) {
    return error(ErrorCode::kInvalidArgument, "K must have 1..{} values, V 0..{}, of 1..8 bytes ({})", kDimMax, kDimMax,
                 pair());
  }
  if (g.token_bytes() > kTokenBytesMax) {
    return error(ErrorCode::kInvalidArgument, "{} bytes of KV a token, at most {} are supported ({})", g.token_bytes(),
                 kTokenBytesMax, pair());
  }
  return {};
}

Status check_side(const char* name, const PlanSide& side, const KvGeometry& geometry, const PairText& pair) {
  if (const Status layout = check_layout(side.layout); !layout) {
    return error(layout.error().code, "{}: {}", name, layout.error().message);
  }
  if (side.page_tokens < 1 || side.page_tokens > kPageTokensMax) {
    return error(ErrorCode::kInvalidArgument, "{}: pages of {} tokens, must be 1..{} ({})", name, side.page_tokens,
                 kPageTokensMax, pair());
  }
  if (side.layout.pp > geometry.layers) {
    return error(ErrorCode::kIncompatible, "{}: {} pipeline stages for {} layers; use pp of at most {} ({})", name,
                 side.layout.pp, geometry.layers, geometry.layers, pair());
  }
  // Rank 0 holds most.
  const uint64_t page_bytes = rank_page_shape(side.layout, 0, geometry, side.page_tokens).page_bytes();
  if (page_bytes > kPageBytesMax) {
    return error(ErrorCode::kIncompatible,
                 "{}: a page of rank 0 has {} bytes, at most {}; use smaller pages or more ranks ({})", name,
                 page_bytes, kPageBytesMax, pair());
  }
  return {};
}

// The ranks of one DP group. Groups are alike, so group 0 stands for all.
std::vector<PageShape> group_shapes(const PlanSide& side, const KvGeometry& geometry) {
  std::vector<PageShape> shapes;
  for (int stage = 0; stage < side.layout.pp; ++stage) {
    for (int t = 0; t < side.layout.attn_tp(); ++t) {
      const int rank = side.layout.rank_of({.pp_stage = stage, .dp_rank = 0, .attn_tp_rank = t});
      shapes.push_back(rank_page_shape(side.layout, rank, geometry, side.page_tokens));
    }
  }
  return shapes;
}

}  // namespace

Result<WriterPolicy> parse_writer_policy(std::string_view text) {
  for (const WriterPolicy policy : {WriterPolicy::kBalanced, WriterPolicy::kRandom, WriterPolicy::kFirst}) {
    if (text == writer_policy_name(policy)) return policy;
  }
  return error(ErrorCode::kInvalidArgument, "writer policy \"{}\" is not one of balanced, random, first", text);
}

const char* writer_policy_name(WriterPolicy policy) {
  switch (policy) {
    case WriterPolicy::kBalanced:
      return "balanced";
    case WriterPolicy::kRandom:
      return "random";
    case WriterPolicy::kFirst:
      return "first";
  }
  return "unknown";
}

Result<Fanout> parse_fanout(std::string_view text) {
  for (const Fanout fanout : {Fanout::kDirect, Fanout::kLocal}) {
    if (text == fanout_name(fanout)) return fanout;
  }
  return error(ErrorCode::kInvalidArgument, "fanout \"{}\" is not one of direct, local", text);
}

const char* fanout_name(Fanout fanout) { return fanout == Fanout::kDirect ? "direct" : "local"; }

Result<Planner> Planner::make(const KvGeometry& geometry, const PlanSide& prefill, const PlanSide& decode,
                              WriterPolicy policy, Fanout fanout) {
  const PairText pair{geometry, prefill, decode};
  BATON_TRY(check_geometry(geometry, pair));
  BATON_TRY(check_side("prefill", prefill, geometry, pair));
  BATON_TRY(check_side("decode", decode, geometry, pair));

  Planner planner;
  planner.geometry_ = geometry;
  planner.prefill_ = prefill;
  planner.decode_ = decode;
  planner.policy_ = policy;
  planner.fanout_ = fanout;
  planner.source_shapes_ = group_shapes(prefill, geometry);
  planner.destination_shapes_ = group_shapes(decode, geometry);
  if (const Status cut = planner.cut_slices(); !cut)
    return error(cut.error().code, "{} ({})", cut.error().message, pair());
  planner.seat_slices();
  planner.link_ranks();
  planner.hash_ = planner.compute_hash();
  if (planner.check_work() <= kCheckWorkMax) {
    const Status proof = check_plan(planner, planner.plan_for(AttemptId(1)));
    BATON_CHECK(proof.ok(), "{} ({})", proof.error().message, pair());
  }
  return planner;
}

Status Planner::cut_slices() {
  std::map<std::vector<int>, int> group_of;
  std::map<std::tuple<int, int, int, int>, std::vector<size_t>> replicas_of;
  for (int d = 0; d < destination_ranks(); ++d) {
    for (Cell& cell : sweep(destination_shape(d), source_shapes_)) {
      const auto [group, added] = group_of.try_emplace(cell.sources, static_cast<int>(groups_.size()));
      if (added) groups_.push_back({std::move(cell.sources)});
      replicas_of[{cell.layers.begin, cell.layers.end, cell.heads.begin, cell.heads.end}].push_back(slices_.size());
      slices_.push_back({.destination = d, .layers = cell.layers, .heads = cell.heads, .group = group->second});
    }
    if (static_cast<int64_t>(slices_.size()) > kPlanSlicesMax)
      return error(ErrorCode::kIncompatible, "the plan has more than {} pieces; use fewer ranks", kPlanSlicesMax);
  }
  auto slices = static_cast<int64_t>(slices_.size());
  for (const auto& [rectangle, replicas] : replicas_of) {
    const auto n = static_cast<int64_t>(replicas.size());
    if (fanout_ == Fanout::kLocal) slices += n * (n - 1);
    if (slices > kPlanSlicesMax)
      return error(ErrorCode::kIncompatible,
                   "{} replicas on decode would copy from each other, a plan has at most {} slices; use more DP groups "
                   "on decode or --fanout direct",
                   n, kPlanSlicesMax);
    for (size_t i = 0; i < replicas.size(); ++i) {
      slices_[replicas[i]].replica = static_cast<int>(i);
      slices_[replicas[i]].replicas = static_cast<int>(replicas.size());
    }
  }
  return {};
}

// Cells that check_plan() counts: those of every destination, in every unit until the stripes repeat.
int64_t Planner::check_work() const {
  int64_t cells = 0, period = 1;
  for (const Slice& slice : slices_) {
    cells += static_cast<int64_t>(slice.layers.size()) * slice.heads.size();
    if (fanout_ == Fanout::kLocal) period = std::lcm(period, int64_t{slice.replicas});
    if (period > kCheckWorkMax) return period;
  }
  return cells * period;
}

// The largest slice first, always to the seat with the least so far (Graham 1969): no seat gets more than the mean plus
// one slice. This does not depend on the attempt, which only turns the seats.
void Planner::seat_slices() {
  const auto weight = [this](const Slice& slice) {  // relative bytes, so that the order is the same on every machine
    const uint64_t area = static_cast<uint64_t>(slice.layers.size()) * static_cast<uint64_t>(slice.heads.size()) << 32;
    return fanout_ == Fanout::kLocal ? area / static_cast<uint64_t>(slice.replicas) : area;
  };
  std::vector<size_t> order(slices_.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return weight(slices_[a]) > weight(slices_[b]); });
  std::vector<std::set<std::pair<uint64_t, int>>> loads(groups_.size());  // of each group: (bytes, seat)
  for (size_t g = 0; g < groups_.size(); ++g) {
    for (size_t seat = 0; seat < groups_[g].sources.size(); ++seat) loads[g].emplace(0, static_cast<int>(seat));
  }
  for (const size_t i : order) {
    auto& seats = loads[static_cast<size_t>(slices_[i].group)];
    auto lightest = seats.extract(seats.begin());
    slices_[i].seat = lightest.value().second;
    lightest.value().first += weight(slices_[i]);
    seats.insert(std::move(lightest));
  }
}

void Planner::link_ranks() {
  for (int s = 0; s < source_ranks(); ++s) {
    for (int d = 0; d < destination_ranks(); ++d) {
      const bool common = !intersect(source_shape(s).layers, destination_shape(d).layers).empty() &&
                          !intersect(source_shape(s).heads, destination_shape(d).heads).empty();
      if (common) links_.push_back({.source = s, .destination = d, .real = false});
    }
  }
}

// The source rank of every slice. Attempt ids are mixed before use: a router may choose DP groups by their remainder,
// and plain remainders would then always meet the same replica.
std::vector<int> Planner::choose_sources(AttemptId attempt) const {
  Random random(attempt.value());
  std::vector<size_t> rotations;
  if (policy_ == WriterPolicy::kBalanced) {
    for (const ReplicaSet& group : groups_) rotations.push_back(random.below(group.sources.size()));
  }
  std::vector<int> chosen;
  chosen.reserve(slices_.size());
  for (const Slice& slice : slices_) {
    const std::vector<int>& sources = groups_[static_cast<size_t>(slice.group)].sources;
    size_t at = 0;
    switch (policy_) {
      case WriterPolicy::kBalanced:
        at = (static_cast<size_t>(slice.seat) + rotations[static_cast<size_t>(slice.group)]) % sources.size();
        break;
      case WriterPolicy::kRandom:
        at = random.below(sources.size());
        break;
      case WriterPolicy::kFirst:
        break;
    }
    chosen.push_back(sources[at]);
  }
  return chosen;
}

Plan Planner::plan_for(AttemptId attempt) const {
  Plan plan;
  const std::vector<int> sources = choose_sources(attempt);
  const int unit_tokens = std::max(prefill_.page_tokens, decode_.page_tokens);
  // Which replica takes the first stripe turns too: short sequences have fewer units than replicas.
  const uint64_t turn = policy_ == WriterPolicy::kFirst ? 0 : Random(~attempt.value()).next() >> 32;
  plan.pieces.reserve(slices_.size());
  for (size_t i = 0; i < slices_.size(); ++i) {
    const Slice& slice = slices_[i];
    Piece piece{.source = sources[i],
                .destination = slice.destination,
                .layers = slice.layers,
                .heads = slice.heads,
                .unit_tokens = unit_tokens};
    if (fanout_ == Fanout::kLocal) {
      const auto replicas = static_cast<uint64_t>(slice.replicas);
      piece.stripe = static_cast<int>((static_cast<uint64_t>(slice.replica) + turn) % replicas);
      piece.stripes = slice.replicas;
    }
    plan.pieces.push_back(piece);
  }
  if (fanout_ == Fanout::kLocal) plan.local_copies = local_copies_of(plan.pieces);

  plan.links = links_;
  const auto before = [](const Plan::Link& a, const Plan::Link& b) {
    return std::pair(a.source, a.destination) < std::pair(b.source, b.destination);
  };
  for (const Piece& piece : plan.pieces) {
    const Plan::Link wanted{.source = piece.source, .destination = piece.destination};
    std::lower_bound(plan.links.begin(), plan.links.end(), wanted, before)->real = true;
  }
  return plan;
}

// Every replica of a slice takes from each of the others what that one received.
std::vector<LocalCopy> Planner::local_copies_of(const std::vector<Piece>& pieces) const {
  std::map<std::tuple<int, int, int, int>, std::vector<const Piece*>> replicas_of;
  for (const Piece& piece : pieces) {
    replicas_of[{piece.layers.begin, piece.layers.end, piece.heads.begin, piece.heads.end}].push_back(&piece);
  }
  std::vector<LocalCopy> copies;
  for (const Piece& to : pieces) {
    for (const Piece* from : replicas_of[{to.layers.begin, to.layers.end, to.heads.begin, to.heads.end}]) {
      if (from->destination == to.destination) continue;
      copies.push_back({.source = from->destination,
                        .destination = to.destination,
                        .layers = from->layers,
                        .heads = from->heads,
                        .stripe = from->stripe,
                        .stripes = from->stripes,
                        .unit_tokens = from->unit_tokens});
    }
  }
  return copies;
}

uint64_t Planner::compute_hash() const {
  const std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> state(XXH3_createState(), &XXH3_freeState);
  BATON_CHECK(state != nullptr && XXH3_64bits_reset(state.get()) == XXH_OK);
  const auto put = [&state](std::initializer_list<int64_t> values) {  // little endian whatever the machine
    std::array<unsigned char, 128> bytes{};
    size_t n = 0;
    for (const int64_t value : values) {
      for (int shift = 0; shift < 64; shift += 8)
        bytes.at(n++) = static_cast<unsigned char>(static_cast<uint64_t>(value) >> shift);
    }
    XXH3_64bits_update(state.get(), bytes.data(), n);
  };
  put({kPlanVersion, geometry_.layers, geometry_.kv_heads, geometry_.k_dim, geometry_.v_dim, geometry_.element_size});
  for (const PlanSide* side : {&prefill_, &decode_}) {
    put({side->layout.tp, side->layout.dp, side->layout.pp, side->page_tokens});  // experts carry no KV
  }
  put({static_cast<int64_t>(policy_), static_cast<int64_t>(fanout_)});
  for (const uint64_t attempt : kHashedAttempts) {
    const Plan plan = plan_for(AttemptId(attempt));
    put({static_cast<int64_t>(plan.pieces.size()), static_cast<int64_t>(plan.local_copies.size())});
    const auto put_slice = [&](const auto& s) {
      put({s.source, s.destination, s.layers.begin, s.layers.end, s.heads.begin, s.heads.end, s.stripe, s.stripes,
           s.unit_tokens});
    };
    for (const Piece& piece : plan.pieces) put_slice(piece);
    for (const LocalCopy& copy : plan.local_copies) put_slice(copy);
  }
  return XXH3_64bits_digest(state.get());
}

}  // namespace baton::layout
