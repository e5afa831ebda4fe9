// The normalizer of tokenizer.json: null, NFC, NFD and Sequences of these. Anything else is refused.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "text/json_node.h"

namespace baton::text {

// Immutable, safe to share between threads.
class Normalizer {
 public:
  enum class Form { kNfc, kNfd };

  // kIncompatible naming the path and type of a component that is not supported.
  [[nodiscard]] static Result<Normalizer> from_json(const JsonNode& node);

  [[nodiscard]] bool is_identity() const { return forms_.empty(); }

  // `text` must be valid UTF-8. Forms are of the reference's Unicode version: marks that it does not know stay where
  // they are.
  [[nodiscard]] std::string normalize(std::string_view text) const;

 private:
  std::vector<Form> forms_;  // applied in order
};

}  // namespace baton::text
