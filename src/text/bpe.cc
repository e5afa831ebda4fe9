#include "text/bpe.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <queue>
#include <unordered_map>

#include "text/byte_alphabet.h"
#include "text/utf8.h"

namespace baton::text {
namespace {

// Below this length, looking at every pair again after each merge is faster than a heap.
constexpr size_t kShortPiece = 32;

// "a b" or ["a", "b"].
Result<std::pair<std::string_view, std::string_view>> pair_of(const JsonNode& node) {
  if (node.is_array()) {
    BATON_ASSIGN(const std::vector<JsonNode> parts, node.array());
    if (parts.size() != 2) return node.refuse("a merge has 2 parts, found {}", parts.size());
    BATON_ASSIGN(const std::string_view left, parts[0].string());
    BATON_ASSIGN(const std::string_view right, parts[1].string());
    return std::pair(left, right);
  }
  BATON_ASSIGN(const std::string_view text, node.string());
  const size_t space = text.find(' ');
  if (space == std::string_view::npos || text.find(' ', space + 1) != std::string_view::npos) {
    return node.refuse("a merge is two tokens with one space between, found \"{}\"", text);
  }
  return std::pair(text.substr(0, space), text.substr(space + 1));
}

// Files from before the type was written down have none.
Status check_type(const JsonNode& node) {
  if (!node.has("type")) return {};
  BATON_ASSIGN(const std::string_view type, node.type());
  if (type != "BPE") return node.refuse("model \"{}\" is not supported (BPE is)", type);
  return {};
}

}  // namespace

BpeMergeTable::BpeMergeTable(size_t merges) : slots_(std::bit_ceil(std::max<size_t>(merges, 8) * 2)) {}

uint64_t BpeMergeTable::key_of(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

// The slot that holds the key, or the empty one where it belongs.
size_t BpeMergeTable::slot_of(uint64_t key) const {
  const size_t mask = slots_.size() - 1;
  size_t at = (key * 0x9E3779B97F4A7C15u) >> 32 & mask;  // Fibonacci hashing: the high bits are the mixed ones
  while (slots_[at].key != key && slots_[at].key != kEmpty) at = (at + 1) & mask;
  return at;
}

void BpeMergeTable::insert(int32_t left, int32_t right, BpeMerge merge) {
  const uint64_t key = key_of(left, right);
  slots_[slot_of(key)] = {key, merge};
}

const BpeMerge* BpeMergeTable::find(int32_t left, int32_t right) const {
  const Slot& slot = slots_[slot_of(key_of(left, right))];
  return slot.key == kEmpty ? nullptr : &slot.merge;
}

Result<Bpe> Bpe::from_json(const JsonNode& node, BpeUnit unit) {
  BATON_TRY(check_type(node));
  BATON_ASSIGN(const JsonNode merges_node, node.member("merges"));
  BATON_ASSIGN(const std::vector<JsonNode> merges, merges_node.array());
  Bpe bpe(merges.size(), unit);
  BATON_ASSIGN(const JsonNode vocab, node.member("vocab"));
  simdjson::dom::object entries;
  if (vocab.element().get(entries) != simdjson::SUCCESS) return vocab.wrong_type("an object");
  std::unordered_map<int32_t, std::string_view> texts;
  for (const auto& [text, value] : entries) {
    const JsonNode entry(value, fmt::format("{}[\"{}\"]", vocab.path(), text));
    BATON_ASSIGN(const int32_t id, entry.index());
    const auto [other, is_new] = texts.emplace(id, text);
    if (!is_new && other->second != text) return entry.refuse("id {} is also the id of \"{}\"", id, other->second);
    bpe.vocabulary_.insert_or_assign(std::string(text), id);
  }
  BATON_TRY(bpe.read_options(node));
  BATON_TRY(bpe.read_merges(merges));
  unit == BpeUnit::kByte ? bpe.index_bytes() : bpe.index_characters();
  return bpe;
}

Status Bpe::read_options(const JsonNode& node) {
  const JsonNode dropout = node.optional_member("dropout");
  if (!dropout.is_null()) return dropout.refuse("dropout makes the ids random and is not supported: set it to null");
  BATON_ASSIGN(byte_fallback_, node.flag("byte_fallback", false));
  if (byte_fallback_ && unit_ == BpeUnit::kByte) {
    return node.refuse("byte_fallback true does not go with a ByteLevel pre-tokenizer");
  }
  for (std::string_view key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const JsonNode affix = node.optional_member(key);
    if (affix.is_null()) continue;
    BATON_ASSIGN(const std::string_view text, affix.string());
    if (!text.empty()) return affix.refuse("\"{}\" is not supported (null is)", text);
  }
  BATON_ASSIGN(fuse_unk_, node.flag("fuse_unk", false));
  BATON_ASSIGN(ignore_merges_, node.flag("ignore_merges", false));
  const JsonNode unk = node.optional_member("unk_token");
  if (unk.is_null()) return {};
  BATON_ASSIGN(const std::string_view text, unk.string());
  const auto found = vocabulary_.find(text);
  if (found == vocabulary_.end()) return unk.refuse("\"{}\" is not in the vocabulary", text);
  unk_id_ = found->second;
  return {};
}

Status Bpe::read_merges(const std::vector<JsonNode>& merges) {
  uint32_t rank = 0;
  for (const JsonNode& node : merges) {
    if (node.is_string() && node.string().value().starts_with("#version")) continue;
    BATON_TRY(read_merge(node, rank++));
  }
  return {};
}

Status Bpe::read_merge(const JsonNode& node, uint32_t rank) {
  BATON_ASSIGN(const auto parts, pair_of(node));
  const std::string texts[] = {std::string(parts.first), std::string(parts.second),
                               fmt::format("{}{}", parts.first, parts.second)};
  int32_t ids[3] = {};
  for (size_t i = 0; i < 3; ++i) {
    const auto found = vocabulary_.find(texts[i]);
    if (found == vocabulary_.end()) return node.refuse("\"{}\" is not in the vocabulary", texts[i]);
    ids[i] = found->second;
  }
  merges_.insert(ids[0], ids[1], BpeMerge{rank, ids[2]});
  return {};
}

void Bpe::index_bytes() {
  for (unsigned byte = 0; byte < 256; ++byte) {
    const auto found = vocabulary_.find(token_of_bytes(std::string(1, static_cast<char>(byte))));
    byte_ids_[byte] = found == vocabulary_.end() ? -1 : found->second;
  }
  if (!ignore_merges_) return;
  for (const auto& [text, id] : vocabulary_) {
    if (const auto bytes = bytes_of_token(text)) ids_by_bytes_.emplace(*bytes, id);
  }
}

void Bpe::index_characters() {
  byte_ids_.fill(-1);
  for (const auto& [text, id] : vocabulary_) {
    token_bytes_max_ = std::max(token_bytes_max_, text.size());
    if (text.empty()) continue;
    const Utf8Unit first = decode_utf8(text);
    if (first.length == text.size()) character_ids_.emplace(first.code_point, id);
  }
  if (ignore_merges_) ids_by_bytes_ = vocabulary_;
  if (!byte_fallback_) return;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const auto found = vocabulary_.find(fmt::format("<0x{:02X}>", byte));
    if (found != vocabulary_.end()) byte_ids_[byte] = found->second;
  }
}

size_t Bpe::tokens_min(size_t bytes) const {
  if (unit_ == BpeUnit::kByte || !every_piece_has_a_token()) return 0;
  return bytes / std::max<size_t>(token_bytes_max_, 1);
}

bool Bpe::every_piece_has_a_token() const {
  for (unsigned byte = 0; byte < 256; ++byte) {
    const bool in_utf8 = byte != 0xc0 && byte != 0xc1 && byte < 0xf5;
    if (in_utf8 && byte_ids_[byte] < 0) return false;
  }
  return true;
}

size_t Bpe::encode(std::string_view bytes, std::vector<int32_t>& ids, EncodeBudget& budget) const {
  budget.spend(bytes.size());
  if (ignore_merges_) {
    const auto whole = ids_by_bytes_.find(bytes);
    if (whole != ids_by_bytes_.end()) {
      ids.push_back(whole->second);
      return 1;
    }
  }
  if (bytes.size() <= kShortPiece) {
    std::array<int32_t, kShortPiece> symbols;  // most pieces are short: no allocation for them
    size_t count = ids_of_units(bytes, symbols);
    const size_t work = merge_short(symbols, count);
    ids.insert(ids.end(), symbols.begin(), symbols.begin() + count);
    return work;
  }
  std::vector<int32_t> symbols(bytes.size());
  symbols.resize(ids_of_units(bytes, symbols));
  const size_t work = merge_long(symbols, budget);
  ids.insert(ids.end(), symbols.begin(), symbols.end());
  return work;
}

size_t Bpe::ids_of_bytes(std::string_view bytes, std::span<int32_t> ids) const {
  size_t count = 0;
  bool after_unknown = false;
  for (char c : bytes) {
    const int32_t id = byte_ids_[static_cast<unsigned char>(c)];
    if (id >= 0) {
      ids[count++] = id;
    } else if (unk_id_ >= 0 && !(fuse_unk_ && after_unknown)) {
      ids[count++] = unk_id_;
    }
    after_unknown = id < 0;
  }
  return count;
}

size_t Bpe::ids_of_characters(std::string_view text, std::span<int32_t> ids) const {
  size_t count = 0;
  bool unknown = false;  // one is still to be written: as in the reference, byte tokens go before it
  const auto write_unknown = [&] {
    if (unknown) ids[count++] = unk_id_;
    unknown = false;
  };
  for (size_t at = 0; at < text.size();) {
    const Utf8Unit unit = decode_utf8(text.substr(at));
    const std::string_view bytes = text.substr(at, unit.length);
    at += unit.length;
    const auto id_of_byte = [&](char c) { return byte_ids_[static_cast<unsigned char>(c)]; };
    if (const auto found = character_ids_.find(unit.code_point); found != character_ids_.end()) {
      write_unknown();
      ids[count++] = found->second;
    } else if (std::all_of(bytes.begin(), bytes.end(), [&](char c) { return id_of_byte(c) >= 0; })) {
      for (const char c : bytes) ids[count++] = id_of_byte(c);
    } else if (unk_id_ >= 0) {
      if (!fuse_unk_) write_unknown();
      unknown = true;
    }
  }
  write_unknown();
  return count;
}

// Merges the leftmost pair of lowest rank until none is left. Quadratic, for few symbols. Ranks of pairs are kept, and
// only the two that touch a merge are looked up again.
size_t Bpe::merge_short(std::span<int32_t> ids, size_t& count) const {
  constexpr uint32_t kNone = std::numeric_limits<uint32_t>::max();
  if (count < 2) return 1;
  std::array<uint32_t, kShortPiece> ranks;  // ranks[i]: of the pair (i, i+1)
  size_t work = 0;
  auto rank_at = [&](size_t i) {
    ++work;
    const BpeMerge* merge = merges_.find(ids[i], ids[i + 1]);
    return merge == nullptr ? kNone : merge->rank;
  };
  for (size_t i = 0; i + 1 < count; ++i) ranks[i] = rank_at(i);
  while (count > 1) {
    const auto* const lowest = std::min_element(ranks.begin(), ranks.begin() + (count - 1));
    if (*lowest == kNone) break;
    const auto i = static_cast<size_t>(lowest - ranks.begin());
    ids[i] = merges_.find(ids[i], ids[i + 1])->id;
    std::copy(ids.begin() + i + 2, ids.begin() + count, ids.begin() + i + 1);
    std::copy(ranks.begin() + i + 1, ranks.begin() + (count - 1), ranks.begin() + i);
    --count;
    if (i > 0) ranks[i - 1] = rank_at(i - 1);
    if (i + 1 < count) ranks[i] = rank_at(i);
  }
  return work;
}

// The same with a heap. A merge puts at most two pairs on it, so it sees at most 3 n of them. An entry is out of date
// if its left symbol has merged into another, or the pair there is no longer the one it was made for; the id it would
// give tells, because no two pairs that begin at one place cover the same bytes.
size_t Bpe::merge_long(std::vector<int32_t>& ids, EncodeBudget& budget) const {
  struct Candidate {
    uint32_t rank;
    int32_t at;
    int32_t id;
    bool operator>(const Candidate& other) const { return rank != other.rank ? rank > other.rank : at > other.at; }
  };
  constexpr int32_t kMerged = -1;
  BATON_CHECK(ids.size() < static_cast<size_t>(std::numeric_limits<int32_t>::max()), "piece of {} bytes", ids.size());
  const auto count = static_cast<int32_t>(ids.size());
  std::vector<Symbol> symbols(ids.size());
  for (int32_t i = 0; i < count; ++i) symbols[i] = {ids[i], i - 1, i + 1 < count ? i + 1 : -1};

  size_t work = 0;
  std::vector<Candidate> initial;
  auto candidate_at = [&](int32_t at, auto&& take) {
    if (at < 0 || symbols[at].next < 0) return;
    ++work;
    const BpeMerge* merge = merges_.find(symbols[at].id, symbols[symbols[at].next].id);
    if (merge != nullptr) take(Candidate{merge->rank, at, merge->id});
  };
  for (int32_t i = 0; i < count; ++i) candidate_at(i, [&](Candidate c) { initial.push_back(c); });
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> heap(std::greater<>(), std::move(initial));

  while (!heap.empty() && budget.spend(1)) {
    const Candidate top = heap.top();
    heap.pop();
    ++work;
    Symbol& left = symbols[top.at];
    if (left.id == kMerged || left.next < 0) continue;
    const BpeMerge* merge = merges_.find(left.id, symbols[left.next].id);
    if (merge == nullptr || merge->id != top.id) continue;
    Symbol& right = symbols[left.next];
    left.id = top.id;
    right.id = kMerged;
    left.next = right.next;
    if (left.next >= 0) symbols[left.next].previous = top.at;
    candidate_at(left.previous, [&](Candidate c) { heap.push(c); });
    candidate_at(top.at, [&](Candidate c) { heap.push(c); });
  }

  ids.clear();
  for (const Symbol& symbol : symbols) {
    if (symbol.id != kMerged) ids.push_back(symbol.id);
  }
  return work;
}

}  // namespace baton::text
