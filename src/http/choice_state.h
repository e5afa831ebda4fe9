// One token stream of a client call on its way to text.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "engine/engine.h"
#include "http/api_request.h"
#include "text/stop_matcher.h"
#include "text/streaming_detokenizer.h"

namespace baton::http {

struct ChoiceFinish {
  engine::FinishReason reason = engine::FinishReason::kStop;
  std::variant<std::monostate, int32_t, std::string> matched;  // the stop token, string or pattern
  std::optional<Error> error;
};

// Used by one thread at a time (the call's I/O strand).
class ChoiceState {
 public:
  ChoiceState(const ChoiceRequest& request, const ApiRequest& call, const ModelText& model, int index);

  // Takes what the engine delivered. Afterwards `text`, `tokens` and the counts are up to date. Returns true if the
  // engine must be told to stop: a stop string ended the choice before the engine knew.
  bool take(engine::Output output);

  int index;
  std::string text;                            // safe to show, cumulative
  std::vector<engine::GeneratedToken> tokens;  // cumulative, up to the stop
  std::vector<size_t> offsets;                 // of each token: the characters of the text before it
  std::vector<engine::PromptLogprob> prompt_logprobs;
  std::optional<engine::GeneratedToken> next;
  std::optional<ChoiceFinish> finish;
  int prompt_tokens = 0, cached_tokens = 0;
  int dp_rank = 0, preemptions = 0;
  bool handed_over = false;
  engine::TtftParts ttft;
  // What streaming has sent so far.
  size_t text_sent = 0, tokens_sent = 0;
  bool begun = false;

 private:
  // Of the first `count` tokens of the answer: whether the last of them may end it at a stop string.
  [[nodiscard]] bool may_stop(size_t count) const { return count > stops_after_; }
  [[nodiscard]] std::string push_token(int32_t id);
  void push_text(const std::string& piece, size_t count);
  Status search(const std::string& piece, size_t count);
  void end_at_special(const std::string& stop, size_t count);

  std::optional<text::StreamingDetokenizer> detokenizer_;
  std::vector<std::string> stop_strings_;
  std::map<int32_t, std::string> stop_specials_;  // stop strings that are special tokens, which the text leaves out
  text::StopMatcher stops_;
  text::StopSearch stop_search_;
  bool no_stop_trim_;
  size_t stops_after_;
  size_t characters_ = 0;  // that came of the tokens so far, held back or not
  std::optional<std::string> matched_stop_;
};

}  // namespace baton::http
