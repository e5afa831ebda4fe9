// The bodies of /generate, /v1/completions and /v1/chat/completions as one checked thing.
#pragma once

#include <boost/json.hpp>
#include <cstdint>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "base/result.h"
#include "engine/engine.h"
#include "http/weight_version.h"
#include "text/chat_template.h"
#include "text/stop_search.h"
#include "text/tokenizer.h"

namespace baton::http {

// Which streams of the OpenAI endpoints have usage, and where.
enum class StreamUsage : uint8_t {
  kAsked,      // as stream_options say
  kLast,       // every one, behind its choices
  kEveryEvent  // every one, in each event
};

// What requests are read against. Shared by every request; immutable.
struct ModelText {
  std::string served_name;  // "model" of the answers
  std::string model_path;
  std::string model_type;
  std::string architecture;
  std::optional<text::Tokenizer> tokenizer;  // none with --skip-tokenizer-init: only input_ids then
  std::optional<text::ChatTemplate> chat_template;
  std::string bos_token, eos_token;
  boost::json::object special_tokens;           // what templates see of them: transformers' special_tokens_map
  boost::json::object tokenizer_config;         // for /tokenizer_info: of its file, special tokens as texts
  std::optional<int64_t> tokenizer_max_length;  // model_max_length, where the file states one
  std::vector<int32_t> eos_ids;                 // load_model_text knows the tokenizer's
  engine::SamplingParams defaults;              // generation_config.json, for the OpenAI endpoints
  int64_t context_length = 0;                   // prompt + new tokens
  int vocab = 0;
  std::string fingerprint;  // system_fingerprint of the answers: the same text for the same model on the same build
  // What the operator decided about requests.
  bool strict_model_names = false;    // 404 for a model that has another name
  bool report_cached_tokens = false;  // usage has prompt_tokens_details
  StreamUsage usage_in_streams = StreamUsage::kAsked;
  bool tokens_as_ids = false;                // logprobs name a token "token_id:5" unless the request says otherwise
  bool allow_auto_truncate = false;          // what is over the context is cut, where it would be 400
  bool incremental_streaming = false;        // an event of /generate has what is new, not all
  bool trust_request_chat_template = false;  // a request may bring its own
  std::optional<int> logprobs_max;           // --max-logprobs, of the OpenAI endpoints; -1: as many as there may be
  std::shared_ptr<WeightVersion> weight_version = std::make_shared<WeightVersion>();  // may change while it is served
};

enum class ApiKind : uint8_t { kGenerate, kCompletion, kChat };

// One token stream of a client call.
struct ChoiceRequest {
  engine::Request engine;
  std::vector<std::string> stops;
  std::vector<text::StopPattern> stop_patterns;
  int stops_after = 0;  // of so many tokens the text may hold stop strings (min_tokens)
  int prompt_index = 0;
  bool prompt_cut = false;  // it is not all that came (truncate_prompt_tokens)
  bool return_logprob = false;
  int top_logprobs = 0;
};

inline constexpr int kCompletionTokens = 16;  // max_tokens of a completion that does not name it
inline constexpr size_t kChoicesMax = 4096;
inline constexpr size_t kStopsMax = 64;
inline constexpr size_t kStopPatternsMax = 8;         // stop_regex
inline constexpr size_t kStopPatternBytesMax = 4096;  // of each
inline constexpr size_t kStopBytesMax = 64 << 10;     // of all stop strings of a prompt
inline constexpr size_t kNameBytesMax = 256;          // rid, cache_salt, bootstrap_host
inline constexpr size_t kModelBytesMax = 1024;        // of the model's name, which may be a path
// What the sequences of a call may hold together before the first new token: every one has its own copy of its prompt,
// stops and biases.
inline constexpr size_t kCallBytesMax = 128 << 20;
// What the prompt's logprobs and echoes may take in the answer: a router passes no larger one on.
inline constexpr size_t kAnswerBytesMax = 64 << 20;

// A prompt's text: as it came, or decoded from the ids that came, without special tokens.
struct Echo {
  std::string text;
  bool decoded = false;
};

struct ApiRequest {
  ApiKind kind = ApiKind::kGenerate;
  std::string id;                      // the rid, or "cmpl-...", "chatcmpl-..."
  std::string model;                   // as the client named it
  std::vector<ChoiceRequest> choices;  // prompt-major
  int samples = 1;                     // choices of each prompt (n)
  bool batch = false;                  // /generate: the prompt was a list, so is the answer
  bool stream = false;
  bool include_usage = false, continuous_usage = false;
  bool echo = false;         // of a completion
  std::vector<Echo> echoes;  // of each prompt, where echo is on; of a chat the last message
  bool skip_special_tokens = true, no_stop_trim = false, text_in_logprobs = false;
  bool return_token_ids = false, return_prompt_token_ids = false;
  bool return_cached_tokens_details = false;
  bool tokens_as_ids = false;  // logprobs name a token "token_id:5"
  int prompt_logprobs = -1;    // vLLM's form of them: of each prompt token and so many of the best; -1: none

  // What stands in front of the choice's text; null without echo.
  [[nodiscard]] const Echo* echo_of(int choice) const {
    if (echoes.empty()) return nullptr;
    return &echoes[static_cast<size_t>(choices[static_cast<size_t>(choice)].prompt_index)];
  }
};

// SageMaker's one path for all requests: whose the body is, by its shape as vLLM tells them apart.
Result<ApiKind> invoked_kind(const boost::json::object& body);

// Errors name the field and its range. `role`: prefill and decode instances require bootstrap_room. Takes as long as
// the template and the tokenizer do for as much text as fits the context; kCancelled when `stop` ends that.
Result<ApiRequest> parse_api_request(ApiKind kind, boost::json::object body, const ModelText& model, engine::Role role,
                                     std::stop_token stop = {});
Result<ApiRequest> parse_api_request(ApiKind kind, std::string_view body, const ModelText& model, engine::Role role);

}  // namespace baton::http
