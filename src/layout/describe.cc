// The text of `baton plan`.
#include <algorithm>
#include <array>
#include <map>
#include <numeric>

#include "layout/plan.h"

namespace baton::layout {

namespace {

constexpr int kMatrixRanksMax = 64;             // wider matrices do not fit a terminal
constexpr size_t kLinksListedMax = 256;         // the rest is summed
constexpr uint64_t kSmallCopyBytes = 16 << 10;  // below it, posting costs more than moving

struct Traffic {
  uint64_t bytes = 0;
  uint64_t copies = 0;
  Traffic& operator+=(const Traffic& other) {
    bytes += other.bytes;
    copies += other.copies;
    return *this;
  }
  [[nodiscard]] uint64_t mean() const { return copies == 0 ? 0 : bytes / copies; }
};

std::string bytes_text(uint64_t bytes) {
  constexpr std::array kUnits{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  auto value = static_cast<double>(bytes);
  size_t unit = 0;
  for (; value >= 1024 && unit + 1 < kUnits.size(); ++unit) value /= 1024;
  return unit == 0 ? fmt::format("{} B", bytes) : fmt::format("{:.2f} {}", value, kUnits[unit]);
}

std::string time_text(double seconds) {
  if (seconds < 1e-3) return fmt::format("{:.1f} us", seconds * 1e6);
  return seconds < 1 ? fmt::format("{:.2f} ms", seconds * 1e3) : fmt::format("{:.2f} s", seconds);
}

// Pages 0, 2, 4, ...: never adjacent.
std::vector<PageId> scattered_pages(int64_t tokens, int page_tokens) {
  std::vector<PageId> pages;
  for (int64_t i = 0; i * page_tokens < tokens; ++i) pages.emplace_back(static_cast<uint32_t>(2 * i));
  return pages;
}

// Of a piece or a local copy over [0, tokens). Both page grids and the stripes repeat after a period, so one period is
// counted and multiplied. copies_of(tokens) lists the copies of [0, tokens).
template <typename CopiesOf>
Traffic count(int64_t period, int64_t tokens, CopiesOf copies_of) {
  const auto sum = [&](int64_t first) {
    Traffic traffic;
    for (const Copy& copy : copies_of(first)) traffic += {copy.length, 1};
    return traffic;
  };
  Traffic total = sum(tokens % period);
  const auto periods = static_cast<uint64_t>(tokens / period);
  if (periods > 0) {
    const Traffic once = sum(period);
    total += {once.bytes * periods, once.copies * periods};
  }
  return total;
}

class Description {
 public:
  Description(const Planner& planner, int64_t tokens, AttemptId attempt, const LinkRate* rate)
      : planner_(planner), tokens_(tokens), attempt_(attempt), rate_(rate), plan_(planner.plan_for(attempt)) {}

  std::string text() {
    sides();
    matrix();
    links();
    totals();
    return std::move(text_);
  }

 private:
  template <typename... Args>
  void line(fmt::format_string<Args...> format, Args&&... args) {
    text_ += fmt::format(format, std::forward<Args>(args)...);
    while (text_.ends_with(' ')) text_.pop_back();
    text_ += '\n';
  }

  static int world_rank(const Layout& layout, int dp_rank, int group_rank) {
    return layout.rank_of({group_rank / layout.attn_tp(), dp_rank, group_rank % layout.attn_tp()});
  }

  void side(const char* name, const PlanSide& side) {
    line("{:<8} {:<16} {} rank{}, attention over {}, pages of {} tokens", name, side.layout.to_string(),
         side.layout.world(), side.layout.world() == 1 ? "" : "s", side.layout.attn_tp(), side.page_tokens);
  }

  void sides() {
    const KvGeometry& g = planner_.geometry();
    side("prefill", planner_.prefill());
    side("decode", planner_.decode());
    line("{:<8} {} layers x {} head{} x ({} K + {} V) x {} B = {} a token", "KV", g.layers, g.kv_heads,
         g.kv_heads == 1 ? "" : "s", g.k_dim, g.v_dim, g.element_size, bytes_text(g.token_bytes()));
    line("{:<8} writer {}, fanout {}, attempt {}, hash {:016x}", "plan", writer_policy_name(planner_.policy()),
         fanout_name(planner_.fanout()), attempt_, planner_.hash());
    line("");
  }

  // One letter: R, . or nothing in common. Every pair of DP groups shows the same block, because every group is cut
  // alike.
  [[nodiscard]] char link_mark(int prefill_rank, int decode_rank) const {
    const auto group_rank = [](const Layout& layout, int rank) {
      const RankCoordinates at = layout.coordinates_of(rank);
      return at.pp_stage * layout.attn_tp() + at.attn_tp_rank;
    };
    const int s = group_rank(planner_.prefill().layout, prefill_rank);
    const int d = group_rank(planner_.decode().layout, decode_rank);
    const auto found = std::find_if(plan_.links.begin(), plan_.links.end(),
                                    [&](const Plan::Link& link) { return link.source == s && link.destination == d; });
    if (found == plan_.links.end()) return ' ';
    return found->real ? 'R' : '.';
  }

  void matrix() {
    const Layout& prefill = planner_.prefill().layout;
    const Layout& decode = planner_.decode().layout;
    if (prefill.world() > kMatrixRanksMax || decode.world() > kMatrixRanksMax) {
      line("{} x {} ranks: the matrix is shown up to {} a side", prefill.world(), decode.world(), kMatrixRanksMax);
    } else {
      line(
          "rows: prefill ranks; columns: decode ranks; R real, . dummy (holds the same bytes, stays silent for this "
          "attempt)");
      std::string header;
      for (int d = 0; d < decode.world(); ++d) header += fmt::format("{}{:>3}", border(decode, d), d);
      line("      {}", header);
      for (int s = 0; s < prefill.world(); ++s) {
        if (*border(prefill, s) != '\0') line("      {}", std::string(header.size(), '-'));
        std::string row;
        for (int d = 0; d < decode.world(); ++d) row += fmt::format("{}{:>3}", border(decode, d), link_mark(s, d));
        line("{:>5} {}", s, row);
      }
    }
    if (prefill.dp * decode.dp > 1) {
      line("a request uses one of {} x {} pairs of DP groups, all cut alike; the links below are of groups 0 and 0",
           prefill.dp, decode.dp);
    }
    line("");
  }

  // A rule where the next attention group begins.
  static const char* border(const Layout& layout, int rank) {
    return layout.dp > 1 && rank > 0 && rank % layout.attn_tp() == 0 ? " |" : "";
  }

  void link_line(const char* kind, int source, int destination, Interval layers, Interval heads, int stripe,
                 int stripes, const Traffic& traffic) {
    if (++listed_ > kLinksListedMax) return;
    line("{:<16} {:>11} {:>9} {:>8} {:>12} {:>9} {:>12} {:>11}", fmt::format("{} {} -> {}", kind, source, destination),
         fmt::format("{}..{}", layers.begin, layers.end - 1), fmt::format("{}..{}", heads.begin, heads.end - 1),
         fmt::format("{}/{}", stripe + 1, stripes), bytes_text(traffic.bytes), traffic.copies,
         bytes_text(traffic.mean()), rate_ == nullptr ? "" : time_text(seconds(traffic)));
  }

  [[nodiscard]] double seconds(const Traffic& traffic) const {
    return traffic.bytes == 0 ? 0 : static_cast<double>(traffic.bytes) / rate_->at(traffic.mean());
  }

  void links() {
    const int source_page = planner_.prefill().page_tokens;
    const int destination_page = planner_.decode().page_tokens;
    const int64_t grid = std::lcm(int64_t{source_page}, int64_t{destination_page});
    line("{:<16} {:>11} {:>9} {:>8} {:>12} {:>9} {:>12} {:>11}", "link", "layers", "heads", "stripe", "bytes", "copies",
         "mean copy", rate_ == nullptr ? "" : "alone");
    for (const Piece& piece : plan_.pieces) {
      const Traffic traffic = count(grid * piece.stripes, tokens_, [&](int64_t first) {
        return piece_copies(planner_, piece, 0, first, scattered_pages(first, source_page),
                            scattered_pages(first, destination_page));
      });
      fabric_ += traffic;
      if (rate_ != nullptr) {
        sends_[piece.source] += seconds(traffic);
        receives_[piece.destination] += seconds(traffic);
      }
      link_line("P->D", world_rank(planner_.prefill().layout, 0, piece.source),
                world_rank(planner_.decode().layout, 0, piece.destination), piece.layers, piece.heads, piece.stripe,
                piece.stripes, traffic);
    }
    for (const LocalCopy& copy : plan_.local_copies) {
      const Traffic traffic = count(grid * copy.stripes, tokens_, [&](int64_t first) {
        return local_copies(planner_, copy, 0, first, scattered_pages(first, destination_page));
      });
      local_ += traffic;
      link_line("D->D", world_rank(planner_.decode().layout, 0, copy.source),
                world_rank(planner_.decode().layout, 0, copy.destination), copy.layers, copy.heads, copy.stripe,
                copy.stripes, traffic);
    }
    if (listed_ > kLinksListedMax) line("... and {} more", listed_ - kLinksListedMax);
    line("");
  }

  void totals() {
    const int page = planner_.prefill().page_tokens;
    const bool whole_pages = page == planner_.decode().page_tokens;
    const int64_t moved = whole_pages ? (tokens_ + page - 1) / page * page : tokens_;
    const uint64_t unique = planner_.geometry().token_bytes() * static_cast<uint64_t>(moved);
    line("total of {} tokens: {} over the fabric in {} copies, {} unique: {:.2f} times", tokens_,
         bytes_text(fabric_.bytes), fabric_.copies, bytes_text(unique),
         static_cast<double>(fabric_.bytes) / static_cast<double>(unique));
    if (!plan_.local_copies.empty()) {
      line("inside decode: {} in {} copies", bytes_text(local_.bytes), local_.copies);
    }
    if (rate_ != nullptr) {
      double longest = 0;
      for (const auto& ranks : {sends_, receives_}) {
        for (const auto& [rank, spent] : ranks) longest = std::max(longest, spent);
      }
      line("estimated {} when every rank has a link of its own, {} when all share one", time_text(longest),
           time_text(seconds(fabric_)));
    }
    line("mean copy {} (pages scattered; adjacent pages merge into longer copies)", bytes_text(fabric_.mean()));
    if (fabric_.mean() < kSmallCopyBytes) {
      line("warning: mean copy under 16 KiB: use {}", whole_pages ? "larger pages" : "equal page sizes on both sides");
    }
  }

  const Planner& planner_;
  int64_t tokens_;
  AttemptId attempt_;
  const LinkRate* rate_;
  Plan plan_;
  std::string text_;
  size_t listed_ = 0;
  Traffic fabric_, local_;
  std::map<int, double> sends_, receives_;  // seconds, by rank of the group
};

}  // namespace

std::string describe_plan(const Planner& planner, int64_t tokens, AttemptId attempt, const LinkRate* rate) {
  BATON_CHECK(0 < tokens && tokens <= kPlanTokensMax, "{} tokens", tokens);
  return Description(planner, tokens, attempt, rate).text();
}

}  // namespace baton::layout
