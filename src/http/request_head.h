// Whether a request's head means one thing to everybody. A proxy in front of this server may read an ambiguous head
// another way and then take a part of one request for the next (RFC 9112, sections 6.3 and 11.2).
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace baton::http {

struct HeadFault {
  int status = 400;  // 400, 417 or 431
  std::string why;
};

inline constexpr size_t kHeadFieldsMax = 128;

// `head`: from the request line to the empty line, with it. Refused: characters outside of what RFC 9110 allows in
// their place, bare CR and LF, folded lines, a space before a colon; a version other than 1.0 and 1.1; a missing,
// second or malformed Host, or one that the target contradicts; a Content-Length that is not one run of digits, or is
// there twice; any Transfer-Encoding but one "chunked", or that in HTTP/1.0 or beside a Content-Length; an Expect that
// is not 100-continue; more than kHeadFieldsMax fields. Nothing if all is well.
[[nodiscard]] std::optional<HeadFault> find_head_fault(std::string_view head);

// Whether the first bytes of a head, not complete, can no longer become one. The first `looked` were asked for before.
[[nodiscard]] std::optional<HeadFault> find_early_head_fault(std::string_view begin, size_t looked = 0);

}  // namespace baton::http
