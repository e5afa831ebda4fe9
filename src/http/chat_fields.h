// What the messages of a chat become: the prompt that a template makes of them.
#pragma once

#include <boost/json.hpp>

#include "http/api_request.h"
#include "http/prompt_fields.h"

namespace baton::http {

// How the last message is rendered. Without add_generation_prompt, which is vLLM's, an assistant's text is SGLang's
// matter: the beginning of the answer where continue_final_message says so, behind what the template makes of the
// others; else the user's, so that there is something to answer. Any other is continued as transformers does. With it
// all is as in transformers. Returns the beginning of the answer.
Result<std::string> read_last_message(const boost::json::object& body, text::ChatInput* input);

// Takes "messages" out of the body, which may be long: they are in memory twice already. Sets what the answer has in
// front of its text (echo).
Result<Prompt> read_chat_prompt(boost::json::object* body, const ReadContext& read, ApiRequest* request);

}  // namespace baton::http
