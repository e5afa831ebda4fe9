#include "http/http_activity.h"

#include <atomic>

namespace baton::http {

// Passes everything on.
class HttpActivity::Watched final : public ResponseWriter {
 public:
  Watched(HttpActivity& activity, Key key, std::shared_ptr<ResponseWriter> writer)
      : activity_(activity), key_(std::move(key)), writer_(std::move(writer)) {}
  ~Watched() override { end(); }
  void send(int status, Headers headers, std::string body) override {
    activity_.answered(key_, status);
    writer_->send(status, std::move(headers), std::move(body));
    end();
  }
  void start(int status, Headers headers) override {
    activity_.answered(key_, status);
    writer_->start(status, std::move(headers));
  }
  void write(std::string bytes) override { writer_->write(std::move(bytes)); }
  void finish() override {
    writer_->finish();
    end();
  }
  void on_disconnect(std::function<void()> callback) override { writer_->on_disconnect(std::move(callback)); }
  void post(std::function<void()> work) override { writer_->post(std::move(work)); }
  [[nodiscard]] bool client_left() override { return writer_->client_left(); }

 private:
  void end() {
    if (!ended_.exchange(true)) activity_.ended(key_);
  }

  HttpActivity& activity_;
  const Key key_;
  const std::shared_ptr<ResponseWriter> writer_;
  std::atomic<bool> ended_{false};
};

HttpActivity::HttpActivity() {
  for (const char* endpoint : {"/generate", "/v1/completions", "/v1/chat/completions"}) {
    Counts& counts = counts_[{endpoint, "POST"}];
    counts.answers[200] = 0;
  }
}

std::shared_ptr<ResponseWriter> HttpActivity::watch(std::shared_ptr<ResponseWriter> writer, std::string endpoint,
                                                    std::string method) {
  Key key{std::move(endpoint), std::move(method)};
  {
    std::lock_guard lock(mutex_);
    Counts& counts = counts_[key];
    ++counts.active;
    ++counts.requests;
  }
  return std::make_shared<Watched>(*this, std::move(key), std::move(writer));
}

void HttpActivity::answered(const Key& key, int status) {
  std::lock_guard lock(mutex_);
  ++counts_[key].answers[status];
}

void HttpActivity::ended(const Key& key) {
  std::lock_guard lock(mutex_);
  --counts_[key].active;
}

std::vector<MetricFamily> HttpActivity::families() const {
  MetricFamily active{"sglang:http_requests_active", "gauge", "HTTP requests that are being answered", {}};
  MetricFamily requests{"sglang:http_requests_total", "counter", "HTTP requests by endpoint", {}};
  MetricFamily answers{"sglang:http_responses_total", "counter", "HTTP answers by endpoint and status", {}};
  std::lock_guard lock(mutex_);
  for (const auto& [key, counts] : counts_) {
    const std::pair<std::string, std::string> endpoint{"endpoint", key.first}, method{"method", key.second};
    active.samples.push_back({active.name, {endpoint, method}, std::to_string(counts.active)});
    requests.samples.push_back({requests.name, {endpoint, method}, std::to_string(counts.requests)});
    for (const auto& [status, times] : counts.answers) {
      answers.samples.push_back(
          {answers.name, {endpoint, method, {"status_code", std::to_string(status)}}, std::to_string(times)});
    }
  }
  return {std::move(active), std::move(requests), std::move(answers)};
}

}  // namespace baton::http
