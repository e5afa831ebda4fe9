#include "sampling/vocabulary_sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/check.h"
#include "sampling/row_draw.h"
#include "sampling/token_weight.h"

namespace baton::sampling {
namespace {

constexpr float kBarred = -std::numeric_limits<float>::infinity();
constexpr uint64_t kAll = std::numeric_limits<uint64_t>::max();
// Ends of the first sorted run of candidates; most top_p cuts are shorter.
constexpr size_t kFirstRun = 64;

// Of the weights of what top_p keeps.
uint64_t wanted_mass(const RowDraw& how, uint64_t total) {
  if (how.top_p >= 1) return kAll;
  return std::max<uint64_t>(1, static_cast<uint64_t>(how.top_p * static_cast<double>(total)));
}
// Where the draw falls in a mass > 0.
uint64_t target_of(const RowDraw& how, uint64_t mass) {
  return std::min(static_cast<uint64_t>(how.uniform * static_cast<double>(mass)), mass - 1);
}

struct Extremes {
  float best = kBarred;
  bool sound = true;  // none is NaN or +inf
};
// Lane by lane, which the compiler makes vectors of.
Extremes extremes(const float* x, int64_t n) {
  constexpr int64_t kLanes = 32;
  float best[kLanes];
  int unsound[kLanes] = {};
  std::fill(best, best + kLanes, kBarred);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const float v = x[i + lane];
      best[lane] = v > best[lane] ? v : best[lane];
      unsound[lane] |= v <= std::numeric_limits<float>::max() ? 0 : 1;
    }
  }
  Extremes all;
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    all.best = std::max(all.best, best[lane]);
    all.sound &= unsound[lane] == 0;
  }
  for (; i < n; ++i) {
    all.best = x[i] > all.best ? x[i] : all.best;
    all.sound &= x[i] <= std::numeric_limits<float>::max();
  }
  return all;
}

// Whether anything changes the raw logits before they are drawn from.
bool adjusts(const RowWanted& wanted) {
  const Recipe& recipe = *wanted.recipe;
  const SamplingParams& params = recipe.params;
  const bool ends = wanted.index < params.min_new_tokens && !recipe.endings.empty();
  return !params.logit_bias.empty() || !params.allowed_token_ids.empty() || !params.bad_words.empty() ||
         recipe.penalises() || ends;
}

// How a row is drawn, and its logits on the way there.
class Drawing {
 public:
  Drawing(const RowWanted& wanted, Interval tokens) : tokens_(tokens) {
    edits_.clear();
    how_ = draw_of(wanted, &edits_);
  }
  [[nodiscard]] const RowDraw& how() const { return how_; }

  // The raw logits of a shard made into those that are drawn from: `raw` itself where nothing changes it; else valid
  // until the calling thread's next.
  const float* adjusted(const float* raw) {
    thread_local std::vector<float> adjusted;
    if (edits_.empty() && how_.barred == 0) return raw;
    adjusted.assign(raw, raw + tokens_.size());
    if (how_.barred != 0) std::fill(adjusted.begin(), adjusted.end(), kBarred);
    for (const LogitEdit& edit : edits_) {
      if (!tokens_.contains(edit.token)) continue;
      const int32_t at = edit.token - tokens_.begin;
      apply(edit, raw[at], &adjusted[static_cast<size_t>(at)]);
    }
    return adjusted.data();
  }

 private:
  static void apply(const LogitEdit& edit, float raw, float* x) {
    switch (edit.kind) {
      case LogitEdit::Kind::kBias:
        *x += edit.a;
        return;
      case LogitEdit::Kind::kAllow:
        *x = raw + edit.a;
        return;
      case LogitEdit::Kind::kBar:
        *x = kBarred;
        return;
      case LogitEdit::Kind::kPenalise:
        break;
    }
    // A logit stays a number, however near to 0 the penalty: infinity less infinity is none.
    if (*x != kBarred) *x = std::clamp(*x > 0 ? *x / edit.a : *x * edit.a, -kPenalisedMax, kPenalisedMax);
    *x -= edit.b;
  }

  static thread_local std::vector<LogitEdit> edits_;
  const Interval tokens_;
  RowDraw how_;
};
thread_local std::vector<LogitEdit> Drawing::edits_;

}  // namespace

VocabularySampler::VocabularySampler(std::vector<Interval> shards) {
  for (const Interval& tokens : shards) {
    Shard shard;
    shard.tokens = tokens;
    shards_.push_back(std::move(shard));
  }
  int vocab = 0;
  for (const Interval& tokens : shards) {
    BATON_CHECK(tokens.empty() || tokens.begin == vocab, "a shard begins at token {}, not {}", tokens.begin, vocab);
    vocab += tokens.size();
  }
  BATON_CHECK(vocab > 0 && vocab <= kVocabularyMax, "a vocabulary of {} tokens; at most {}", vocab, kVocabularyMax);
}

void VocabularySampler::reserve(int rank, size_t rows) {
  Shard& shard = shards_[static_cast<size_t>(rank)];
  if (shard.rows.size() < rows) shard.rows.resize(rows);
}

void VocabularySampler::take_drawn(int rank, int row, const RowDrawn& drawn) {
  Shard& shard = shards_[static_cast<size_t>(rank)];
  ShardRow& to = shard.rows[static_cast<size_t>(row)];
  to.drawn = true;
  to.sound = drawn.sound != 0;
  to.possible = drawn.raw_best >= std::numeric_limits<float>::lowest();
  to.raw_best = drawn.raw_best;
  to.total = to.kept = 0;
  to.raw_total = drawn.raw_total;
  to.picks.clear();
  to.tops.clear();
  to.best = {shard.tokens.begin + drawn.token, drawn.possible != 0 ? drawn.logit : kBarred, drawn.logit, 0};
}

bool VocabularySampler::device_draws(std::span<const RowWanted> rows, bool whole) {
  return std::all_of(rows.begin(), rows.end(), [whole](const RowWanted& wanted) {
    if (wanted.recipe == nullptr) return true;
    const Recipe& recipe = *wanted.recipe;
    if (!wanted.draw || wanted.tops() > 0 || !recipe.listed.empty()) return false;
    return whole || (recipe.greedy() && !wanted.logprobs() && !adjusts(wanted));
  });
}

bool VocabularySampler::needs_weights(std::span<const RowWanted> rows) {
  return std::any_of(rows.begin(), rows.end(), [](const RowWanted& wanted) {
    return wanted.recipe != nullptr && (wanted.logprobs() || (wanted.draw && !wanted.recipe->greedy()));
  });
}

bool VocabularySampler::needs_picks(std::span<const RowWanted> rows) {
  return std::any_of(rows.begin(), rows.end(), [](const RowWanted& wanted) {
    return wanted.recipe != nullptr && wanted.draw && !wanted.recipe->greedy();
  });
}

VocabularySampler::Merged VocabularySampler::merged(size_t row) const {
  Merged all;
  bool possible = false;
  all.raw_best = kBarred;
  for (const Shard& shard : shards_) {
    const ShardRow& part = shard.rows[row];
    if (shard.tokens.empty()) continue;
    all.sound &= part.sound;
    possible |= part.possible;
    all.raw_best = std::max(all.raw_best, part.raw_best);
    if (all.best.id < 0 || part.best.adjusted > all.best.adjusted) all.best = part.best;
    all.total += part.total;
    all.kept += part.kept;
    all.raw_total += part.raw_total;
    all.drawn |= part.drawn;
  }
  all.sound &= possible;
  return all;
}

void VocabularySampler::find_best(int rank, std::span<const RowWanted> rows, Interval part, const float* logits,
                                  int64_t stride) {
  Shard& shard = shards_[static_cast<size_t>(rank)];
  if (shard.tokens.empty()) return;
  for (int i = part.begin; i < part.end; ++i) {
    const RowWanted& wanted = rows[static_cast<size_t>(i)];
    if (wanted.recipe == nullptr) continue;
    ShardRow& row = shard.rows[static_cast<size_t>(i)];
    const float* raw = logits + i * stride;
    const Extremes seen = extremes(raw, shard.tokens.size());
    row.sound = seen.sound;
    row.possible = seen.best >= std::numeric_limits<float>::lowest();
    row.raw_best = seen.best;
    row.drawn = false;
    row.total = row.kept = row.raw_total = 0;
    row.picks.clear();
    row.best = {};
    if (!wanted.draw || !seen.sound) continue;
    const float* x = Drawing(wanted, shard.tokens).adjusted(raw);
    const float best = x == raw ? seen.best : extremes(x, shard.tokens.size()).best;
    const auto at = std::find(x, x + shard.tokens.size(), best) - x;
    row.best = {shard.tokens.begin + static_cast<int32_t>(at), best, raw[at], 0};
  }
}

void VocabularySampler::weigh(int rank, std::span<const RowWanted> rows, Interval part, const float* logits,
                              int64_t stride) {
  Shard& shard = shards_[static_cast<size_t>(rank)];
  const int64_t n = shard.tokens.size();
  if (n == 0) return;
  for (int i = part.begin; i < part.end; ++i) {
    const RowWanted& wanted = rows[static_cast<size_t>(i)];
    if (wanted.recipe == nullptr) continue;
    const Merged all = merged(static_cast<size_t>(i));
    if (!all.sound) continue;
    ShardRow& row = shard.rows[static_cast<size_t>(i)];
    const Recipe& recipe = *wanted.recipe;
    const float* raw = logits + i * stride;
    if (wanted.draw && !recipe.greedy() && all.best.adjusted != kBarred) {
      Drawing drawing(wanted, shard.tokens);
      const float* x = drawing.adjusted(raw);
      for (int64_t t = 0; t < n; ++t) {
        const uint64_t weight = weight_of(x[t], all.best.adjusted, drawing.how().inverse_temperature);
        row.total += weight;
        row.kept += weight >= drawing.how().least_weight ? weight : 0;
      }
    }
    if (!wanted.logprobs()) continue;
    for (int64_t t = 0; t < n; ++t) row.raw_total += weight_of(raw[t], all.raw_best, 1);
    row.tops.clear();
    if (const auto count = std::min<int64_t>(wanted.tops(), n); count > 0) {
      thread_local std::vector<int32_t> order;
      order.resize(static_cast<size_t>(n));
      std::iota(order.begin(), order.end(), 0);
      std::partial_sort(order.begin(), order.begin() + count, order.end(),
                        [raw](int32_t a, int32_t b) { return raw[a] != raw[b] ? raw[a] > raw[b] : a < b; });
      for (int64_t t = 0; t < count; ++t) {
        const int32_t at = order[static_cast<size_t>(t)];
        row.tops.push_back({shard.tokens.begin + at, raw[at]});
      }
    }
    row.listed.resize(recipe.listed.size());
    for (size_t l = 0; l < recipe.listed.size(); ++l) {
      if (shard.tokens.contains(recipe.listed[l])) row.listed[l] = raw[recipe.listed[l] - shard.tokens.begin];
    }
    if (shard.tokens.contains(wanted.rated)) row.rated = raw[wanted.rated - shard.tokens.begin];
  }
}

void VocabularySampler::pick(int rank, std::span<const RowWanted> rows, Interval part, const float* logits,
                             int64_t stride) {
  Shard& shard = shards_[static_cast<size_t>(rank)];
  if (shard.tokens.empty()) return;
  for (int i = part.begin; i < part.end; ++i) {
    const RowWanted& wanted = rows[static_cast<size_t>(i)];
    if (wanted.recipe == nullptr || !wanted.draw || wanted.recipe->greedy()) continue;
    const auto row = static_cast<size_t>(i);
    const Merged all = merged(row);
    if (!all.sound || all.best.adjusted == kBarred) continue;
    const float* raw = logits + i * stride;
    Drawing drawing(wanted, shard.tokens);
    const float* x = drawing.adjusted(raw);
    if (drawing.how().cuts != 0) {
      pick_best(shard, row, drawing.how(), x, raw, all);
    } else {
      pick_in_order(shard, row, drawing.how(), x, raw, all);
    }
  }
}

// The one token that is drawn, if it is here. Tokens lie in the order of their ids.
void VocabularySampler::pick_in_order(Shard& shard, size_t row, const RowDraw& how, const float* x, const float* raw,
                                      const Merged& all) {
  uint64_t before = 0;
  for (const Shard& other : shards_) {
    if (&other == &shard) break;
    if (!other.tokens.empty()) before += other.rows[row].kept;
  }
  const uint64_t target = target_of(how, all.kept);
  ShardRow& part = shard.rows[row];
  if (target < before || target - before >= part.kept) return;
  uint64_t left = target - before;
  for (int t = 0; t < shard.tokens.size(); ++t) {
    const uint64_t weight = weight_of(x[t], all.best.adjusted, how.inverse_temperature);
    if (weight < how.least_weight) continue;
    if (left < weight) {
      part.picks.push_back({shard.tokens.begin + t, x[t], raw[t], weight});
      return;
    }
    left -= weight;
  }
}

// All of this shard that can be among what is kept of the whole vocabulary, best first: of the whole no more is kept
// than the limits leave of the shard alone.
void VocabularySampler::pick_best(Shard& shard, size_t row, const RowDraw& how, const float* x, const float* raw,
                                  const Merged& all) {
  thread_local std::vector<Candidate> candidates;
  candidates.clear();
  for (int t = 0; t < shard.tokens.size(); ++t) {
    const uint64_t weight = weight_of(x[t], all.best.adjusted, how.inverse_temperature);
    if (weight >= how.least_weight) candidates.push_back({shard.tokens.begin + t, x[t], raw[t], weight});
  }
  const auto better = [](const Candidate& a, const Candidate& b) {
    return a.adjusted != b.adjusted ? a.adjusted > b.adjusted : a.id < b.id;
  };
  const auto limit = static_cast<size_t>(std::min<uint64_t>(candidates.size(), how.count_max));
  const uint64_t wanted_of_all = wanted_mass(how, all.total);
  std::vector<Candidate>& picks = shard.rows[row].picks;
  // Sort only as far as the cut reaches, in runs that double.
  size_t sorted = 0;
  uint64_t mass = 0;
  for (size_t kept = 0; kept < limit && mass < wanted_of_all; ++kept) {
    if (kept == sorted) {
      const size_t end = std::min(limit, std::max(kFirstRun, 2 * sorted));
      const auto first = candidates.begin();
      const auto middle = first + static_cast<ptrdiff_t>(end);
      if (end < candidates.size())
        std::nth_element(first + static_cast<ptrdiff_t>(sorted), middle, candidates.end(), better);
      std::sort(first + static_cast<ptrdiff_t>(sorted), middle, better);
      sorted = end;
    }
    mass += candidates[kept].weight;
    picks.push_back(candidates[kept]);
  }
}

VocabularySampler::Candidate VocabularySampler::draw_from_picks(size_t row, const RowWanted& wanted,
                                                                const Merged& all) const {
  thread_local std::vector<LogitEdit> edits;
  edits.clear();
  const RowDraw how = draw_of(wanted, &edits);
  if (how.cuts == 0) {
    for (const Shard& shard : shards_) {
      if (!shard.tokens.empty() && !shard.rows[row].picks.empty()) return shard.rows[row].picks.front();
    }
    return all.best;
  }
  // The shards' picks in one order; a shard's are ordered, and among equals the earlier shard has the lower ids.
  thread_local std::vector<size_t> next;
  thread_local std::vector<const Candidate*> kept;
  next.assign(shards_.size(), 0);
  kept.clear();
  const uint64_t limit = how.count_max, wanted_of_all = wanted_mass(how, all.total);
  uint64_t mass = 0;
  while (kept.size() < limit && mass < wanted_of_all) {
    size_t from = shards_.size();
    const Candidate* best = nullptr;
    for (size_t s = 0; s < shards_.size(); ++s) {
      if (shards_[s].tokens.empty()) continue;
      const std::vector<Candidate>& picks = shards_[s].rows[row].picks;
      if (next[s] == picks.size() || (best != nullptr && picks[next[s]].adjusted <= best->adjusted)) continue;
      best = &picks[next[s]];
      from = s;
    }
    if (best == nullptr) break;
    ++next[from];
    kept.push_back(best);
    mass += best->weight;
  }
  BATON_CHECK(mass > 0, "the best token is always a candidate");
  uint64_t left = target_of(how, mass);
  for (const Candidate* candidate : kept) {
    if (left < candidate->weight) return *candidate;
    left -= candidate->weight;
  }
  return *kept.back();
}

void VocabularySampler::add_logprobs(size_t row, const RowWanted& wanted, const Merged& all, float raw,
                                     GeneratedToken* token) const {
  const float log_total = all.raw_best + static_cast<float>(std::log(static_cast<double>(all.raw_total) * 0x1p-39));
  token->logprob = raw - log_total;
  for (const Shard& shard : shards_) {
    if (!shard.tokens.empty()) {
      const std::vector<TokenLogprob>& tops = shard.rows[row].tops;
      token->top.insert(token->top.end(), tops.begin(), tops.end());
    }
  }
  std::stable_sort(token->top.begin(), token->top.end(),
                   [](const TokenLogprob& a, const TokenLogprob& b) { return a.logprob > b.logprob; });
  if (token->top.size() > static_cast<size_t>(std::max(0, wanted.tops())))
    token->top.resize(static_cast<size_t>(std::max(0, wanted.tops())));
  for (TokenLogprob& top : token->top) top.logprob -= log_total;
  const std::vector<int32_t>& listed = wanted.recipe->listed;
  for (size_t l = 0; l < listed.size(); ++l) {
    for (const Shard& shard : shards_) {
      if (shard.tokens.contains(listed[l])) token->listed.push_back(shard.rows[row].listed[l] - log_total);
    }
  }
}

void VocabularySampler::finish(std::span<const RowWanted> rows, Interval part, std::span<RowAnswer> answers) {
  for (int i = part.begin; i < part.end; ++i) {
    const auto row = static_cast<size_t>(i);
    const RowWanted& wanted = rows[row];
    if (wanted.recipe == nullptr) continue;
    RowAnswer& answer = answers[row];
    answer = {};
    const Merged all = merged(row);
    if (!all.sound) {
      answer.error = error(ErrorCode::kCorrupt, "the model's logits are not finite; the request cannot be continued");
      continue;
    }
    float raw = 0;
    if (wanted.draw) {
      if (all.best.adjusted == kBarred) {
        answer.error = error(ErrorCode::kInvalidArgument,
                             "no token may be generated: every one is barred by logit_bias, allowed_token_ids, "
                             "bad_words, stop_token_ids or min_new_tokens");
        continue;
      }
      const Candidate drawn = wanted.recipe->greedy() || all.drawn ? all.best : draw_from_picks(row, wanted, all);
      answer.token.id = drawn.id;
      raw = drawn.raw;
      if (wanted.recipe->reads_history()) wanted.recipe->history.add(drawn.id);
    } else {
      answer.token.id = wanted.rated;
      for (const Shard& shard : shards_) {
        if (shard.tokens.contains(wanted.rated)) raw = shard.rows[row].rated;
      }
    }
    if (wanted.logprobs()) add_logprobs(row, wanted, all, raw, &answer.token);
  }
}

}  // namespace baton::sampling
