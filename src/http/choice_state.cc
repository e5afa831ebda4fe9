#include "http/choice_state.h"

#include "text/token_offsets.h"

namespace baton::http {

ChoiceState::ChoiceState(const ChoiceRequest& request, const ApiRequest& call, const ModelText& model,
                         int index_in_call)
    : index(index_in_call),
      prompt_tokens(static_cast<int>(request.engine.prompt.size())),
      stop_strings_(request.stops),
      stops_(request.stops, {.no_stop_trim = call.no_stop_trim}),
      stop_search_(request.stop_patterns),
      no_stop_trim_(call.no_stop_trim),
      stops_after_(static_cast<size_t>(request.stops_after)) {
  if (!model.tokenizer) return;
  detokenizer_.emplace(*model.tokenizer, text::StreamingDetokenizer::Options{.skip_special = call.skip_special_tokens});
  for (const std::string& stop : stop_strings_) {
    const auto token = call.skip_special_tokens ? model.tokenizer->token_id(stop) : std::nullopt;
    if (token && model.tokenizer->is_special(*token)) stop_specials_[*token] = stop;
  }
}

std::string ChoiceState::push_token(int32_t id) {
  std::string piece = detokenizer_->push(id);
  characters_ += text::count_characters(piece);
  return piece;
}

void ChoiceState::push_text(const std::string& piece, size_t count) {
  if (matched_stop_) return;
  const text::StopMatcher::Output step = stops_.feed(piece, may_stop(count));
  text += step.text;
  if (step.stop) matched_stop_ = stop_strings_[*step.stop];
}

// As in SGLang, the text keeps what a pattern matched, to the end of the token that completed it.
Status ChoiceState::search(const std::string& piece, size_t count) {
  if (matched_stop_) return {};
  BATON_ASSIGN(matched_stop_, stop_search_.feed(piece, may_stop(count)));
  if (matched_stop_) text += stops_.finish();
  return {};
}

void ChoiceState::end_at_special(const std::string& stop, size_t count) {
  push_text(detokenizer_->finish(), count);
  if (matched_stop_) return;
  text += stops_.finish();
  if (no_stop_trim_) text += stop;
  matched_stop_ = stop;
}

bool ChoiceState::take(engine::Output output) {
  if (finish) return false;
  dp_rank = output.dp_rank;
  preemptions = output.preemptions;
  cached_tokens = output.cached_tokens;
  handed_over = handed_over || output.handed_over;
  if (!output.prompt_logprobs.empty()) prompt_logprobs = std::move(output.prompt_logprobs);
  if (output.next) next = std::move(output.next);
  if (output.ttft.first_step_ms >= 0 || output.ttft.prefill_ms >= 0) ttft = output.ttft;
  const bool stopped_by_token = output.finish && output.finish->matched_token;
  for (size_t i = 0; i < output.tokens.size(); ++i) {
    engine::GeneratedToken& token = output.tokens[i];
    const bool is_stop = stopped_by_token && i + 1 == output.tokens.size();
    offsets.push_back(characters_);
    Status searched;
    if (detokenizer_ && (!is_stop || no_stop_trim_)) {
      const std::string piece = push_token(token.id);
      push_text(piece, tokens.size() + 1);
      if (!is_stop) searched = search(piece, tokens.size() + 1);
    }
    if (const auto special = stop_specials_.find(token.id);
        special != stop_specials_.end() && !is_stop && may_stop(tokens.size() + 1)) {
      end_at_special(special->second, tokens.size() + 1);
    }
    tokens.push_back(std::move(token));
    if (!searched) {
      finish = ChoiceFinish{engine::FinishReason::kAbort, {}, searched.error()};
      return !output.finish.has_value();
    }
    if (matched_stop_) {
      finish = ChoiceFinish{engine::FinishReason::kStop, *matched_stop_, std::nullopt};
      return !output.finish.has_value();
    }
  }
  if (!output.finish) return false;
  const bool aborted = output.finish->reason == engine::FinishReason::kAbort;
  if (detokenizer_ && !aborted) {
    push_text(detokenizer_->finish(), tokens.size());
    if (!matched_stop_) text += stops_.finish();
  }
  ChoiceFinish end;
  end.reason = output.finish->reason;
  end.error = std::move(output.finish->error);
  if (output.finish->matched_token) end.matched = *output.finish->matched_token;
  if (matched_stop_) {
    end.reason = engine::FinishReason::kStop;
    end.matched = *matched_stop_;
  }
  finish = std::move(end);
  return false;
}

}  // namespace baton::http
