#include "text/normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>

#include "text/metaspace.h"
#include "text/unicode.h"
#include "text/utf8.h"

namespace baton::text {
namespace {

constexpr auto kDecompose = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE);
constexpr auto kCompose = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);

constexpr size_t kStepsMax = 32;    // each passes over the whole text
constexpr size_t kPrependMax = 64;  // bytes

enum class Form { kNfc, kNfd };

// Canonical decomposition (Unicode 15, section 3.11), marks in canonical order. utf8proc_map orders them by swapping
// neighbours, which takes hours for a megabyte of marks that alternate.
std::vector<utf8proc_int32_t> decompose(std::string_view text) {
  constexpr size_t kLongest = 4;  // code points of one canonical decomposition
  std::vector<utf8proc_int32_t> points;
  points.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const Utf8Unit unit = decode_utf8(text.substr(at));
    at += unit.length;
    std::array<utf8proc_int32_t, kLongest> parts;
    int unused = 0;
    const utf8proc_ssize_t count = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(unit.code_point), parts.data(),
                                                           parts.size(), kDecompose, &unused);
    BATON_CHECK(count >= 0 && static_cast<size_t>(count) <= kLongest, "utf8proc: {} for U+{:04X}", count,
                static_cast<uint32_t>(unit.code_point));
    points.insert(points.end(), parts.begin(), parts.begin() + count);
  }
  const auto combining_class = [](utf8proc_int32_t c) { return utf8proc_get_property(c)->combining_class; };
  const auto is_starter = [&](utf8proc_int32_t c) { return combining_class(c) == 0; };
  for (auto run = points.begin(); run != points.end();) {
    run = std::find_if_not(run, points.end(), is_starter);
    const auto end = std::find_if(run, points.end(), is_starter);
    std::stable_sort(run, end, [&](auto a, auto b) { return combining_class(a) < combining_class(b); });
    run = end;
  }
  return points;
}

void append_form(std::string& out, std::string_view text, Form form) {
  std::vector<utf8proc_int32_t> points = decompose(text);
  if (form == Form::kNfc) {
    const utf8proc_ssize_t length =
        utf8proc_normalize_utf32(points.data(), static_cast<utf8proc_ssize_t>(points.size()), kCompose);
    BATON_CHECK(length >= 0, "utf8proc: {}", utf8proc_errmsg(length));
    points.resize(static_cast<size_t>(length));
  }
  for (const utf8proc_int32_t c : points) append_utf8(out, static_cast<char32_t>(c));
}

// utf8proc 2.8 composes a Hangul syllable with this vowel, the code point before the final consonants, and drops it.
constexpr char32_t kBeforeFinalConsonants = 0x11A7;

// A starter that composes with nothing, so it parts the text in two. To a normalizer that does not know a mark, it is
// one.
bool parts_text(char32_t code_point) {
  return code_point == kBeforeFinalConsonants || is_unknown_to_normalizer(code_point);
}

std::string to_form(std::string_view text, Form form) {
  std::string out;
  out.reserve(text.size());
  size_t begin = 0;
  for (size_t at = 0; at < text.size();) {
    const Utf8Unit unit = decode_utf8(text.substr(at));
    if (unit.length > 1 && parts_text(unit.code_point)) {
      append_form(out, text.substr(begin, at - begin), form);
      out += text.substr(at, unit.length);
      begin = at + unit.length;
    }
    at += unit.length;
  }
  append_form(out, text.substr(begin), form);
  return out;
}

// ASCII is in every normal form.
bool is_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

}  // namespace

Result<Normalizer> Normalizer::from_json(const JsonNode& node) {
  Normalizer normalizer;
  BATON_TRY(normalizer.append(node));
  size_t growth = 1;
  for (const Step& step : normalizer.steps_) {
    if (step.kind != Step::Kind::kReplace || step.to.size() <= step.from.size()) continue;
    growth *= (step.to.size() + step.from.size() - 1) / step.from.size();
    if (growth > kGrowthMax) return node.refuse("its replacements make texts more than {} times as long", kGrowthMax);
  }
  return normalizer;
}

Status Normalizer::append(const JsonNode& node) {
  if (node.is_null()) return {};
  BATON_ASSIGN(const std::string_view type, node.type());
  if (type == "Sequence") {
    BATON_ASSIGN(const JsonNode list, node.member("normalizers"));
    BATON_ASSIGN(const std::vector<JsonNode> items, list.array());
    for (const JsonNode& item : items) BATON_TRY(append(item));
    return {};
  }
  if (steps_.size() == kStepsMax) return node.refuse("more than {} normalizers", kStepsMax);
  if (type == "NFC") {
    steps_.push_back({Step::Kind::kNfc, {}, {}});
  } else if (type == "NFD") {
    steps_.push_back({Step::Kind::kNfd, {}, {}});
  } else if (type == "Prepend") {
    BATON_ASSIGN(const JsonNode text, node.member("prepend"));
    BATON_ASSIGN(const std::string_view prepended, text.string());
    if (prepended.size() > kPrependMax) return text.refuse("more than {} bytes", kPrependMax);
    steps_.push_back({Step::Kind::kPrepend, {}, std::string(prepended)});
  } else if (type == "Replace") {
    BATON_ASSIGN(steps_.emplace_back(), read_replace(node));
  } else {
    return node.refuse("normalizer \"{}\" is not supported (NFC, NFD, Prepend, Replace, Sequence are)", type);
  }
  return {};
}

Result<Normalizer::Step> Normalizer::read_replace(const JsonNode& node) {
  BATON_ASSIGN(const auto replacement, read_replacement(node));
  return Step{Step::Kind::kReplace, replacement.first, replacement.second};
}

std::string Normalizer::normalize(std::string_view text) const {
  std::string current(text);
  for (const Step& step : steps_) {
    switch (step.kind) {
      case Step::Kind::kNfc:
      case Step::Kind::kNfd:
        if (!is_ascii(current)) current = to_form(current, step.kind == Step::Kind::kNfc ? Form::kNfc : Form::kNfd);
        break;
      case Step::Kind::kPrepend:
        if (!current.empty()) current.insert(0, step.to);
        break;
      case Step::Kind::kReplace:
        current = replace_all(current, step.from, step.to);
        break;
    }
  }
  return current;
}

}  // namespace baton::text
