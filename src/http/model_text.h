// Reads what requests are read against from a model directory.
#pragma once

#include <memory>
#include <string>

#include "http/api_request.h"

namespace baton::http {

struct ModelTextOptions {
  std::string model_path;
  std::string tokenizer_path;      // empty: the model's
  std::string served_name;         // empty: the path
  std::string chat_template_path;  // empty: the model's own
  bool skip_tokenizer = false;     // only token ids are served
};

// kNotFound or kCorrupt names the file. eos_ids are the tokenizer's. The caller fills in what the engine knows
// (vocabulary, context length, the model's eos ids, architecture).
Result<std::unique_ptr<ModelText>> load_model_text(const ModelTextOptions& options);

}  // namespace baton::http
