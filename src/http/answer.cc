#include "http/answer.h"

#include <boost/asio/post.hpp>

#include "http/api_error.h"

namespace baton::http {

namespace asio = boost::asio;

std::string answer_head(int status, const Headers& headers, bool keep_alive) {
  std::string head = fmt::format("HTTP/1.1 {} {}\r\n", status, status_text(status));
  for (const auto& [name, value] : headers) head += fmt::format("{}: {}\r\n", name, value);
  if (!keep_alive) head += "Connection: close\r\n";
  return head;
}

std::string closing_error(const HttpRefusal& refusal) {
  const std::string body = error_json(refusal.status, refusal.message) + "\n";
  Headers headers = error_headers(refusal.status);
  headers.insert(headers.end(), refusal.headers.begin(), refusal.headers.end());
  headers.emplace_back("Content-Type", "application/json");
  headers.emplace_back("Content-Length", std::to_string(body.size()));
  return answer_head(refusal.status, headers, false) + "\r\n" + body;
}

HttpAnswer::HttpAnswer(asio::any_io_executor executor, bool keep_alive, const std::atomic<bool>& draining,
                       bool head_only, size_t unread_bytes_max)
    : executor_(std::move(executor)),
      event_(executor_, asio::steady_timer::time_point::max()),
      keep_alive_(keep_alive),
      draining_(draining),
      head_only_(head_only),
      unread_bytes_max_(unread_bytes_max) {}

void HttpAnswer::send(int status, Headers headers, std::string body) {
  headers.emplace_back("Content-Length", std::to_string(body.size()));
  std::string bytes = answer_head(status, headers, keep_alive_ && !draining_) + "\r\n";
  if (!head_only_) bytes += body;
  push(std::move(bytes), true);
}

void HttpAnswer::start(int status, Headers headers) {
  headers.emplace_back("Transfer-Encoding", "chunked");
  push(answer_head(status, headers, keep_alive_ && !draining_) + "\r\n", false);
}

void HttpAnswer::write(std::string bytes) {
  if (bytes.empty()) return;  // an empty chunk would end the answer
  push(fmt::format("{:x}\r\n", bytes.size()) + std::move(bytes) + "\r\n", false);
}

void HttpAnswer::finish() { push("0\r\n\r\n", true); }

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
