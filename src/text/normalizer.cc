#include "text/normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <memory>

#include "text/unicode.h"
#include "text/utf8.h"

namespace baton {
namespace {

Status append_forms(const JsonNode& node, std::vector<Normalizer::Form>& forms) {
  if (node.is_null()) return {};
  BATON_ASSIGN(const std::string_view type, node.type());
  if (type == "NFC") {
    forms.push_back(Normalizer::Form::kNfc);
  } else if (type == "NFD") {
    forms.push_back(Normalizer::Form::kNfd);
  } else if (type == "Sequence") {
    BATON_ASSIGN(const JsonNode list, node.member("normalizers"));
    BATON_ASSIGN(const std::vector<JsonNode> items, list.array());
    for (const JsonNode& item : items) BATON_TRY(append_forms(item, forms));
  } else {
    return node.refuse("normalizer \"{}\" is not supported (NFC, NFD, Sequence are)", type);
  }
  return {};
}

void append_form(std::string& out, std::string_view text, Normalizer::Form form) {
  if (text.empty()) return;
  utf8proc_uint8_t* mapped = nullptr;
  const auto direction = form == Normalizer::Form::kNfc ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
  const utf8proc_ssize_t length =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()), static_cast<utf8proc_ssize_t>(text.size()),
                   &mapped, static_cast<utf8proc_option_t>(UTF8PROC_STABLE | direction));
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owned(mapped, &std::free);
  BATON_CHECK(length >= 0, "utf8proc: {}", utf8proc_errmsg(length));
  out.append(reinterpret_cast<const char*>(mapped), static_cast<size_t>(length));
}

// To a normalizer that does not know a mark, it is a starter that composes with nothing: it parts the text in two.
std::string to_form(std::string_view text, Normalizer::Form form) {
  std::string out;
  out.reserve(text.size());
  size_t begin = 0;
  for (size_t at = 0; at < text.size();) {
    const Utf8Unit unit = decode_utf8(text.substr(at));
    if (unit.length > 1 && is_unknown_to_normalizer(unit.code_point)) {
      append_form(out, text.substr(begin, at - begin), form);
      out += text.substr(at, unit.length);
      begin = at + unit.length;
    }
    at += unit.length;
  }
  append_form(out, text.substr(begin), form);
  return out;
}

}  // namespace

Result<Normalizer> Normalizer::from_json(const JsonNode& node) {
  Normalizer normalizer;
  BATON_TRY(append_forms(node, normalizer.forms_));
  return normalizer;
}

std::string Normalizer::normalize(std::string_view text) const {
  std::string current(text);
  const bool is_ascii =
      std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; });
  if (is_ascii) return current;  // ASCII is in every normal form
  for (Form form : forms_) current = to_form(current, form);
  return current;
}

}  // namespace baton
