// A compiled regular expression with the matching rules of the reference tokenizer.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "text/encode_limits.h"

namespace baton::text {

struct TextRange {
  size_t begin;  // byte offsets
  size_t end;
  bool operator==(const TextRange&) const = default;
};

// Immutable; any number of threads may match at once.
class Regex {
 public:
  // From Oniguruma's dialect (regex_syntax.h). kInvalidArgument if it cannot be matched exactly.
  [[nodiscard]] static Result<Regex> from_onig(std::string_view pattern);
  // From Python's dialect, likewise.
  [[nodiscard]] static Result<Regex> from_python(std::string_view pattern);
  // Matches the text itself.
  [[nodiscard]] static Result<Regex> from_literal(std::string_view text);

  // The matches in `text`, which must be valid UTF-8, from left to right without overlap. An empty match is reported
  // unless it touches the match before it, as Rust's onig crate does. kInvalidArgument, also told to the budget, when
  // the pattern backtracks more than kStepsMin + kStepsPerByte times the text's bytes from one place, needs more than
  // kHeapMax, or takes the budget's time. A pattern that backtracks in proportion to the text passes at any length.
  // With `each_is_a_token` also when more matches are not empty than the budget allows tokens.
  [[nodiscard]] Result<std::vector<TextRange>> find_all(std::string_view text, EncodeBudget& budget,
                                                        bool each_is_a_token = false) const;

  // Whether it matches anywhere in `text`, valid UTF-8; errors as find_all()'s.
  [[nodiscard]] Result<bool> is_in(std::string_view text, EncodeBudget& budget) const;

  static constexpr size_t kStepsMin = 1'000'000;
  static constexpr size_t kStepsPerByte = 16;
  static constexpr size_t kHeapMax = size_t{256} << 20;  // bytes

 private:
  struct Code;
  explicit Regex(std::shared_ptr<const Code> code) : code_(std::move(code)) {}
  static Status check_source(std::string_view pattern);
  static Result<Regex> compile(std::string_view pattern);

  std::shared_ptr<const Code> code_;  // shared by copies: it never changes
};

}  // namespace baton::text
