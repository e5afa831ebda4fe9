// Where tokens begin, in characters of the text that they came from or stand for.
#include "text/token_offsets.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "text/utf8.h"

namespace baton::text {
namespace {

Tokenizer fixture(const std::string& name) {
  return Tokenizer::load(std::filesystem::path(BATON_SOURCE_DIR) / "tests/fixtures/tokenizers" / (name + ".json"))
      .value();
}

// What the text has at each token's place, up to the next one's.
std::vector<std::string> pieces(const Tokenizer& tokenizer, const std::vector<int32_t>& ids, const std::string& text,
                                bool skip_special) {
  std::vector<size_t> begins;  // of each character, in bytes
  for (size_t i = 0; i < text.size(); ++i) {
    if ((static_cast<unsigned char>(text[i]) & 0xC0) != 0x80) begins.push_back(i);
  }
  begins.push_back(text.size());
  std::vector<size_t> offsets = token_offsets(tokenizer, ids, text, skip_special);
  offsets.push_back(begins.size() - 1);
  std::vector<std::string> out;
  for (size_t i = 0; i + 1 < offsets.size(); ++i) {
    EXPECT_LE(offsets[i], offsets[i + 1]);
    out.push_back(text.substr(begins[offsets[i]], begins[offsets[i + 1]] - begins[offsets[i]]));
  }
  return out;
}

// llama3 with BOS in front.
Tokenizer with_bos() {
  Tokenizer llama = fixture("llama3");
  const std::vector<int32_t> bos{*llama.token_id("<|begin_of_text|>")};
  return std::move(llama).with_special_tokens_around(bos, {});
}

TEST(TokenOffsets, CountCharactersAndNotBytes) {
  EXPECT_EQ(count_characters(""), 0U);
  EXPECT_EQ(count_characters("a\xC3\xA9\xE6\x97\xA5\xF0\x9F\x98\x80"), 4U);
  const Tokenizer llama = with_bos();
  const std::string text = "\xC3\xA9\xE6\x97\xA5 the\xF0\x9F\x98\x80z";
  const auto ids = llama.encode(text, true).value();
  const auto parts = pieces(llama, ids, text, false);
  // BOS adds nothing, and the bytes of a character that has several tokens are one character together.
  EXPECT_EQ(parts.front(), "");
  std::string all, bytes;
  for (size_t i = 1; i < ids.size(); ++i) {
    all += parts[i];
    bytes += llama.token_bytes(ids[i]);
    if (!is_valid_utf8(bytes)) continue;
    EXPECT_EQ(all, bytes) << "token " << i;
  }
  EXPECT_EQ(all, text);
}

TEST(TokenOffsets, SpecialTokensCountWhereTheTextHasThem) {
  const Tokenizer llama = with_bos();
  for (const std::string text : {"<|eot_id|>a<|eot_id|>", "a<|eot_id|>b", "<|begin_of_text|>a"}) {
    for (const bool added : {true, false}) {
      const auto ids = llama.encode(text, added).value();
      const auto parts = pieces(llama, ids, text, false);
      EXPECT_EQ(parts.front().empty(), added);
      for (size_t i = added ? 1 : 0; i < ids.size(); ++i)
        EXPECT_EQ(parts[i], llama.token_bytes(ids[i])) << text << " token " << i;
    }
  }
  // And nothing where ids are decoded without them.
  const auto ids = llama.encode("a<|eot_id|>b<|eot_id|>", true).value();
  EXPECT_EQ(token_offsets(llama, ids, "ab", true), (std::vector<size_t>{0, 0, 1, 1, 2}));
}

// The normalizer composes: tokens of one character stand for two of the text.
TEST(TokenOffsets, GoByTheTextAsItCameWhateverItsNormalForm) {
  const Tokenizer qwen = fixture("qwen2");
  const std::string text = "e\xCC\x81z a\xCC\x8A\xCC\xA3x \xE1\x84\x92\xE1\x85\xA1\xE1\x86\xAB.";  // NFD
  const auto ids = qwen.encode(text, true).value();
  const auto offsets = token_offsets(qwen, ids, text, false);
  ASSERT_NE(qwen.decode(ids, false), text);
  const std::string composed = qwen.decode(ids, false);
  // Every ASCII letter is where it is in the text.
  std::vector<size_t> places;
  size_t at = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    if ((static_cast<unsigned char>(text[i]) & 0xC0) == 0x80) continue;
    if (text[i] == 'z' || text[i] == 'x' || text[i] == '.') places.push_back(at);
    ++at;
  }
  std::vector<size_t> found;
  for (size_t i = 0; i < ids.size(); ++i) {
    const std::string_view bytes = qwen.token_bytes(ids[i]);
    if (bytes == "z" || bytes == "x" || bytes == ".") found.push_back(offsets[i]);
  }
  EXPECT_EQ(found, places);
}

RC_GTEST_PROP(TokenOffsets, RiseAndStayInTheText, (const std::vector<uint8_t>& noise, bool other)) {
  static const Tokenizer tokenizers[] = {fixture("llama3"), fixture("qwen2"), fixture("deepseek")};
  const std::string text = replace_invalid_utf8(std::string(noise.begin(), noise.end()));
  for (const Tokenizer& tokenizer : tokenizers) {
    const auto ids = tokenizer.encode(text, true).value();
    const std::string of = other ? "abc" : text;
    const auto offsets = token_offsets(tokenizer, ids, of, false);
    RC_ASSERT(offsets.size() == ids.size());
    RC_ASSERT(std::is_sorted(offsets.begin(), offsets.end()));
    RC_ASSERT((offsets.empty() || offsets.back() <= count_characters(of)));
  }
}

}  // namespace
}  // namespace baton::text
