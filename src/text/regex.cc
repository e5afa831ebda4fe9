#include "text/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <limits>

#include "text/regex_syntax.h"
#include "text/utf8.h"

namespace baton {
namespace {

struct Free {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
  void operator()(pcre2_jit_stack* stack) const { pcre2_jit_stack_free(stack); }
};
template <typename T>
using Owned = std::unique_ptr<T, Free>;

// What one thread needs to match with any pattern: only the whole match is asked for, so one pair of offsets is enough.
struct Matcher {
  Matcher() {
    constexpr size_t kJitStackStart = 64 * 1024;
    constexpr size_t kJitStackMax = 64 * 1024 * 1024;  // address space; pages are taken as used
    constexpr uint32_t kNoLimit = std::numeric_limits<uint32_t>::max();
    data.reset(pcre2_match_data_create(1, nullptr));
    context.reset(pcre2_match_context_create(nullptr));
    stack.reset(pcre2_jit_stack_create(kJitStackStart, kJitStackMax, nullptr));
    BATON_CHECK(data && context && stack, "no memory for a regex matcher");
    pcre2_jit_stack_assign(context.get(), nullptr, stack.get());
    // The limits stop patterns that a stranger wrote. Ours come with the model, and a long prompt must not fail.
    pcre2_set_match_limit(context.get(), kNoLimit);
    pcre2_set_depth_limit(context.get(), kNoLimit);
    pcre2_set_heap_limit(context.get(), kNoLimit);
  }
  Owned<pcre2_match_data> data;
  Owned<pcre2_match_context> context;
  Owned<pcre2_jit_stack> stack;
};

}  // namespace

struct Regex::Code {
  Owned<pcre2_code> code;
};

Result<Regex> Regex::from_onig(std::string_view pattern) {
  if (!is_valid_utf8(pattern)) return error(ErrorCode::kInvalidArgument, "regular expression is not valid UTF-8");
  BATON_ASSIGN(const std::string translated, pcre2_from_onig(pattern));
  return compile(translated);
}

Result<Regex> Regex::from_literal(std::string_view text) { return compile(pcre2_from_literal(text)); }

Result<Regex> Regex::compile(std::string_view pattern) {
  int code_number = 0;
  PCRE2_SIZE offset = 0;
  Owned<pcre2_code> code(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                       PCRE2_UTF | PCRE2_UCP, &code_number, &offset, nullptr));
  if (!code) {
    PCRE2_UCHAR text[256] = {};
    pcre2_get_error_message(code_number, text, sizeof text);
    return error(ErrorCode::kInvalidArgument, "regular expression, near '{}': {}", pattern.substr(offset, 20),
                 reinterpret_cast<const char*>(text));
  }
  // Without JIT (a platform PCRE2 has none for) pcre2_match interprets: slower, same answers.
  (void)pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE);
  return Regex(std::make_shared<const Code>(Code{std::move(code)}));
}

std::vector<TextRange> Regex::find_all(std::string_view text) const {
  thread_local const Matcher matcher;
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  const PCRE2_SIZE* offsets = pcre2_get_ovector_pointer(matcher.data.get());
  std::vector<TextRange> matches;
  size_t from = 0;
  while (from <= text.size()) {
    // Checking UTF-8 at every call would make a long text quadratic; the caller has done it once.
    int found = pcre2_match(code_->code.get(), subject, text.size(), from, PCRE2_NO_UTF_CHECK, matcher.data.get(),
                            matcher.context.get());
    if (found == PCRE2_ERROR_JIT_STACKLIMIT) {
      found = pcre2_match(code_->code.get(), subject, text.size(), from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                          matcher.data.get(), matcher.context.get());
    }
    if (found == PCRE2_ERROR_NOMATCH) break;
    BATON_CHECK(found >= 0, "pcre2_match failed with {} at {} of {} bytes", found, from, text.size());
    const TextRange match{offsets[0], offsets[1]};
    const bool is_empty = match.begin == match.end;
    if (is_empty && !matches.empty() && matches.back().end == match.end) {
      from += from < text.size() ? decode_utf8(text.substr(from)).length : 1;
      continue;
    }
    matches.push_back(match);
    from = match.end;
  }
  return matches;
}

}  // namespace baton
