#include "text/streaming_detokenizer.h"

#include "text/utf8.h"

namespace baton::text {

std::string StreamingDetokenizer::push(int32_t id) {
  if (options_.skip_special && tokenizer_->is_special(id)) return {};
  held_ += tokenizer_->token_bytes(id);
  std::string text;
  held_.erase(0, append_replacing_invalid(text, held_));
  return text;
}

std::string StreamingDetokenizer::finish() {
  std::string text = replace_invalid_utf8(held_);
  held_.clear();
  return text;
}

}  // namespace baton::text
