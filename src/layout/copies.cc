// A piece as byte ranges: copies between two pools, and the words of one pool by their numbers.
#include <algorithm>

#include "layout/plan.h"

namespace baton::layout {

namespace {

int64_t pages_for(int64_t tokens, int page_tokens) { return (tokens + page_tokens - 1) / page_tokens; }

uint64_t page_offset(const PageShape& shape, const std::vector<PageId>& pages, int64_t token) {
  return pages[static_cast<size_t>(token / shape.page_tokens)].value() * shape.page_bytes();
}

void check_pages(const PageShape& shape, int64_t begin, int64_t end, const std::vector<PageId>& pages) {
  BATON_CHECK(0 <= begin && begin <= end && end <= kPlanTokensMax, "tokens {}..{}", begin, end);
  BATON_CHECK(pages_for(end, shape.page_tokens) <= static_cast<int64_t>(pages.size()), "{} tokens on {} pages of {}",
              end, pages.size(), shape.page_tokens);
}

template <typename Slice>
void check_slice(const PageShape& shape, const Slice& slice) {
  BATON_CHECK(
      intersect(slice.layers, shape.layers) == slice.layers && intersect(slice.heads, shape.heads) == slice.heads,
      "layers {}..{} of heads {}..{} on a rank of layers {}..{} of heads {}..{}", slice.layers.begin, slice.layers.end,
      slice.heads.begin, slice.heads.end, shape.layers.begin, shape.layers.end, shape.heads.begin, shape.heads.end);
  BATON_CHECK(slice.unit_tokens > 0 && 0 <= slice.stripe && slice.stripe < slice.stripes,
              "stripe {} of {}, units of {} tokens", slice.stripe, slice.stripes, slice.unit_tokens);
}

void append(std::vector<Copy>& copies, const Copy& copy) {
  if (!copies.empty()) {
    Copy& last = copies.back();
    if (last.source_offset + last.length == copy.source_offset &&
        last.destination_offset + last.length == copy.destination_offset) {
      last.length += copy.length;
      return;
    }
  }
  copies.push_back(copy);
}

// Calls action(first token, past the last) for the slice's part of every stretch of [begin, end) that no multiple of
// `grids` cuts. unit_tokens must be one of the grids.
template <typename Slice, typename Action>
void for_each_stretch(const Slice& slice, int64_t begin, int64_t end, std::initializer_list<int> grids, Action action) {
  for (int64_t token = begin; token < end;) {
    const int64_t unit = token / slice.unit_tokens;
    if (unit % slice.stripes != slice.stripe) {
      token = (unit + 1) * slice.unit_tokens;
      continue;
    }
    int64_t next = end;
    for (const int grid : grids) next = std::min(next, (token / grid + 1) * grid);
    action(token, next);
    token = next;
  }
}

// Equal page sizes: whole pages. All layers of a head are one run, so a page needs one copy a head, or fewer after
// merging.
template <typename Slice>
std::vector<Copy> copy_pages(const PageShape& from, const PageShape& to, const Slice& slice, int64_t begin, int64_t end,
                             const std::vector<PageId>& source_pages, const std::vector<PageId>& destination_pages) {
  BATON_CHECK(begin % from.page_tokens == 0, "token {} is inside a page of {}", begin, from.page_tokens);
  std::vector<Copy> copies;
  const uint64_t length = static_cast<uint64_t>(slice.layers.size()) * from.layer_bytes();
  for_each_stretch(slice, begin, end, {from.page_tokens}, [&](int64_t token, int64_t) {
    const uint64_t source = page_offset(from, source_pages, token);
    const uint64_t destination = page_offset(to, destination_pages, token);
    for (int head = slice.heads.begin; head < slice.heads.end; ++head) {
      append(copies, {.source_offset = source + from.k_offset(slice.layers.begin, head, 0),
                      .destination_offset = destination + to.k_offset(slice.layers.begin, head, 0),
                      .length = length});
    }
  });
  return copies;
}

// Unequal page sizes: stretches of tokens that lie in one page on either side, per head, layer and k|v.
template <typename Slice>
std::vector<Copy> copy_tokens(const PageShape& from, const PageShape& to, const Slice& slice, int64_t begin,
                              int64_t end, const std::vector<PageId>& source_pages,
                              const std::vector<PageId>& destination_pages) {
  std::vector<Copy> copies;
  const KvGeometry& g = from.geometry;
  for_each_stretch(
      slice, begin, end, {from.page_tokens, to.page_tokens, slice.unit_tokens}, [&](int64_t token, int64_t next) {
        const uint64_t source = page_offset(from, source_pages, token);
        const uint64_t destination = page_offset(to, destination_pages, token);
        const auto source_token = static_cast<int>(token % from.page_tokens);
        const auto destination_token = static_cast<int>(token % to.page_tokens);
        const auto length = [&](int dim) {
          return static_cast<uint64_t>(next - token) * static_cast<uint64_t>(dim * g.element_size);
        };
        for (int head = slice.heads.begin; head < slice.heads.end; ++head) {
          for (int layer = slice.layers.begin; layer < slice.layers.end; ++layer) {
            append(copies, {.source_offset = source + from.k_offset(layer, head, source_token),
                            .destination_offset = destination + to.k_offset(layer, head, destination_token),
                            .length = length(g.k_dim)});
            if (g.v_dim == 0) continue;
            append(copies, {.source_offset = source + from.v_offset(layer, head, source_token),
                            .destination_offset = destination + to.v_offset(layer, head, destination_token),
                            .length = length(g.v_dim)});
          }
        }
      });
  return copies;
}

template <typename Slice>
void check_copy(const PageShape& from, const PageShape& to, const Slice& slice, int64_t begin, int64_t end,
                const std::vector<PageId>& source_pages, const std::vector<PageId>& destination_pages) {
  check_slice(from, slice);
  check_slice(to, slice);
  check_pages(from, begin, end, source_pages);
  check_pages(to, begin, end, destination_pages);
}

}  // namespace

std::vector<Copy> piece_copies(const Planner& planner, const Piece& piece, int64_t begin, int64_t end,
                               const std::vector<PageId>& source_pages, const std::vector<PageId>& destination_pages) {
  BATON_CHECK(0 <= piece.source && piece.source < planner.source_ranks(), "source rank {}", piece.source);
  BATON_CHECK(0 <= piece.destination && piece.destination < planner.destination_ranks(), "destination rank {}",
              piece.destination);
  const PageShape& from = planner.source_shape(piece.source);
  const PageShape& to = planner.destination_shape(piece.destination);
  check_copy(from, to, piece, begin, end, source_pages, destination_pages);
  const auto copy = from.page_tokens == to.page_tokens ? copy_pages<Piece> : copy_tokens<Piece>;
  return copy(from, to, piece, begin, end, source_pages, destination_pages);
}

namespace {

// Tokens below `end` that a slice carries.
int64_t tokens_below(const Piece& piece, int64_t end) {
  const int64_t unit = piece.unit_tokens;
  const int64_t round = unit * piece.stripes;
  return end / round * unit + std::clamp<int64_t>(end % round - piece.stripe * unit, 0, unit);
}

template <typename Slice>
int64_t cut_after(const Planner& planner, const Slice& slice, int64_t begin, int64_t copies) {
  const int finer = std::min(planner.prefill().page_tokens, planner.decode().page_tokens);
  const bool whole = finer == slice.unit_tokens;  // of equal pages, one copy a head
  const int64_t stretches = whole ? 1 : slice.unit_tokens / finer + 2;
  const int64_t a_unit = stretches * slice.heads.size() * (whole ? 1 : 2 * slice.layers.size());
  const int64_t units = std::max<int64_t>(1, copies / a_unit) * slice.stripes;
  return (begin / slice.unit_tokens + units) * slice.unit_tokens;
}

}  // namespace

uint64_t piece_bytes(const Planner& planner, const Piece& piece, int64_t begin, int64_t end) {
  const int page = planner.prefill().page_tokens;
  if (page == planner.decode().page_tokens) end = pages_for(end, page) * page;  // whole pages
  const auto tokens = static_cast<uint64_t>(tokens_below(piece, end) - tokens_below(piece, begin));
  return tokens * planner.geometry().entry_bytes() * static_cast<uint64_t>(piece.layers.size()) *
         static_cast<uint64_t>(piece.heads.size());
}

int64_t copies_cut(const Planner& planner, const Piece& slice, int64_t begin, int64_t copies) {
  return cut_after(planner, slice, begin, copies);
}
int64_t copies_cut(const Planner& planner, const LocalCopy& slice, int64_t begin, int64_t copies) {
  return cut_after(planner, slice, begin, copies);
}

std::vector<Copy> local_copies(const Planner& planner, const LocalCopy& slice, int64_t begin, int64_t end,
                               const std::vector<PageId>& pages) {
  for (const int rank : {slice.source, slice.destination}) {
    BATON_CHECK(0 <= rank && rank < planner.destination_ranks(), "destination rank {}", rank);
  }
  const PageShape& from = planner.destination_shape(slice.source);
  const PageShape& to = planner.destination_shape(slice.destination);
  check_copy(from, to, slice, begin, end, pages, pages);
  // Whole pages where no page lies in two units.
  const bool whole = slice.unit_tokens % from.page_tokens == 0 && begin % from.page_tokens == 0;
  const auto copy = whole ? copy_pages<LocalCopy> : copy_tokens<LocalCopy>;
  return copy(from, to, slice, begin, end, pages, pages);
}

namespace {

// The numbers of a canonical page's words: (head, layer, k|v, token, word of the row), of all heads and layers.
class CanonicalPage {
 public:
  CanonicalPage(const KvGeometry& geometry, int page_tokens)
      : layers_(static_cast<uint64_t>(geometry.layers)),
        page_tokens_(static_cast<uint64_t>(page_tokens)),
        k_words_(row_words(row_bytes(geometry, false))),
        v_words_(row_words(row_bytes(geometry, true))) {}

  static uint64_t row_bytes(const KvGeometry& geometry, bool v) {
    return static_cast<uint64_t>(v ? geometry.v_dim : geometry.k_dim) * static_cast<uint64_t>(geometry.element_size);
  }
  // Of the first word of K or V; `token` is of the page.
  [[nodiscard]] uint64_t word(int head, int layer, bool v, int64_t token) const {
    const uint64_t plane = static_cast<uint64_t>(head) * layers_ + static_cast<uint64_t>(layer);
    return plane * page_tokens_ * (k_words_ + v_words_) + (v ? page_tokens_ * k_words_ : 0) +
           static_cast<uint64_t>(token) * (v ? v_words_ : k_words_);
  }

 private:
  uint64_t layers_, page_tokens_, k_words_, v_words_;
};

// Rows that need no filling up are rows of one word each, so that runs of K and V merge.
uint64_t merged_row(uint64_t row_bytes) { return row_bytes % kWordBytes == 0 ? kWordBytes : row_bytes; }

void append(std::vector<WordRun>& runs, const WordRun& run) {
  if (run.length == 0) return;
  if (!runs.empty()) {
    WordRun& last = runs.back();
    if (last.offset + last.length == run.offset && last.row_bytes == run.row_bytes &&
        last.word + last.length / last.row_bytes * row_words(last.row_bytes) == run.word) {
      last.length += run.length;
      return;
    }
  }
  runs.push_back(run);
}

}  // namespace

std::vector<WordRun> piece_words(const PageShape& shape, const Piece& piece, int canonical_tokens, int64_t begin,
                                 int64_t end, const std::vector<PageId>& pages) {
  check_slice(shape, piece);
  check_pages(shape, begin, end, pages);
  BATON_CHECK(canonical_tokens > 0 && (begin == end || begin / canonical_tokens == (end - 1) / canonical_tokens),
              "tokens {}..{} of more than one page of {}", begin, end, canonical_tokens);
  const KvGeometry& geometry = shape.geometry;
  const CanonicalPage canonical(geometry, canonical_tokens);
  const uint64_t k_row = CanonicalPage::row_bytes(geometry, false);
  const uint64_t v_row = CanonicalPage::row_bytes(geometry, true);
  const bool filled = k_row % kWordBytes == 0 && v_row % kWordBytes == 0;
  std::vector<WordRun> runs;
  for_each_stretch(piece, begin, end, {piece.unit_tokens, shape.page_tokens}, [&](int64_t token, int64_t next) {
    const uint64_t page = page_offset(shape, pages, token);
    const auto in_page = static_cast<int>(token % shape.page_tokens);
    const int64_t in_canonical = token % canonical_tokens;
    const bool whole = filled && shape.page_tokens == canonical_tokens && next - token == canonical_tokens;
    for (int head = piece.heads.begin; head < piece.heads.end; ++head) {
      if (whole) {  // all layers of the head are one run
        append(runs, {.offset = page + shape.k_offset(piece.layers.begin, head, 0),
                      .length = static_cast<uint64_t>(piece.layers.size()) * shape.layer_bytes(),
                      .row_bytes = kWordBytes,
                      .word = canonical.word(head, piece.layers.begin, false, 0)});
        continue;
      }
      for (int layer = piece.layers.begin; layer < piece.layers.end; ++layer) {
        for (const bool v : {false, true}) {
          const uint64_t row = v ? v_row : k_row;
          const uint64_t offset = v ? shape.v_offset(layer, head, in_page) : shape.k_offset(layer, head, in_page);
          append(runs, {.offset = page + offset,
                        .length = static_cast<uint64_t>(next - token) * row,
                        .row_bytes = merged_row(row),
                        .word = canonical.word(head, layer, v, in_canonical)});
        }
      }
    }
  });
  return runs;
}

std::vector<Run> tail_runs(const PageShape& shape, PageId page, int used) {
  const auto left = static_cast<uint64_t>(shape.page_tokens - used);
  const uint64_t base = page.value() * shape.page_bytes();
  std::vector<Run> runs;
  for (int head = shape.heads.begin; head < shape.heads.end; ++head) {
    for (int layer = shape.layers.begin; layer < shape.layers.end; ++layer) {
      runs.push_back(
          {base + shape.k_offset(layer, head, used), left * CanonicalPage::row_bytes(shape.geometry, false)});
      if (shape.geometry.v_dim == 0) continue;
      runs.push_back({base + shape.v_offset(layer, head, used), left * CanonicalPage::row_bytes(shape.geometry, true)});
    }
  }
  return runs;
}

}  // namespace baton::layout
