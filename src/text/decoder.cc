#include "text/decoder.h"

#include <algorithm>

#include "text/byte_alphabet.h"
#include "text/metaspace.h"
#include "text/utf8.h"

namespace baton::text {
namespace {

constexpr size_t kReplacementsMax = 8;  // published files have one
// All replacements together make a token at most this many times as long.
constexpr size_t kGrowthMax = 4;

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

// The value of "<0x0A>", or -1.
int byte_value(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token.back() != '>') return -1;
  const int high = hex_digit(token[3]), low = hex_digit(token[4]);
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}

}  // namespace

Result<Decoder> Decoder::from_json(const JsonNode& node) {
  Decoder decoder;
  BATON_TRY(decoder.append(node));
  const bool joins = decoder.is_byte_level_ || !decoder.metaspace_.empty() || decoder.stage_ >= Stage::kFuse ||
                     !decoder.replacements_.empty() || decoder.byte_fallback_;
  if (!joins) return node.refuse("no ByteLevel, Metaspace or Fuse in it");
  size_t growth = 1;
  for (const auto& [from, to] : decoder.replacements_)
    growth *= std::max<size_t>(1, (to.size() + from.size() - 1) / from.size());
  if (growth > kGrowthMax) return node.refuse("its replacements make texts more than {} times as long", kGrowthMax);
  return decoder;
}

// ByteLevel works on all tokens at once, so nothing but Fuse may be beside it.
Status Decoder::enter(const JsonNode& node, Stage stage) {
  BATON_ASSIGN(const std::string_view type, node.type());
  if (stage < stage_ || (is_byte_level_ && stage != Stage::kFuse) || (!metaspace_.empty() && stage != Stage::kFuse)) {
    return node.refuse("decoder \"{}\" is not supported in this place", type);
  }
  stage_ = stage;
  return {};
}

Status Decoder::append(const JsonNode& node) {
  if (node.is_null()) return {};
  BATON_ASSIGN(const std::string_view type, node.type());
  if (type == "Sequence") {
    BATON_ASSIGN(const JsonNode list, node.member("decoders"));
    BATON_ASSIGN(const std::vector<JsonNode> items, list.array());
    for (const JsonNode& item : items) BATON_TRY(append(item));
    return {};
  }
  if (type == "Fuse") return enter(node, Stage::kFuse);
  if (type == "Replace") return append_replace(node);
  if (type == "Strip") return append_strip(node);
  if (type == "ByteFallback") {
    BATON_TRY(enter(node, Stage::kByteFallback));
    byte_fallback_ = true;
    return {};
  }
  if (type != "ByteLevel" && type != "Metaspace") {
    return node.refuse("decoder \"{}\" is not supported (ByteLevel, Metaspace, Replace, ByteFallback, Fuse, Strip are)",
                       type);
  }
  BATON_TRY(enter(node, Stage::kReplace));
  if (!replacements_.empty()) return node.refuse("decoder \"{}\" after Replace is not supported", type);
  if (type == "ByteLevel") {
    is_byte_level_ = true;
    return {};
  }
  BATON_ASSIGN(const Metaspace metaspace, Metaspace::from_json(node));
  metaspace_ = metaspace.replacement;
  first_is_prefixed_ = metaspace.prepend != Metaspace::Prepend::kNever;
  return {};
}

Status Decoder::append_replace(const JsonNode& node) {
  BATON_TRY(enter(node, Stage::kReplace));
  if (replacements_.size() == kReplacementsMax) return node.refuse("more than {} replacements", kReplacementsMax);
  BATON_ASSIGN(replacements_.emplace_back(), read_replacement(node));
  return {};
}

Status Decoder::append_strip(const JsonNode& node) {
  if (stage_ != Stage::kFuse) return node.refuse("decoder \"Strip\" is not supported but right after Fuse");
  BATON_TRY(enter(node, Stage::kStrip));
  BATON_ASSIGN(const JsonNode content, node.member("content"));
  BATON_ASSIGN(const std::string_view text, content.string());
  stripped_ = text;
  if (text.empty() || decode_utf8(text).length != text.size())
    return content.refuse("\"{}\" is not one character", text);
  BATON_ASSIGN(const JsonNode start, node.member("start"));
  BATON_ASSIGN(strip_start_, start.index());
  BATON_ASSIGN(const JsonNode stop, node.member("stop"));
  BATON_ASSIGN(strip_stop_, stop.index());
  return {};
}

bool Decoder::is_byte(std::string_view token) const { return byte_fallback_ && byte_value(token) >= 0; }

std::string Decoder::bytes_of(std::string_view token) const {
  if (is_byte_level_) return bytes_of_token(token).value_or(std::string(token));
  if (!metaspace_.empty()) return replace_all(token, metaspace_, " ");
  std::string text(token);
  for (const auto& [from, to] : replacements_) text = replace_all(text, from, to);
  return is_byte(text) ? std::string(1, static_cast<char>(byte_value(text))) : text;
}

std::string Decoder::bytes_of_first(std::string_view token) const {
  return first_is_prefixed_ ? replace_all(token, metaspace_, "") : bytes_of(token);
}

std::string_view Decoder::strip(std::string_view text) const {
  for (int i = 0; i < strip_start_ && text.starts_with(stripped_); ++i) text.remove_prefix(stripped_.size());
  for (int i = 0; i < strip_stop_ && text.ends_with(stripped_); ++i) text.remove_suffix(stripped_.size());
  return text;
}

}  // namespace baton::text
