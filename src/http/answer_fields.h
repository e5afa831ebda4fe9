// The fields of a request that say what its answer looks like: streamed or not, under which name, with which ids.
#pragma once

#include <boost/json.hpp>

#include "http/api_request.h"

namespace baton::http {

// Whether the answer is streamed, and which of its events have usage: those that the request asks for, and those in
// which the operator wants it always.
Status read_stream_options(const boost::json::object& body, const ModelText& model, ApiRequest* request);

// A server has one model, and routers rewrite names: any is served, as in SGLang, unless the operator wants it strict.
// The answer has the name that the client gave.
Status read_model_name(const boost::json::object& body, const ModelText& model, ApiRequest* request);

// What the answer shows of tokens beside its text: their ids, and where cached ones came from.
Status read_token_fields(const boost::json::object& body, const ModelText& model, ApiRequest* request);

// vLLM's prompt_logprobs: of every prompt token and of the best at its position, in one answer. The choices are there
// already.
Status read_prompt_logprobs(const boost::json::object& body, const ModelText& model, ApiRequest* request);

}  // namespace baton::http
