#include "chat_session.h"

#include <boost/json.hpp>
#include <chrono>
#include <condition_variable>
#include <mutex>

#include "http/event_reader.h"
#include "http/json.h"
#include "transfer_bytes.h"

namespace baton::apps {
namespace {

namespace json = boost::json;
using Seconds = std::chrono::duration<double>;

constexpr size_t kErrorBytesMax = 64 << 10;  // of a body that is shown

const json::object* object_in(const json::object& object, std::string_view name) {
  const json::value* value = http::find_field(object, name);
  return value != nullptr ? value->if_object() : nullptr;
}
std::string_view text_in(const json::object& object, std::string_view name) {
  const json::value* value = http::find_field(object, name);
  return value != nullptr && value->is_string() ? std::string_view(value->get_string()) : std::string_view();
}
double number_in(const json::object& object, std::string_view name, double otherwise) {
  const json::value* value = http::find_field(object, name);
  return value != nullptr && value->is_number() ? value->to_number<double>() : otherwise;
}

// "error.message" of an OpenAI error, or the body itself.
std::string message_of(const std::string& body) {
  if (const auto parsed = http::parse_object(body)) {
    if (const json::object* failure = object_in(*parsed, "error"); failure != nullptr)
      return std::string(text_in(*failure, "message"));
  }
  return body.substr(0, 500);
}

ErrorCode code_of(int status) {
  return status == 408 || status == 429 || status >= 500 ? ErrorCode::kUnavailable : ErrorCode::kInvalidArgument;
}

// One answer as it comes. All but wait() is called by the client's thread, one call after the other.
class AnswerStream {
 public:
  explicit AnswerStream(std::function<void(std::string_view text)> on_text) : on_text_(std::move(on_text)) {}

  void on_head(int status, const http::Headers& headers) {
    status_ = status;
    answer_.disaggregated = http::find_header(headers, "x-baton-verdict").starts_with("disaggregated");
  }
  void on_data(std::string_view bytes) {
    if (status_ != 200) {
      body_ += bytes.substr(0, kErrorBytesMax - std::min(kErrorBytesMax, body_.size()));
      return;
    }
    const Status read = events_.read(bytes, [this](std::string_view data) { on_event(data); });
    if (!read && failure_.ok()) failure_ = read;
  }
  void on_end(const Status& ended) {
    if (status_ != 0 && status_ != 200) {
      failure_ = error(code_of(status_), "HTTP {}: {}", status_, message_of(body_));
    } else if (!ended && ended.error().code != ErrorCode::kCancelled) {
      failure_ = ended;
    } else if (ended && !done_ && failure_.ok()) {
      failure_ = error(ErrorCode::kUnavailable, "the answer ended without [DONE]");
    }
    std::lock_guard lock(mutex_);
    ended_ = true;
    changed_.notify_all();
  }

  // True once the call has ended; answer() and text() may be read then.
  bool wait(std::chrono::milliseconds timeout) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, timeout, [this] { return ended_; });
  }
  Result<ChatAnswer> answer() const {
    if (!failure_) return failure_.error();
    return answer_;
  }
  [[nodiscard]] const std::string& text() const { return text_; }

 private:
  void on_event(std::string_view data) {
    if (data == "[DONE]") {
      done_ = true;
      return;
    }
    const auto event = http::parse_object(data);
    if (!event) {
      failure_ = error(ErrorCode::kCorrupt, "an event is not JSON: {}", data.substr(0, 200));
      return;
    }
    if (http::find_field(*event, "error") != nullptr) {
      failure_ = error(ErrorCode::kUnavailable, "{}", message_of(std::string(data)));
      return;
    }
    if (const json::object* usage = object_in(*event, "usage")) take_usage(*usage);
    take_parts(*event);
    const json::value* choices = http::find_field(*event, "choices");
    if (choices == nullptr || !choices->is_array() || choices->get_array().empty()) return;
    if (const json::object* choice = choices->get_array().front().if_object()) take_choice(*choice);
  }
  void take_usage(const json::object& usage) {
    answer_.prompt_tokens = static_cast<int64_t>(number_in(usage, "prompt_tokens", 0));
    answer_.completion_tokens = static_cast<int64_t>(number_in(usage, "completion_tokens", 0));
    if (const json::object* details = object_in(usage, "prompt_tokens_details"))
      answer_.cached_tokens = static_cast<int64_t>(number_in(*details, "cached_tokens", 0));
  }
  void take_parts(const json::object& event) {
    if (const json::object* parts = object_in(event, "ttft_parts_ms"); parts != nullptr && parts->contains("transfer"))
      answer_.transfer_ms = number_in(*parts, "transfer", 0);
  }
  void take_choice(const json::object& choice) {
    if (const std::string_view why = text_in(choice, "finish_reason"); !why.empty()) answer_.finish_reason = why;
    const json::object* delta = object_in(choice, "delta");
    const std::string_view text = delta != nullptr ? text_in(*delta, "content") : std::string_view();
    if (text.empty()) return;
    answer_.last_text_s = Seconds(std::chrono::steady_clock::now() - sent_).count();
    if (text_.empty()) answer_.first_text_s = answer_.last_text_s;
    text_ += text;
    on_text_(text);
  }

  const std::function<void(std::string_view text)> on_text_;
  const std::chrono::steady_clock::time_point sent_ = std::chrono::steady_clock::now();
  int status_ = 0;
  bool done_ = false;
  std::string body_;  // of an answer that is an error
  http::EventReader events_;
  std::string text_;
  ChatAnswer answer_;
  Status failure_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool ended_ = false;  // guarded by mutex_
};

}  // namespace

http::HttpCallRequest ChatSession::call(const char* method, const char* target, std::string body) const {
  http::HttpCallRequest request;
  request.url = options_.url;
  request.method = method;
  request.target = options_.url.path + target;
  request.body = std::move(body);
  if (!request.body.empty()) request.headers = {{"Content-Type", "application/json"}};
  if (!options_.api_key.empty()) request.headers.emplace_back("Authorization", "Bearer " + options_.api_key);
  return request;
}

Status ChatSession::connect() {
  http::HttpCallRequest request = call("GET", "/v1/models");
  request.idle_timeout = std::chrono::seconds(30);
  BATON_ASSIGN(const http::HttpReply reply, client_.fetch(std::move(request)));
  if (reply.status != 200)
    return error(code_of(reply.status), "GET {}/v1/models says HTTP {}: {}", options_.url.path, reply.status,
                 message_of(reply.body));
  if (!options_.model.empty()) return {};
  if (const auto models = http::parse_object(reply.body)) {
    const json::value* list = http::find_field(*models, "data");
    const json::value* first =
        list != nullptr && list->is_array() && !list->get_array().empty() ? &list->get_array().front() : nullptr;
    if (first != nullptr && first->is_object()) options_.model = text_in(first->get_object(), "id");
  }
  if (options_.model.empty())
    return error(ErrorCode::kInvalidArgument, "{} lists no model under /v1/models; give --model NAME",
                 options_.url.authority());
  return {};
}

std::string ChatSession::body_of(const std::string& message) const {
  std::string messages;
  const auto add = [&messages](std::string_view role, std::string_view text) {
    messages +=
        fmt::format("{}{{\"role\":\"{}\",\"content\":{}}}", messages.empty() ? "" : ",", role, http::json_string(text));
  };
  if (!options_.system.empty()) add("system", options_.system);
  for (const Message& said : history_) add(said.role, said.text);
  add("user", message);
  std::string body = fmt::format(
      "{{\"model\":{},\"messages\":[{}],\"max_tokens\":{},\"stream\":true,\"stream_options\":{{\"include_usage\":true}"
      "}",
      http::json_string(options_.model), messages, options_.max_tokens);
  if (options_.temperature) body += fmt::format(",\"temperature\":{}", *options_.temperature);
  if (options_.top_p) body += fmt::format(",\"top_p\":{}", *options_.top_p);
  if (options_.seed) body += fmt::format(",\"seed\":{}", *options_.seed);
  return body + "}";
}

Result<ChatAnswer> ChatSession::say(const std::string& message, std::function<void(std::string_view text)> on_text,
                                    const std::function<bool()>& stop) {
  auto stream = std::make_shared<AnswerStream>(std::move(on_text));
  http::HttpCallHandlers handlers;
  handlers.on_head = [stream](int status, const http::Headers& headers) { stream->on_head(status, headers); };
  handlers.on_data = [stream](std::string_view bytes) { stream->on_data(bytes); };
  handlers.on_end = [stream](const Status& ended) { stream->on_end(ended); };
  const auto running = client_.start(call("POST", "/v1/chat/completions", body_of(message)), std::move(handlers));
  bool stopped = false;
  while (!stream->wait(std::chrono::milliseconds(20))) {
    if (!stopped && stop()) {
      stopped = true;
      running->cancel();
    }
  }
  BATON_ASSIGN(ChatAnswer answer, stream->answer());
  if (stopped && stream->text().empty()) return answer;
  history_.push_back({"user", message});
  history_.push_back({"assistant", stream->text()});
  return answer;
}

std::optional<double> ChatSession::transferred_bytes() {
  http::HttpCallRequest request = call("GET", "/engine_metrics");
  request.idle_timeout = std::chrono::seconds(5);
  const auto reply = client_.fetch(std::move(request));
  if (!reply || reply->status != 200) return std::nullopt;
  return TransferBytes::parse(reply->body).total();
}

}  // namespace baton::apps
