#include "sampling/vocabulary_sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/check.h"
#include "base/random.h"

namespace baton::sampling {
namespace {

constexpr float kBarred = -std::numeric_limits<float>::infinity();
// What a penalty may make of a logit: far beyond every model's, and two of them still have a difference.
constexpr float kLargest = 1e30F;
// The weight of the best token. A vocabulary of 2^24 sums up to 2^63 at the most.
constexpr double kUnit = 0x1p39;
constexpr uint64_t kAll = std::numeric_limits<uint64_t>::max();
// Ends of the first sorted run of candidates; most top_p cuts are shorter.
constexpr size_t kFirstRun = 64;

// The uniform number of token `index`: a function of (seed, index), so it does not matter where or in which batch it is
// drawn.
double uniform_of(uint64_t seed, int index) {
  Random stream(seed);
  Random mixed(stream.next() ^ (static_cast<uint64_t>(index) * 0xd1342543de82ef95));
  return mixed.uniform();
}

// A barred token stays out at any temperature: infinity times an inverse of 0 is no number.
uint64_t weight_of(float x, float best, float inverse) {
  return x == kBarred ? 0 : static_cast<uint64_t>(static_cast<double>(std::exp((x - best) * inverse)) * kUnit + 0.5);
}
float inverse_temperature(const Recipe& recipe) { return static_cast<float>(1 / recipe.params.temperature); }
uint64_t least_weight(const Recipe& recipe) {
  return std::max<uint64_t>(1, static_cast<uint64_t>(recipe.params.min_p * kUnit));
}
bool cuts(const Recipe& recipe) { return recipe.params.top_k != -1 || recipe.params.top_p < 1; }
uint64_t count_limit(const Recipe& recipe) {
  return recipe.params.top_k == -1 ? kAll : static_cast<uint64_t>(recipe.params.top_k);
}
// Where the draw falls in a mass > 0.
uint64_t target_of(const RowWanted& wanted, uint64_t mass) {
  const double at = uniform_of(wanted.recipe->seed, wanted.index) * static_cast<double>(mass);
  return std::min(static_cast<uint64_t>(at), mass - 1);
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

// The raw logits of a shard made into those that are drawn from.
class Adjusting {
 public:
  Adjusting(const RowWanted& wanted, Interval tokens) : wanted_(wanted), tokens_(tokens) {}

  // `raw` itself where nothing changes it; else valid until the calling thread's next.
  const float* operator()(const float* raw) {
    thread_local std::vector<float> adjusted;
    const Recipe& recipe = *wanted_.recipe;
    const SamplingParams& params = recipe.params;
    if (!wanted_.draw || !adjusts(wanted_)) return raw;
    const bool ends = wanted_.index < params.min_new_tokens && !recipe.endings.empty();
    adjusted.assign(raw, raw + tokens_.size());
    x_ = adjusted.data();
    for (auto b = params.logit_bias.lower_bound(tokens_.begin); b != params.logit_bias.end(); ++b) {
      if (float* x = find(b->first)) *x += static_cast<float>(b->second);
    }
    if (!params.allowed_token_ids.empty()) allow(raw);
    bar_words();
    if (recipe.penalises()) penalise();
    if (ends) {
      for (const int32_t id : recipe.endings) bar(id);
    }
    return x_;
  }

 private:
  float* find(int32_t token) { return tokens_.contains(token) ? x_ + (token - tokens_.begin) : nullptr; }
  void bar(int32_t token) {
    if (float* x = find(token)) *x = kBarred;
  }

  void allow(const float* raw) {
    const SamplingParams& params = wanted_.recipe->params;
    std::fill(x_, x_ + tokens_.size(), kBarred);
    for (const int32_t id : params.allowed_token_ids) {
      float* x = find(id);
      if (x == nullptr) continue;
      const auto bias = params.logit_bias.find(id);
      *x = raw[id - tokens_.begin] + (bias == params.logit_bias.end() ? 0 : static_cast<float>(bias->second));
    }
  }

  void bar_words() {
    const std::vector<int32_t>& ids = wanted_.recipe->history.ids();
    for (const std::vector<int32_t>& word : wanted_.recipe->params.bad_words) {
      const size_t before = word.size() - 1;
      if (before > ids.size()) continue;
      if (std::equal(word.begin(), word.end() - 1, ids.end() - static_cast<ptrdiff_t>(before))) bar(word.back());
    }
  }

  // A logit stays a number, however near to 0 the penalty: infinity less infinity is none.
  void scale(float* x) const {
    const auto repetition = static_cast<float>(wanted_.recipe->params.repetition_penalty);
    if (*x != kBarred) *x = std::clamp(*x > 0 ? *x / repetition : *x * repetition, -kLargest, kLargest);
  }

  void penalise() {
    const Recipe& recipe = *wanted_.recipe;
    for (const int32_t token : recipe.prompt) {
      float* x = find(token);
      if (x != nullptr && !recipe.history.counts().contains(token)) scale(x);
    }
    for (const auto& [token, count] : recipe.history.counts()) {
      float* x = find(token);
      if (x == nullptr) continue;
      scale(x);
      *x -= static_cast<float>(recipe.params.frequency_penalty * count + recipe.params.presence_penalty);
    }
  }

  const RowWanted& wanted_;
  const Interval tokens_;
  float* x_ = nullptr;
};

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

void VocabularySampler::take_best(int rank, int row, int32_t token, float logit, bool sound) {
  ShardRow& to = shards_[static_cast<size_t>(rank)].rows[static_cast<size_t>(row)];
  to.sound = sound;
  to.possible = logit >= std::numeric_limits<float>::lowest();
  to.raw_best = logit;
  to.total = to.kept = to.raw_total = 0;
  to.picks.clear();
  to.best = {token, logit, logit, 0};
}

bool VocabularySampler::needs_best_alone(std::span<const RowWanted> rows) {
  return std::all_of(rows.begin(), rows.end(), [](const RowWanted& wanted) {
    return wanted.recipe == nullptr ||
           (wanted.draw && wanted.recipe->greedy() && !wanted.logprobs() && !adjusts(wanted));
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
    row.total = row.kept = row.raw_total = 0;
    row.picks.clear();
    row.best = {};
    if (!wanted.draw || !seen.sound) continue;
    const float* x = Adjusting(wanted, shard.tokens)(raw);
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
      const float* x = Adjusting(wanted, shard.tokens)(raw);
      const float inverse = inverse_temperature(recipe);
      const uint64_t least = least_weight(recipe);
      for (int64_t t = 0; t < n; ++t) {
        const uint64_t weight = weight_of(x[t], all.best.adjusted, inverse);
        row.total += weight;
        row.kept += weight >= least ? weight : 0;
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

// Of the weights of what top_p keeps.
uint64_t VocabularySampler::wanted_mass(const Recipe& recipe, const Merged& all) const {
  if (recipe.params.top_p >= 1) return kAll;
  return std::max<uint64_t>(1, static_cast<uint64_t>(recipe.params.top_p * static_cast<double>(all.total)));
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
    const float* x = Adjusting(wanted, shard.tokens)(raw);
    if (cuts(*wanted.recipe)) {
      pick_best(shard, row, wanted, x, raw, all);
    } else {
      pick_in_order(shard, row, wanted, x, raw, all);
    }
  }
}

// The one token that is drawn, if it is here. Tokens lie in the order of their ids.
void VocabularySampler::pick_in_order(Shard& shard, size_t row, const RowWanted& wanted, const float* x,
                                      const float* raw, const Merged& all) {
  uint64_t before = 0;
  for (const Shard& other : shards_) {
    if (&other == &shard) break;
    if (!other.tokens.empty()) before += other.rows[row].kept;
  }
  const uint64_t target = target_of(wanted, all.kept);
  ShardRow& part = shard.rows[row];
  if (target < before || target - before >= part.kept) return;
  const float inverse = inverse_temperature(*wanted.recipe);
  const uint64_t least = least_weight(*wanted.recipe);
  uint64_t left = target - before;
  for (int t = 0; t < shard.tokens.size(); ++t) {
    const uint64_t weight = weight_of(x[t], all.best.adjusted, inverse);
    if (weight < least) continue;
    if (left < weight) {
      part.picks.push_back({shard.tokens.begin + t, x[t], raw[t], weight});
      return;
    }
    left -= weight;
  }
}

// All of this shard that can be among what is kept of the whole vocabulary, best first: of the whole no more is kept
// than the limits leave of the shard alone.
void VocabularySampler::pick_best(Shard& shard, size_t row, const RowWanted& wanted, const float* x, const float* raw,
                                  const Merged& all) {
  const Recipe& recipe = *wanted.recipe;
  const float inverse = inverse_temperature(recipe);
  const uint64_t least = least_weight(recipe);
  thread_local std::vector<Candidate> candidates;
  candidates.clear();
  for (int t = 0; t < shard.tokens.size(); ++t) {
    const uint64_t weight = weight_of(x[t], all.best.adjusted, inverse);
    if (weight >= least) candidates.push_back({shard.tokens.begin + t, x[t], raw[t], weight});
  }
  const auto better = [](const Candidate& a, const Candidate& b) {
    return a.adjusted != b.adjusted ? a.adjusted > b.adjusted : a.id < b.id;
  };
  const auto limit = static_cast<size_t>(std::min<uint64_t>(candidates.size(), count_limit(recipe)));
  const uint64_t wanted_of_all = wanted_mass(recipe, all);
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
  const Recipe& recipe = *wanted.recipe;
  if (!cuts(recipe)) {
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
  const uint64_t limit = count_limit(recipe), wanted_of_all = wanted_mass(recipe, all);
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
  uint64_t left = target_of(wanted, mass);
  for (const Candidate* candidate : kept) {
    if (left < candidate->weight) return *candidate;
    left -= candidate->weight;
  }
  return *kept.back();
}

void VocabularySampler::add_logprobs(size_t row, const RowWanted& wanted, const Merged& all, float raw,
                                     GeneratedToken* token) const {
  const float log_total = all.raw_best + static_cast<float>(std::log(static_cast<double>(all.raw_total) / kUnit));
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
      const Candidate drawn = wanted.recipe->greedy() ? all.best : draw_from_picks(row, wanted, all);
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
