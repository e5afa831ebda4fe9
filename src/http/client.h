// An HTTP/1.1 client for many concurrent calls with streamed answers; one connection a call, as benchmark clients do.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"
#include "http/message.h"
#include "http/url.h"

namespace baton {

struct HttpCallRequest {
  Url url;
  std::string method = "GET";
  std::string target = "/";  // path and query
  Headers headers;           // Host and Content-Length are added
  std::string body;
  std::chrono::milliseconds connect_timeout{5000};
  std::chrono::milliseconds idle_timeout{3600 * 1000};  // without a byte from the server
};

// Callbacks run on a client thread, in order: head once, data any number of times, end once. After end nothing is
// called.
struct HttpCallHandlers {
  std::function<void(int status, const Headers& headers)> on_head;
  std::function<void(std::string_view bytes)> on_data;
  std::function<void(Status status)> on_end;  // kUnavailable: no connection or cut off; kDeadlineExceeded; kCancelled
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

}  // namespace baton
