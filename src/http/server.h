// An HTTP/1.1 server with keep-alive and streamed answers.
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "http/cors.h"
#include "http/message.h"

namespace baton::http {

// The answer to one request. Every method may be called from any thread and never blocks; calls are sent in order.
// Either send() once, or start() and then write() any number of times and finish(). What is written after the client
// left is dropped.
class ResponseWriter {
 public:
  virtual ~ResponseWriter() = default;
  // A whole answer. Content-Type must be among the headers.
  virtual void send(int status, Headers headers, std::string body) = 0;
  // A chunked answer; each write() is flushed on its own.
  virtual void start(int status, Headers headers) = 0;
  virtual void write(std::string bytes) = 0;
  virtual void finish() = 0;
  // Called once, on an I/O thread, if the client leaves before the answer is complete; at once if it has left already.
  virtual void on_disconnect(std::function<void()> callback) = 0;
  // Runs `work` on an I/O thread, after earlier work of this request and never beside it: where text is made from the
  // tokens that the engine's thread delivers.
  virtual void post(std::function<void()> work) = 0;
  // Whether nobody is there any more to read an answer.
  [[nodiscard]] virtual bool client_left() = 0;
};

// Called on an I/O thread when the body is complete; must not block. The writer must be answered, or dropped (a 500 is
// sent then).
using HttpHandler = std::function<void(HttpRequest request, std::shared_ptr<ResponseWriter> writer)>;

// A request that is not welcome, and what its client is told.
struct HttpRefusal {
  int status = 400;
  std::string message;
  Headers headers;  // besides those that every error has
};
// Called on an I/O thread with a request that has no body yet; must not block. What it refuses is told so before its
// body is read, and never gets to the handler.
using HttpHeadCheck = std::function<std::optional<HttpRefusal>(const HttpRequest& head)>;

struct HttpServerOptions {
  std::string host = "127.0.0.1";
  // 0: any free one.
  int port = 0;
  int threads = 1;
  // None: whatever is well formed is welcome.
  HttpHeadCheck check_head;
  // Pages of other origins whose requests are welcome and who are shown the answers.
  Origins allowed_origins;
  // Of one request; a larger one gets 413.
  size_t body_bytes_max = 16u << 20;
  // Of all requests whose body is being read or used; who would go beyond gets 503. At least twice
  // body_bytes_max.
  size_t body_bytes_in_flight_max = 256u << 20;
  size_t header_bytes_max = 64u << 10;
  // From the first byte of a request, or from the connection's start, to the end of its head.
  std::chrono::milliseconds header_timeout{10'000};
  // From the end of the head to the end of the body.
  std::chrono::milliseconds body_timeout{60'000};
  // Between two requests of a connection.
  std::chrono::milliseconds idle_timeout{75'000};
  // A client that reads nothing for so long has left, and so has one that leaves more than unread_bytes_max of what was
  // written unread.
  std::chrono::milliseconds write_timeout{60'000};
  size_t unread_bytes_max = 16u << 20;
  // One more than these ends the connection that has waited longest without a whole request, or is itself ended when
  // all are being served. At most a quarter of the files that the process may open, whose limit is raised for that.
  size_t connections_max = 16384;
};

// Order of destruction: stop() first, then whoever still holds ResponseWriters, then the server.
class HttpServer {
 public:
  // Binds and serves. kUnavailable when the port is taken: the message names it and what to do.
  static Result<std::unique_ptr<HttpServer>> start(const HttpServerOptions& options, HttpHandler handler);
  ~HttpServer();  // stop()
  [[nodiscard]] int port() const;
  // From here on every answer is the last of its connection, and connections between two requests are closed. New ones
  // are still taken: what they are told is the handler's business.
  void drain();
  // Requests that were handed to the handler and whose answer is not wholly sent.
  [[nodiscard]] size_t in_flight() const;
  // Closes the listener and every connection, joins the threads. Idempotent.
  void stop();

 private:
  struct Impl;
  explicit HttpServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace baton::http
