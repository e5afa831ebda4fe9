#include "text/streaming_detokenizer.h"

#include "text/utf8.h"

namespace baton::text {

std::string StreamingDetokenizer::push(int32_t id) {
  if (options_.skip_special && tokenizer_->is_special(id)) return {};
  const bool is_byte = tokenizer_->is_byte_token(id);
  std::string text;
  if (in_byte_run_ && !is_byte) text = finish();
  in_byte_run_ = is_byte;
  held_ += tokenizer_->token_bytes(id);
  if (is_byte && !is_valid_utf8(held_)) return text;
  held_.erase(0, append_replacing_invalid(text, held_));
  return text;
}

std::string StreamingDetokenizer::finish() {
  std::string text;
  if (in_byte_run_) {
    for (size_t i = 0; i < held_.size(); ++i) text += kReplacementCharacter;
  } else {
    text = replace_invalid_utf8(held_);
  }
  held_.clear();
  in_byte_run_ = false;
  return text;
}

}  // namespace baton::text
