// From rows of logits to tokens and logprobs, where each rank has the logits of its own part of the vocabulary.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/interval.h"
#include "sampling/recipe.h"
#include "sampling/row_draw.h"

namespace baton::sampling {

// Tokens of the largest vocabulary.
inline constexpr int kVocabularyMax = 1 << 24;

// What is done to the raw logits x, in this order:
//
// 1. logit_bias is added. Tokens that are not among allowed_token_ids, and those that would complete one of bad_words,
//    are barred.
// 2. Of generated tokens, repetition_penalty r divides a positive x and multiplies any other (Keskar et al. 2019). The
//    prompt does not count, as in SGLang; with repetition_of_prompt it does, as in vLLM.
// 3. frequency_penalty * count + presence_penalty is subtracted (the OpenAI formula).
// 4. While fewer than min_new_tokens are generated, the tokens that would end the sequence are barred.
// 5. softmax(x / temperature) gives probabilities. A token is kept if it is among the top_k most probable, and among
//    the fewest most probable ones whose sum reaches top_p, and has at least min_p times the best one's probability.
//    All three look at the same probabilities.
// 6. What is kept is renormalised, and one is drawn. Ties go to the lower id.
//
// Logprobs are log-softmax of the raw logits: before bias, penalties, temperature and truncation, in prompt and
// completion alike.
//
// Every sum over the vocabulary is one of integers, of weights in units of 2^-39 of the best token's: so it does not
// depend on how many ranks there are and on who adds first.
//
// One object serves the ranks of a stage. For each batch of rows every rank calls, with the same rows and a barrier of
// all ranks after each call: find_best(); weigh() if needs_weights(rows); pick() if needs_picks(rows). Then finish()
// for each row on one rank, and a barrier before the next batch. Each call may be split over threads of the rank by
// `part`, an interval of the rows.
class VocabularySampler {
 public:
  // Rank r has the logits of tokens [shards[r]); together they are the vocabulary, in order. Some may be empty.
  explicit VocabularySampler(std::vector<Interval> shards);

  // Before find_best(), by rank: room for so many rows.
  void reserve(int rank, size_t rows);

  // logits: those of rank's shard, row i at logits + i * stride.
  void find_best(int rank, std::span<const RowWanted> rows, Interval part, const float* logits, int64_t stride);
  void weigh(int rank, std::span<const RowWanted> rows, Interval part, const float* logits, int64_t stride);
  void pick(int rank, std::span<const RowWanted> rows, Interval part, const float* logits, int64_t stride);
  // answers: (rows)
  void finish(std::span<const RowWanted> rows, Interval part, std::span<RowAnswer> answers);

  // In place of all three calls: what a device has drawn from the rank's shard. Where there are several, of rows that
  // the best one of all shards is taken of.
  void take_drawn(int rank, int row, const RowDrawn& drawn);
  // A device can draw all of these rows, from the whole vocabulary or from shards of it.
  [[nodiscard]] static bool device_draws(std::span<const RowWanted> rows, bool whole);

  [[nodiscard]] static bool needs_weights(std::span<const RowWanted> rows);
  [[nodiscard]] static bool needs_picks(std::span<const RowWanted> rows);

 private:
  struct Candidate {
    int32_t id = -1;
    float adjusted = 0, raw = 0;
    uint64_t weight = 0;
  };
  // What a rank says of a row.
  struct ShardRow {
    bool sound = true, possible = false;
    bool drawn = false;  // by a device: best is what it drew
    float raw_best = 0;
    Candidate best;                  // by adjusted logit; id -1: the shard is empty
    uint64_t total = 0, kept = 0;    // weights of all tokens, and of those that min_p leaves
    uint64_t raw_total = 0;          // of the raw logits
    std::vector<Candidate> picks;    // best first; or the one drawn, where nothing but min_p cuts
    std::vector<TokenLogprob> tops;  // with raw logits for logprobs
    std::vector<float> listed;       // raw logits; of tokens of this shard
    float rated = 0;                 // raw logit; of a token of this shard
  };
  struct alignas(64) Shard {
    Interval tokens;
    std::vector<ShardRow> rows;
  };
  // Of all shards together.
  struct Merged {
    bool sound = true, drawn = false;
    float raw_best = 0;
    Candidate best;
    uint64_t total = 0, kept = 0, raw_total = 0;
  };

  [[nodiscard]] Merged merged(size_t row) const;
  void pick_in_order(Shard& shard, size_t row, const RowDraw& how, const float* adjusted, const float* raw,
                     const Merged& all);
  void pick_best(Shard& shard, size_t row, const RowDraw& how, const float* adjusted, const float* raw,
                 const Merged& all);
  [[nodiscard]] Candidate draw_from_picks(size_t row, const RowWanted& wanted, const Merged& all) const;
  void add_logprobs(size_t row, const RowWanted& wanted, const Merged& all, float raw, GeneratedToken* token) const;

  std::vector<Shard> shards_;
};

}  // namespace baton::sampling
