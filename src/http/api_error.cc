#include "http/api_error.h"

#include <cctype>

#include "http/json.h"
#include "text/utf8.h"

namespace baton::http {

int http_status(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidArgument:
      return 400;
    case ErrorCode::kForbidden:
      return 403;
    case ErrorCode::kNotFound:
      return 404;
    case ErrorCode::kIncompatible:
      return 409;
    case ErrorCode::kResourceExhausted:
      return 429;
    case ErrorCode::kUnavailable:
      return 503;
    case ErrorCode::kDeadlineExceeded:
      return 504;
    case ErrorCode::kCancelled:
      return 408;
    case ErrorCode::kCorrupt:
      return 500;
  }
  return 500;
}

const char* error_type(int status) {
  switch (status) {
    case 400:
    case 405:
    case 409:
    case 413:
    case 417:
    case 431:
      return "invalid_request_error";
    case 401:
      return "authentication_error";
    case 403:
      return "permission_error";
    case 404:
      return "not_found_error";
    case 408:
      return "cancelled_error";
    case 429:
      return "rate_limit_error";
    case 501:
      return "not_supported_error";
    case 502:
    case 503:
      return "unavailable_error";
    case 504:
      return "timeout_error";
    default:
      return "internal_error";
  }
}

std::string error_json(int status, const std::string& message) {
  std::string param = "null";
  const size_t colon = message.find(": ");
  if (status == 400 && colon != std::string::npos && colon < 40) {
    bool field = true;
    for (const char c : message.substr(0, colon))
      field = field && (std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_');
    if (field) param = json_string(message.substr(0, colon));
  }
  const std::string code =
      status == 404 && message.starts_with("the model '") ? "\"model_not_found\"" : std::to_string(status);
  const std::string text = json_string(text::replace_invalid_utf8(message));
  return fmt::format(
      "{{\"error\":{{\"message\":{0},\"type\":\"{1}\",\"param\":{2},\"code\":{3}}},\"object\":\"error\",\"message\":{0}"
      ","
      "\"type\":\"{1}\",\"param\":{2},\"code\":{4}}}",
      text, error_type(status), param, code, status);
}

void send_json(ResponseWriter& writer, int status, std::string body, Headers extra) {
  extra.emplace_back("Content-Type", "application/json");
  body += '\n';
  writer.send(status, std::move(extra), std::move(body));
}

Headers error_headers(int status) {
  if (status == 429 || status == 503) return {{"Retry-After", "1"}};
  if (status == 400 || status == 403 || status == 409 || status == 413 || status == 501)
    return {{"x-should-retry", "false"}};
  return {};
}

void send_error(ResponseWriter& writer, int status, const std::string& message, Headers extra) {
  for (auto& header : error_headers(status)) extra.push_back(std::move(header));
  send_json(writer, status, error_json(status, message), std::move(extra));
}

void send_error(ResponseWriter& writer, const Error& failure, Headers extra) {
  send_error(writer, http_status(failure.code), failure.message, std::move(extra));
}

}  // namespace baton::http
