#include "http/request_head.h"

#include <fmt/format.h>

#include <algorithm>

#include "http/message.h"

namespace baton::http {
namespace {

std::optional<HeadFault> bad(std::string why) { return HeadFault{400, std::move(why)}; }

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_alnum(char c) { return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
// RFC 9110, section 5.6.2.
bool is_token_character(char c) {
  return is_alnum(c) || (c != '\0' && std::string_view("!#$%&'*+-.^_`|~").find(c) != std::string_view::npos);
}
bool is_token(std::string_view text) { return !text.empty() && std::ranges::all_of(text, is_token_character); }
// Visible characters, spaces, tabs and bytes of other alphabets; no control characters.
bool is_value_character(char c) {
  const auto byte = static_cast<unsigned char>(c);
  return byte == '\t' || (byte >= 0x20 && byte != 0x7f);
}
bool is_host_character(char c) {
  return is_alnum(c) || (c != '\0' && std::string_view("-._~:[]%").find(c) != std::string_view::npos);
}

std::string_view trim(std::string_view text) {
  const auto blank = [](char c) { return c == ' ' || c == '\t'; };
  while (!text.empty() && blank(text.front())) text.remove_prefix(1);
  while (!text.empty() && blank(text.back())) text.remove_suffix(1);
  return text;
}

// The line before the first CRLF, which is taken off `rest` with it.
std::string_view take_line(std::string_view& rest) {
  const size_t end = rest.find("\r\n");
  const std::string_view line = rest.substr(0, end);
  rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 2);
  return line;
}

// The fields that say where a message ends and whom it is for.
struct Framing {
  std::optional<std::string_view> host, content_length, transfer_encoding, expect;
};

std::optional<HeadFault> read_field(std::string_view line, Framing* framing) {
  if (line.front() == ' ' || line.front() == '\t') return bad("a header line begins with a space (folded lines)");
  const size_t colon = line.find(':');
  const std::string_view name = line.substr(0, colon);
  if (colon == std::string_view::npos || !is_token(name)) return bad("a header line is not NAME: VALUE");
  const std::string_view value = trim(line.substr(colon + 1));
  if (!std::ranges::all_of(value, is_value_character))
    return bad(fmt::format("the header {} holds a control character", name));
  const auto once = [&](std::optional<std::string_view>& field) -> std::optional<HeadFault> {
    if (field) return bad(fmt::format("the header {} is there twice", name));
    field = value;
    return std::nullopt;
  };
  if (equal_ignoring_case(name, "host")) return once(framing->host);
  if (equal_ignoring_case(name, "content-length")) return once(framing->content_length);
  if (equal_ignoring_case(name, "transfer-encoding")) return once(framing->transfer_encoding);
  if (equal_ignoring_case(name, "expect")) return once(framing->expect);
  return std::nullopt;
}

std::optional<HeadFault> check_host(const Framing& framing, std::string_view target, bool one_zero) {
  if (!framing.host) {
    if (one_zero) return std::nullopt;
    return bad("the header Host is missing");
  }
  if (!std::ranges::all_of(*framing.host, is_host_character)) return bad("the header Host is not HOST or HOST:PORT");
  const size_t scheme = target.find("://");
  if (target.starts_with('/') || scheme == std::string_view::npos) return std::nullopt;
  const std::string_view authority = target.substr(scheme + 3, target.find_first_of("/?#", scheme + 3) - scheme - 3);
  if (!equal_ignoring_case(authority, *framing.host)) return bad("the target names another host than the header Host");
  return std::nullopt;
}

std::optional<HeadFault> check_length(const Framing& framing, bool one_zero) {
  if (const auto& length = framing.content_length) {
    constexpr size_t kDigitsMax = 18;  // below 2^63
    if (length->empty() || length->size() > kDigitsMax || !std::ranges::all_of(*length, is_digit))
      return bad("the header Content-Length is not one number of at most 18 digits");
  }
  if (const auto& encoding = framing.transfer_encoding) {
    if (!equal_ignoring_case(*encoding, "chunked"))
      return bad("the header Transfer-Encoding is not \"chunked\", the one that is understood here");
    if (one_zero) return bad("HTTP/1.0 has no Transfer-Encoding");
    if (framing.content_length) return bad("Content-Length and Transfer-Encoding together");
  }
  return std::nullopt;
}

}  // namespace

std::optional<HeadFault> find_head_fault(std::string_view head) {
  std::string_view rest = head;
  const std::string_view line = take_line(rest);
  const size_t first = line.find(' '), last = line.rfind(' ');
  if (first == std::string_view::npos || first == last) return bad("the request line is not METHOD TARGET VERSION");
  const std::string_view method = line.substr(0, first), target = line.substr(first + 1, last - first - 1);
  const std::string_view version = line.substr(last + 1);
  if (!is_token(method)) return bad("the method is not a word");
  if (target.empty() || !std::ranges::all_of(target, [](char c) { return c > ' ' && c < 0x7f; }))
    return bad("the target holds a character that must be percent-encoded");
  const bool one_zero = version == "HTTP/1.0";
  if (!one_zero && version != "HTTP/1.1") return bad("the version is neither HTTP/1.1 nor HTTP/1.0");

  Framing framing;
  size_t fields = 0;
  for (std::string_view field = take_line(rest); !field.empty(); field = take_line(rest)) {
    if (auto fault = read_field(field, &framing)) return fault;
    if (++fields > kHeadFieldsMax) return HeadFault{431, fmt::format("more than {} header lines", kHeadFieldsMax)};
  }
  if (!rest.empty()) return bad("the head is not complete");
  if (auto fault = check_host(framing, target, one_zero)) return fault;
  if (auto fault = check_length(framing, one_zero)) return fault;
  if (framing.expect && !equal_ignoring_case(*framing.expect, "100-continue"))
    return HeadFault{417, "the header Expect is not 100-continue"};
  return std::nullopt;
}

std::optional<HeadFault> find_early_head_fault(std::string_view begin, size_t looked) {
  if (!begin.empty() && !is_token_character(begin.front())) return bad("this is not an HTTP request");
  for (size_t at = begin.find('\n', looked); at != std::string_view::npos; at = begin.find('\n', at + 1)) {
    if (at == 0 || begin[at - 1] != '\r') return bad("a line ends in LF without CR");
  }
  return std::nullopt;
}

}  // namespace baton::http
