#include "http/answer.h"

#include <boost/asio/post.hpp>

#include "http/api_error.h"

namespace baton::http {

namespace asio = boost::asio;

namespace {

void add_missing(const Headers& always, Headers* headers) {
  for (const auto& [name, value] : always) {
    if (find_header(*headers, name).empty()) headers->emplace_back(name, value);
  }
}

}  // namespace

std::string answer_head(int status, const Headers& headers, bool keep_alive) {
  std::string head = fmt::format("HTTP/1.1 {} {}\r\nDate: {}\r\n", status, status_text(status), http_date());
  for (const auto& [name, value] : headers) head += fmt::format("{}: {}\r\n", name, value);
  if (!keep_alive) head += "Connection: close\r\n";
  return head;
}

std::string closing_error(const HttpRefusal& refusal, const Headers& always) {
  const std::string body = error_json(refusal.status, refusal.message) + "\n";
  Headers headers = error_headers(refusal.status);
  headers.insert(headers.end(), refusal.headers.begin(), refusal.headers.end());
  headers.emplace_back("Content-Type", "application/json");
  headers.emplace_back("Content-Length", std::to_string(body.size()));
  add_missing(always, &headers);
  return answer_head(refusal.status, headers, false) + "\r\n" + body;
}

HttpAnswer::HttpAnswer(asio::any_io_executor executor, AnswerForm form, const std::atomic<bool>& draining,
                       size_t unread_bytes_max, Headers always)
    : executor_(std::move(executor)),
      event_(executor_, asio::steady_timer::time_point::max()),
      form_(form),
      always_(std::move(always)),
      draining_(draining),
      unread_bytes_max_(unread_bytes_max) {}

std::string HttpAnswer::head(int status, Headers headers, bool keep_alive) const {
  add_missing(always_, &headers);
  // RFC 9112, section 9.3: a client of 1.0 waits for the end of the connection unless this says that there is none.
  if (keep_alive && form_.one_zero) headers.emplace_back("Connection", "keep-alive");
  return answer_head(status, headers, keep_alive) + "\r\n";
}

void HttpAnswer::send(int status, Headers headers, std::string body) {
  // A 204 has no body, and RFC 9110 forbids to give it a length.
  if (status != 204) headers.emplace_back("Content-Length", std::to_string(body.size()));
  std::string bytes = head(status, std::move(headers), form_.keep_alive && !draining_);
  if (!form_.head_only) bytes += body;
  push(std::move(bytes), true);
}

void HttpAnswer::start(int status, Headers headers) {
  const bool until_close = form_.one_zero;
  if (until_close) {
    std::lock_guard lock(mutex_);
    until_close_ = true;
  } else {
    headers.emplace_back("Transfer-Encoding", "chunked");
  }
  push(head(status, std::move(headers), form_.keep_alive && !until_close && !draining_), false);
}

void HttpAnswer::write(std::string bytes) {
  if (bytes.empty() || form_.head_only) return;  // an empty chunk would end the answer
  if (form_.one_zero) return push(std::move(bytes), false);
  push(fmt::format("{:x}\r\n", bytes.size()) + std::move(bytes) + "\r\n", false);
}

void HttpAnswer::finish() { push(form_.one_zero || form_.head_only ? "" : "0\r\n\r\n", true); }

void HttpAnswer::on_disconnect(std::function<void()> callback) {
  {
    std::lock_guard lock(mutex_);
    if (complete_ && !gone_) return;
    if (!gone_) {
      disconnected_ = std::move(callback);
      return;
    }
  }
  callback();
}

void HttpAnswer::post(std::function<void()> work) { asio::post(executor_, std::move(work)); }

bool HttpAnswer::client_left() {
  std::lock_guard lock(mutex_);
  return gone_;
}

std::pair<std::string, bool> HttpAnswer::take() {
  std::lock_guard lock(mutex_);
  return {std::exchange(pending_, {}), complete_};
}

bool HttpAnswer::answered() {
  std::lock_guard lock(mutex_);
  return touched_;
}

bool HttpAnswer::keeps_connection() {
  std::lock_guard lock(mutex_);
  return form_.keep_alive && !until_close_;
}

void HttpAnswer::leave() {
  std::function<void()> callback;
  bool tell = false;
  {
    std::lock_guard lock(mutex_);
    if (gone_) return;
    gone_ = true;
    tell = !complete_;
    callback = std::exchange(disconnected_, nullptr);
    pending_.clear();
  }
  wake();
  if (tell && callback) callback();
}

void HttpAnswer::done() {
  // What the callback holds may hold this answer's writer, so it goes unlocked.
  std::function<void()> forgotten;
  {
    std::lock_guard lock(mutex_);
    forgotten = std::exchange(disconnected_, nullptr);
  }
}

void HttpAnswer::push(std::string bytes, bool last) {
  bool stalled = false;
  {
    std::lock_guard lock(mutex_);
    if (gone_ || complete_ || stalled_) return;
    touched_ = true;
    // A single write may be of any size; what piles up behind one that the client does not read is bounded.
    stalled = !pending_.empty() && pending_.size() + bytes.size() > unread_bytes_max_;
    stalled_ = stalled;
    if (!stalled) {
      pending_ += bytes;
      complete_ = last;
    }
  }
  if (stalled) return asio::post(executor_, [self = shared_from_this()] { self->leave(); });
  wake();
}

void HttpAnswer::wake() {
  asio::post(executor_, [self = shared_from_this()] { self->event_.cancel(); });
}

namespace {

class Writer final : public ResponseWriter {
 public:
  explicit Writer(std::shared_ptr<HttpAnswer> answer) : answer_(std::move(answer)) {}
  ~Writer() override {
    if (!answer_->answered()) send_error(*answer_, 500, "the request ended without an answer");
  }
  void send(int status, Headers headers, std::string body) override {
    answer_->send(status, std::move(headers), std::move(body));
  }
  void start(int status, Headers headers) override { answer_->start(status, std::move(headers)); }
  void write(std::string bytes) override { answer_->write(std::move(bytes)); }
  void finish() override { answer_->finish(); }
  void on_disconnect(std::function<void()> callback) override { answer_->on_disconnect(std::move(callback)); }
  void post(std::function<void()> work) override { answer_->post(std::move(work)); }
  [[nodiscard]] bool client_left() override { return answer_->client_left(); }

 private:
  std::shared_ptr<HttpAnswer> answer_;
};

}  // namespace

std::shared_ptr<ResponseWriter> writer_of(std::shared_ptr<HttpAnswer> answer) {
  return std::make_shared<Writer>(std::move(answer));
}

}  // namespace baton::http
