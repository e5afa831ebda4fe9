// The normalizer of tokenizer.json: null, NFC, NFD, Prepend, Replace of a literal, and Sequences of these. Anything
// else is refused.
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
  // kIncompatible naming the path and type of a component that is not supported.
  [[nodiscard]] static Result<Normalizer> from_json(const JsonNode& node);

  [[nodiscard]] bool is_identity() const { return steps_.empty(); }

  // `text` must be valid UTF-8. Forms are of the reference's Unicode version: marks that it does not know stay where
  // they are. A text becomes at most kGrowthMax times as long, what is put in front and decomposed aside.
  [[nodiscard]] std::string normalize(std::string_view text) const;

  static constexpr size_t kGrowthMax = 16;

 private:
  struct Step {
    enum class Kind { kNfc, kNfd, kPrepend, kReplace } kind;
    std::string from{};  // kReplace
    std::string to{};    // kPrepend, kReplace
  };
  Status append(const JsonNode& node);
  static Result<Step> read_replace(const JsonNode& node);

  std::vector<Step> steps_;  // applied in order
};

}  // namespace baton::text
