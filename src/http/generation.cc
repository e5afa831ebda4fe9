#include "http/generation.h"

#include <algorithm>
#include <atomic>
#include <chrono>

#include "http/api_error.h"
#include "http/api_response.h"
#include "http/choice_state.h"

namespace baton::http {
namespace {

// Everything after the constructor runs on the call's I/O strand, so nothing here is locked.
class Generation : public std::enable_shared_from_this<Generation> {
 public:
  Generation(ApiRequest request, const ModelText& model, engine::Engine& engine, Metrics& metrics,
             std::shared_ptr<ResponseWriter> writer, Headers headers, std::shared_ptr<LiveNames::Hold> names)
      : request_(std::move(request)),
        model_(model),
        engine_(engine),
        metrics_(metrics),
        writer_(std::move(writer)),
        headers_(std::move(headers)),
        names_(std::move(names)) {
    created_ =
        std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch()).count();
    first_token_.resize(request_.choices.size());
    last_token_.resize(request_.choices.size());
    ids_.resize(request_.choices.size());
    for (size_t i = 0; i < request_.choices.size(); ++i) {
      choices_.emplace_back(request_.choices[i], request_, model_, static_cast<int>(i));
    }
  }

  void run() {
    writer_->on_disconnect([self = shared_from_this()] {
      self->free_names();
      self->abort_all();
    });
    for (size_t i = 0; i < request_.choices.size(); ++i) {
      engine::Request engine_request = request_.choices[i].engine;
      engine_request.arrival = start_;
      const Result<SequenceId> accepted = engine_.submit(std::move(engine_request), [self = shared_from_this(),
                                                                                     i](engine::Output output) {
        self->writer_->post([self, i, output = std::move(output)]() mutable { self->on_output(i, std::move(output)); });
      });
      if (!accepted) return fail(accepted.error());
      ids_[i] = *accepted;
      accepted_ = i + 1;
    }
  }

 private:
  [[nodiscard]] double elapsed() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }
  [[nodiscard]] AnswerContext context() const { return {request_, model_, created_, elapsed()}; }

  // Any thread.
  void free_names() {
    if (names_) names_->release();
  }

  // Any thread.
  void abort_all() {
    for (size_t i = 0; i < accepted_; ++i) engine_.abort(ids_[i]);
  }

  void fail(const Error& failure) {
    if (over_) return;
    over_ = true;
    free_names();
    if (started_) {
      writer_->write("data: " + error_json(http_status(failure.code), failure.message) + "\n\ndata: [DONE]\n\n");
      writer_->finish();
    } else {
      send_error(*writer_, failure, headers_);
    }
    abort_all();
  }

  void measure(size_t i, size_t tokens_before) {
    const size_t fresh = choices_[i].tokens.size() - tokens_before;
    if (fresh == 0) return;
    const auto now = std::chrono::steady_clock::now();
    if (tokens_before == 0) {
      first_token_[i] = now;
      metrics_.on_first_token(elapsed());
    } else {
      metrics_.on_inter_token(std::chrono::duration<double>(now - last_token_[i]).count(), fresh);
    }
    last_token_[i] = now;
  }

  [[nodiscard]] std::optional<double> since_first_token(size_t i) const {
    if (choices_[i].tokens.empty()) return std::nullopt;
    return std::chrono::duration<double>(last_token_[i] - first_token_[i]).count();
  }

  [[nodiscard]] EndedRequest ended(size_t i) const {
    const ChoiceState& choice = choices_[i];
    const double waited_ms = std::max(0.0, choice.ttft.grant_ms) + std::max(0.0, choice.ttft.prefill_queue_ms);
    return {elapsed(),
            since_first_token(i),
            std::max(0.0, elapsed() - waited_ms / 1e3),
            choice.finish->reason,
            choice.prompt_tokens,
            static_cast<int>(choice.tokens.size()),
            request_.choices[i].engine.sampling.max_new_tokens,
            choice.preemptions};
  }

  // When the last sample of the choice's prompt has ended.
  void note_prompt_end(const ChoiceState& choice) {
    const auto samples = static_cast<size_t>(std::max(1, request_.samples));
    const size_t first = static_cast<size_t>(choice.index) / samples * samples;
    size_t longest = 0;
    for (size_t i = first; i < std::min(first + samples, choices_.size()); ++i) {
      if (!choices_[i].finish) return;
      longest = std::max(longest, choices_[i].tokens.size());
    }
    metrics_.on_prompt_end(request_.samples, static_cast<int>(longest));
  }

  void on_output(size_t i, engine::Output output) {
    ChoiceState& choice = choices_[i];
    if (over_ || choice.finish) return;
    const size_t tokens_before = choice.tokens.size();
    const bool stop_engine = choice.take(std::move(output));
    measure(i, tokens_before);
    if (stop_engine) engine_.stop(ids_[i]);
    if (choice.finish) {
      ++finished_;
      metrics_.on_request_end(ended(i));
      note_prompt_end(choice);
      if (choice.handed_over) metrics_.on_ttft(choice.ttft);  // decode's, by contrast, come with the first token
      // An operator's abort is an outcome of the request; anything else that went wrong is an error of the call.
      if (choice.finish->reason == engine::FinishReason::kAbort && choice.finish->error &&
          choice.finish->error->code != ErrorCode::kCancelled) {
        fail(*choice.finish->error);
        return;
      }
    }
    if (finished_ == choices_.size()) free_names();  // whoever has read the answer may use them again
    if (request_.stream) {
      stream(choice);
    } else if (finished_ == choices_.size()) {
      over_ = true;
      send_json(*writer_, 200, whole_answer(context(), choices_), headers_);
    }
  }

  void stream(ChoiceState& choice) {
    // Without logprobs and with a tokenizer, tokens that make no text yet wait for those that do.
    const bool tokens_show = request_.choices[static_cast<size_t>(choice.index)].return_logprob || !model_.tokenizer;
    const bool fresh = choice.text.size() > choice.text_sent || choice.finish ||
                       (tokens_show && choice.tokens.size() > choice.tokens_sent);
    if (fresh) {
      if (!started_) {
        started_ = true;
        headers_.emplace_back("Content-Type", "text/event-stream");
        headers_.emplace_back("Cache-Control", "no-cache");
        writer_->start(200, headers_);
      }
      writer_->write(stream_event(context(), choice));
    }
    if (finished_ < choices_.size()) return;
    over_ = true;
    if (request_.include_usage && request_.kind != ApiKind::kGenerate) writer_->write(usage_event(context(), choices_));
    writer_->write("data: [DONE]\n\n");
    writer_->finish();
  }

  const ApiRequest request_;
  const ModelText& model_;
  engine::Engine& engine_;
  Metrics& metrics_;
  std::shared_ptr<ResponseWriter> writer_;
  Headers headers_;
  const std::shared_ptr<LiveNames::Hold> names_;
  std::vector<ChoiceState> choices_;
  std::vector<std::chrono::steady_clock::time_point> first_token_, last_token_;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  int64_t created_ = 0;
  std::vector<SequenceId> ids_;      // of the choices; those that the engine has taken are set
  std::atomic<size_t> accepted_{0};  // how many those are
  size_t finished_ = 0;
  bool started_ = false;  // a streamed answer's head is out
  bool over_ = false;     // the answer is complete
};

}  // namespace

void start_generation(ApiRequest request, const ModelText& model, engine::Engine& engine, Metrics& metrics,
                      std::shared_ptr<ResponseWriter> writer, Headers headers, std::shared_ptr<LiveNames::Hold> names) {
  std::make_shared<Generation>(std::move(request), model, engine, metrics, std::move(writer), std::move(headers),
                               std::move(names))
      ->run();
}

}  // namespace baton::http
