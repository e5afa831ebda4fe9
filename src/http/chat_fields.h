// What the messages of a chat become: the prompt that a template makes of them.
#pragma once

#include <boost/json.hpp>

#include "http/api_request.h"
#include "http/prompt_fields.h"

namespace baton::http {

// Takes "messages" out of the body, which may be long: they are in memory twice already. Sets what the answer has in
// front of its text (echo).
Result<Prompt> read_chat_prompt(boost::json::object* body, const ReadContext& read, ApiRequest* request);

}  // namespace baton::http
