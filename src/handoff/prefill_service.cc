// The thread; prefill_peers.cc holds its control connections, prefill_attempts.cc what concerns one
// attempt, prefill_posts.cc what is sent.
#include "handoff/prefill_service.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "base/thread.h"
#include "handoff/pairing.h"

namespace baton::handoff {
namespace {
constexpr Duration kStopTimeout = std::chrono::seconds(2);
}  // namespace

PrefillHandoff::Service::Service(PrefillHandoffOptions options, wire::Manifest self, transport::Transport& transport,
                                 std::vector<Pool> pools, PrefillSink sink, UniqueFd listener)
    : options_(std::move(options)),
      self_(std::move(self)),
      transport_(transport),
      pools_(std::move(pools)),
      sink_(std::move(sink)),
      listener_(std::move(listener)),
      now_(clock_.now()),
      attention_(now_, options_.heartbeat / 2),
      streams_(options_.make_stream) {
  const Result<SocketAddress> bound = bound_address(listener_.fd());
  port_ = bound ? bound->port() : 0;
  thread_ = std::thread([this] { run(); });
}

PrefillHandoff::Service::~Service() {
  stopping_ = true;
  wake_.wake();
  thread_.join();
}

void PrefillHandoff::Service::run() {
  name_thread("baton-handoff");
  while (!stopping_) {
    wait_for_work();
    take_commands();
    attention_.turn(now_);
    accept_peers();
    serve_peers();
    take_transfer_events();
    tick();
    pump();
    speak();
  }
  shut_down();
}

void PrefillHandoff::Service::wait_for_work() {
  const auto listening = static_cast<short>(listener_.paused(now_) ? 0 : POLLIN);
  std::vector<pollfd> fds{{wake_.fd(), POLLIN, 0}, {listener_.fd(), listening, 0}, {transport_.event_fd(), POLLIN, 0}};
  for (const auto& [id, peer] : peers_) {
    const auto events = static_cast<short>(peer->connection.wants_write() ? POLLIN | POLLOUT : POLLIN);
    fds.push_back({peer->connection.fd(), events, 0});
  }
  ::poll(fds.data(), fds.size(), poll_timeout_ms());
  wake_.clear();
}

int PrefillHandoff::Service::poll_timeout_ms() const {
  if (pump_again_ || input_left_) return 0;
  if (!pump_order_.empty()) return 2;  // the transport's queue was full
  Duration wait = options_.heartbeat / 4;
  for (const auto& [id, peer] : peers_) {
    if (peer->connection.broken()) return 0;  // it is to be dropped
    if (peer->state == Peer::State::kElders) wait = std::min(wait, options_.replace_after / 4);
  }
  for (const auto& [attempt, entry] : attempts_) wait = std::min(wait, entry->machine.deadline() - now_);
  return static_cast<int>(std::clamp<int64_t>(wait / std::chrono::milliseconds(1) + 1, 1, 1000));
}

void PrefillHandoff::Service::shut_down() {
  take_commands();
  const TimePoint until = now_ + kStopTimeout;
  std::vector<AttemptId> all;
  for (const auto& [attempt, entry] : attempts_) all.push_back(attempt);
  for (const AttemptId attempt : all)
    step(attempt, PrefillAttempt::CancelHere{"the prefill instance is stopping", false});
  while (!attempts_.empty() && now_ < until) {
    pollfd fds[] = {{transport_.event_fd(), POLLIN, 0}};
    ::poll(fds, 1, 10);
    take_commands();
    attention_.turn(now_);
    serve_peers();
    take_transfer_events();
    tick();
    speak();
  }
  for (const auto& [attempt, entry] : attempts_) {
    if (!entry->machine.begun()) continue;
    emit_ended({.attempt = attempt,
                .outcome = AttemptOutcome::kFailed,
                .message = "the prefill instance stopped",
                .quiet = entry->machine.sources_quiet(),
                .bytes = entry->bytes,
                .copies = entry->copies},
               "engine");
  }
  for (const auto& [id, peer] : peers_) peer->connection.flush();
}

// ---- PrefillHandoff ----

PrefillHandoff::PrefillHandoff(std::unique_ptr<Service> service) : service_(std::move(service)) {}
PrefillHandoff::~PrefillHandoff() = default;

Result<std::unique_ptr<PrefillHandoff>> PrefillHandoff::start(PrefillHandoffOptions options, wire::Manifest self,
                                                              transport::Transport& transport, std::vector<Pool> pools,
                                                              PrefillSink sink) {
  BATON_ASSIGN(wire::Manifest manifest,
               complete_manifest(std::move(self), wire::InstanceRole::kPrefill, transport, pools));
  BATON_ASSIGN(UniqueFd listener, listen_on(options.host, options.port));
  auto service = std::make_unique<Service>(std::move(options), std::move(manifest), transport, std::move(pools),
                                           std::move(sink), std::move(listener));
  return std::unique_ptr<PrefillHandoff>(new PrefillHandoff(std::move(service)));
}

uint16_t PrefillHandoff::port() const { return service_->port(); }
Status PrefillHandoff::begin(AttemptId attempt, int dp_rank, int64_t prompt_tokens, TimePoint deadline) {
  return service_->begin(attempt, dp_rank, prompt_tokens, deadline);
}
void PrefillHandoff::computed(AttemptId attempt, int64_t end, std::vector<PageId> new_pages) {
  service_->computed(attempt, end, std::move(new_pages));
}
void PrefillHandoff::finish(AttemptId attempt, PrefillResult result) { service_->finish(attempt, std::move(result)); }
void PrefillHandoff::cancel(AttemptId attempt, std::string reason, bool fault) {
  service_->cancel(attempt, std::move(reason), fault);
}
HandoffStats PrefillHandoff::stats() const { return service_->stats(); }

}  // namespace baton::handoff
