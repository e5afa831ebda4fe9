// The thread; decode_pairs.cc holds its control connections, decode_attempts.cc what concerns one attempt.
#include "handoff/decode_service.h"

#include <poll.h>

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "base/thread.h"
#include "handoff/pairing.h"

namespace baton::handoff {
namespace {
constexpr Duration kStopTimeout = std::chrono::milliseconds(500);
constexpr Duration kFencePoll = std::chrono::milliseconds(10);
constexpr Duration kTryPoll = std::chrono::milliseconds(2);  // where others are being tried first
}  // namespace

DecodeHandoff::Service::Service(DecodeHandoffOptions options, wire::Manifest self, transport::Transport& transport,
                                std::vector<Pool> pools, DecodeSink sink)
    : options_(std::move(options)),
      self_(std::move(self)),
      transport_(transport),
      pools_(std::move(pools)),
      sink_(std::move(sink)),
      now_(clock_.now()),
      attention_(now_, options_.heartbeat / 2),
      streams_(options_.make_stream),
      trusted_(options_.trusted),
      resolver_([this] { wake_.wake(); }) {
  thread_ = std::thread([this] { run(); });
}

DecodeHandoff::Service::~Service() {
  stopping_ = true;
  wake_.wake();
  thread_.join();
}

void DecodeHandoff::Service::run() {
  name_thread("baton-handoff");
  while (!stopping_) {
    wait_for_work();
    take_commands();
    attention_.turn(now_);
    take_addresses();
    serve_pairs();
    forget_pairs();
    verify_slices();
    tick();
  }
  shut_down();
}

void DecodeHandoff::Service::wait_for_work() {
  Duration wait = options_.heartbeat / 4;
  bool verifying = false;
  std::vector<pollfd> fds{{wake_.fd(), POLLIN, 0}};
  for (const auto& [address, pair] : pairs_) {
    if (pair->state == Pair::State::kBackoff) wait = std::min(wait, std::max(pair->next_try - now_, kTryPoll));
    if (pair->state == Pair::State::kConnecting) fds.push_back({pair->connecting.get(), POLLOUT, 0});
    if (!pair->connection) continue;
    const auto events = static_cast<short>(pair->connection->wants_write() ? POLLIN | POLLOUT : POLLIN);
    fds.push_back({pair->connection->fd(), events, 0});
  }
  for (const auto& [attempt, entry] : attempts_) {
    verifying = verifying || entry->verify;
    wait = std::min(wait, entry->machine.fencing() ? kFencePoll : entry->machine.deadline() - now_);
  }
  const auto ms = std::clamp<int64_t>(wait / std::chrono::milliseconds(1) + 1, 1, 1000);
  ::poll(fds.data(), fds.size(), verifying ? 0 : static_cast<int>(ms));
  wake_.clear();
}

void DecodeHandoff::Service::shut_down() {
  take_commands();
  std::vector<AttemptId> all;
  for (const auto& [attempt, entry] : attempts_) all.push_back(attempt);
  for (const AttemptId attempt : all)
    step(attempt, DecodeAttempt::CancelHere{"the decode instance is stopping", false});
  const TimePoint until = now_ + kStopTimeout;
  while (!attempts_.empty() && now_ < until) {
    wait_for_work();
    now_ = clock_.now();
    attention_.turn(now_);
    serve_pairs();
    tick();
  }
  for (const auto& [address, pair] : pairs_) {
    if (pair->connection) pair->connection->flush();
  }
}

// ---- DecodeHandoff ----

DecodeHandoff::DecodeHandoff(std::unique_ptr<Service> service) : service_(std::move(service)) {}
DecodeHandoff::~DecodeHandoff() = default;

Result<std::unique_ptr<DecodeHandoff>> DecodeHandoff::start(DecodeHandoffOptions options, wire::Manifest self,
                                                            transport::Transport& transport, std::vector<Pool> pools,
                                                            DecodeSink sink) {
  BATON_ASSIGN(wire::Manifest manifest,
               complete_manifest(std::move(self), wire::InstanceRole::kDecode, transport, pools));
  auto service =
      std::make_unique<Service>(std::move(options), std::move(manifest), transport, std::move(pools), std::move(sink));
  return std::unique_ptr<DecodeHandoff>(new DecodeHandoff(std::move(service)));
}

void DecodeHandoff::pair(const std::string& host, uint16_t port, bool told) { service_->pair(host, port, told); }
Status DecodeHandoff::receive(DecodeRequest request) { return service_->receive(std::move(request)); }
void DecodeHandoff::cancel(AttemptId attempt, std::string reason) { service_->cancel(attempt, std::move(reason)); }
HandoffStats DecodeHandoff::stats() const { return service_->stats(); }

}  // namespace baton::handoff
