// One conversation with a server that speaks OpenAI's chat completions: its history, and answers as they come.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "http/client.h"
#include "http/url.h"

namespace baton::apps {

struct ChatOptions {
  http::Url url;      // without "/v1"
  std::string model;  // "": the first that the server lists
  std::string api_key;
  std::string system;  // "": none, and the model's template may put in its own
  int max_tokens = 1024;
  // What is not given is the server's choice.
  std::optional<double> temperature, top_p;
  std::optional<int64_t> seed;
};

struct ChatAnswer {
  std::string finish_reason;  // "stop", "length"; "" if it was stopped here
  int64_t prompt_tokens = 0, cached_tokens = 0, completion_tokens = 0;
  double first_text_s = 0, last_text_s = 0;  // since the request was sent
  std::optional<double> transfer_ms;         // from the end of prefill to decode holding all KV, if the server says
  bool disaggregated = false;
};

class ChatSession {
 public:
  explicit ChatSession(ChatOptions options) : options_(std::move(options)) {}

  // Finds the model's name: kUnavailable if nobody answers at the URL, kInvalidArgument if it is no such server.
  Status connect();
  [[nodiscard]] const std::string& model() const { return options_.model; }

  // Says `message` (valid UTF-8) and waits for the answer. `on_text` is called on another thread with each new piece of
  // it; `stop` is asked about fifty times a second, and true ends the answer where it is, which is then all that the
  // history has of it. After an error the message is not part of the history.
  Result<ChatAnswer> say(const std::string& message, std::function<void(std::string_view text)> on_text,
                         const std::function<bool()>& stop);
  void reset() { history_.clear(); }

  // KV bytes that the instances behind a Baton router have sent since they started; nothing from another server.
  std::optional<double> transferred_bytes();

 private:
  struct Message {
    const char* role;
    std::string text;
  };
  [[nodiscard]] http::HttpCallRequest call(const char* method, const char* target, std::string body = "") const;
  [[nodiscard]] std::string body_of(const std::string& message) const;

  ChatOptions options_;
  std::vector<Message> history_;  // without the system prompt; user and assistant take turns
  http::HttpClient client_;
};

}  // namespace baton::apps
