// What tests of this folder share: a model of 256 byte tokens, an engine that the test plays, and a writer that keeps
// what it is given.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "http/api_request.h"
#include "http/server.h"
#include "text/byte_alphabet.h"

namespace baton::http {

inline constexpr int32_t kTestBos = 256, kTestEos = 257;

// Token i is byte i, 256 is <s> and 257 </s>, so that text and tokens are the same thing.
inline std::unique_ptr<ModelText> byte_model(int64_t context_length = 64) {
  std::string vocab;
  for (int i = 0; i < 256; ++i) {
    const char byte = static_cast<char>(i);
    const std::string token = text::token_of_bytes(std::string_view(&byte, 1));
    vocab += fmt::format("{}\"{}\":{}", i > 0 ? "," : "", token == "\"" || token == "\\" ? "\\" + token : token, i);
  }
  constexpr const char* kByteLevel = R"({"type":"ByteLevel","add_prefix_space":false,"use_regex":false})";
  const std::string json = fmt::format(
      R"({{"version":"1.0","added_tokens":[{{"id":256,"content":"<s>","special":true}},{{"id":257,"content":"</s>","special":true}}],)"
      R"("normalizer":null,"pre_tokenizer":{0},"post_processor":null,"decoder":{0},"model":{{"type":"BPE","vocab":{{{1}}},"merges":[]}}}})",
      kByteLevel, vocab);
  auto model = std::make_unique<ModelText>();
  model->served_name = "tiny";
  model->model_path = "/models/tiny";
  model->model_type = "llama";
  model->architecture = "LlamaForCausalLM";
  model->tokenizer = text::Tokenizer::from_json(json).value();
  model->chat_template =
      text::ChatTemplate::parse("{% for m in messages %}{{ m.role }}:{{ m.content }}\n{% endfor %}{{ bos_token }}")
          .value();
  model->bos_token = "<s>";
  model->eos_token = "</s>";
  model->special_tokens = {{"bos_token", "<s>"}, {"eos_token", "</s>"}};
  model->eos_ids = {kTestEos};
  model->context_length = context_length;
  model->vocab = 258;
  return model;
}

// Keeps requests; the test delivers their outputs.
class PlayedEngine final : public engine::Engine {
 public:
  explicit PlayedEngine(engine::Role role = engine::Role::kUnified) {
    info_.role = role;
    info_.page_tokens = 16;
    info_.pages_per_group = 8;
    info_.max_total_tokens = 128;
    stats_.pages.resize(1);
  }

  Result<SequenceId> submit(engine::Request request, engine::OutputSink sink) override {
    if (refuse) return *refuse;
    sinks[requests.size()] = std::move(sink);
    requests.push_back(std::move(request));
    return SequenceId(requests.size() - 1);
  }
  void abort(SequenceId request) override { aborted.push_back(request.value()); }
  void abort(const std::string& name, std::function<void(size_t ended)> done) override {
    aborted_names.push_back(name);
    size_t ended = 0;
    for (const auto& [i, sink] : sinks) ended += requests[i].rid == name || requests[i].call == name;
    done(ended);
  }
  void abort_all() override { aborted_names.emplace_back("*"); }
  void shut_down() override { refuse = error(ErrorCode::kUnavailable, "the instance is shutting down"); }
  void stop(SequenceId request) override { stopped.push_back(request.value()); }
  Status flush_cache() override {
    if (!sinks.empty()) return error(ErrorCode::kUnavailable, "{} requests run", sinks.size());
    ++flushes;
    return {};
  }
  void pause(engine::PauseMode mode, std::function<void(Status)> done) override {
    pauses.push_back(mode);
    done({});
  }
  void resume(std::function<void(Status)> done) override {
    pauses.clear();
    done({});
  }
  [[nodiscard]] bool paused() const override { return !pauses.empty(); }
  [[nodiscard]] const engine::InstanceInfo& info() const override { return info_; }
  [[nodiscard]] engine::EngineStats stats() const override { return stats_; }
  void pair(const std::string&, int, bool told, std::function<void(Status)> done) override {
    paired_as_told = told;
    if (on_pair) on_pair();
    done({});
  }
  std::atomic<bool> paired_as_told{false};  // two calls may pair at once
  [[nodiscard]] std::string describe_pairs() const override { return "plans\n"; }
  [[nodiscard]] bool healthy() const override { return true; }

  // The i-th request so far gets the text's bytes as tokens, and the end if there is one.
  void deliver(size_t i, std::string_view text, std::optional<engine::Output::Finish> finish = std::nullopt) {
    engine::Output output;
    for (const char c : text) output.tokens.push_back({static_cast<unsigned char>(c), -0.5F, {}});
    output.finish = std::move(finish);
    const engine::OutputSink sink = sinks.at(i);
    if (output.finish) sinks.erase(i);
    sink(std::move(output));
  }

  engine::InstanceInfo info_;
  engine::EngineStats stats_;
  std::optional<Error> refuse;
  std::vector<engine::Request> requests;
  std::map<size_t, engine::OutputSink> sinks;  // by place in `requests`, which is also a request's id
  std::vector<uint64_t> aborted, stopped;
  std::vector<std::string> aborted_names;
  std::vector<engine::PauseMode> pauses;  // since the last resume()
  int flushes = 0;
  std::function<void()> on_pair;
};

inline engine::Output::Finish finished(engine::FinishReason reason, std::optional<Error> failure = std::nullopt) {
  return {reason, std::nullopt, std::move(failure)};
}

// Everything happens at once, in the test's thread.
struct KeptAnswer {
  int status = 0;
  Headers headers;
  std::vector<std::string> writes;  // of a streamed answer
  std::string body;                 // all of it
  bool complete = false;
  std::function<void()> disconnect;
};
class KeepingWriter final : public ResponseWriter {
 public:
  explicit KeepingWriter(KeptAnswer& answer) : answer_(answer) {}
  void send(int status, Headers headers, std::string body) override {
    start(status, std::move(headers));
    answer_.body = std::move(body);
    answer_.complete = true;
  }
  void start(int status, Headers headers) override {
    BATON_CHECK(answer_.status == 0, "a second answer");
    answer_.status = status;
    answer_.headers = std::move(headers);
  }
  void write(std::string bytes) override {
    answer_.body += bytes;
    answer_.writes.push_back(std::move(bytes));
  }
  void finish() override { answer_.complete = true; }
  void on_disconnect(std::function<void()> callback) override { answer_.disconnect = std::move(callback); }
  void post(std::function<void()> work) override { work(); }
  [[nodiscard]] bool client_left() override { return false; }

 private:
  KeptAnswer& answer_;
};

}  // namespace baton::http
