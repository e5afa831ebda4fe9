// An HTTP/1.1 client for many concurrent calls with streamed answers; one connection a call, as benchmark clients do.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "http/message.h"
#include "http/url.h"

namespace baton::http {

struct HttpCallRequest {
  Url url;
  std::string method = "GET";
  std::string target = "/";  // path and query
  Headers headers;           // Host and Content-Length are added
  // The body is both, one after the other: what several calls send is held once.
  std::shared_ptr<const std::string> shared_body;
  std::string body;
  std::chrono::milliseconds connect_timeout{5000};
  std::chrono::milliseconds idle_timeout{3600 * 1000};  // without a byte from the server
  // A longer answer ends the call with kResourceExhausted. No bound for streams, whose reader counts for itself.
  std::optional<uint64_t> answer_bytes_max = 64u << 20;
};

// Callbacks run on a client thread, in order: head once, data any number of times, end once. After end nothing is
// called.
struct HttpCallHandlers {
  std::function<void(int status, const Headers& headers)> on_head;
  std::function<void(std::string_view bytes)> on_data;
  std::function<void(Status status)> on_end;  // kUnavailable: no connection or cut off; kDeadlineExceeded;
                                              // kCancelled; kResourceExhausted
};

class HttpCall {
 public:
  virtual ~HttpCall() = default;
  // Ends the call with kCancelled, unless it has ended. Any thread.
  virtual void cancel() = 0;
};

struct HttpReply {
  int status = 0;
  Headers headers;
  std::string body;
};

class HttpClient {
 public:
  explicit HttpClient(int threads = 1);
  ~HttpClient();  // ends every call with kCancelled and joins
  std::shared_ptr<HttpCall> start(HttpCallRequest request, HttpCallHandlers handlers);
  // Waits for the whole answer. Not from a callback.
  Result<HttpReply> fetch(HttpCallRequest request);

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace baton::http
