// Rewrites a regular expression from the dialect of tokenizer.json (Oniguruma, Ruby syntax, UTF-8) into PCRE2's.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace baton::text {

// A PCRE2 pattern (for PCRE2_UTF | PCRE2_UCP) that matches exactly what Oniguruma matches with `pattern`. What the two
// engines read alike passes; ^ $ \s \d \w \v \u \p{..} are respelled, because they differ (lines, U+180E, Unicode
// versions, and what \v and \w mean); kInvalidArgument with the offset for all else (back references, nested classes,
// scripts...), since an almost equal pattern would give wrong token ids without a word.
//
// A callout, which matches nothing, stands at the pattern's front and before every repeated item that may read the same
// text once more: one that another repeat comes before, or within a group. A pattern without them could read a long
// text from each of its places in one call that nothing ends.
[[nodiscard]] Result<std::string> pcre2_from_onig(std::string_view pattern);

// The same for a pattern of Python's re: its anchors, \b, \A, \Z, named groups, and (?i) and (?s) at the front. What it
// has beyond those and Oniguruma's is kInvalidArgument.
[[nodiscard]] Result<std::string> pcre2_from_python(std::string_view pattern);

// A PCRE2 pattern for the literal text.
[[nodiscard]] std::string pcre2_from_literal(std::string_view text);

}  // namespace baton::text
