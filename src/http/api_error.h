// How an Error reads on the wire: {"error":{"message","type","param","code"}}.
#pragma once

#include <memory>
#include <string>

#include "base/result.h"
#include "http/server.h"

namespace baton::http {

[[nodiscard]] int http_status(ErrorCode code);
// OpenAI's type names: "invalid_request_error", "unavailable_error", ...
[[nodiscard]] const char* error_type(int status);
// The object alone, without a newline. `param` is the field that a message begins with ("top_p: ..."), if it does.
[[nodiscard]] std::string error_json(int status, const std::string& message);
// Retry-After or x-should-retry, where they help.
[[nodiscard]] Headers error_headers(int status);
// The whole answer, with Retry-After or x-should-retry where they help.
void send_error(ResponseWriter& writer, int status, const std::string& message, Headers extra = {});
void send_error(ResponseWriter& writer, const Error& failure, Headers extra = {});
void send_json(ResponseWriter& writer, int status, std::string body, Headers extra = {});

}  // namespace baton::http
