#include "text/tokenizer.h"

#include "text/bpe.h"
#include "text/json_node.h"
#include "text/normalizer.h"
#include "text/post_processor.h"
#include "text/pre_tokenizer.h"
#include "text/utf8.h"
#include "text/vocabulary.h"

namespace baton::text {

struct Tokenizer::Parts {
  Bpe bpe;
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  PostProcessor post_processor;
  Decoder decoder;
  Vocabulary vocabulary;
};

namespace {

constexpr size_t kTextBytesMax = size_t{1} << 30;  // indices within a piece are 32 bits

}  // namespace

Tokenizer::Tokenizer(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Result<Tokenizer> Tokenizer::load(const std::filesystem::path& tokenizer_json, const TokensBeside& more) {
  BATON_ASSIGN(const std::string json, read_text_file(tokenizer_json));
  auto tokenizer = from_json(json, more);
  if (!tokenizer) return in_file(tokenizer_json, tokenizer.error());
  return tokenizer;
}

Result<Tokenizer> Tokenizer::from_json(std::string_view json, const TokensBeside& more) {
  BATON_ASSIGN(const JsonDocument document, JsonDocument::parse(json, "tokenizer.json"));
  const JsonNode root = document.root();
  if (!root.is_object()) return root.wrong_type("an object");
  const JsonNode version = root.optional_member("version");
  if (!version.is_null() && (!version.is_string() || version.string().value() != "1.0")) {
    return version.refuse("only \"1.0\" is supported");
  }
  BATON_ASSIGN(const JsonNode model, root.member("model"));
  BATON_ASSIGN(Normalizer normalizer, Normalizer::from_json(root.optional_member("normalizer")));
  BATON_ASSIGN(PreTokenizer pre_tokenizer, PreTokenizer::from_json(root.optional_member("pre_tokenizer")));
  const BpeUnit unit = pre_tokenizer.is_byte_level() ? BpeUnit::kByte : BpeUnit::kCharacter;
  BATON_ASSIGN(Bpe bpe, Bpe::from_json(model, unit));
  BATON_ASSIGN(PostProcessor post_processor, PostProcessor::from_json(root.optional_member("post_processor")));
  BATON_ASSIGN(Decoder decoder, Decoder::from_json(root.optional_member("decoder")));
  if (decoder.is_byte_level() != (unit == BpeUnit::kByte)) {
    return root.optional_member("decoder").refuse(
        "ByteLevel must be in both the decoder and the pre-tokenizer, or in none");
  }
  BATON_ASSIGN(Vocabulary vocabulary,
               Vocabulary::build(bpe.vocabulary(), root.optional_member("added_tokens"), more, normalizer, decoder));
  for (const auto* side : {&post_processor.prefix, &post_processor.suffix}) {
    for (const int32_t id : *side) {
      if (!vocabulary.entry(id).exists) {
        return root.optional_member("post_processor").refuse("it adds id {}, which names no token", id);
      }
    }
  }
  return Tokenizer(
      std::make_unique<Parts>(Parts{std::move(bpe), std::move(normalizer), std::move(pre_tokenizer),
                                    std::move(post_processor), std::move(decoder), std::move(vocabulary)}));
}

Result<size_t> Tokenizer::append_ids(std::string_view text, std::vector<int32_t>& ids, EncodeBudget& budget) const {
  std::string replaced;
  if (!is_valid_utf8(text)) {
    replaced = replace_invalid_utf8(text);
    text = replaced;
  }
  if (text.size() > kTextBytesMax) {
    return error(ErrorCode::kInvalidArgument, "a text of {} bytes, at most {} are tokenized", text.size(),
                 kTextBytesMax);
  }
  size_t work = 0;
  Pieces pieces;
  BATON_ASSIGN(const auto raw_splits, parts_->vocabulary.raw_matcher().split(text, budget));
  for (const AddedTokenSplit& raw : raw_splits) {
    if (raw.id >= 0) {
      ids.push_back(raw.id);
      continue;
    }
    std::string normalized;
    std::string_view between = raw.text;
    if (!parts_->normalizer.is_identity()) {
      normalized = parts_->normalizer.normalize(raw.text);
      between = normalized;
    }
    BATON_ASSIGN(const auto splits, parts_->vocabulary.normalized_matcher().split(between, budget));
    for (const AddedTokenSplit& split : splits) {
      if (split.id >= 0) {
        ids.push_back(split.id);
        continue;
      }
      pieces.views.clear();
      pieces.storage.clear();
      const bool begins = raw.text.data() == text.data() && split.text.data() == between.data();
      BATON_TRY(parts_->pre_tokenizer.cut(split.text, begins, pieces, budget, parts_->bpe.every_piece_has_a_token()));
      for (std::string_view piece : pieces.views) {
        if (!budget.allows_tokens(ids.size() + parts_->bpe.tokens_min(piece.size()))) return budget.status().error();
        work += parts_->bpe.encode(piece, ids, budget);
        if (!budget.allows_tokens(ids.size())) return budget.status().error();
      }
    }
    if (!budget.allows_tokens(ids.size())) return budget.status().error();
  }
  return work;
}

Result<std::vector<int32_t>> Tokenizer::encode(std::string_view text, bool add_special_tokens,
                                               const EncodeLimits& limits) const {
  EncodeBudget budget(limits);
  std::vector<int32_t> ids;
  if (add_special_tokens) ids = parts_->post_processor.prefix;
  BATON_TRY(append_ids(text, ids, budget));
  if (add_special_tokens) {
    ids.insert(ids.end(), parts_->post_processor.suffix.begin(), parts_->post_processor.suffix.end());
  }
  if (!budget.allows_tokens(ids.size())) return budget.status().error();
  return ids;
}

size_t Tokenizer::encode_work(std::string_view text) const {
  EncodeBudget budget({});
  std::vector<int32_t> ids;
  return append_ids(text, ids, budget).value();
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special) const {
  const Decoder& decoder = parts_->decoder;
  std::string text, run;  // run: of byte tokens that are not in the text yet
  const auto end_run = [&] {
    if (is_valid_utf8(run)) {
      text += run;
    } else if (decoder.has_byte_fallback()) {
      for (size_t i = 0; i < run.size(); ++i) text += kReplacementCharacter;
    }
    run.clear();
  };
  bool is_first = true;
  for (int32_t id : ids) {
    const Vocabulary::VocabularyEntry& entry = parts_->vocabulary.entry(id);
    if (!entry.exists || (skip_special && entry.special)) continue;
    if (!entry.is_byte && !run.empty()) end_run();
    (entry.is_byte ? run : text) += is_first ? decoder.bytes_of_first(entry.text) : entry.bytes;
    is_first = false;
  }
  end_run();
  return decoder.is_byte_level() ? replace_invalid_utf8(text) : std::string(decoder.strip(text));
}

std::string_view Tokenizer::token_bytes(int32_t id) const { return parts_->vocabulary.entry(id).bytes; }
std::string_view Tokenizer::token_text(int32_t id) const { return parts_->vocabulary.entry(id).text; }
bool Tokenizer::is_byte_token(int32_t id) const { return parts_->vocabulary.entry(id).is_byte; }
bool Tokenizer::is_special(int32_t id) const { return parts_->vocabulary.entry(id).special; }
std::optional<int32_t> Tokenizer::token_id(std::string_view token) const { return parts_->vocabulary.find(token); }
int32_t Tokenizer::vocab_size() const { return parts_->vocabulary.size(); }
std::span<const int32_t> Tokenizer::prefix_ids() const { return parts_->post_processor.prefix; }
std::span<const int32_t> Tokenizer::suffix_ids() const { return parts_->post_processor.suffix; }

Tokenizer Tokenizer::with_special_tokens_around(std::span<const int32_t> prefix, std::span<const int32_t> suffix) && {
  PostProcessor& processor = parts_->post_processor;
  processor.prefix.insert(processor.prefix.begin(), prefix.begin(), prefix.end());
  processor.suffix.insert(processor.suffix.end(), suffix.begin(), suffix.end());
  return std::move(*this);
}

}  // namespace baton::text
