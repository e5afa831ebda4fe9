// Prompts as clients write them, to token ids that fit the context.
#pragma once

#include <boost/json.hpp>
#include <cstdint>
#include <stop_token>
#include <string_view>
#include <vector>

#include "http/api_request.h"

namespace baton::http {

struct Prompt {
  std::vector<int32_t> ids;
};

// What a request is read against.
struct ReadContext {
  const ModelText& model;
  engine::Role role;
  std::stop_token stop;
};

// A text's ids, at least one and few enough to leave room for a new token; errors begin with `name`.
Result<Prompt> read_text(const ReadContext& read, std::string_view text, std::string_view name, bool add_special);

// A string, [string], [int] or [[int]]; `batch` is set for a list of prompts.
Status read_prompts(const boost::json::value& value, std::string_view name, const ReadContext& read,
                    std::vector<Prompt>* prompts, bool* batch);

}  // namespace baton::http
