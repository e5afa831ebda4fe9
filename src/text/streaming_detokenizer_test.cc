#include "text/streaming_detokenizer.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "text/utf8.h"

namespace baton::text {
namespace {

const Tokenizer& options_tokenizer() {
  static const Tokenizer tokenizer =
      Tokenizer::load(std::filesystem::path(BATON_SOURCE_DIR) / "tests/fixtures/tokenizers/options.json").value();
  return tokenizer;
}

// Any ids at all: single bytes in any order, special tokens between the bytes of a character, ids that do not exist.
RC_GTEST_PROP(StreamingDetokenizer, EqualsDecodeOfAll, (bool skip_special)) {
  const auto ids = *rc::gen::container<std::vector<int32_t>>(
      rc::gen::oneOf(rc::gen::inRange(-2, options_tokenizer().vocab_size() + 2), rc::gen::inRange(0x7E, 0x100)));
  StreamingDetokenizer detokenizer(options_tokenizer(), {.skip_special = skip_special});
  std::string text;
  for (int32_t id : ids) {
    const std::string piece = detokenizer.push(id);
    RC_ASSERT(is_valid_utf8(piece));
    text += piece;
  }
  text += detokenizer.finish();
  RC_ASSERT(text == options_tokenizer().decode(ids, skip_special));
}

// Every token stream of real text, cut anywhere, is its text.
TEST(StreamingDetokenizer, HoldsTheBytesOfACharacter) {
  const auto ids = options_tokenizer().encode("\xF0\x9F\x98\x80!", false).value();
  ASSERT_EQ(ids.size(), 5u);
  StreamingDetokenizer detokenizer(options_tokenizer(), {});
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(detokenizer.push(ids[i]), "");
  EXPECT_EQ(detokenizer.push(ids[3]), "\xF0\x9F\x98\x80");
  EXPECT_EQ(detokenizer.push(ids[4]), "!");
  EXPECT_EQ(detokenizer.finish(), "");
  EXPECT_EQ(detokenizer.push(ids[0]), "");
  EXPECT_EQ(detokenizer.finish(), kReplacementCharacter);
}

}  // namespace
}  // namespace baton::text
