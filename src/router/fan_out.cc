#include "router/fan_out.h"

#include <memory>
#include <mutex>

#include "http/api_error.h"

namespace baton {
namespace {

constexpr size_t kBytesMax = 64u << 20;

struct FanOut {
  Exchange x;
  std::function<void(const Exchange& x, std::vector<WorkerReply> replies)> done;
  std::vector<WorkerReply> replies;
  std::mutex mutex;
  size_t missing = 0;
};

HttpCallRequest call_of(const HttpRequest& request, const Url& url) {
  HttpCallRequest call;
  call.url = url;
  call.method = request.method;
  call.target = url.path + encode_path(request.path) + (request.query.empty() ? "" : "?" + request.query);
  call.body = request.body;
  call.idle_timeout = std::chrono::seconds(60);
  if (const auto auth = find_header(request.headers, "authorization"); !auth.empty())
    call.headers.emplace_back("Authorization", std::string(auth));
  return call;
}

HttpCallHandlers collect(const std::shared_ptr<FanOut>& all, size_t i) {
  HttpCallHandlers handlers;
  handlers.on_head = [all, i](int status, const Headers&) { all->replies[i].status = status; };
  handlers.on_data = [all, i](std::string_view bytes) {
    if (all->replies[i].body.size() + bytes.size() <= kBytesMax) all->replies[i].body += bytes;
  };
  handlers.on_end = [all, i](const Status& status) {
    if (!status) {
      all->replies[i].status = 502;
      all->replies[i].body = error_json(502, status.error().message);
    }
    bool last = false;
    {
      std::lock_guard lock(all->mutex);
      last = --all->missing == 0;
    }
    if (last) all->done(all->x, std::move(all->replies));
  };
  return handlers;
}

}  // namespace

void fan_out(HttpClient& client, const std::vector<WorkerAddress>& workers, Exchange x,
             std::function<void(const Exchange& x, std::vector<WorkerReply> replies)> done) {
  if (workers.empty()) return done(x, {});
  const auto all = std::shared_ptr<FanOut>(new FanOut{std::move(x), std::move(done), {}, {}, workers.size()});
  all->replies.reserve(workers.size());
  for (const WorkerAddress& worker : workers) all->replies.push_back({worker, 502, {}});
  for (size_t i = 0; i < workers.size(); ++i) client.start(call_of(all->x.request, workers[i].url), collect(all, i));
}

}  // namespace baton
