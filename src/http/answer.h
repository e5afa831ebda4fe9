// The answer under way on a connection. Asio, but no Beast.
#pragma once

#include <atomic>
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "http/server.h"

namespace baton::http {

// What the request says of the answer's form.
struct AnswerForm {
  bool keep_alive = true;
  bool head_only = false;  // HEAD: the head that GET would have
  bool one_zero = false;   // HTTP/1.0: knows no chunks, and keeps a connection only if told so
};

// The status line and the headers, with the date, without the empty line.
[[nodiscard]] std::string answer_head(int status, const Headers& headers, bool keep_alive);
// A whole answer of one JSON error, after which the connection closes.
[[nodiscard]] std::string closing_error(const HttpRefusal& refusal, const Headers& always);

// Filled by any thread, emptied by the connection's coroutine on its strand.
class HttpAnswer final : public ResponseWriter, public std::enable_shared_from_this<HttpAnswer> {
 public:
  // `draining` outlives it: while it is set, answers are the last of their connections. `always`: headers that the
  // answer has in any case, unless it has its own.
  HttpAnswer(boost::asio::any_io_executor executor, AnswerForm form, const std::atomic<bool>& draining,
             size_t unread_bytes_max, Headers always = {});

  void send(int status, Headers headers, std::string body) override;
  void start(int status, Headers headers) override;
  void write(std::string bytes) override;
  void finish() override;
  void on_disconnect(std::function<void()> callback) override;
  void post(std::function<void()> work) override;
  [[nodiscard]] bool client_left() override;

  // What is queued, and whether that was the last of it.
  [[nodiscard]] std::pair<std::string, bool> take();
  [[nodiscard]] bool answered();
  // Whether a further request may follow; of a complete answer.
  [[nodiscard]] bool keeps_connection();
  // The client is gone: whoever wanted to know is told, and what is written from now on is dropped.
  void leave();
  // Nothing more will be sent: forget whom to tell.
  void done();
  // Cancelled when there is something new to look at. Touched on the strand only.
  [[nodiscard]] boost::asio::steady_timer& event() { return event_; }

 private:
  [[nodiscard]] std::string head(int status, Headers headers, bool keep_alive) const;
  void push(std::string bytes, bool last);
  void wake();

  boost::asio::any_io_executor executor_;
  boost::asio::steady_timer event_;
  const AnswerForm form_;
  const Headers always_;
  const std::atomic<bool>& draining_;
  const size_t unread_bytes_max_;
  std::mutex mutex_;  // of what follows
  std::string pending_;
  bool touched_ = false;
  bool complete_ = false;
  bool until_close_ = false;  // the answer's end is the connection's
  bool stalled_ = false;      // the client reads too slowly to be served: gone_ soon
  bool gone_ = false;
  std::function<void()> disconnected_;
};

// What handlers hold: dropping it unanswered becomes a 500, so no client waits for ever.
[[nodiscard]] std::shared_ptr<ResponseWriter> writer_of(std::shared_ptr<HttpAnswer> answer);

}  // namespace baton::http
