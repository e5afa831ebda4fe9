#include "router/worker_probe.h"

#include <boost/json.hpp>

#include "base/log.h"
#include "base/thread.h"
#include "http/json.h"

namespace baton {
namespace json = boost::json;

WorkerProbe::WorkerProbe(Options options, WorkerRegistry& registry, HttpClient& client, const Clock& clock)
    : options_(std::move(options)), registry_(registry), client_(client), clock_(clock), thread_([this] { loop(); }) {}

WorkerProbe::~WorkerProbe() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

Status WorkerProbe::wait_ready(Duration timeout) {
  std::unique_lock lock(mutex_);
  if (changed_.wait_for(lock, timeout, [&] { return stopping_ || registry_.can_serve(clock_.now(), true); }) &&
      !stopping_)
    return {};
  std::string problems = registry_.refusals();
  for (const WorkerView& view : registry_.view()) {
    if (!view.problem.empty())
      problems += fmt::format("; {} {}: {}", role_name(view.address.role), view.address.url.authority(), view.problem);
  }
  return error(ErrorCode::kDeadlineExceeded, "no pair of instances can serve{}", problems);
}

// Health of each worker, then the meeting of pairs that have not met, so that a mismatch is known before a request
// is.
void WorkerProbe::loop() {
  name_thread("baton-probe");
  while (true) {
    for (const WorkerView& view : registry_.view()) probe(view);
    for (const WorkerRegistry::Pair& pair : registry_.unpaired()) introduce(pair);
    std::unique_lock lock(mutex_);
    changed_.notify_all();
    if (changed_.wait_for(lock, options_.interval, [&] { return stopping_; })) return;
  }
}

void WorkerProbe::probe(const WorkerView& view) {
  HttpCallRequest call;
  call.url = view.address.url;
  call.target = view.address.url.path + "/health";
  call.connect_timeout = std::chrono::duration_cast<std::chrono::milliseconds>(options_.timeout);
  call.idle_timeout = call.connect_timeout;
  const auto reply = client_.fetch(std::move(call));
  const bool healthy = reply.ok() && reply->status == 200;
  std::string problem = !reply.ok() ? reply.error().message
                        : healthy   ? ""
                                    : fmt::format("/health says {}: {}", reply->status, reply->body);
  while (problem.ends_with('\n')) problem.pop_back();
  if (healthy != view.healthy) {
    log_info("{} {} is {}{}", role_name(view.address.role), view.address.url.authority(),
             healthy ? "healthy" : "not healthy: ", problem);
  }
  registry_.set_health(view.address.url, healthy, std::move(problem));
}

void WorkerProbe::introduce(const WorkerRegistry::Pair& pair) {
  HttpCallRequest call;
  call.url = pair.decode.url;
  call.method = "POST";
  call.target = pair.decode.url.path + "/pair";
  call.body = fmt::format("{{\"bootstrap_host\":{},\"bootstrap_port\":{}}}", json_string(pair.prefill.url.host),
                          pair.prefill.bootstrap_port);
  call.idle_timeout = std::chrono::seconds(10);
  if (!options_.api_key.empty()) call.headers.emplace_back("Authorization", "Bearer " + options_.api_key);
  const auto reply = client_.fetch(std::move(call));
  if (!reply.ok() || (reply->status != 200 && reply->status != 409 && reply->status != 404)) {
    log_warning("{} and {} have not met yet: {}", pair.prefill.url.authority(), pair.decode.url.authority(),
                reply.ok() ? reply->body : reply.error().message);
    return;  // tried again at the next round
  }
  const bool refused = reply->status == 409;
  std::string why;
  if (refused) {
    auto body = parse_object(reply->body);
    const json::value* failure = body ? find_field(*body, "error") : nullptr;
    const json::value* message =
        failure != nullptr && failure->is_object() ? find_field(failure->as_object(), "message") : nullptr;
    why = message != nullptr && message->is_string() ? std::string(message->as_string()) : reply->body;
    log_error("{} and {} cannot work together: {}", pair.prefill.url.authority(), pair.decode.url.authority(), why);
  } else {
    log_info("prefill {} and decode {} have met", pair.prefill.url.authority(), pair.decode.url.authority());
  }
  registry_.set_pairing(pair.prefill.url, pair.decode.url, refused, std::move(why));
}

}  // namespace baton
