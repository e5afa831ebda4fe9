#include "router/fan_out.h"

#include <algorithm>
#include <memory>
#include <mutex>
#include <optional>

#include "http/api_error.h"

namespace baton::router {
namespace {

constexpr size_t kBytesMax = 64u << 20;

struct FanOut {
  http::Exchange x;
  std::function<void(const http::Exchange& x, std::vector<WorkerReply> replies)> done;
  OpenCalls& open_calls;
  std::vector<WorkerReply> replies;
  std::mutex mutex;  // of what follows
  size_t missing = 0;
  std::vector<std::shared_ptr<http::HttpCall>> calls;
  std::vector<std::optional<Error>> lost;  // why the router gave the worker up
};

http::HttpCallRequest call_of(const http::HttpRequest& request, const http::Url& url,
                              std::chrono::milliseconds patience) {
  http::HttpCallRequest call;
  call.url = url;
  call.method = request.method == "HEAD" ? "GET" : request.method;  // the length of what GET would get is told
  call.target = url.path + http::encode_path(request.path) + (request.query.empty() ? "" : "?" + request.query);
  call.body = request.body;
  call.idle_timeout = patience;
  call.connect_timeout = std::min(call.connect_timeout, patience);
  for (const char* name : kPassedOn) {
    if (const auto value = http::find_header(request.headers, name); !value.empty())
      call.headers.emplace_back(name, std::string(value));
  }
  return call;
}

http::HttpCallHandlers collect(const std::shared_ptr<FanOut>& all, size_t i, uint64_t open_call) {
  http::HttpCallHandlers handlers;
  handlers.on_head = [all, i](int status, const http::Headers&) { all->replies[i].status = status; };
  handlers.on_data = [all, i](std::string_view bytes) {
    if (all->replies[i].body.size() + bytes.size() <= kBytesMax) all->replies[i].body += bytes;
  };
  handlers.on_end = [all, i, open_call](const Status& status) {
    all->open_calls.remove(open_call);
    bool last = false;
    {
      std::lock_guard lock(all->mutex);
      if (!status) {
        const Error& why = all->lost[i] ? *all->lost[i] : status.error();
        all->replies[i].status = why.code == ErrorCode::kDeadlineExceeded ? 504 : 502;
        all->replies[i].body = http::error_json(all->replies[i].status, why.message);
      }
      last = --all->missing == 0;
    }
    if (last) all->done(all->x, std::move(all->replies));
  };
  return handlers;
}

}  // namespace

void fan_out(http::HttpClient& client, OpenCalls& calls, const std::vector<WorkerView>& workers, http::Exchange x,
             std::function<void(const http::Exchange& x, std::vector<WorkerReply> replies)> done,
             std::chrono::milliseconds patience) {
  if (workers.empty()) return done(x, {});
  const auto all =
      std::shared_ptr<FanOut>(new FanOut{std::move(x), std::move(done), calls, {}, {}, workers.size(), {}, {}});
  all->replies.reserve(workers.size());
  for (const WorkerView& worker : workers) all->replies.push_back({worker.address, 502, {}});
  all->calls.resize(workers.size());
  all->lost.resize(workers.size());
  for (size_t i = 0; i < workers.size(); ++i) {
    const auto give_up = [weak = std::weak_ptr(all), i](uint64_t, const Error& why) {
      const auto self = weak.lock();
      if (!self) return;
      std::lock_guard lock(self->mutex);
      self->lost[i] = why;
      if (self->calls[i]) self->calls[i]->cancel();
    };
    const uint64_t open_call = calls.add({workers[i].id}, OpenCalls::kNoDeadline, give_up);
    auto started = client.start(call_of(all->x.request, workers[i].address.url, patience), collect(all, i, open_call));
    std::lock_guard lock(all->mutex);
    if (all->lost[i]) started->cancel();
    all->calls[i] = std::move(started);
  }
}

}  // namespace baton::router
