// Prompts as text, for servers that are measured with their tokenizing.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "text/tokenizer.h"

namespace baton::bench {

// A text of about as many tokens as `ids`, never more, the special ones that the tokenizer adds included. Random tokens
// one after another are not what their text is cut into, so the text is cut and made again until that holds.
[[nodiscard]] std::string prompt_text(const text::Tokenizer& tokenizer, const std::vector<int32_t>& ids);

}  // namespace baton::bench
