#include "text/added_tokens.h"

#include <algorithm>

#include "text/regex.h"
#include "text/unicode.h"
#include "text/utf8.h"

namespace baton::text {
namespace {

// The start of the code point that ends at `end` (> 0) of valid UTF-8.
size_t previous_code_point(std::string_view text, size_t end) {
  size_t at = end - 1;
  while ((static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;
  return at;
}

bool ends_with_word(std::string_view text) {
  return !text.empty() && is_word(decode_utf8(text.substr(previous_code_point(text, text.size()))).code_point);
}

bool starts_with_word(std::string_view text) { return !text.empty() && is_word(decode_utf8(text).code_point); }

// White space is taken back to `from` at most, which keeps a run of it from being read again for every token.
size_t white_space_begin(std::string_view text, size_t end, size_t from) {
  while (end > from) {
    const size_t at = previous_code_point(text, end);
    if (!is_white_space(decode_utf8(text.substr(at)).code_point)) break;
    end = at;
  }
  return end;
}

size_t white_space_end(std::string_view text, size_t begin) {
  while (begin < text.size()) {
    const Utf8Unit unit = decode_utf8(text.substr(begin));
    if (!is_white_space(unit.code_point)) break;
    begin += unit.length;
  }
  return begin;
}

}  // namespace

Result<AddedToken> AddedToken::from_json(const JsonNode& node) {
  AddedToken token;
  BATON_ASSIGN(const JsonNode content, node.member("content"));
  BATON_ASSIGN(const std::string_view text, content.string());
  token.content = text;
  BATON_ASSIGN(token.single_word, node.flag("single_word", false));
  BATON_ASSIGN(token.lstrip, node.flag("lstrip", false));
  BATON_ASSIGN(token.rstrip, node.flag("rstrip", false));
  BATON_ASSIGN(token.special, node.flag("special", false));
  BATON_ASSIGN(token.normalized, node.flag("normalized", !token.special));
  return token;
}

AddedTokenMatcher::AddedTokenMatcher(std::vector<AddedToken> tokens, const std::vector<std::string>& patterns)
    : tokens_(std::move(tokens)), automaton_(patterns) {}

Result<std::vector<AddedTokenSplit>> AddedTokenMatcher::split(std::string_view text, EncodeBudget& budget) const {
  std::vector<AddedTokenSplit> splits;
  auto push = [&](size_t begin, size_t end, int32_t id) {
    if (begin < end) splits.push_back({text.substr(begin, end - begin), id});
  };
  size_t done = 0;        // all before is in splits
  TextRange space{0, 0};  // the last run of white space that rstrip read, so that none is read twice
  size_t from = 0;  // where to look on: rstrip moves done past it, and tokens made of white space still match there
  while (const auto match = automaton_.find_leftmost_longest(text, from)) {
    if (!budget.spend(match->read_to - from)) return budget.status().error();
    from = match->end;
    const AddedToken& token = tokens_[match->pattern];
    size_t begin = match->begin;
    size_t end = match->end;
    if (token.single_word && (ends_with_word(text.substr(0, begin)) || starts_with_word(text.substr(end)))) continue;
    if (token.lstrip) begin = std::max(white_space_begin(text, begin, std::min(begin, done)), done);
    if (token.rstrip) {
      if (end < space.begin || end > space.end) space = {end, white_space_end(text, end)};
      end = space.end;
    }
    push(done, begin, -1);
    push(begin, end, token.id);
    done = end;
  }
  push(done, text.size(), -1);
  return splits;
}

}  // namespace baton::text
