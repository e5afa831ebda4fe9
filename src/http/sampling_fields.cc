#include "http/sampling_fields.h"

#include <cmath>
#include <cstdlib>
#include <limits>

#include "http/json.h"

namespace baton::http {
namespace json = boost::json;

Status check_vocabulary(const std::vector<int32_t>& ids, std::string_view name, const ModelText& model) {
  for (const int32_t id : ids) {
    if (id >= model.vocab) {
      return error(ErrorCode::kInvalidArgument, "{}: token id {} is not below the vocabulary's size {}", name, id,
                   model.vocab);
    }
  }
  return {};
}

namespace {

Result<std::vector<std::string>> read_stops(const json::object& from) {
  BATON_ASSIGN(std::vector<std::string> stops, strings_field(from, "stop", kStopsMax));
  std::erase(stops, "");
  size_t stop_bytes = 0;
  for (const std::string& stop : stops) stop_bytes += stop.size();
  if (stop_bytes > kStopBytesMax) {
    return error(ErrorCode::kInvalidArgument, "stop: {} bytes in all; at most {} are allowed", stop_bytes,
                 kStopBytesMax);
  }
  return stops;
}

Status read_logit_bias(const json::object& from, const ModelText& model, engine::SamplingParams* params) {
  if (const json::value* bias = find_field(from, "logit_bias")) {
    if (!bias->is_object())
      return error(ErrorCode::kInvalidArgument, "logit_bias: must map token ids to numbers in [-100, 100]");
    for (const auto& [key, value] : bias->as_object()) {
      char* end = nullptr;
      const std::string digits(key);
      const long id = std::strtol(digits.c_str(), &end, 10);
      if (digits.empty() || *end != '\0' || id < 0 || id >= model.vocab || !value.is_number() ||
          !(std::abs(value.to_number<double>()) <= 100)) {
        return error(ErrorCode::kInvalidArgument,
                     "logit_bias: '{}' must be a token id below {} with a number in [-100, 100]", digits, model.vocab);
      }
      params->logit_bias[static_cast<int32_t>(id)] = value.to_number<double>();
    }
  }
  return {};
}

}  // namespace

Status read_sampling(const json::object& from, const ModelText& model, bool openai, engine::SamplingParams* params,
                     std::vector<std::string>* stops, ApiRequest* request) {
  BATON_ASSIGN(auto temperature, number_field(from, "temperature", 0, std::numeric_limits<double>::infinity()));
  if (temperature) params->temperature = *temperature;
  BATON_ASSIGN(auto top_p, number_field(from, "top_p", 0, 1, true));
  if (top_p) params->top_p = *top_p;
  BATON_ASSIGN(auto min_p, number_field(from, "min_p", 0, 1));
  if (min_p) params->min_p = *min_p;
  BATON_ASSIGN(auto top_k, int_field(from, "top_k", -1, std::numeric_limits<int32_t>::max()));
  if (top_k == 0) return error(ErrorCode::kInvalidArgument, "top_k: 0 is not -1 (all) or at least 1");
  if (top_k) params->top_k = static_cast<int>(*top_k);
  BATON_ASSIGN(auto frequency, number_field(from, "frequency_penalty", -2, 2));
  if (frequency) params->frequency_penalty = *frequency;
  BATON_ASSIGN(auto presence, number_field(from, "presence_penalty", -2, 2));
  if (presence) params->presence_penalty = *presence;
  BATON_ASSIGN(auto repetition, number_field(from, "repetition_penalty", 0, 2, true));
  if (repetition) params->repetition_penalty = *repetition;
  BATON_ASSIGN(auto seed, int_field(from, openai ? "seed" : "sampling_seed", std::numeric_limits<int64_t>::min(),
                                    std::numeric_limits<int64_t>::max()));
  if (!seed && !openai) {
    BATON_ASSIGN(seed,
                 int_field(from, "seed", std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::max()));
  }
  if (seed) params->seed = static_cast<uint64_t>(*seed);
  BATON_ASSIGN(auto ignore_eos, bool_field(from, "ignore_eos"));
  params->ignore_eos = ignore_eos.value_or(false);
  const int64_t tokens_max = std::numeric_limits<int32_t>::max();
  for (const char* name : {"min_new_tokens", "min_tokens"}) {
    BATON_ASSIGN(auto min_tokens, int_field(from, name, 0, tokens_max));
    if (min_tokens) params->min_new_tokens = static_cast<int>(*min_tokens);
  }
  for (const char* name : {"max_new_tokens", "max_tokens", "max_completion_tokens"}) {
    BATON_ASSIGN(auto max_tokens, int_field(from, name, 0, tokens_max));
    if (max_tokens) params->max_new_tokens = static_cast<int>(*max_tokens);
  }
  if (params->min_new_tokens > params->max_new_tokens) {
    return error(ErrorCode::kInvalidArgument, "{}: {} is not in [0, {}], the most new tokens that are asked for",
                 find_field(from, "min_tokens") != nullptr ? "min_tokens" : "min_new_tokens", params->min_new_tokens,
                 params->max_new_tokens);
  }
  if (const json::value* ids = find_field(from, "stop_token_ids")) {
    BATON_ASSIGN(params->stop_token_ids, ids_from(*ids, "stop_token_ids"));
    BATON_TRY(check_vocabulary(params->stop_token_ids, "stop_token_ids", model));
  }
  BATON_ASSIGN(*stops, read_stops(from));
  BATON_TRY(read_logit_bias(from, model, params));
  BATON_ASSIGN(auto skip_special, bool_field(from, "skip_special_tokens"));
  if (skip_special) request->skip_special_tokens = *skip_special;
  BATON_ASSIGN(auto no_trim, bool_field(from, "no_stop_trim"));
  if (no_trim) request->no_stop_trim = *no_trim;
  for (const char* name : {"json_schema", "regex", "ebnf", "structural_tag", "stop_regex"}) {
    if (find_field(from, name) != nullptr)
      return error(ErrorCode::kInvalidArgument, "{}: constrained decoding is not supported by this server", name);
  }
  return {};
}

}  // namespace baton::http
