// The post-processor of tokenizer.json: the tokens put around a sequence when special tokens are asked for.
#pragma once

#include <cstdint>
#include <vector>

#include "base/result.h"
#include "text/json_node.h"

namespace baton::text {

struct PostProcessor {
  std::vector<int32_t> prefix;
  std::vector<int32_t> suffix;

  // null, ByteLevel (which only moves offsets), TemplateProcessing with one sequence, and Sequences of these.
  // kIncompatible naming the path and type of anything else.
  [[nodiscard]] static Result<PostProcessor> from_json(const JsonNode& node);
};

}  // namespace baton::text
