#include "bench/bench_client.h"

#include <algorithm>
#include <boost/json.hpp>
#include <condition_variable>
#include <cstdio>
#include <mutex>
#include <optional>
#include <thread>

#include "base/clock.h"
#include "bench/answer_reader.h"
#include "bench/prompt_text.h"
#include "http/client.h"
#include "http/json.h"
#include "text/tokenizer.h"

namespace baton::bench {
namespace {

namespace json = boost::json;
using Time = AnswerReader::Time;

Result<BackendKind> backend_kind(const std::string& name) {
  if (name == "sglang" || name == "sglang-native") return BackendKind::kGenerate;
  if (name == "sglang-oai" || name == "vllm" || name == "lmdeploy") return BackendKind::kCompletions;
  if (name == "sglang-oai-chat" || name == "vllm-chat" || name == "lmdeploy-chat") return BackendKind::kChat;
  return error(ErrorCode::kInvalidArgument,
               "--backend {} is none of sglang, sglang-oai, sglang-oai-chat, vllm, vllm-chat", name);
}

const char* target_of(BackendKind kind) {
  return kind == BackendKind::kGenerate      ? "/generate"
         : kind == BackendKind::kCompletions ? "/v1/completions"
                                             : "/v1/chat/completions";
}

class BenchRun {
 public:
  BenchRun(const BenchOptions& options, BackendKind kind, http::Url url)
      : options_(options), kind_(kind), url_(std::move(url)), client_(1) {}

  Status check_extra();
  Result<BenchVocabulary> vocabulary();
  // The prompts' texts, where they are to be sent as text and a tokenizer is at hand.
  void make_texts(std::vector<BenchPrompt>* prompts) const;
  Status warm_up(const std::vector<BenchPrompt>& prompts);
  std::vector<BenchSample> send_all(const std::vector<BenchPrompt>& prompts);
  // After send_all(): counts the answers' tokens by their text.
  void retokenize(std::vector<BenchSample>* samples) const;
  // Returns the answer's body.
  Result<std::string> post(const std::string& target);

 private:
  [[nodiscard]] std::string body_of(const BenchPrompt& prompt, int output_len) const;
  http::HttpCallRequest call(const std::string& method, const std::string& target, std::string body) const {
    http::HttpCallRequest request;
    request.url = url_;
    request.method = method;
    request.target = url_.path + target;
    request.body = std::move(body);
    request.headers = {{"Content-Type", "application/json"}};
    if (!options_.api_key.empty()) request.headers.emplace_back("Authorization", "Bearer " + options_.api_key);
    return request;
  }
  void launch(const BenchPrompt& prompt, size_t index, Time start);
  void show_progress(std::unique_lock<std::mutex>* lock);

  const BenchOptions& options_;
  const BackendKind kind_;
  const http::Url url_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<text::Tokenizer> tokenizer_;
  std::string extra_;  // members of every body, each with a comma before it
  std::vector<BenchSample> samples_;
  std::vector<std::string> texts_;  // of the answers
  Time shown_{};                    // when the line of progress was written last
  int running_ = 0;
  size_t ended_ = 0;
  http::HttpClient client_;  // destroyed first: its callbacks use the members above
};

Result<BenchVocabulary> BenchRun::vocabulary() {
  BenchVocabulary vocabulary;
  const std::string directory = options_.tokenizer.empty() ? options_.model : options_.tokenizer;
  if (!directory.empty() && options_.tokenizer != "server") {
    if (auto tokenizer = text::Tokenizer::load(directory + "/tokenizer.json")) {
      tokenizer_.emplace(std::move(*tokenizer));
      vocabulary.vocab = tokenizer_->vocab_size();
      for (int32_t id = 0; id < vocabulary.vocab; ++id) {
        if (tokenizer_->is_special(id) || tokenizer_->token_bytes(id).empty()) vocabulary.special.push_back(id);
      }
      return vocabulary;
    }
  }
  BATON_ASSIGN(const http::HttpReply reply, client_.fetch(call("GET", "/tokenizer_info", "")));
  auto info = http::parse_object(reply.body);
  auto size = info ? http::int_field(*info, "vocab_size", 1, 1 << 24) : Result<std::optional<int64_t>>(info.error());
  if (!size || !*size) {
    return error(ErrorCode::kInvalidArgument,
                 "the server does not say its vocabulary's size (/tokenizer_info: HTTP {}); give --tokenizer DIR",
                 reply.status);
  }
  vocabulary.vocab = static_cast<int>(**size);
  return vocabulary;
}

Status BenchRun::check_extra() {
  if (options_.extra_request_body.empty()) return {};
  auto extra = http::parse_object(options_.extra_request_body);
  if (!extra) return error(ErrorCode::kInvalidArgument, "--extra-request-body: {}", extra.error().message);
  for (const auto& [name, value] : *extra)
    extra_ += fmt::format(",{}:{}", http::json_string(name), boost::json::serialize(value));
  return {};
}

void BenchRun::make_texts(std::vector<BenchPrompt>* prompts) const {
  if (!tokenizer_ || (options_.send_ids && kind_ != BackendKind::kChat)) return;
  for (BenchPrompt& prompt : *prompts) prompt.text = prompt_text(*tokenizer_, prompt.ids);
}

std::string BenchRun::body_of(const BenchPrompt& prompt, int output_len) const {
  std::string ids;
  for (const int32_t id : prompt.ids) ids += fmt::format("{}{}", ids.empty() ? "[" : ",", id);
  const std::string text = prompt.text.empty() ? ids + "]" : http::json_string(prompt.text);
  const std::string& name = options_.served_name.empty() ? options_.model : options_.served_name;
  const std::string model = name.empty() ? "" : fmt::format("\"model\":{},", http::json_string(name));
  const std::string sampling =
      fmt::format("\"temperature\":{}{},\"ignore_eos\":{}", options_.temperature,
                  options_.top_p < 1 ? fmt::format(",\"top_p\":{}", options_.top_p) : "", options_.ignore_eos);
  const std::string usage = options_.stream ? ",\"stream_options\":{\"include_usage\":true}" : "";
  switch (kind_) {
    case BackendKind::kGenerate:
      return fmt::format(
          "{{\"{}\":{},\"sampling_params\":{{{},\"max_new_tokens\":{}}},\"stream\":{},\"lora_path\":null,"
          "\"return_logprob\":false,\"logprob_start_len\":-1{}}}",
          prompt.text.empty() ? "input_ids" : "text", text, sampling, output_len, options_.stream, extra_);
    case BackendKind::kCompletions:
      return fmt::format("{{{}\"prompt\":{},{},\"best_of\":1,\"max_tokens\":{},\"stream\":{}{}{}}}", model, text,
                         sampling, output_len, options_.stream, usage, extra_);
    case BackendKind::kChat: {
      // Chat takes text: without a tokenizer one word a token, near enough, since only the template knows the rest.
      std::string words = prompt.text;
      for (size_t i = 0; prompt.text.empty() && i < prompt.ids.size(); ++i) words += " a";
      return fmt::format(
          "{{{}\"messages\":[{{\"role\":\"user\",\"content\":{}}}],{},\"max_tokens\":{},\"stream\":{}{}{}}}", model,
          http::json_string(words), sampling, output_len, options_.stream, usage, extra_);
    }
  }
  return {};
}

Result<std::string> BenchRun::post(const std::string& target) {
  BATON_ASSIGN(http::HttpReply reply, client_.fetch(call("POST", target, "")));
  if (reply.status != 200)
    return error(ErrorCode::kUnavailable, "{} says HTTP {}: {}", target, reply.status, reply.body);
  return std::move(reply.body);
}

Status BenchRun::warm_up(const std::vector<BenchPrompt>& prompts) {
  for (int i = 0; i < options_.warmup_requests && !prompts.empty(); ++i) {
    const BenchPrompt& prompt = prompts.front();
    BATON_ASSIGN(const http::HttpReply reply,
                 client_.fetch(call("POST", target_of(kind_), body_of(prompt, std::min(prompt.output_len, 32)))));
    if (reply.status != 200) {
      return error(ErrorCode::kUnavailable, "the warm-up request got HTTP {}: {}", reply.status,
                   reply.body.substr(0, 500));
    }
  }
  return {};
}

void BenchRun::launch(const BenchPrompt& prompt, size_t index, Time start) {
  http::HttpCallRequest request = call("POST", target_of(kind_), body_of(prompt, prompt.output_len));
  request.answer_bytes_max = std::nullopt;
  const Time sent = std::chrono::steady_clock::now();
  auto reader = std::make_shared<AnswerReader>(kind_, options_.stream, sent, static_cast<int>(prompt.ids.size()));
  http::HttpCallHandlers handlers;
  handlers.on_head = [reader](int status, const http::Headers&) { reader->on_head(status); };
  handlers.on_data = [reader](std::string_view bytes) { reader->on_data(bytes, std::chrono::steady_clock::now()); };
  handlers.on_end = [this, reader, index, sent, start](const Status& ended) {
    BenchSample sample = reader->on_end(ended, std::chrono::steady_clock::now());
    sample.start_s = std::chrono::duration<double>(sent - start).count();
    std::lock_guard lock(mutex_);
    samples_[index] = std::move(sample);
    texts_[index] = reader->text();
    --running_;
    ++ended_;
    changed_.notify_all();
  };
  client_.start(std::move(request), std::move(handlers));
}

// At most ten times a second, and when all is done. Lets go of `lock` meanwhile.
void BenchRun::show_progress(std::unique_lock<std::mutex>* lock) {
  const Time now = std::chrono::steady_clock::now();
  const bool all = ended_ == samples_.size();
  if (!options_.progress || (!all && now - shown_ < std::chrono::milliseconds(100))) return;
  shown_ = now;
  const std::string line =
      fmt::format("\r\033[K{} of {} requests, {} under way{}", ended_, samples_.size(), running_, all ? "\n" : "");
  lock->unlock();
  fmt::print(stderr, "{}", line);
  std::fflush(stderr);
  lock->lock();
}

std::vector<BenchSample> BenchRun::send_all(const std::vector<BenchPrompt>& prompts) {
  samples_.assign(prompts.size(), {});
  texts_.assign(prompts.size(), "");
  const Time start = std::chrono::steady_clock::now();
  const auto arrival = [&](size_t i) {
    return start +
           std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::duration<double>(prompts[i].arrival_s));
  };
  std::unique_lock lock(mutex_);
  for (size_t i = 0; i < prompts.size(); ++i) {
    while (std::chrono::steady_clock::now() < arrival(i)) {
      changed_.wait_until(lock, arrival(i));
      show_progress(&lock);
    }
    // The semaphore of --max-concurrency is outside the clock of a request.
    while (options_.max_concurrency != 0 && running_ >= options_.max_concurrency) {
      changed_.wait(lock);
      show_progress(&lock);
    }
    ++running_;
    lock.unlock();
    launch(prompts[i], i, start);
    lock.lock();
  }
  while (ended_ < prompts.size()) {
    changed_.wait(lock);
    show_progress(&lock);
  }
  return std::move(samples_);
}

void BenchRun::retokenize(std::vector<BenchSample>* samples) const {
  if (!tokenizer_) return;
  for (size_t i = 0; i < samples->size(); ++i) {
    if (const auto ids = tokenizer_->encode(texts_[i], false))
      (*samples)[i].retokenized_tokens = static_cast<int>(ids->size());
  }
}

}  // namespace

Result<BenchResult> run_bench(const BenchOptions& options) {
  BATON_ASSIGN(const BackendKind kind, backend_kind(options.backend));
  if (options.dataset != "random" && options.dataset != "random-ids") {
    return error(ErrorCode::kInvalidArgument, "--dataset-name {} is none of random, random-ids (nothing is downloaded)",
                 options.dataset);
  }
  const std::string address = options.base_url.empty() ? (options.host.find(':') == std::string::npos
                                                              ? fmt::format("{}:{}", options.host, options.port)
                                                              : fmt::format("[{}]:{}", options.host, options.port))
                                                       : options.base_url;
  BATON_ASSIGN(http::Url url, http::parse_url(address));
  BenchRun run(options, kind, url);
  BATON_TRY(run.check_extra());
  BATON_ASSIGN(const BenchVocabulary vocabulary, run.vocabulary());
  std::vector<BenchPrompt> prompts = make_workload(options, vocabulary);
  run.make_texts(&prompts);
  BATON_TRY(run.warm_up(prompts));
  if (options.flush_cache) BATON_TRY(run.post("/flush_cache"));
  if (options.profile) BATON_TRY(run.post("/start_profile"));
  const Time start = std::chrono::steady_clock::now();
  std::vector<BenchSample> samples = run.send_all(prompts);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  BenchResult result;
  if (options.profile) {
    BATON_ASSIGN(result.profile, run.post("/stop_profile"));
  }
  run.retokenize(&samples);
  result.figures = summarize(samples, seconds);
  for (const BenchSample& sample : samples) {
    if (!sample.ok && result.failures.size() < 5) result.failures.push_back(sample.failure);
  }
  return result;
}

}  // namespace baton::bench
