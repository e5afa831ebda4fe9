#include "text/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <new>

#include "text/regex_syntax.h"
#include "text/utf8.h"

namespace baton::text {
namespace {

struct Free {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
  void operator()(pcre2_jit_stack* stack) const { pcre2_jit_stack_free(stack); }
};
template <typename T>
using Owned = std::unique_ptr<T, Free>;

// Called wherever a pattern may begin to read a long stretch again (regex_syntax.h): what lies between two calls is
// linear in the text, and steps that do not come by here count towards the match limit.
int on_callout(pcre2_callout_block*, void* budget) {
  constexpr size_t kUnits = 256;
  return static_cast<EncodeBudget*>(budget)->spend(kUnits) ? 0 : PCRE2_ERROR_CALLOUT;
}

// What one thread needs to match with any pattern: only the whole match is asked for, so one pair of offsets is enough.
struct Matcher {
  Matcher() {
    constexpr size_t kJitStackStart = 64 * 1024;
    constexpr size_t kJitStackMax = 64 * 1024 * 1024;  // address space; pages are taken as used
    data.reset(pcre2_match_data_create(1, nullptr));
    context.reset(pcre2_match_context_create(nullptr));
    stack.reset(pcre2_jit_stack_create(kJitStackStart, kJitStackMax, nullptr));
    if (!data || !context || !stack) throw std::bad_alloc();
    pcre2_jit_stack_assign(context.get(), nullptr, stack.get());
    pcre2_set_heap_limit(context.get(), Regex::kHeapMax / 1024);
  }
  void limit_steps(size_t text_bytes) const {
    const size_t steps = Regex::kStepsMin + Regex::kStepsPerByte * text_bytes;
    pcre2_set_match_limit(context.get(), static_cast<uint32_t>(std::min<size_t>(steps, UINT32_MAX)));
    pcre2_set_depth_limit(context.get(), UINT32_MAX);  // depth is heap
  }
  Owned<pcre2_match_data> data;
  Owned<pcre2_match_context> context;
  Owned<pcre2_jit_stack> stack;
};

// One match from `from`, into offsets: PCRE2's return value. Checking UTF-8 at every call would make a long text
// quadratic; the caller has done it once.
int match_from(const pcre2_code* code, const Matcher& matcher, std::string_view text, size_t from, TextRange& found) {
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  const auto take = [&](int count, pcre2_match_data* data) {
    const PCRE2_SIZE* offsets = pcre2_get_ovector_pointer(data);
    if (count >= 0) found = {offsets[0], offsets[1]};
    return count;
  };
  const int count =
      pcre2_match(code, subject, text.size(), from, PCRE2_NO_UTF_CHECK, matcher.data.get(), matcher.context.get());
  if (count != PCRE2_ERROR_JIT_STACKLIMIT) return take(count, matcher.data.get());
  // The interpreter keeps what it took from the heap with the match data: these go at once.
  const Owned<pcre2_match_data> large(pcre2_match_data_create(1, nullptr));
  if (!large) return PCRE2_ERROR_NOMEMORY;
  return take(pcre2_match(code, subject, text.size(), from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, large.get(),
                          matcher.context.get()),
              large.get());
}

Error match_failure(int number, size_t from, size_t bytes) {
  std::string_view what = "failed";
  if (number == PCRE2_ERROR_MATCHLIMIT) what = "takes too many steps";
  if (number == PCRE2_ERROR_HEAPLIMIT || number == PCRE2_ERROR_NOMEMORY) what = "needs too much memory";
  return error(ErrorCode::kInvalidArgument,
               "a pattern of tokenizer.json {} at byte {} of a text of {} (PCRE2 error {}): the pattern cannot match "
               "this text",
               what, from, bytes, number);
}

}  // namespace

struct Regex::Code {
  Owned<pcre2_code> code;
};

Status Regex::check_source(std::string_view pattern) {
  if (!is_valid_utf8(pattern)) return error(ErrorCode::kInvalidArgument, "regular expression is not valid UTF-8");
  constexpr size_t kSourceBytesMax = size_t{1} << 16;  // published ones have up to 1 kB
  if (pattern.size() > kSourceBytesMax) {
    return error(ErrorCode::kInvalidArgument, "regular expression of {} bytes, at most {} are read", pattern.size(),
                 kSourceBytesMax);
  }
  return {};
}

Result<Regex> Regex::from_onig(std::string_view pattern) {
  BATON_TRY(check_source(pattern));
  BATON_ASSIGN(const std::string translated, pcre2_from_onig(pattern));
  return compile(translated);
}

Result<Regex> Regex::from_python(std::string_view pattern) {
  BATON_TRY(check_source(pattern));
  BATON_ASSIGN(const std::string translated, pcre2_from_python(pattern));
  return compile(translated);
}

Result<Regex> Regex::from_literal(std::string_view text) { return compile(pcre2_from_literal(text)); }

Result<Regex> Regex::compile(std::string_view pattern) {
  constexpr size_t kPatternBytesMax = size_t{1} << 20;  // translated; compiling takes some ten times as many
  if (pattern.size() > kPatternBytesMax) {
    return error(ErrorCode::kInvalidArgument, "regular expression of {} bytes, at most {} are compiled", pattern.size(),
                 kPatternBytesMax);
  }
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

Result<std::vector<TextRange>> Regex::find_all(std::string_view text, EncodeBudget& budget,
                                               bool each_is_a_token) const {
  thread_local const Matcher matcher;
  matcher.limit_steps(text.size());
  pcre2_set_callout(matcher.context.get(), on_callout, &budget);
  std::vector<TextRange> matches;
  size_t not_empty = 0;
  size_t from = 0;
  while (from <= text.size()) {
    TextRange match{};
    const int count = match_from(code_->code.get(), matcher, text, from, match);
    if (count == PCRE2_ERROR_NOMATCH) break;
    if (count < 0 && !budget.is_over()) budget.fail(match_failure(count, from, text.size()));
    if (count < 0) return budget.status().error();
    const bool is_empty = match.begin == match.end;
    if (is_empty && !matches.empty() && matches.back().end == match.end) {
      from += from < text.size() ? decode_utf8(text.substr(from)).length : 1;
      continue;
    }
    matches.push_back(match);
    not_empty += is_empty ? 0 : 1;
    if (each_is_a_token && !budget.allows_tokens(not_empty)) return budget.status().error();
    from = match.end;
  }
  return matches;
}

Result<bool> Regex::is_in(std::string_view text, EncodeBudget& budget) const {
  thread_local const Matcher matcher;
  matcher.limit_steps(text.size());
  pcre2_set_callout(matcher.context.get(), on_callout, &budget);
  TextRange match{};
  const int count = match_from(code_->code.get(), matcher, text, 0, match);
  if (count < 0 && count != PCRE2_ERROR_NOMATCH) {
    if (!budget.is_over()) budget.fail(match_failure(count, 0, text.size()));
    return budget.status().error();
  }
  return count >= 0;
}

}  // namespace baton::text
