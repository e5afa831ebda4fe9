#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/check.h"
#include "base/random.h"

namespace baton::engine {
namespace {

constexpr float kBarred = -std::numeric_limits<float>::infinity();
// What a penalty may make of a logit: far beyond every model's, and two of them still have a difference.
constexpr float kLargest = 1e30F;
constexpr double kGreedyBelow = 1e-6;
// Ends of the first sorted run of candidates; most top_p cuts are shorter.
constexpr size_t kFirstRun = 64;

// The uniform number of token `index`: a function of (seed, index), so it does not matter where or in which batch it is
// drawn.
double uniform_of(uint64_t seed, int index) {
  Random stream(seed);
  Random mixed(stream.next() ^ (static_cast<uint64_t>(index) * 0xd1342543de82ef95));
  return mixed.uniform();
}

// At least one token is possible, and none is NaN or +inf.
bool is_sound(const float* logits, int vocab) {
  bool sound = true, possible = false;
  for (int i = 0; i < vocab; ++i) {
    sound &= logits[i] <= std::numeric_limits<float>::max();
    possible |= logits[i] >= std::numeric_limits<float>::lowest();
  }
  return sound && possible;
}

// First index of the largest.
int32_t argmax(const float* x, int n) { return static_cast<int32_t>(std::max_element(x, x + n) - x); }

// log of the sum of exp.
float log_sum_exp(const float* x, int n) {
  const float best = x[argmax(x, n)];
  double sum = 0;
  for (int i = 0; i < n; ++i) sum += std::exp(x[i] - best);
  return best + static_cast<float>(std::log(sum));
}

std::vector<float> listed_logprobs(const float* logits, std::span<const int32_t> listed, float log_total) {
  std::vector<float> logprobs;
  logprobs.reserve(listed.size());
  for (const int32_t id : listed) logprobs.push_back(logits[id] - log_total);
  return logprobs;
}

Error not_finite() {
  return error(ErrorCode::kCorrupt, "the model's logits are not finite; the request cannot be continued");
}

}  // namespace

Sampler::Sampler(int vocab, std::vector<int32_t> eos_ids)
    : vocab_(vocab),
      eos_ids_(std::move(eos_ids)),
      adjusted_(static_cast<size_t>(vocab)),
      weights_(static_cast<size_t>(vocab)),
      marked_(static_cast<size_t>(vocab)) {
  BATON_CHECK(vocab > 0);
  for (const int32_t id : eos_ids_) BATON_CHECK(id >= 0 && id < vocab, "eos token {} of {}", id, vocab);
}

void Sampler::bar_endings(const SamplingParams& params) {
  for (const int32_t id : params.stop_token_ids) adjusted_[static_cast<size_t>(id)] = kBarred;
  if (params.ignore_eos) return;
  for (const int32_t id : eos_ids_) adjusted_[static_cast<size_t>(id)] = kBarred;
}

void Sampler::bar_words(const Draw& draw) {
  const SamplingParams& params = draw.params;
  if (!params.allowed_token_ids.empty()) {
    for (const int32_t id : params.allowed_token_ids) marked_[static_cast<size_t>(id)] = true;
    for (size_t i = 0; i < adjusted_.size(); ++i) {
      if (!marked_[i]) adjusted_[i] = kBarred;
    }
    for (const int32_t id : params.allowed_token_ids) marked_[static_cast<size_t>(id)] = false;
  }
  const std::vector<int32_t>& ids = draw.generated.ids();
  for (const std::vector<int32_t>& word : params.bad_words) {
    const size_t before = word.size() - 1;
    if (before > ids.size()) continue;
    if (std::equal(word.begin(), word.end() - 1, ids.end() - static_cast<ptrdiff_t>(before)))
      adjusted_[static_cast<size_t>(word.back())] = kBarred;
  }
}

void Sampler::penalise(const Draw& draw) {
  const SamplingParams& params = draw.params;
  const auto repetition = static_cast<float>(params.repetition_penalty);
  // A logit stays a number, however near to 0 the penalty: infinity less infinity is none.
  const auto scale = [this, repetition](int32_t token) {
    float& x = adjusted_[static_cast<size_t>(token)];
    if (x != kBarred) x = std::clamp(x > 0 ? x / repetition : x * repetition, -kLargest, kLargest);
  };
  if (params.repetition_of_prompt && params.repetition_penalty != 1) {
    for (const int32_t token : draw.prompt) {
      if (marked_[static_cast<size_t>(token)] || draw.generated.counts().contains(token)) continue;
      marked_[static_cast<size_t>(token)] = true;
      scale(token);
    }
    for (const int32_t token : draw.prompt) marked_[static_cast<size_t>(token)] = false;
  }
  for (const auto& [token, count] : draw.generated.counts()) {
    scale(token);
    adjusted_[static_cast<size_t>(token)] -=
        static_cast<float>(params.frequency_penalty * count + params.presence_penalty);
  }
}

void Sampler::adjust(const float* logits, const Draw& draw) {
  const SamplingParams& params = draw.params;
  std::copy(logits, logits + vocab_, adjusted_.begin());
  for (const auto& [token, bias] : params.logit_bias) adjusted_[static_cast<size_t>(token)] += static_cast<float>(bias);
  bar_words(draw);
  if (params.repetition_penalty != 1 || params.frequency_penalty != 0 || params.presence_penalty != 0) penalise(draw);
  if (draw.index < params.min_new_tokens) bar_endings(params);
}

int32_t Sampler::draw_from_adjusted(const SamplingParams& params, float best, double uniform) {
  const auto inverse = static_cast<float>(1 / params.temperature);
  double total = 0;
  for (int i = 0; i < vocab_; ++i) {
    const float x = adjusted_[static_cast<size_t>(i)];
    // A barred token stays out at any temperature: infinity times an inverse of 0 is no number.
    const float weight = x == kBarred ? 0 : std::exp((x - best) * inverse);
    weights_[static_cast<size_t>(i)] = weight;
    total += weight;
  }
  // The best token's weight is 1, so a weight is also its share of the best token's probability.
  const auto floor = static_cast<float>(params.min_p);
  candidates_.clear();
  for (int32_t i = 0; i < vocab_; ++i) {
    const float weight = weights_[static_cast<size_t>(i)];
    if (weight > 0 && weight >= floor) candidates_.push_back(i);
  }
  size_t kept = candidates_.size();
  double mass = 0;
  const bool cut = params.top_k != -1 || params.top_p < 1;
  if (!cut) {
    for (const int32_t id : candidates_) mass += weights_[static_cast<size_t>(id)];
  } else {
    const auto better = [this](int32_t a, int32_t b) {
      const float wa = adjusted_[static_cast<size_t>(a)], wb = adjusted_[static_cast<size_t>(b)];
      return wa != wb ? wa > wb : a < b;
    };
    const size_t limit = params.top_k == -1 ? kept : std::min(kept, static_cast<size_t>(params.top_k));
    const double wanted = params.top_p < 1 ? params.top_p * total : std::numeric_limits<double>::infinity();
    // Sort only as far as the cut reaches, in runs that double.
    size_t sorted = 0;
    for (kept = 0; kept < limit && mass < wanted; ++kept) {
      if (kept == sorted) {
        const size_t end = std::min(limit, std::max(kFirstRun, 2 * sorted));
        const auto first = candidates_.begin();
        const auto middle = first + static_cast<ptrdiff_t>(end);
        if (end < candidates_.size())
          std::nth_element(first + static_cast<ptrdiff_t>(sorted), middle, candidates_.end(), better);
        std::sort(first + static_cast<ptrdiff_t>(sorted), middle, better);
        sorted = end;
      }
      mass += weights_[static_cast<size_t>(candidates_[kept])];
    }
  }
  BATON_CHECK(kept > 0, "the best token is always a candidate");
  double left = uniform * mass;
  for (size_t i = 0; i + 1 < kept; ++i) {
    left -= weights_[static_cast<size_t>(candidates_[i])];
    if (left < 0) return candidates_[i];
  }
  return candidates_[kept - 1];
}

Result<GeneratedToken> Sampler::sample(const float* logits, const Draw& draw) {
  if (!is_sound(logits, vocab_)) return not_finite();
  adjust(logits, draw);
  const int32_t best = argmax(adjusted_.data(), vocab_);
  const float best_logit = adjusted_[static_cast<size_t>(best)];
  if (best_logit == kBarred) {
    return error(ErrorCode::kInvalidArgument,
                 "no token may be generated: every one is barred by logit_bias, allowed_token_ids, bad_words, "
                 "stop_token_ids or min_new_tokens");
  }
  GeneratedToken token;
  const bool greedy = draw.params.temperature < kGreedyBelow || draw.params.top_k == 1;
  token.id = greedy ? best : draw_from_adjusted(draw.params, best_logit, uniform_of(draw.seed, draw.index));
  if (draw.logprobs >= 0) {
    const float log_total = log_sum_exp(logits, vocab_);
    token.logprob = logits[token.id] - log_total;
    token.top = top_logprobs(logits, draw.logprobs, log_total);
    token.listed = listed_logprobs(logits, draw.listed, log_total);
  }
  return token;
}

Result<PromptLogprob> Sampler::score(const float* logits, int32_t token, int top, std::span<const int32_t> listed) {
  if (!is_sound(logits, vocab_)) return not_finite();
  const float log_total = log_sum_exp(logits, vocab_);
  return PromptLogprob{token, logits[token] - log_total, top_logprobs(logits, top, log_total),
                       listed_logprobs(logits, listed, log_total)};
}

std::vector<TokenLogprob> Sampler::top_logprobs(const float* logits, int count, float log_total) {
  if (count <= 0) return {};
  candidates_.resize(static_cast<size_t>(vocab_));
  std::iota(candidates_.begin(), candidates_.end(), 0);
  const auto end = candidates_.begin() + std::min(count, vocab_);
  std::partial_sort(candidates_.begin(), end, candidates_.end(),
                    [logits](int32_t a, int32_t b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; });
  std::vector<TokenLogprob> best;
  for (auto id = candidates_.begin(); id != end; ++id) best.push_back({*id, logits[*id] - log_total});
  return best;
}

std::optional<Output::Finish> Sampler::finish_after(int32_t token, int completion_tokens,
                                                    const SamplingParams& params) const {
  const auto contains = [token](const std::vector<int32_t>& ids) {
    return std::find(ids.begin(), ids.end(), token) != ids.end();
  };
  if (contains(params.stop_token_ids) || (!params.ignore_eos && contains(eos_ids_))) {
    return Output::Finish{FinishReason::kStop, token, std::nullopt};
  }
  if (completion_tokens >= params.max_new_tokens)
    return Output::Finish{FinishReason::kLength, std::nullopt, std::nullopt};
  return std::nullopt;
}

}  // namespace baton::engine
