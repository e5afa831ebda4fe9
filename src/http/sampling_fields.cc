#include "http/sampling_fields.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>

#include "http/json.h"

namespace baton::http {
namespace json = boost::json;

Status check_vocabulary(const std::vector<int32_t>& ids, std::string_view name, const ModelText& model) {
  for (const int32_t id : ids) {
    if (id >= model.vocab) {
      return error(ErrorCode::kInvalidArgument,
                   "{}: token id {} is out of vocabulary: not below the vocabulary's size {}", name, id, model.vocab);
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

// SGLang's, of Python's re. One without any sign of a pattern is a stop string, and cut off as one: so it is there.
Status read_stop_patterns(const json::object& from, const ModelText& model, SamplingFields* read) {
  BATON_ASSIGN(std::vector<std::string> sources, strings_field(from, "stop_regex", kStopPatternsMax));
  std::erase(sources, "");
  if (!sources.empty() && !model.tokenizer) {
    return error(ErrorCode::kInvalidArgument,
                 "stop_regex: this server has no tokenizer (--skip-tokenizer-init): there is no text to look at");
  }
  for (std::string& source : sources) {
    if (source.size() > kStopPatternBytesMax) {
      return error(ErrorCode::kInvalidArgument, "stop_regex: {} bytes; at most {} are allowed", source.size(),
                   kStopPatternBytesMax);
    }
    if (source.find_first_of("\\.^$*+?{}[]|()") == std::string::npos) {
      read->stops.push_back(std::move(source));
      continue;
    }
    auto regex = text::Regex::from_python(source);
    if (!regex) return error(ErrorCode::kInvalidArgument, "stop_regex: {}", regex.error().message);
    read->stop_patterns.push_back({std::move(source), std::move(*regex)});
  }
  return {};
}

// Of the entries that name no token, the first few are told of together.
Status read_logit_bias(const json::object& from, const ModelText& model, engine::SamplingParams* params) {
  const json::value* bias = find_field(from, "logit_bias");
  if (bias == nullptr) return {};
  if (!bias->is_object())
    return error(ErrorCode::kInvalidArgument, "logit_bias: must map token ids to numbers in [-100, 100]");
  constexpr size_t kToldMax = 8, kKeyBytesMax = 64;
  std::vector<std::string> wrong;
  for (const auto& [key, value] : bias->as_object()) {
    char* end = nullptr;
    const std::string digits(key);
    const long id = std::strtol(digits.c_str(), &end, 10);
    if (digits.empty() || *end != '\0' || id < 0 || id >= model.vocab || !value.is_number() ||
        !(std::abs(value.to_number<double>()) <= 100)) {
      wrong.push_back("'" + digits.substr(0, kKeyBytesMax) + "'");
      if (wrong.size() == kToldMax) break;
      continue;
    }
    params->logit_bias[static_cast<int32_t>(id)] = value.to_number<double>();
  }
  if (wrong.empty()) return {};
  return error(ErrorCode::kInvalidArgument, "logit_bias: {} must be a token id below {} with a number in [-100, 100]",
               fmt::join(wrong, ", "), model.vocab);
}

Status read_truncation(const json::object& from, engine::SamplingParams* params) {
  BATON_ASSIGN(auto temperature, number_field(from, "temperature", 0, std::numeric_limits<double>::infinity()));
  if (temperature) params->temperature = *temperature;
  BATON_ASSIGN(auto top_p, number_field(from, "top_p", 0, 1, true));
  if (top_p) params->top_p = *top_p;
  BATON_ASSIGN(auto min_p, number_field(from, "min_p", 0, 1));
  if (min_p) params->min_p = *min_p;
  BATON_ASSIGN(auto top_k, int_field(from, "top_k", -1, std::numeric_limits<int32_t>::max()));
  if (top_k) params->top_k = *top_k == 0 ? -1 : static_cast<int>(*top_k);  // 0 is vLLM's word for all
  return {};
}

Status read_penalties(const json::object& from, engine::SamplingParams* params) {
  BATON_ASSIGN(auto frequency, number_field(from, "frequency_penalty", -2, 2));
  if (frequency) params->frequency_penalty = *frequency;
  BATON_ASSIGN(auto presence, number_field(from, "presence_penalty", -2, 2));
  if (presence) params->presence_penalty = *presence;
  BATON_ASSIGN(auto repetition, number_field(from, "repetition_penalty", 0, 2, true));
  if (repetition) params->repetition_penalty = *repetition;
  return {};
}

Status read_seed(const json::object& from, bool openai, engine::SamplingParams* params) {
  for (const char* name : {"seed", openai ? "seed" : "sampling_seed"}) {
    auto seed = int_field(from, name, std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::max());
    // The bounds as pydantic names them: vLLM's clients look for its words.
    if (!seed) return error(seed.error().code, "{} (greater_than_equal, less_than_equal)", seed.error().message);
    if (*seed) params->seed = static_cast<uint64_t>(**seed);
  }
  return {};
}

// min_new_tokens is SGLang's: stop strings end a text before it too. min_tokens is vLLM's: they do not.
Status read_lengths(const json::object& from, SamplingFields* read) {
  engine::SamplingParams* params = &read->params;
  const int64_t tokens_max = std::numeric_limits<int32_t>::max();
  const char* least = "min_new_tokens";
  for (const char* name : {"min_new_tokens", "min_tokens"}) {
    BATON_ASSIGN(auto min_tokens, int_field(from, name, 0, tokens_max));
    if (!min_tokens) continue;
    least = name;
    params->min_new_tokens = static_cast<int>(*min_tokens);
    if (name == std::string_view("min_tokens")) read->stops_after = params->min_new_tokens;
  }
  for (const char* name : {"max_new_tokens", "max_tokens", "max_completion_tokens"}) {
    BATON_ASSIGN(auto max_tokens, int_field(from, name, 0, tokens_max));
    if (!max_tokens) continue;
    read->max_field = name;
    params->max_new_tokens = static_cast<int>(*max_tokens);
  }
  if (params->min_new_tokens > params->max_new_tokens) {
    return error(ErrorCode::kInvalidArgument, "{}: {} is not in [0, {}], the most new tokens that are asked for", least,
                 params->min_new_tokens, params->max_new_tokens);
  }
  return {};
}

// Those that no token has are taken, and never met.
Result<std::vector<int32_t>> read_stop_ids(const json::value& value, const ModelText& model) {
  if (!value.is_array()) return error(ErrorCode::kInvalidArgument, "stop_token_ids: must be a list of token ids");
  std::vector<int32_t> ids;
  for (const json::value& entry : value.as_array()) {
    if (!entry.is_int64() && !entry.is_uint64() && !entry.is_null())
      return error(ErrorCode::kInvalidArgument, "stop_token_ids: an entry is no integer");
    if (entry.is_int64() && entry.as_int64() >= 0 && entry.as_int64() < model.vocab)
      ids.push_back(static_cast<int32_t>(entry.as_int64()));
  }
  return ids;
}

Status read_allowed(const json::object& from, const ModelText& model, engine::SamplingParams* params) {
  const json::value* ids = find_field(from, "allowed_token_ids");
  if (ids == nullptr) return {};
  BATON_ASSIGN(params->allowed_token_ids, ids_from(*ids, "allowed_token_ids"));
  if (params->allowed_token_ids.empty())
    return error(ErrorCode::kInvalidArgument, "allowed_token_ids: is empty; leave it out to allow every token");
  return check_vocabulary(params->allowed_token_ids, "allowed_token_ids", model);
}

// As vLLM reads them: each word as it begins a text and, where a space in front makes another token of its beginning
// and no more tokens, as it goes on in one.
Status read_bad_words(const json::object& from, const ModelText& model, engine::SamplingParams* params) {
  BATON_ASSIGN(const std::vector<std::string> words, strings_field(from, "bad_words", kBadWordsMax));
  if (words.empty()) return {};
  if (!model.tokenizer) {
    return error(ErrorCode::kInvalidArgument,
                 "bad_words: this server has no tokenizer (--skip-tokenizer-init): use logit_bias");
  }
  size_t bytes = 0;
  for (const std::string& word : words) bytes += word.size();
  if (bytes > kStopBytesMax) {
    return error(ErrorCode::kInvalidArgument, "bad_words: {} bytes in all; at most {} are allowed", bytes,
                 kStopBytesMax);
  }
  for (const std::string& word : words) {
    const std::string bare = word.substr(std::min(word.size(), word.find_first_not_of(" \t\n\r\f\v")));
    BATON_ASSIGN(std::vector<int32_t> alone, model.tokenizer->encode(bare, false));
    if (alone.empty()) return error(ErrorCode::kInvalidArgument, "bad_words: a word has no tokens");
    BATON_ASSIGN(std::vector<int32_t> inside, model.tokenizer->encode(" " + bare, false));
    const bool other = inside.size() == alone.size() && inside.front() != alone.front();
    params->bad_words.push_back(std::move(alone));
    if (other) params->bad_words.push_back(std::move(inside));
  }
  for (const std::vector<int32_t>& word : params->bad_words) BATON_TRY(check_vocabulary(word, "bad_words", model));
  return {};
}

}  // namespace

Status read_sampling(const json::object& from, const ModelText& model, bool openai, SamplingFields* read,
                     ApiRequest* request) {
  engine::SamplingParams* params = &read->params;
  BATON_TRY(read_truncation(from, params));
  BATON_TRY(read_penalties(from, params));
  BATON_TRY(read_seed(from, openai, params));
  BATON_ASSIGN(auto ignore_eos, bool_field(from, "ignore_eos"));
  params->ignore_eos = ignore_eos.value_or(false);
  BATON_TRY(read_lengths(from, read));
  if (const json::value* ids = find_field(from, "stop_token_ids")) {
    BATON_ASSIGN(params->stop_token_ids, read_stop_ids(*ids, model));
  }
  BATON_ASSIGN(read->stops, read_stops(from));
  BATON_TRY(read_stop_patterns(from, model, read));
  BATON_TRY(read_logit_bias(from, model, params));
  BATON_TRY(read_allowed(from, model, params));
  BATON_TRY(read_bad_words(from, model, params));
  BATON_ASSIGN(auto skip_special, bool_field(from, "skip_special_tokens"));
  if (skip_special) request->skip_special_tokens = *skip_special;
  for (const char* name : {"no_stop_trim", "include_stop_str_in_output"}) {
    BATON_ASSIGN(auto no_trim, bool_field(from, name));
    if (no_trim.value_or(false)) request->no_stop_trim = true;
  }
  return {};
}

}  // namespace baton::http
