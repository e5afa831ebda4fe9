#include "text/unicode.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "text/utf8.h"

namespace baton::text {
namespace {

#include "text/unicode_data.inc"

constexpr std::string_view kNames[] = {"Cn", "Cc", "Cf", "Co", "Lu", "Ll", "Lt", "Lm", "Lo", "Mn",
                                       "Mc", "Me", "Nd", "Nl", "No", "Pc", "Pd", "Ps", "Pe", "Pi",
                                       "Pf", "Po", "Sm", "Sc", "Sk", "So", "Zs", "Zl", "Zp"};
static_assert(kNames[static_cast<int>(kZp)] == "Zp");

std::string_view name_of(Category category) { return kNames[static_cast<int>(category)]; }

Category category_of(char32_t code_point) {
  const auto* next = std::upper_bound(std::begin(kCategoryStarts), std::end(kCategoryStarts), code_point,
                                      [](char32_t value, const auto& entry) { return value < entry.first; });
  return std::prev(next)->category;
}

// The letter of a category's group: 'L' for Lu.
char group_of(Category category) { return name_of(category)[0]; }

}  // namespace

bool is_growing_category(std::string_view name) {
  // C and Cn lose the code points that were assigned since; Mn lost U+1171E to Mc.
  if (name == "C" || name == "Cn" || name == "Mn") return false;
  return std::any_of(std::begin(kNames), std::end(kNames),
                     [name](std::string_view n) { return n == name || (name.size() == 1 && n[0] == name[0]); });
}

std::string newer_members_of(std::string_view category) {
  std::string items;
  for (const auto& range : kAfterUnicode14) {
    if (!name_of(range.category).starts_with(category)) continue;
    items +=
        fmt::format("\\x{{{:x}}}-\\x{{{:x}}}", static_cast<uint32_t>(range.first), static_cast<uint32_t>(range.last));
  }
  return items;
}

bool is_white_space(char32_t c) {
  if (c < 0x80) return (c >= '\t' && c <= '\r') || c == ' ';
  if (c == 0x85) return true;
  const Category category = category_of(c);
  return category == kZs || category == kZl || category == kZp;
}

bool is_word(char32_t c) {
  const Category category = category_of(c);
  if (group_of(category) == 'L' || group_of(category) == 'M') return true;
  if (category == kNd || category == kNl || category == kPc) return true;
  // Join_Control, and the symbols that have Other_Alphabetic (circled and squared letters).
  return c == 0x200C || c == 0x200D || (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) ||
         (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189);
}

bool is_numeric(char32_t c) {
  // Rust's library is of Unicode 17, which added these.
  if ((c >= 0x11DE0 && c <= 0x11DE9) || (c >= 0x16FF4 && c <= 0x16FF6)) return true;
  return group_of(category_of(c)) == 'N';
}

bool is_unknown_to_normalizer(char32_t c) {
  if (c < kUnknownToNormalizer[0].first) return false;
  return std::any_of(std::begin(kUnknownToNormalizer), std::end(kUnknownToNormalizer),
                     [c](const auto& range) { return c >= range.first && c <= range.last; });
}

}  // namespace baton::text
