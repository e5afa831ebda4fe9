// Prompts as clients write them, to token ids that fit the context.
#pragma once

#include <boost/json.hpp>
#include <cstdint>
#include <optional>
#include <stop_token>
#include <string_view>
#include <vector>

#include "http/api_request.h"

namespace baton::http {

struct Prompt {
  std::vector<int32_t> ids;
  bool cut = false;
};

// How much of a prompt is kept (truncate_prompt_tokens, truncation_side, --allow-auto-truncate).
struct PromptCut {
  std::optional<size_t> tokens_max;  // none: all of it, and 400 if that is more than the context holds
  bool keep_end = true;              // the last ones, else the first
};

// What a request is read against.
struct ReadContext {
  const ModelText& model;
  engine::Role role;
  std::stop_token stop;
  PromptCut cut;
};

Result<PromptCut> read_prompt_cut(const boost::json::object& body, ApiKind kind, const ModelText& model);

// A prompt's ids, cut as `read` says; errors begin with `name`.
Result<Prompt> read_ids(const ReadContext& read, const boost::json::value& ids, std::string_view name);
// A text's ids, at least one and few enough to leave room for a new token; errors begin with `name`.
Result<Prompt> read_text(const ReadContext& read, std::string_view text, std::string_view name, bool add_special);

// A string, [string], [int] or [[int]]; `batch` is set for a list of prompts.
Status read_prompts(const boost::json::value& value, std::string_view name, const ReadContext& read, bool add_special,
                    std::vector<Prompt>* prompts, bool* batch);

}  // namespace baton::http
