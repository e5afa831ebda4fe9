// An HTTP/1.1 server with keep-alive and streamed answers.
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"
#include "http/message.h"

namespace baton {

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
};

// Called on an I/O thread when the body is complete; must not block. The writer must be answered, or dropped (a 500 is
// sent then).
using HttpHandler = std::function<void(HttpRequest request, std::shared_ptr<ResponseWriter> writer)>;

struct HttpServerOptions {
  std::string host = "127.0.0.1";
  int port = 0;  // 0: any free one
  int threads = 1;
  size_t body_bytes_max = 64u << 20;
  size_t header_bytes_max = 64u << 10;
  std::chrono::seconds header_timeout{10};
  std::chrono::seconds body_timeout{60};
  std::chrono::seconds idle_timeout{75};
  std::chrono::seconds write_timeout{60};  // a client that reads nothing for so long has left, and so has one that
  size_t unread_bytes_max = 16u << 20;     // leaves more than this of what was written unread
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

}  // namespace baton
