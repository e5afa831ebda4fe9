// What the fields of SGLang's and vLLM's requests come to here: the FIELD rows of compatibility.inc.
#pragma once

#include <boost/json.hpp>
#include <cstdint>
#include <span>
#include <string_view>

#include "base/result.h"
#include "http/api_request.h"

namespace baton::http {

// Where a field may stand: bits, since most may at several places.
enum FieldPlace : uint8_t {
  kGenerate = 1,
  kParams = 2,  // sampling_params of /generate
  kCompletions = 4,
  kChat = 8,
  kOpenAi = kCompletions | kChat,
  kCalls = kGenerate | kOpenAi,   // where a field of the call as a whole stands
  kSampling = kParams | kOpenAi,  // where a field of how tokens are drawn stands
};

enum class FieldDeed : uint8_t { kDone, kNoEffect, kRefused };

struct FieldRow {
  uint8_t where = 0;  // bits of FieldPlace
  std::string_view name;
  FieldDeed deed = FieldDeed::kDone;
  std::string_view off;  // JSON of a value that asks for nothing, beside those that ask for nothing anywhere
  std::string_view why;  // of a refusal: "adapters are"
};
[[nodiscard]] std::span<const FieldRow> field_rows();

[[nodiscard]] FieldPlace place_of(ApiKind kind);

// null, false, an empty text, and lists and objects of nothing else.
[[nodiscard]] bool asks_for_nothing(const boost::json::value& value);

// kInvalidArgument names the field that asks for what is not done here.
Status refuse_fields(const boost::json::object& object, FieldPlace place);

}  // namespace baton::http
