#include "text/metaspace.h"

#include "text/utf8.h"

namespace baton::text {

Result<Metaspace> Metaspace::from_json(const JsonNode& node) {
  Metaspace result;
  BATON_ASSIGN(const JsonNode replacement, node.member("replacement"));
  BATON_ASSIGN(const std::string_view character, replacement.string());
  if (character.empty() || decode_utf8(character).length != character.size()) {
    return replacement.refuse("\"{}\" is not one character", character);
  }
  result.replacement = character;
  BATON_ASSIGN(result.split, node.flag("split", true));
  std::string_view scheme = "always";
  const JsonNode named = node.optional_member("prepend_scheme");
  if (!named.is_null()) {
    BATON_ASSIGN(scheme, named.string());
  }
  if (scheme == "first") {
    result.prepend = Prepend::kFirst;
  } else if (scheme == "never") {
    result.prepend = Prepend::kNever;
  } else if (scheme != "always") {
    return named.refuse("\"{}\" is unknown (always, first, never are known)", scheme);
  }
  BATON_ASSIGN(const bool prefixed, node.flag("add_prefix_space", true));
  if (!prefixed && result.prepend != Prepend::kNever) {
    return node.refuse("add_prefix_space false does not go with prepend_scheme {}", scheme);
  }
  return result;
}

Result<std::pair<std::string, std::string>> read_replacement(const JsonNode& node) {
  BATON_ASSIGN(const JsonNode pattern, node.member("pattern"));
  if (pattern.has("Regex")) return pattern.refuse("a Regex is not supported (String is)");
  BATON_ASSIGN(const JsonNode from, pattern.member("String"));
  BATON_ASSIGN(const std::string_view from_text, from.string());
  if (from_text.empty()) return from.refuse("an empty pattern is not supported");
  BATON_ASSIGN(const JsonNode to, node.member("content"));
  BATON_ASSIGN(const std::string_view to_text, to.string());
  return std::pair(std::string(from_text), std::string(to_text));
}

std::string replace_all(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  out.reserve(text.size());
  size_t done = 0;
  for (size_t at = text.find(from); at != std::string_view::npos; at = text.find(from, done)) {
    out.append(text.substr(done, at - done)).append(to);
    done = at + from.size();
  }
  return out.append(text.substr(done));
}

}  // namespace baton::text
