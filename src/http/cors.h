// Pages of other origins that may use this server (the fetch standard's CORS protocol). By default there are none: what
// a browser sends for a page elsewhere is then bounded by routes.h, and no answer is shown to it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "http/message.h"

namespace baton::http {

// "https://ui.example" each, as browsers say them; "*": every page.
using Origins = std::vector<std::string>;

// Between commas, or as a JSON list. kInvalidArgument says which is none.
[[nodiscard]] Result<Origins> parse_origins(std::string_view text);
// Whether the request is one of a page that may send it.
[[nodiscard]] bool from_allowed_origin(const HttpRequest& request, const Origins& allowed);
// What every answer to such a request says; nothing for others.
[[nodiscard]] Headers cors_headers(const HttpRequest& request, const Origins& allowed);
// A browser asks whether a page may send what it wants to. The answer is cors_headers() and these, with 204.
[[nodiscard]] bool is_preflight(const HttpRequest& request, const Origins& allowed);
[[nodiscard]] Headers preflight_headers(const HttpRequest& request);

}  // namespace baton::http
