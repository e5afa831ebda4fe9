// What tests of request bodies share: bodies as text, read against the model of byte tokens.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "http/test_support.h"

namespace baton::http {

inline const ModelText& model() {
  static const auto made = byte_model();
  return *made;
}

inline Result<ApiRequest> parse(ApiKind kind, const std::string& body, engine::Role role = engine::Role::kUnified) {
  return parse_api_request(kind, body, model(), role);
}
inline ApiRequest parsed(ApiKind kind, const std::string& body, engine::Role role = engine::Role::kUnified) {
  auto request = parse(kind, body, role);
  EXPECT_TRUE(request.ok()) << body << ": " << (request.ok() ? "" : request.error().message);
  return request.ok() ? std::move(*request) : ApiRequest{};
}
// A good body of the kind with `field` in it; sampling parameters go where the kind has them.
inline std::string body_with(ApiKind kind, const std::string& field) {
  switch (kind) {
    case ApiKind::kGenerate:
      return "{\"text\":\"ab\",\"sampling_params\":{" + field + "}}";
    case ApiKind::kCompletion:
      return "{\"prompt\":\"ab\"," + field + "}";
    case ApiKind::kChat:
      return "{\"messages\":[{\"role\":\"user\",\"content\":\"ab\"}]," + field + "}";
  }
  return {};
}

}  // namespace baton::http
