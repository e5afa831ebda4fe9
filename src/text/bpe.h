// Byte-pair encoding of one piece of text: bytes become tokens, and adjacent tokens merge by rank until none can.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "text/encode_limits.h"
#include "text/json_node.h"
#include "text/token_ids.h"

namespace baton::text {

// The result of merging two adjacent tokens.
struct BpeMerge {
  uint32_t rank;  // lower merges first
  int32_t id;     // the merged token
};

// (left id, right id) -> merge, with open addressing: one cache line a lookup, mostly.
class BpeMergeTable {
 public:
  explicit BpeMergeTable(size_t merges);
  // The last of equal pairs wins, as in the reference.
  void insert(int32_t left, int32_t right, BpeMerge merge);
  // nullptr if the pair does not merge.
  [[nodiscard]] const BpeMerge* find(int32_t left, int32_t right) const;

 private:
  struct Slot {
    uint64_t key = kEmpty;
    BpeMerge merge{};
  };
  static constexpr uint64_t kEmpty = ~uint64_t{0};  // ids are below 2^31, so no pair has this key
  static uint64_t key_of(int32_t left, int32_t right);
  [[nodiscard]] size_t slot_of(uint64_t key) const;

  std::vector<Slot> slots_;  // a power of two, at most half full
};

// The model of tokenizer.json, of type BPE, over the byte alphabet. Immutable, safe to share between threads.
class Bpe {
 public:
  // kCorrupt or kIncompatible with the JSON path: another model type, byte_fallback, dropout, affixes, a merge of
  // tokens that are not in the vocabulary, two tokens with one id.
  [[nodiscard]] static Result<Bpe> from_json(const JsonNode& node);

  // Appends the ids of one pre-tokenized piece, given as raw bytes. O(n log n) in its bytes. A byte that has no token
  // becomes unk_token, or nothing if there is none. Returns the work done, in looks at a pair of tokens, for tests of
  // growth. When the budget ends, so does the merging: the ids are of no use then.
  size_t encode(std::string_view bytes, std::vector<int32_t>& ids, EncodeBudget& budget) const;
  // Whether every byte of UTF-8 has a token, so that no piece of a text is left without one.
  [[nodiscard]] bool every_piece_has_a_token() const;

  // Token texts as written in the file (in the byte alphabet), to ids.
  [[nodiscard]] const TokenIds& vocabulary() const { return vocabulary_; }

 private:
  struct Symbol {
    int32_t id;
    int32_t previous;  // index, -1: none
    int32_t next;      // index, -1: none
  };
  explicit Bpe(size_t merges) : merges_(merges) {}
  Status read_options(const JsonNode& node);
  Status read_merges(const std::vector<JsonNode>& merges);
  Status read_merge(const JsonNode& node, uint32_t rank);
  void index_bytes();
  // Writes the ids of the bytes before any merge to `ids`, which has room for one each, and returns how many there are.
  size_t ids_of_bytes(std::string_view bytes, std::span<int32_t> ids) const;
  // Merge the ids in place, keep those that remain in front, and count the work.
  size_t merge_short(std::span<int32_t> ids, size_t& count) const;
  size_t merge_long(std::vector<int32_t>& ids, EncodeBudget& budget) const;

  TokenIds vocabulary_;
  TokenIds ids_by_bytes_;                // only filled for ignore_merges
  std::array<int32_t, 256> byte_ids_{};  // -1: the byte has no token
  BpeMergeTable merges_;
  int32_t unk_id_ = -1;  // -1: none
  bool fuse_unk_ = false;
  bool ignore_merges_ = false;  // a piece that is a token as a whole is that token, whatever the merges would give
};

}  // namespace baton::text
