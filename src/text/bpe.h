// Byte-pair encoding of one piece of text: its bytes or characters become tokens, and adjacent tokens merge by rank
// until none can.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
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

// What the merging of a piece begins with.
enum class BpeUnit {
  kByte,       // tokens are written in the byte alphabet (GPT-2)
  kCharacter,  // tokens are written as they are (SentencePiece)
};

// The model of tokenizer.json, of type BPE. Immutable, safe to share between threads.
class Bpe {
 public:
  // kCorrupt or kIncompatible with the JSON path: another model type, dropout, affixes, byte_fallback of bytes, a merge
  // of tokens that are not in the vocabulary, two tokens with one id.
  [[nodiscard]] static Result<Bpe> from_json(const JsonNode& node, BpeUnit unit);

  // Appends the ids of one pre-tokenized piece of valid UTF-8, or of the raw bytes of one. O(n log n) in its bytes. A
  // character that has no token becomes the tokens "<0x00>" to "<0xFF>" of its bytes if byte_fallback is set and all of
  // them are there. Else it, or a byte that has no token, becomes unk_token, or nothing if there is none. Returns the
  // work done, in looks at a pair of tokens, for tests of growth. When the budget ends, so does the merging: the ids
  // are of no use then.
  size_t encode(std::string_view bytes, std::vector<int32_t>& ids, EncodeBudget& budget) const;
  // Whether every byte of UTF-8 has a token, so that no piece of a text is left without one.
  [[nodiscard]] bool every_piece_has_a_token() const;
  // The fewest tokens that a piece of so many bytes can become.
  [[nodiscard]] size_t tokens_min(size_t bytes) const;

  // Token texts as written in the file (in the byte alphabet), to ids.
  [[nodiscard]] const TokenIds& vocabulary() const { return vocabulary_; }

 private:
  struct Symbol {
    int32_t id;
    int32_t previous;  // index, -1: none
    int32_t next;      // index, -1: none
  };
  Bpe(size_t merges, BpeUnit unit) : unit_(unit), merges_(merges) {}
  Status read_options(const JsonNode& node);
  Status read_merges(const std::vector<JsonNode>& merges);
  Status read_merge(const JsonNode& node, uint32_t rank);
  void index_bytes();
  void index_characters();
  // Write the ids before any merge to `ids`, which has room for one for each byte, and return how many there are.
  size_t ids_of_bytes(std::string_view bytes, std::span<int32_t> ids) const;
  size_t ids_of_characters(std::string_view text, std::span<int32_t> ids) const;
  size_t ids_of_units(std::string_view bytes, std::span<int32_t> ids) const {
    return unit_ == BpeUnit::kByte ? ids_of_bytes(bytes, ids) : ids_of_characters(bytes, ids);
  }
  // Merge the ids in place, keep those that remain in front, and count the work.
  size_t merge_short(std::span<int32_t> ids, size_t& count) const;
  size_t merge_long(std::vector<int32_t>& ids, EncodeBudget& budget) const;

  BpeUnit unit_;
  TokenIds vocabulary_;
  TokenIds ids_by_bytes_;                // only filled for ignore_merges
  std::array<int32_t, 256> byte_ids_{};  // -1: the byte has no token; of characters: all -1 without byte_fallback
  std::unordered_map<char32_t, int32_t> character_ids_;
  size_t token_bytes_max_ = 0;  // of characters
  BpeMergeTable merges_;
  int32_t unk_id_ = -1;  // -1: none
  bool fuse_unk_ = false;
  bool byte_fallback_ = false;
  bool ignore_merges_ = false;  // a piece that is a token as a whole is that token, whatever the merges would give
};

}  // namespace baton::text
