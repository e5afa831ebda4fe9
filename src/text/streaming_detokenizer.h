// Ids to text one at a time, for a stream: what push and finish return, put together, is what decode gives for all ids
// at once, but for two things of SentencePiece's tokenizers. The stream goes on from a prompt, so that its first token
// keeps its space; and what was certain before a byte token that fits nowhere stays as it was.
#pragma once

#include <cstdint>
#include <string>

#include "text/tokenizer.h"

namespace baton::text {

// One for each stream; used by one thread at a time. The tokenizer must outlive it.
class StreamingDetokenizer {
 public:
  struct Options {
    bool skip_special = true;
  };
  StreamingDetokenizer(const Tokenizer& tokenizer, Options options) : tokenizer_(&tokenizer), options_(options) {}

  // The text that is certain now: always whole characters, perhaps none. At most 3 bytes are held back, or what is left
  // of a run of byte tokens from one on that fits nowhere.
  [[nodiscard]] std::string push(int32_t id);

  // The end of the stream: U+FFFD if bytes of an unfinished character are held. Ready for a new stream after it.
  [[nodiscard]] std::string finish();

 private:
  const Tokenizer* tokenizer_;
  Options options_;
  std::string held_;  // the beginning of a character
  bool in_byte_run_ = false;
};

}  // namespace baton::text
