#include "text/token_offsets.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <compare>

#include "text/streaming_detokenizer.h"
#include "text/utf8.h"

namespace baton::text {
namespace {

// How far a text has got, whichever of its canonical forms it is in: composition joins marks to starters and changes
// neither the number of starters nor that of the marks behind one.
struct Reach {
  size_t starters = 0;
  size_t marks = 0;  // since the last starter
  auto operator<=>(const Reach&) const = default;

  void add(char32_t character) {
    constexpr size_t kLongest = 32;
    std::array<utf8proc_int32_t, kLongest> parts{};
    int boundary = 0;
    const utf8proc_ssize_t count =
        utf8proc_decompose_char(static_cast<utf8proc_int32_t>(character), parts.data(), kLongest,
                                static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE), &boundary);
    for (utf8proc_ssize_t i = 0; i < count; ++i) {
      if (utf8proc_get_property(parts[static_cast<size_t>(i)])->combining_class == 0) {
        ++starters;
        marks = 0;
      } else {
        ++marks;
      }
    }
  }
  void add(std::string_view text) {
    while (!text.empty()) {
      const Utf8Unit unit = decode_utf8(text);
      add(unit.code_point);
      text.remove_prefix(unit.length);
    }
  }
};

// The characters of a text one after another.
class Walk {
 public:
  explicit Walk(std::string_view text) : rest_(text) { look(); }
  // To the character that `reach` lies in.
  void advance_to(const Reach& reach) {
    while (!rest_.empty() && after_ <= reach) {
      rest_.remove_prefix(length_);
      ++at_;
      look();
    }
  }
  [[nodiscard]] size_t at() const { return at_; }

 private:
  void look() {
    if (rest_.empty()) return;
    const Utf8Unit unit = decode_utf8(rest_);
    length_ = unit.length;
    after_.add(unit.code_point);
  }

  std::string_view rest_;
  size_t at_ = 0;
  size_t length_ = 0;  // of the character at at_
  Reach after_;        // behind it
};

// How many ids in front encode() added, which the text has not.
size_t added_in_front(const Tokenizer& tokenizer, std::span<const int32_t> ids, std::string_view text) {
  const std::span<const int32_t> prefix = tokenizer.prefix_ids();
  if (prefix.empty() || ids.size() < prefix.size() || !std::equal(prefix.begin(), prefix.end(), ids.begin())) return 0;
  // A text that begins with them itself has them twice, if any were added.
  const bool own = text.starts_with(tokenizer.token_bytes(prefix.front()));
  const bool twice = ids.size() > prefix.size() && ids[prefix.size()] == prefix.front();
  return own && !twice ? 0 : prefix.size();
}

}  // namespace

size_t count_characters(std::string_view text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

std::vector<size_t> token_offsets(const Tokenizer& tokenizer, std::span<const int32_t> ids, std::string_view text,
                                  bool skip_special) {
  std::vector<size_t> offsets;
  offsets.reserve(ids.size());
  const size_t added = skip_special ? 0 : added_in_front(tokenizer, ids, text);
  Walk walk(text);
  Reach reach;
  StreamingDetokenizer detokenizer(tokenizer, {.skip_special = skip_special});
  bool begun = false;
  for (size_t i = 0; i < ids.size(); ++i) {
    walk.advance_to(reach);
    offsets.push_back(walk.at());
    if (i < added) continue;
    const std::string piece = detokenizer.push(ids[i]);
    // Some tokenizers put a space in front that was not there.
    const bool space_more = !begun && piece.starts_with(' ') && !text.starts_with(' ');
    begun = begun || !piece.empty();
    reach.add(std::string_view(piece).substr(space_more ? 1 : 0));
  }
  return offsets;
}

}  // namespace baton::text
