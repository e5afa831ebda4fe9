// BPE tokenization as Hugging Face's `tokenizers` does it, from its tokenizer.json: over bytes, as the DeepSeek,
// Llama-3 and Qwen families have it, or over characters, as the files made from SentencePiece's models have it (Llama
// 2, Mistral). Ids are equal to the reference's; a file with anything in it that could make them differ is refused.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "text/added_tokens.h"
#include "text/encode_limits.h"

namespace baton::text {

// Immutable once loaded: any number of threads may call any function at once. Cheap to move, not to be copied.
class Tokenizer {
 public:
  // Reads a tokenizer.json. kNotFound if it is not there; kCorrupt if it is not JSON or not of the right shape;
  // kIncompatible, naming the JSON path and the type, for a component that is not supported. "truncation" and "padding"
  // are ignored: they belong to training, and a server has its own limits.
  // `more` is from beside the file, with ids as if it came last in it (vocabulary.h).
  [[nodiscard]] static Result<Tokenizer> load(const std::filesystem::path& tokenizer_json,
                                              const TokensBeside& more = {});
  // The same from the bytes of the file.
  [[nodiscard]] static Result<Tokenizer> from_json(std::string_view json, const TokensBeside& more = {});

  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  // Text to ids. Invalid UTF-8 is read as if each maximal ill-formed subpart were U+FFFD, as clients do that decode
  // leniently. With add_special_tokens the post-processor's tokens (BOS) are put around; special tokens written out in
  // the text become their ids either way. O(n log n) in the text's length, as far as the patterns of the file are.
  // kInvalidArgument when the text passes a limit or a pattern's own (regex.h); kCancelled when it was stopped.
  [[nodiscard]] Result<std::vector<int32_t>> encode(std::string_view text, bool add_special_tokens,
                                                    const EncodeLimits& limits = {}) const;

  // Ids to valid UTF-8: invalid bytes become U+FFFD as above. Ids that name no token are left out, and with
  // skip_special the special ones too. With SentencePiece's byte tokens, each byte of a run of them that is no UTF-8
  // as a whole becomes one, and the space that such tokenizers put before a text is left out.
  [[nodiscard]] std::string decode(std::span<const int32_t> ids, bool skip_special) const;

  // The bytes a token adds to the text of those before it, perhaps a part of a character. Empty for an id that names no
  // token.
  [[nodiscard]] std::string_view token_bytes(int32_t id) const;
  // Whether the token is one of SentencePiece's "<0x00>" to "<0xFF>".
  [[nodiscard]] bool is_byte_token(int32_t id) const;
  // A token as the file spells it: in the byte alphabet ("Ġthe"), added tokens as they are. Empty for an id that names
  // no token.
  [[nodiscard]] std::string_view token_text(int32_t id) const;
  // Whether decode leaves the id out with skip_special.
  [[nodiscard]] bool is_special(int32_t id) const;
  // The id of a token as the file spells it, added tokens first.
  [[nodiscard]] std::optional<int32_t> token_id(std::string_view token) const;
  // One more than the highest id. A model may have more rows than that (padding), never fewer.
  [[nodiscard]] int32_t vocab_size() const;

  // The ids that add_special_tokens puts in front (mostly none or BOS) and behind.
  [[nodiscard]] std::span<const int32_t> prefix_ids() const;
  [[nodiscard]] std::span<const int32_t> suffix_ids() const;

  // A tokenizer that also puts `prefix` in front and `suffix` behind when add_special_tokens is set. For add_bos_token
  // and add_eos_token of tokenizer_config.json (tokenizer_config.h), which tokenizer.json does not know about.
  [[nodiscard]] Tokenizer with_special_tokens_around(std::span<const int32_t> prefix,
                                                     std::span<const int32_t> suffix) &&;

  // How much work encode did, in pairs looked at: for tests of growth.
  [[nodiscard]] size_t encode_work(std::string_view text) const;

 private:
  struct Parts;
  explicit Tokenizer(std::unique_ptr<Parts> parts);
  Result<size_t> append_ids(std::string_view text, std::vector<int32_t>& ids, EncodeBudget& budget) const;

  std::unique_ptr<Parts> parts_;
};

}  // namespace baton::text
