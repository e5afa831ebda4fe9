// Instances that a test plays, as real HTTP servers on loopback ports.
#pragma once

#include <gtest/gtest.h>

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "http/client.h"
#include "http/routes.h"
#include "http/server.h"

namespace baton::router {

// Keeps what it is asked, and who left.
class PlayedWorker {
 public:
  using Play = std::function<void(const http::Exchange& x)>;
  explicit PlayedWorker(Play play) : play_(std::move(play)) {
    http::HttpServerOptions options;
    options.body_bytes_max = 32 << 20;
    options.unread_bytes_max = 256 << 20;
    server_ = http::HttpServer::start(options, [this](http::HttpRequest request,
                                                      std::shared_ptr<http::ResponseWriter> writer) {
                handle(http::Exchange(std::move(request), std::move(writer)));
              }).value();
  }
  ~PlayedWorker() {
    server_->stop();
    std::lock_guard lock(mutex_);
    held_.clear();
  }

  [[nodiscard]] http::Url url() const { return {"127.0.0.1", server_->port(), ""}; }
  [[nodiscard]] std::vector<http::HttpRequest> asked() {
    std::lock_guard lock(mutex_);
    return asked_;
  }
  bool wait_asked(size_t count) {
    return wait([&] { return asked_.size() >= count; });
  }
  bool wait_left(int count) {
    return wait([&] { return left_ >= count; });
  }
  [[nodiscard]] int left() {
    std::lock_guard lock(mutex_);
    return left_;
  }
  // Every answer has been sent to its last byte.
  [[nodiscard]] bool all_sent() const { return server_->in_flight() == 0; }
  // The connection ends now, whatever was said.
  void break_off() { server_->stop(); }

 private:
  void handle(const http::Exchange& x) {
    x.writer->on_disconnect([this] {
      std::lock_guard lock(mutex_);
      ++left_;
      changed_.notify_all();
    });
    {
      std::lock_guard lock(mutex_);
      asked_.push_back(x.request);
      held_.push_back(x.writer);  // an answer that is not given is given never
      changed_.notify_all();
    }
    play_(x);
  }
  template <typename Condition>
  bool wait(Condition condition) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(10), condition);
  }

  const Play play_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<http::HttpRequest> asked_;
  std::vector<std::shared_ptr<http::ResponseWriter>> held_;
  int left_ = 0;
  std::unique_ptr<http::HttpServer> server_;
};

}  // namespace baton::router
