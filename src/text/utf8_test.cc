#include "text/utf8.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

namespace baton::text {
namespace {

struct LossyCase {
  std::string bytes;
  std::string text;
};

// Unicode 15, tables 3-8 to 3-11, and the ends of every range.
TEST(Utf8, ReplacesMaximalSubparts) {
  const std::string r(kReplacementCharacter);
  const LossyCase cases[] = {
      {"", ""},
      {"abc", "abc"},
      {"\x7F\xC2\x80\xDF\xBF\xE0\xA0\x80\xEF\xBF\xBF", "\x7F\xC2\x80\xDF\xBF\xE0\xA0\x80\xEF\xBF\xBF"},
      {"\xF0\x90\x80\x80\xF4\x8F\xBF\xBF", "\xF0\x90\x80\x80\xF4\x8F\xBF\xBF"},
      {"\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41", r + r + r + r + r + r + r + r + "A"},
      {"\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41", r + r + r + r + r + r + r + r + "A"},
      {"\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42", r + r + r + r + r + "A" + r + r + "B"},
      {"\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41", r + r + r + r + "A"},
      {"\xE4\xB8", r},
      {"\xF0\x9F\x98", r},
      {"x\xC3", "x" + r},
      {"\xF5\x80", r + r},
  };
  for (const LossyCase& c : cases) {
    EXPECT_EQ(replace_invalid_utf8(c.bytes), c.text);
    EXPECT_TRUE(is_valid_utf8(replace_invalid_utf8(c.bytes)));
    EXPECT_EQ(is_valid_utf8(c.bytes), c.bytes == c.text);
  }
}

TEST(Utf8, EveryCodePointRoundTrips) {
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (c >= 0xD800 && c <= 0xDFFF) continue;
    std::string text;
    append_utf8(text, c);
    const Utf8Unit unit = decode_utf8(text);
    ASSERT_EQ(unit.code_point, c);
    ASSERT_EQ(unit.length, text.size());
    ASSERT_EQ(unit.kind, Utf8Kind::kValid);
  }
}

RC_GTEST_PROP(Utf8, WhereTheBytesAreCutDoesNotMatter, (const std::vector<uint8_t>& bytes, size_t cut)) {
  const std::string all(bytes.begin(), bytes.end());
  std::string text, held = all.substr(0, cut % (all.size() + 1));
  held.erase(0, append_replacing_invalid(text, held));
  RC_ASSERT(held.size() <= 3u);
  held += all.substr(cut % (all.size() + 1));
  text += replace_invalid_utf8(held);
  RC_ASSERT(text == replace_invalid_utf8(all));
}

}  // namespace
}  // namespace baton::text
