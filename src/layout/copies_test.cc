// Executes plans on real memory: random pools on both sides, every copy a memcpy, every byte counted.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>
#include <xxhash.h>

#include <array>
#include <cstring>
#include <map>
#include <numeric>

#include "base/random.h"
#include "layout/plan.h"
#include "layout/plan_check.h"

namespace baton::layout {
namespace {

// What byte `byte` of the entry (layer, head, token, K or V) is, on whatever rank.
uint8_t truth(int layer, int head, int64_t token, bool v, int byte) {
  const int64_t key[] = {layer, head, token, v, byte};
  return static_cast<uint8_t>(XXH3_64bits(key, sizeof(key)));
}

struct Pool {
  PageShape shape;
  std::vector<uint8_t> bytes;
  std::vector<uint8_t> writes;  // how often each byte was written
};

// Calls action(layer, head, v, byte, offset in the pool) for every byte of a token.
template <typename Action>
void for_each_byte(const PageShape& shape, const std::vector<PageId>& pages, int64_t token, Action action) {
  const uint64_t page = pages[static_cast<size_t>(token / shape.page_tokens)].value() * shape.page_bytes();
  const auto in_page = static_cast<int>(token % shape.page_tokens);
  const KvGeometry& g = shape.geometry;
  for (int head = shape.heads.begin; head < shape.heads.end; ++head) {
    for (int layer = shape.layers.begin; layer < shape.layers.end; ++layer) {
      for (int byte = 0; byte < g.k_dim * g.element_size; ++byte) {
        action(layer, head, false, byte, page + shape.k_offset(layer, head, in_page) + static_cast<uint64_t>(byte));
      }
      for (int byte = 0; byte < g.v_dim * g.element_size; ++byte) {
        action(layer, head, true, byte, page + shape.v_offset(layer, head, in_page) + static_cast<uint64_t>(byte));
      }
    }
  }
}

// Distinct page numbers below `pool`, in a random order with some runs left.
std::vector<PageId> draw_pages(Random& random, int64_t count, int64_t pool) {
  std::vector<uint32_t> numbers(static_cast<size_t>(pool));
  std::iota(numbers.begin(), numbers.end(), 0u);
  std::rotate(numbers.begin(), numbers.begin() + static_cast<ptrdiff_t>(random.below(numbers.size())), numbers.end());
  for (uint64_t swaps = random.below(4); swaps > 0; --swaps) {
    std::swap(numbers[random.below(numbers.size())], numbers[random.below(numbers.size())]);
  }
  std::vector<PageId> pages;
  for (int64_t i = 0; i < count; ++i) pages.emplace_back(numbers[static_cast<size_t>(i)]);
  return pages;
}

class Handoff {
 public:
  Handoff(const Planner& planner, Plan plan, int64_t tokens, uint64_t seed)
      : planner_(planner), tokens_(tokens), random_(seed), plan_(std::move(plan)) {
    const auto count = [tokens](int page) { return (tokens + page - 1) / page; };
    const int source_page = planner.prefill().page_tokens;
    const int destination_page = planner.decode().page_tokens;
    source_pages_ = draw_pages(random_, count(source_page), count(source_page) + 2);
    destination_pages_ = draw_pages(random_, count(destination_page), count(destination_page) + 2);
    for (int r = 0; r < planner.source_ranks(); ++r)
      sources_.push_back(make_pool(planner.source_shape(r), source_pages_.size() + 2, 0));
    for (int r = 0; r < planner.destination_ranks(); ++r) {
      destinations_.push_back(make_pool(planner.destination_shape(r), destination_pages_.size() + 2, 0xee));
    }
    for (Pool& pool : sources_) {
      for (int64_t token = 0; token < tokens; ++token) {
        for_each_byte(pool.shape, source_pages_, token, [&](int layer, int head, bool v, int byte, uint64_t offset) {
          pool.bytes[offset] = truth(layer, head, token, v, byte);
        });
      }
    }
  }

  // Chunk by chunk from the fabric, then inside the destination. Empty: all went well.
  std::string run() {
    for (int64_t begin = 0; begin < tokens_;) {
      const int64_t end = chunk_end(begin);
      for (const Piece& piece : plan_.pieces) {
        const Pool& from = sources_[static_cast<size_t>(piece.source)];
        Pool& to = destinations_[static_cast<size_t>(piece.destination)];
        const auto copies = piece_copies(planner_, piece, begin, end, source_pages_, destination_pages_);
        if (!apply(from, to, copies)) return "a copy leaves its pool";
      }
      begin = end;
    }
    if (const std::string difference = compare_words(); !difference.empty()) return difference;
    const std::vector<Pool> received = destinations_;  // local copies may only rely on what came over the fabric
    for (const LocalCopy& copy : plan_.local_copies) {
      const auto copies = local_copies(planner_, copy, 0, tokens_, destination_pages_);
      if (!apply(received[static_cast<size_t>(copy.source)], destinations_[static_cast<size_t>(copy.destination)],
                 copies))
        return "a local copy leaves its pool";
    }
    return compare_bytes();
  }

 private:
  static Pool make_pool(const PageShape& shape, size_t pages, uint8_t fill) {
    return {shape, std::vector<uint8_t>(pages * shape.page_bytes(), fill),
            std::vector<uint8_t>(pages * shape.page_bytes(), 0)};
  }

  int64_t chunk_end(int64_t begin) {
    int64_t end = begin + 1 + static_cast<int64_t>(random_.below(static_cast<uint64_t>(tokens_)));
    const int page = planner_.prefill().page_tokens;
    if (page == planner_.decode().page_tokens) end = (end + page - 1) / page * page;
    return std::min(end, tokens_);
  }

  static bool apply(const Pool& from, Pool& to, const std::vector<Copy>& copies) {
    for (const Copy& copy : copies) {
      if (copy.length == 0 || copy.source_offset + copy.length > from.bytes.size() ||
          copy.destination_offset + copy.length > to.bytes.size())
        return false;
      std::memcpy(&to.bytes[copy.destination_offset], &from.bytes[copy.source_offset], copy.length);
      for (uint64_t i = 0; i < copy.length; ++i) ++to.writes[copy.destination_offset + i];
    }
    return true;
  }

  // Which words with which bytes.
  using NumberedWords = std::map<uint64_t, std::array<uint8_t, kWordBytes>>;

  // Of one canonical page. Empty: a word came twice.
  static NumberedWords gather(const Pool& pool, const std::vector<WordRun>& runs) {
    NumberedWords words;
    for (const WordRun& run : runs) {
      uint64_t word = run.word;
      for (uint64_t row = 0; row < run.length; row += run.row_bytes) {
        for (uint64_t at = 0; at < run.row_bytes; at += kWordBytes) {
          std::array<uint8_t, kWordBytes> bytes{};
          std::memcpy(bytes.data(), &pool.bytes[run.offset + row + at], std::min(kWordBytes, run.row_bytes - at));
          if (!words.emplace(word++, bytes).second) return {};
        }
      }
    }
    return words;
  }

  // The words of a piece's tokens, from the truth alone: as an undivided instance would number them.
  NumberedWords canonical(const Piece& piece, int64_t begin, int64_t end) const {
    NumberedWords words;
    const KvGeometry& g = planner_.geometry();
    const int64_t page_tokens = planner_.decode().page_tokens;
    uint64_t word = 0;
    for (int head = 0; head < g.kv_heads; ++head) {
      for (int layer = 0; layer < g.layers; ++layer) {
        for (const bool v : {false, true}) {
          for (int64_t in_page = 0; in_page < page_tokens; ++in_page) {
            const int64_t token = begin / page_tokens * page_tokens + in_page;
            const bool held = piece.heads.begin <= head && head < piece.heads.end && piece.layers.begin <= layer &&
                              layer < piece.layers.end && begin <= token && token < end &&
                              token / piece.unit_tokens % piece.stripes == piece.stripe;
            const int row = (v ? g.v_dim : g.k_dim) * g.element_size;
            for (int at = 0; at < row; at += static_cast<int>(kWordBytes), ++word) {
              if (!held) continue;
              for (int byte = at; byte < std::min(row, at + static_cast<int>(kWordBytes)); ++byte)
                words[word][static_cast<size_t>(byte - at)] = truth(layer, head, token, v, byte);
            }
          }
        }
      }
    }
    return words;
  }

  std::string compare_words() {
    const int page_tokens = planner_.decode().page_tokens;
    for (const Piece& piece : plan_.pieces) {
      const Pool& from = sources_[static_cast<size_t>(piece.source)];
      const Pool& to = destinations_[static_cast<size_t>(piece.destination)];
      for (int64_t begin = 0; begin < tokens_; begin += page_tokens) {
        const int64_t end = std::min(tokens_, begin + page_tokens);
        const NumberedWords expected = canonical(piece, begin, end);
        if (gather(from, piece_words(from.shape, piece, page_tokens, begin, end, source_pages_)) != expected)
          return "the sender sums other words";
        if (gather(to, piece_words(to.shape, piece, page_tokens, begin, end, destination_pages_)) != expected)
          return "the receiver sums other words";
      }
    }
    return {};
  }

  std::string compare_bytes() {
    std::string difference;
    for (size_t r = 0; r < destinations_.size(); ++r) {
      Pool& pool = destinations_[r];
      for (int64_t token = 0; token < tokens_; ++token) {
        for_each_byte(
            pool.shape, destination_pages_, token, [&](int layer, int head, bool v, int byte, uint64_t offset) {
              const bool right = pool.bytes[offset] == truth(layer, head, token, v, byte) && pool.writes[offset] == 1;
              if (!right && difference.empty()) {
                difference = fmt::format("destination {}, layer {}, head {}, token {}: {} writes", r, layer, head,
                                         token, pool.writes[offset]);
              }
              pool.writes[offset] = 0;
            });
      }
      // What is left may only be the tail of the last page, where whole pages are copied.
      const uint64_t last = destination_pages_.back().value() * pool.shape.page_bytes();
      const bool whole_pages =
          planner_.prefill().page_tokens == planner_.decode().page_tokens || !plan_.local_copies.empty();
      for (uint64_t i = 0; i < pool.writes.size(); ++i) {
        const bool tail = whole_pages && i >= last && i < last + pool.shape.page_bytes();
        if (pool.writes[i] > (tail ? 1 : 0) && difference.empty())
          difference = fmt::format("destination {}: byte {} outside the sequence written", r, i);
      }
    }
    return difference;
  }

  const Planner& planner_;
  int64_t tokens_;
  Random random_;
  Plan plan_;
  std::vector<PageId> source_pages_, destination_pages_;
  std::vector<Pool> sources_, destinations_;
};

Layout random_layout() {
  const int dp = *rc::gen::inRange(1, 4);
  return {.tp = dp * *rc::gen::inRange(1, 6), .dp = dp, .pp = *rc::gen::inRange(1, 4)};
}

RC_GTEST_PROP(Copies, EveryByteArrivesOnceAndWordsAgree, ()) {
  const KvGeometry geometry{.layers = *rc::gen::inRange(3, 6),
                            .kv_heads = *rc::gen::inRange(1, 7),
                            .k_dim = *rc::gen::element(1, 2, 3, 8, 16, 20),
                            .v_dim = *rc::gen::element(0, 1, 2, 8),
                            .element_size = *rc::gen::inRange(1, 3)};
  const PlanSide prefill{random_layout(), *rc::gen::inRange(1, 7)};
  PlanSide decode{random_layout(), *rc::gen::inRange(1, 7)};
  if (*rc::gen::arbitrary<bool>()) decode.page_tokens = prefill.page_tokens;
  const auto policy = *rc::gen::element(WriterPolicy::kBalanced, WriterPolicy::kRandom, WriterPolicy::kFirst);
  const auto fanout = *rc::gen::element(Fanout::kDirect, Fanout::kLocal);
  const Result<Planner> planner = Planner::make(geometry, prefill, decode, policy, fanout);
  RC_ASSERT(planner.ok());
  const auto seed = *rc::gen::arbitrary<uint32_t>();
  const std::string difference =
      Handoff(*planner, planner->plan_for(AttemptId(seed)), *rc::gen::inRange(1, 40), seed).run();
  if (!difference.empty()) RC_FAIL(difference);
}

// The harness itself: a plan with a piece missing, doubled or from another stripe must not pass.
TEST(Copies, HarnessCatchesWrongPlans) {
  const KvGeometry geometry{.layers = 2, .kv_heads = 2, .k_dim = 2, .v_dim = 1, .element_size = 1};
  const Result<Planner> planner =
      Planner::make(geometry, {{.tp = 2}, 2}, {{.tp = 4}, 2}, WriterPolicy::kBalanced, Fanout::kLocal);
  ASSERT_TRUE(planner.ok());
  const Plan good = planner->plan_for(AttemptId(1));
  EXPECT_EQ(Handoff(*planner, good, 9, 1).run(), "");
  for (size_t i = 0; i < good.pieces.size(); ++i) {
    Plan missing = good, doubled = good, moved = good;
    missing.pieces.erase(missing.pieces.begin() + static_cast<ptrdiff_t>(i));
    doubled.pieces.push_back(good.pieces[i]);
    moved.pieces[i].stripe = 1 - moved.pieces[i].stripe;
    for (const Plan& bad : {missing, doubled, moved})
      EXPECT_NE(Handoff(*planner, bad, 9, 1).run(), "") << "piece " << i;
  }
  for (size_t i = 0; i < good.local_copies.size(); ++i) {
    Plan missing = good, doubled = good;
    missing.local_copies.erase(missing.local_copies.begin() + static_cast<ptrdiff_t>(i));
    doubled.local_copies.push_back(good.local_copies[i]);
    for (const Plan& bad : {missing, doubled}) EXPECT_NE(Handoff(*planner, bad, 9, 1).run(), "") << "local copy " << i;
  }
}

void hand_over(const KvGeometry& geometry, const PlanSide& prefill, const PlanSide& decode, Fanout fanout,
               uint64_t attempt) {
  const Result<Planner> planner = Planner::make(geometry, prefill, decode, WriterPolicy::kBalanced, fanout);
  ASSERT_TRUE(planner.ok()) << planner.error().message;
  const Plan plan = planner->plan_for(AttemptId(attempt));
  const Status checked = check_plan(*planner, plan);
  ASSERT_TRUE(checked.ok()) << checked.error().message;
  ASSERT_EQ(Handoff(*planner, plan, 7, attempt).run(), "")
      << prefill.layout.to_string() << " -> " << decode.layout.to_string() << ", " << geometry.kv_heads << " heads, "
      << fanout_name(fanout) << ", pages of " << decode.page_tokens;
}

// Every pair of layouts over tp in 1,2,3,4,6,8, dp that divides it, pp in 1,2, for 1, 2, 4 and 8 heads, both fanouts,
// equal and unequal pages.
TEST(Copies, AllSmallLayoutPairs) {
  std::vector<Layout> layouts;
  for (const int tp : {1, 2, 3, 4, 6, 8}) {
    for (int dp = 1; dp <= tp; ++dp) {
      if (tp % dp != 0) continue;
      for (const int pp : {1, 2}) layouts.push_back({.tp = tp, .dp = dp, .pp = pp});
    }
  }
  ASSERT_EQ(layouts.size(), 32u);
  uint64_t attempt = 0;
  for (const int heads : {1, 2, 4, 8}) {
    const KvGeometry geometry{
        .layers = 3, .kv_heads = heads, .k_dim = 1, .v_dim = heads == 1 ? 0 : 1, .element_size = 1};
    for (const Layout& prefill : layouts) {
      for (const Layout& decode : layouts) {
        for (const Fanout fanout : {Fanout::kDirect, Fanout::kLocal}) {
          for (const int page : {2, 3}) {
            hand_over(geometry, {prefill, 2}, {decode, page}, fanout, ++attempt);
            if (HasFatalFailure()) return;
          }
        }
      }
    }
  }
}

Planner plan(const KvGeometry& geometry, const PlanSide& prefill, const PlanSide& decode) {
  Result<Planner> planner = Planner::make(geometry, prefill, decode);
  BATON_CHECK(planner.ok(), "{}", planner.error().message);
  return std::move(*planner);
}

// What a sender does a slice at a time is what it would do at once, and its bytes are known before.
TEST(Copies, CutsLoseNoByteAndTheSumIsKnownBefore) {
  const KvGeometry geometry{.layers = 3, .kv_heads = 2, .k_dim = 3, .v_dim = 2, .element_size = 1};
  std::vector<PageId> any;
  for (uint32_t i = 0; i < 64; ++i) any.emplace_back(i * 2);  // nothing merges
  const auto bytes = [](const std::vector<Copy>& copies) {
    uint64_t sum = 0;
    for (const Copy& copy : copies) sum += copy.length;
    return sum;
  };
  for (const auto& [from_page, to_page] : {std::pair{4, 4}, {4, 7}, {8, 2}, {1, 5}}) {
    for (const Fanout fanout : {Fanout::kDirect, Fanout::kLocal}) {
      const Planner planner =
          Planner::make(geometry, {{.tp = 3}, from_page}, {{.tp = 5}, to_page}, WriterPolicy::kBalanced, fanout)
              .value();
      const int64_t begin = 2 * to_page, end = 57;
      const Plan plan = planner.plan_for(AttemptId(3));
      const auto expect_cut = [&](const auto& slice, int64_t from, const auto& copies_between) {
        const std::vector<Copy> whole = copies_between(from, end);
        std::vector<Copy> cut;
        for (int64_t token = from; token < end;) {
          const int64_t next = std::min<int64_t>(end, copies_cut(planner, slice, token, 5));
          ASSERT_GT(next, token);
          const std::vector<Copy> part = copies_between(token, next);
          EXPECT_LE(part.size(), 64u);
          cut.insert(cut.end(), part.begin(), part.end());
          token = next;
        }
        EXPECT_EQ(bytes(cut), bytes(whole)) << from_page << " to " << to_page;
      };
      for (const Piece& piece : plan.pieces) {
        const auto between = [&](int64_t a, int64_t b) { return piece_copies(planner, piece, a, b, any, any); };
        EXPECT_EQ(piece_bytes(planner, piece, begin, end), bytes(between(begin, end)))
            << from_page << " to " << to_page;
        expect_cut(piece, begin, between);
      }
      for (const LocalCopy& copy : plan.local_copies)
        expect_cut(copy, begin, [&](int64_t a, int64_t b) { return local_copies(planner, copy, a, b, any); });
    }
  }
}

std::vector<PageId> pages(std::initializer_list<uint32_t> numbers) {
  std::vector<PageId> ids;
  for (const uint32_t number : numbers) ids.emplace_back(number);
  return ids;
}

constexpr KvGeometry kGqa{.layers = 4, .kv_heads = 4, .k_dim = 8, .v_dim = 8, .element_size = 2};

// How many copies one piece of four pages takes, by what differs between the sides.
TEST(Copies, MergedAsFarAsBothSidesAreAdjacent) {
  struct Case {
    const char* name;
    PlanSide prefill, decode;
    std::vector<PageId> source, destination;
    size_t copies;
  };
  const auto scattered = pages({0, 2, 4, 6});
  const auto run = pages({3, 4, 5, 6});
  const auto two_runs = pages({8, 9, 1, 2});
  for (const Case& c :
       {Case{"equal layouts, scattered: a copy a page", {{.tp = 2}, 16}, {{.tp = 2}, 16}, scattered, scattered, 4},
        {"equal layouts, one run", {{.tp = 2}, 16}, {{.tp = 2}, 16}, run, run, 1},
        {"equal layouts, two runs on one side", {{.tp = 2}, 16}, {{.tp = 2}, 16}, run, two_runs, 2},
        {"a change of TP: heads 0 and 1 of 0..3 are one run a page", {{.tp = 1}, 16}, {{.tp = 2}, 16}, run, run, 4},
        {"a change of PP: a copy a page, head and layer interval", {{.pp = 2}, 16}, {{.tp = 1}, 16}, run, run, 16},
        {"unequal pages: a copy a cut, head, layer and k|v",
         {{.tp = 4}, 16},
         {{.tp = 4}, 8},
         run,
         pages({0, 2, 4, 6, 8, 10, 12, 14}),
         8 * 4 * 2}}) {
    const Planner planner = plan(kGqa, c.prefill, c.decode);
    const Piece piece = planner.plan_for(AttemptId(1)).pieces.at(0);
    EXPECT_EQ(piece_copies(planner, piece, 0, 64, c.source, c.destination).size(), c.copies) << c.name;
  }
}

TEST(Copies, PartialLastPageIsCopiedWholeWithEqualPages) {
  const Planner planner = plan(kGqa, {{.tp = 4}, 16}, {{.tp = 4}, 16});
  const Piece piece = planner.plan_for(AttemptId(1)).pieces.at(0);
  const uint64_t page = planner.source_shape(0).page_bytes();
  EXPECT_EQ(piece_copies(planner, piece, 0, 17, pages({4, 2}), pages({1, 3})),
            (std::vector<Copy>{{4 * page, 1 * page, page}, {2 * page, 3 * page, page}}));
  EXPECT_EQ(piece_copies(planner, piece, 16, 17, pages({4, 2}), pages({1, 3})),
            (std::vector<Copy>{{2 * page, 3 * page, page}}));
  EXPECT_TRUE(piece_copies(planner, piece, 16, 16, pages({4}), pages({1})).empty());
}

TEST(Copies, TheWordsOfAFullPageAreOneRun) {
  const Planner planner = plan(kGqa, {{.tp = 4}, 16}, {{.tp = 4}, 16});
  const Piece piece = planner.plan_for(AttemptId(1)).pieces.at(0);
  const PageShape& shape = planner.source_shape(0);
  EXPECT_EQ(piece_words(shape, piece, 16, 16, 32, pages({2, 3})),
            (std::vector<WordRun>{
                {.offset = 3 * shape.page_bytes(), .length = shape.page_bytes(), .row_bytes = kWordBytes, .word = 0}}));
}

TEST(Copies, TheTailOfAPageIsWhatItsTokensLeave) {
  const PageShape shape{.layers = {2, 4}, .heads = {1, 2}, .page_tokens = 4, .geometry = {4, 2, 3, 1, 2}};
  // A head's layer has 4 tokens of K, 6 bytes each, and 4 of V, 2 bytes each.
  EXPECT_EQ(tail_runs(shape, PageId(1), 3),
            (std::vector<baton::layout::Run>{{64 + 18, 6}, {64 + 24 + 6, 2}, {96 + 18, 6}, {96 + 24 + 6, 2}}));
}

TEST(CopiesDeathTest, MisuseStops) {
  const Planner planner = plan(kGqa, {{.tp = 4}, 16}, {{.tp = 4}, 16});
  Piece piece = planner.plan_for(AttemptId(1)).pieces.at(0);
  EXPECT_DEATH((void)piece_copies(planner, piece, 8, 16, pages({0}), pages({0})), "inside a page");
  EXPECT_DEATH((void)piece_copies(planner, piece, 0, 17, pages({0}), pages({0})), "17 tokens on 1 pages of 16");
  EXPECT_DEATH((void)piece_words(planner.source_shape(1), piece, 16, 0, 16, pages({0})), "on a rank of");
  EXPECT_DEATH((void)piece_words(planner.source_shape(0), piece, 16, 8, 24, pages({0, 1})), "more than one page");
  piece.source = 9;
  EXPECT_DEATH((void)piece_copies(planner, piece, 0, 16, pages({0}), pages({0})), "source rank 9");
  EXPECT_DEATH(
      (void)piece_words(planner.source_shape(0), Piece{.layers = {0, 4}, .heads = {0, 1}}, 16, 0, 16, pages({0})),
      "units of 0 tokens");
}

}  // namespace
}  // namespace baton::layout
