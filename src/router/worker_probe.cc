#include "router/worker_probe.h"

#include <algorithm>
#include <boost/json.hpp>
#include <utility>

#include "base/log.h"
#include "base/thread.h"
#include "http/json.h"

namespace baton::router {

using http::HttpReply;

namespace json = boost::json;
namespace {

constexpr size_t kReplyBytesMax = 64u << 10;  // of what is read and shown of an answer

std::chrono::milliseconds in_ms(Duration d) { return std::chrono::duration_cast<std::chrono::milliseconds>(d); }

}  // namespace

WorkerProbe::WorkerProbe(Options options, WorkerRegistry& registry, OpenCalls& calls, http::HttpClient& client,
                         const Clock& clock)
    : options_(std::move(options)), registry_(registry), calls_(calls), client_(client), clock_(clock), thread_([this] {
        loop();
      }) {}

WorkerProbe::~WorkerProbe() {
  std::unique_lock lock(mutex_);
  stopping_ = true;
  changed_.notify_all();
  for (const auto& [name, call] : asking_) {
    if (call) call->cancel();
  }
  changed_.wait(lock, [&] { return asking_.empty(); });
  lock.unlock();
  thread_.join();
}

Status WorkerProbe::wait_ready(Duration timeout) {
  std::unique_lock lock(mutex_);
  if (changed_.wait_for(lock, timeout, [&] { return stopping_ || registry_.can_serve(true); }) && !stopping_) return {};
  std::string problems = registry_.refusals();
  for (const WorkerView& view : registry_.view()) {
    if (!view.problem.empty())
      problems +=
          fmt::format("; {} {}: {}", engine::role_name(view.address.role), view.address.url.authority(), view.problem);
  }
  return error(ErrorCode::kDeadlineExceeded, "no pair of instances can serve{}", problems);
}

// Health of each worker, then the meeting of pairs that have not met, so that a mismatch is known before a request
// is. A worker that is seen anew wakes it: a pair meets as soon as both are there. One that does not meet is tried
// again with the next round.
void WorkerProbe::loop() {
  name_thread("baton-probe");
  TimePoint last = clock_.now(), next = last;
  bool news = false;
  while (true) {
    const TimePoint now = clock_.now();
    // The router itself may have been stopped, or starved: what was not listened for is not silence.
    pass(std::min<Duration>(now - last, 2 * options_.interval));
    last = now;
    const bool round = now >= next;
    if (round) {
      for (const WorkerView& view : registry_.view()) probe(view);
      next = now + options_.interval;
    }
    if (round || news) {
      for (const WorkerRegistry::Pair& pair : registry_.unpaired()) introduce(pair);
    }
    std::unique_lock lock(mutex_);
    changed_.notify_all();
    changed_.wait_for(lock, std::max<Duration>(next - clock_.now(), Duration(0)), [&] { return stopping_ || news_; });
    if (stopping_) return;
    news = std::exchange(news_, false);
  }
}

void WorkerProbe::pass(Duration time) {
  for (const WorkerRegistry::Silent& silent : registry_.pass(time)) {
    const WorkerView& view = silent.view;
    if (silent.fresh) {
      log_warning("{} {} is not healthy: {}; its open calls end", engine::role_name(view.address.role),
                  view.address.url.authority(), view.problem);
    }
    // Every time, so that a call that was placed just before the worker was lost ends too.
    calls_.lose(view.id, error(ErrorCode::kDeadlineExceeded, "nothing was heard from {} for {:.1f} s",
                               view.address.url.authority(), to_seconds(view.silence)));
  }
  calls_.expire(clock_.now());
}

void WorkerProbe::ask(const std::string& name, http::HttpCallRequest call,
                      std::function<void(const Result<HttpReply>&)> done) {
  {
    std::lock_guard lock(mutex_);
    if (stopping_ || !asking_.emplace(name, nullptr).second) return;
  }
  auto reply = std::make_shared<HttpReply>();
  http::HttpCallHandlers handlers;
  handlers.on_head = [reply](int status, const http::Headers&) { reply->status = status; };
  handlers.on_data = [reply](std::string_view bytes) {
    reply->body += bytes.substr(0, kReplyBytesMax - std::min(kReplyBytesMax, reply->body.size()));
  };
  handlers.on_end = [this, name, reply, done = std::move(done)](const Status& status) {
    done(status ? Result<HttpReply>(std::move(*reply)) : Result<HttpReply>(status.error()));
    std::lock_guard lock(mutex_);  // held while telling: the destructor waits for the last of these
    asking_.erase(name);
    changed_.notify_all();
  };
  auto started = client_.start(std::move(call), std::move(handlers));
  std::lock_guard lock(mutex_);
  const auto mine = asking_.find(name);
  if (mine == asking_.end()) return;  // it has ended already
  if (stopping_) started->cancel();
  mine->second = std::move(started);
}

http::HttpCallRequest WorkerProbe::call_of(const WorkerView& view, const char* path) const {
  http::HttpCallRequest call;
  call.url = view.address.url;
  call.target = view.address.url.path + path;
  call.connect_timeout = in_ms(options_.timeout);
  call.idle_timeout = call.connect_timeout;
  return call;
}

void WorkerProbe::probe(const WorkerView& view) {
  http::HttpCallRequest call = call_of(view, "/health");
  ask(fmt::format("health {}", view.id), std::move(call),
      [this, view](const Result<HttpReply>& reply) { on_health(view, reply); });
}

void WorkerProbe::on_health(const WorkerView& view, const Result<HttpReply>& reply) {
  if (reply) registry_.heard(view.id);
  // No answer in time says nothing of a healthy one yet: it may be busy and stream, and if it does not it is silent.
  if (!reply && reply.error().code == ErrorCode::kDeadlineExceeded && view.healthy) return;
  if (!reply && reply.error().code == ErrorCode::kCancelled) return;
  const bool healthy = reply && reply->status == 200;
  std::string problem = !reply    ? reply.error().message
                        : healthy ? ""
                                  : fmt::format("/health says {}: {}", reply->status, reply->body);
  while (problem.ends_with('\n')) problem.pop_back();
  if (registry_.set_health(view.address.url, healthy, problem)) {
    if (healthy) ask_model(view);
    log_info("{} {} is {}{}", engine::role_name(view.address.role), view.address.url.authority(),
             healthy ? "healthy" : "not healthy: ", problem);
    std::lock_guard lock(mutex_);
    news_ = true;
  }
}

// It may be another model than before: whoever was down may have been started anew.
void WorkerProbe::ask_model(const WorkerView& view) {
  http::HttpCallRequest call = call_of(view, "/get_model_info");
  if (!options_.api_key.empty()) call.headers.emplace_back("Authorization", "Bearer " + options_.api_key);
  ask(fmt::format("model {}", view.id), std::move(call), [this, id = view.id](const Result<HttpReply>& reply) {
    const auto info =
        reply && reply->status == 200 ? http::parse_object(reply->body) : Result<json::object>(json::object());
    for (const char* field : {"served_model_name", "model_path"}) {
      const auto name = info ? http::string_field(*info, field) : std::optional<std::string>();
      if (name && *name && !(*name)->empty()) return registry_.set_model(id, **name);
    }
  });
}

void WorkerProbe::introduce(const WorkerRegistry::Pair& pair) {
  http::HttpCallRequest call;
  call.url = pair.decode.url;
  call.method = "POST";
  call.target = pair.decode.url.path + "/pair";
  call.body = fmt::format("{{\"bootstrap_host\":{},\"bootstrap_port\":{}}}",
                          http::json_string(pair.prefill.meeting_host()), pair.prefill.bootstrap_port);
  call.idle_timeout = std::chrono::seconds(10);
  if (!options_.api_key.empty()) call.headers.emplace_back("Authorization", "Bearer " + options_.api_key);
  ask(fmt::format("pair {} {}", pair.prefill.url.authority(), pair.decode.url.authority()), std::move(call),
      [this, pair](const Result<HttpReply>& reply) { on_introduced(pair, reply); });
}

void WorkerProbe::on_introduced(const WorkerRegistry::Pair& pair, const Result<HttpReply>& reply) {
  if (!reply.ok() || (reply->status != 200 && reply->status != 409 && reply->status != 404)) {
    log_warning("{} and {} have not met yet: {}", pair.prefill.url.authority(), pair.decode.url.authority(),
                reply.ok() ? reply->body : reply.error().message);
    return;  // tried again at the next round
  }
  const bool refused = reply->status == 409;
  std::string why;
  if (refused) {
    auto body = http::parse_object(reply->body);
    const json::value* failure = body ? http::find_field(*body, "error") : nullptr;
    const json::value* message =
        failure != nullptr && failure->is_object() ? http::find_field(failure->as_object(), "message") : nullptr;
    why = message != nullptr && message->is_string() ? std::string(message->as_string()) : reply->body;
    log_error("{} and {} cannot work together: {}", pair.prefill.url.authority(), pair.decode.url.authority(), why);
  } else {
    log_info("prefill {} and decode {} have met", pair.prefill.url.authority(), pair.decode.url.authority());
  }
  registry_.set_pairing(pair.prefill.url, pair.decode.url, refused, std::move(why));
}

}  // namespace baton::router
