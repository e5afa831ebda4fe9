#include "bench/bench_client.h"

#include <algorithm>
#include <boost/json.hpp>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "base/clock.h"
#include "http/client.h"
#include "http/event_reader.h"
#include "http/json.h"
#include "text/tokenizer.h"

namespace baton::bench {
namespace {

namespace json = boost::json;
using Time = std::chrono::steady_clock::time_point;

enum class BackendKind { kGenerate, kCompletions, kChat };

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

// The text of one request's answer, taken apart as it comes.
class AnswerReader {
 public:
  AnswerReader(BackendKind kind, bool stream, Time sent, int prompt_tokens)
      : kind_(kind), stream_(stream), sent_(sent), last_(sent) {
    sample_.prompt_tokens = prompt_tokens;
  }

  void on_head(int status) { status_ = status; }
  void on_data(std::string_view bytes) {
    if (!stream_ || status_ != 200) {
      body_ += bytes;
      return;
    }
    const Status read = events_.read(bytes, [this](std::string_view data) {
      if (data == "[DONE]") {
        complete_ = true;
      } else {
        on_event(data);
      }
    });
    if (!read) sample_.failure = read.error().message;
  }
  BenchSample on_end(const Status& ended) {
    const Time now = std::chrono::steady_clock::now();
    if (!ended) {
      sample_.failure = ended.error().message;
    } else if (status_ != 200) {
      sample_.failure = fmt::format("HTTP {}: {}", status_, body_.substr(0, 300));
    } else if (!stream_) {
      on_event(body_);
      complete_ = true;
    }
    if (sample_.failure.empty() && !complete_) sample_.failure = "the stream ended without [DONE]";
    if (sample_.failure.empty() && sample_.output_tokens == 0) sample_.failure = "no token came";
    sample_.ok = sample_.failure.empty();
    sample_.latency_s = std::chrono::duration<double>(now - sent_).count();
    if (!stream_) sample_.ttft_s = sample_.latency_s;
    return std::move(sample_);
  }

 private:
  void on_event(std::string_view text) {
    const Time now = std::chrono::steady_clock::now();
    boost::system::error_code bad;
    const json::value event = json::parse(text, bad);
    if (bad || !event.is_object()) {
      sample_.failure = fmt::format("an event is not JSON: {}", text.substr(0, 200));
      return;
    }
    if (const json::value* failure = event.as_object().if_contains("error")) {
      sample_.failure = json::serialize(*failure);
      return;
    }
    const int tokens =
        kind_ == BackendKind::kGenerate ? read_generate(event.as_object()) : read_openai(event.as_object());
    if (tokens < 0) return;  // no text in it
    if (!first_seen_) {
      first_seen_ = true;
      sample_.ttft_s = std::chrono::duration<double>(now - sent_).count();
    } else if (tokens > 0) {
      const double each = std::chrono::duration<double>(now - last_).count() / tokens;
      sample_.itl_s.insert(sample_.itl_s.end(), static_cast<size_t>(tokens), each);
    }
    last_ = now;
  }

  // New tokens of the event, -1 if it has no text yet.
  int read_generate(const json::object& event) {
    const json::value* meta = event.if_contains("meta_info");
    if (meta == nullptr || !meta->is_object()) return -1;
    if (const json::value* parts = meta->as_object().if_contains("ttft_parts_ms");
        parts != nullptr && parts->is_object()) {
      for (const auto& [name, ms] : parts->as_object()) {
        if (ms.is_number()) sample_.ttft_parts[std::string(name)] = ms.to_number<double>();
      }
    }
    const json::value* total = meta->as_object().if_contains("completion_tokens");
    const json::value* text = event.if_contains("text");
    if (total == nullptr || !total->is_number() || text == nullptr || !text->is_string() || text->as_string().empty())
      return -1;
    const int fresh = total->to_number<int>() - sample_.output_tokens;
    sample_.output_tokens += fresh;
    return fresh;
  }
  int read_openai(const json::object& event) {
    if (const json::value* usage = event.if_contains("usage"); usage != nullptr && usage->is_object()) {
      if (const json::value* n = usage->as_object().if_contains("completion_tokens"))
        sample_.output_tokens = n->to_number<int>();
    }
    const json::value* choices = event.if_contains("choices");
    if (choices == nullptr || !choices->is_array() || choices->as_array().empty()) return -1;
    const json::object& choice = choices->as_array().front().as_object();
    const json::value* text = choice.if_contains("text");
    for (const char* holder : {"delta", "message"}) {
      if (const json::value* inner = choice.if_contains(holder); inner != nullptr && inner->is_object())
        text = inner->as_object().if_contains("content");
    }
    return text != nullptr && text->is_string() && !text->as_string().empty() ? 1 : -1;
  }

  const BackendKind kind_;
  const bool stream_;
  const Time sent_;
  Time last_;
  int status_ = 0;
  bool first_seen_ = false, complete_ = false;
  std::string body_;  // of an answer that is no stream
  http::EventReader events_;
  BenchSample sample_;
};

class BenchRun {
 public:
  BenchRun(const BenchOptions& options, BackendKind kind, http::Url url)
      : options_(options), kind_(kind), url_(std::move(url)), client_(1) {}

  Result<BenchVocabulary> vocabulary();
  Status warm_up(const std::vector<BenchPrompt>& prompts);
  std::vector<BenchSample> send_all(const std::vector<BenchPrompt>& prompts);
  Status post(const std::string& target);

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
  void launch(const BenchPrompt& prompt, size_t index);

  const BenchOptions& options_;
  const BackendKind kind_;
  const http::Url url_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<BenchSample> samples_;
  int running_ = 0;
  size_t ended_ = 0;
  http::HttpClient client_;  // destroyed first: its callbacks use the members above
};

Result<BenchVocabulary> BenchRun::vocabulary() {
  BenchVocabulary vocabulary;
  const std::string directory = options_.tokenizer.empty() ? options_.model : options_.tokenizer;
  if (!directory.empty() && options_.tokenizer != "server") {
    if (auto tokenizer = text::Tokenizer::load(directory + "/tokenizer.json")) {
      vocabulary.vocab = tokenizer->vocab_size();
      for (int32_t id = 0; id < vocabulary.vocab; ++id) {
        if (tokenizer->is_special(id)) vocabulary.special.push_back(id);
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

std::string BenchRun::body_of(const BenchPrompt& prompt, int output_len) const {
  std::string ids;
  for (const int32_t id : prompt.ids) ids += fmt::format("{}{}", ids.empty() ? "" : ",", id);
  const std::string model =
      options_.model.empty() ? "" : fmt::format("\"model\":{},", http::json_string(options_.model));
  switch (kind_) {
    case BackendKind::kGenerate:
      return fmt::format(
          "{{\"input_ids\":[{}],\"sampling_params\":{{\"temperature\":0.0,\"max_new_tokens\":{},\"ignore_eos\":{}}},"
          "\"stream\":{},\"lora_path\":null,"
          "\"return_logprob\":false,\"logprob_start_len\":-1}}",
          ids, output_len, options_.ignore_eos, options_.stream);
    case BackendKind::kCompletions:
      return fmt::format(
          "{{{}\"prompt\":[{}],\"temperature\":0.0,\"best_of\":1,\"max_tokens\":{},\"ignore_eos\":{},\"stream\":{},"
          "\"stream_options\":{{\"include_usage\":true}}}}",
          model, ids, output_len, options_.ignore_eos, options_.stream);
    case BackendKind::kChat:
      // Chat takes text: one word a token, near enough, since only the template knows the rest.
      std::string words;
      for (size_t i = 0; i < prompt.ids.size(); ++i) words += " a";
      return fmt::format(
          "{{{}\"messages\":[{{\"role\":\"user\",\"content\":{}}}],\"temperature\":0.0,\"max_tokens\":{},\"ignore_"
          "eos\":{},\"stream\":{},"
          "\"stream_options\":{{\"include_usage\":true}}}}",
          model, http::json_string(words), output_len, options_.ignore_eos, options_.stream);
  }
  return {};
}

Status BenchRun::post(const std::string& target) {
  BATON_ASSIGN(const http::HttpReply reply, client_.fetch(call("POST", target, "")));
  if (reply.status != 200)
    return error(ErrorCode::kUnavailable, "{} says HTTP {}: {}", target, reply.status, reply.body);
  return {};
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

void BenchRun::launch(const BenchPrompt& prompt, size_t index) {
  http::HttpCallRequest request = call("POST", target_of(kind_), body_of(prompt, prompt.output_len));
  request.answer_bytes_max = std::nullopt;
  auto reader = std::make_shared<AnswerReader>(kind_, options_.stream, std::chrono::steady_clock::now(),
                                               static_cast<int>(prompt.ids.size()));
  http::HttpCallHandlers handlers;
  handlers.on_head = [reader](int status, const http::Headers&) { reader->on_head(status); };
  handlers.on_data = [reader](std::string_view bytes) { reader->on_data(bytes); };
  handlers.on_end = [this, reader, index](const Status& ended) {
    BenchSample sample = reader->on_end(ended);
    std::lock_guard lock(mutex_);
    samples_[index] = std::move(sample);
    --running_;
    ++ended_;
    changed_.notify_all();
  };
  client_.start(std::move(request), std::move(handlers));
}

std::vector<BenchSample> BenchRun::send_all(const std::vector<BenchPrompt>& prompts) {
  samples_.assign(prompts.size(), {});
  const Time start = std::chrono::steady_clock::now();
  for (size_t i = 0; i < prompts.size(); ++i) {
    std::this_thread::sleep_until(start + std::chrono::duration_cast<std::chrono::nanoseconds>(
                                              std::chrono::duration<double>(prompts[i].arrival_s)));
    {
      // The semaphore of --max-concurrency is outside the clock of a request.
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return options_.max_concurrency == 0 || running_ < options_.max_concurrency; });
      ++running_;
    }
    launch(prompts[i], i);
  }
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return ended_ == prompts.size(); });
  return std::move(samples_);
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
  BATON_ASSIGN(const BenchVocabulary vocabulary, run.vocabulary());
  const std::vector<BenchPrompt> prompts = make_workload(options, vocabulary);
  BATON_TRY(run.warm_up(prompts));
  if (options.flush_cache) BATON_TRY(run.post("/flush_cache"));
  const Time start = std::chrono::steady_clock::now();
  const std::vector<BenchSample> samples = run.send_all(prompts);
  BenchResult result;
  result.figures = summarize(samples, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  for (const BenchSample& sample : samples) {
    if (!sample.ok && result.failures.size() < 5) result.failures.push_back(sample.failure);
  }
  return result;
}

}  // namespace baton::bench
