// The fields of a request that ask for logprobs, and for the prompt's text in front of the answer's.
#pragma once

#include <boost/json.hpp>

#include "http/api_request.h"

namespace baton::http {

// Each reads into request->choices, which are there already.
Status read_generate_logprobs(const boost::json::object& body, const ModelText& model, ApiRequest* request);
Status read_completion_logprobs(const boost::json::object& body, const ModelText& model, ApiRequest* request);
Status read_chat_logprobs(const boost::json::object& body, const ModelText& model, ApiRequest* request);
// How many logprobs a request of an OpenAI endpoint may ask for: `otherwise` where --max-logprobs is not given.
[[nodiscard]] int64_t logprobs_max(const ModelText& model, int64_t otherwise);
inline constexpr int64_t kTopLogprobsMax = 1000;

// The prompt's logprobs, and its text when it is echoed, are made whole before the first byte of the answer: they fit
// kCallBytesMax.
Status check_prompt_logprobs(const ModelText& model, const ApiRequest& request);
// Of a completion: what is echoed for each prompt.
void make_echoes(const boost::json::object& body, const ModelText& model, ApiRequest* request);

}  // namespace baton::http
