#include "transport/tcp_loop.h"

#include <pthread.h>
#include <sys/epoll.h>

#include <algorithm>
#include <array>

#include "base/log.h"
#include "base/thread.h"

namespace baton::transport::tcp {
namespace {

constexpr size_t kFencedMax = 1024;
constexpr int kAcceptsMax = 64;  // of a turn, so that a flood of them leaves time for those that are here
// An owner may have read our greeting just before it heard that it knows us.
constexpr auto kRefusalHolds = std::chrono::seconds(1);
constexpr auto kSweep = std::chrono::milliseconds(100);

}  // namespace

Loop::Loop(const TransportOptions& options, UniqueFd listener, OwnerState owner, EventQueue* events)
    : options_(options),
      listener_(std::move(listener)),
      owner_(owner),
      events_(events),
      epoll_(::epoll_create1(EPOLL_CLOEXEC)),
      guests_({}, [this](const Incarnation& writer) { return owner_.windows.expects(writer); }) {
  BATON_CHECK(epoll_.valid(), "epoll_create1: {}; raise the limit of open files", errno_text());
  watch(listener_.fd(), EPOLLIN, true);
  watch(wake_.fd(), EPOLLIN, true);
  thread_ = std::thread([this] { run(); });
}

Loop::~Loop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.wake();
  thread_.join();
}

void Loop::submit(Command command) {
  bool first = false;
  {
    std::lock_guard lock(mutex_);
    first = commands_.empty();
    commands_.push_back(std::move(command));
  }
  if (first) wake_.wake();
}

bool Loop::try_watch(int fd, uint32_t interest, bool add) const {
  epoll_event event{};
  event.events = interest;
  event.data.fd = fd;
  return ::epoll_ctl(epoll_.get(), add ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, fd, &event) == 0;
}

void Loop::watch(int fd, uint32_t interest, bool add) const {
  const bool watched = try_watch(fd, interest, add);
  BATON_CHECK(watched, "epoll_ctl of descriptor {}: {}", fd, errno_text());
}

void Loop::run() {
  name_thread("baton-tcp");
  std::array<epoll_event, 64> ready;
  SteadyClock clock;
  for (;;) {
    const int n = ::epoll_wait(epoll_.get(), ready.data(), ready.size(), wait_ms(clock.now()));
    if (!listening_ && !listener_.paused(clock.now())) {
      listening_ = true;
      watch(listener_.fd(), EPOLLIN, false);
    }
    for (int i = 0; i < n; ++i) on_fd(ready[static_cast<size_t>(i)].data.fd);
    revisit();
    // After the wake-up was cleared: a command that comes later wakes again.
    std::vector<Command> commands;
    {
      std::lock_guard lock(mutex_);
      if (stopping_) return;
      commands.swap(commands_);
    }
    for (Command& command : commands) {
      std::visit([this](auto& c) { carry_out(std::move(c)); }, command);
    }
    expire(clock.now());
    expire_lanes(clock.now());
    expire_guests(clock.now());
  }
}

// Copies take some ten microseconds: less than it would take to sleep and be woken.
void Loop::revisit() {
  if (copying_.empty() && chunkless_.empty()) return;
  std::set<int> again = std::exchange(copying_, {});
  again.merge(std::exchange(chunkless_, {}));
  for (const int fd : again) on_fd(fd);
  if (!copying_.empty()) std::this_thread::yield();
}

int Loop::wait_ms(TimePoint now) const {
  if (!copying_.empty()) return 0;
  TimePoint next = TimePoint::max();
  if (!deadlines_.empty()) next = deadlines_.begin()->first;
  if (fresh_lanes_ > 0 || guests_.watched() || !listening_) next = std::min(next, now + kSweep);
  if (next == TimePoint::max() && chunkless_.empty()) return -1;
  if (next <= now) return 0;
  if (!chunkless_.empty()) return 1;
  const auto ms = std::chrono::ceil<std::chrono::milliseconds>(next - now).count();
  return static_cast<int>(std::min<int64_t>(ms, 60'000));
}

// Descriptors may be closed and reused while a batch is handled: what is done for one only depends on what its socket
// says.
void Loop::on_fd(int fd) {
  if (fd == wake_.fd()) return wake_.clear();
  if (fd == listener_.fd()) return accept_some();
  if (const auto it = lane_owner_.find(fd); it != lane_owner_.end()) {
    Peer& peer = peers_.at(it->second);
    const auto lane = std::find_if(peer.lanes.begin(), peer.lanes.end(), [fd](const auto& l) { return l->fd() == fd; });
    drive(peer, **lane);
    pump(peer);
    return;
  }
  on_inbound(fd);
}

void Loop::accept_some() {
  const TimePoint now = SteadyClock().now();
  for (int i = 0; i < kAcceptsMax; ++i) {
    UniqueFd fd = listener_.accept(now);
    if (!fd.valid()) break;
    const int number = fd.get();
    tune(number);
    const Network from = peer_network(number);
    auto connection = std::make_unique<Inbound>(std::move(fd), owner_);
    if (!try_watch(number, connection->interest(), true)) continue;
    inbound_[number] = std::move(connection);
    if (const auto victim = guests_.arrive(number, from, now)) dismiss(*victim, "others connect and it has no window");
    // What it has to say is often here already; a writer whose window is open has its place from then on.
    if (const auto it = inbound_.find(number); it != inbound_.end()) serve(number, *it->second);
  }
  listening_ = !listener_.paused(now);
  if (!listening_) watch(listener_.fd(), 0, false);
}

void Loop::on_inbound(int fd) {
  const auto it = inbound_.find(fd);
  if (it != inbound_.end()) serve(fd, *it->second);
}

// May destroy the connection, and another one for it.
void Loop::serve(int fd, Inbound& connection) {
  const bool greeted = connection.greeted(), proven = connection.proven();
  const uint64_t moved = connection.moved();
  if (Status handled = connection.handle(fenced_); !handled) {
    if (handled.error().code == ErrorCode::kCorrupt)
      complaints_.warning(SteadyClock().now(), "tcp transport: connection closed: " + handled.error().message);
    inbound_.erase(fd);
    return guests_.leave(fd);
  }
  watch(fd, connection.interest(), false);
  if (connection.unsettled()) copying_.insert(fd);
  if (connection.moved() != moved) guests_.use(fd, SteadyClock().now(), connection.busy());
  std::optional<int> victim;
  if (!greeted && connection.greeted()) victim = guests_.greet(fd, connection.writer());
  if (victim) dismiss(*victim, "its writer has too many connections");
  if (victim != fd && !proven && connection.proven()) {
    victim = guests_.prove(fd);
    if (victim) dismiss(*victim, "there are too many writers");
  }
}

void Loop::dismiss(int fd, const std::string& why) {
  complaints_.warning(SteadyClock().now(),
                      fmt::format("tcp transport: one of {} connections closed: {}", inbound_.size(), why));
  inbound_.erase(fd);
  guests_.leave(fd);
}

void Loop::carry_out(AddPeer&& c) {
  std::erase(fenced_, c.incarnation);
  const auto [it, added] =
      peers_.try_emplace(c.peer, Peer{c.peer, c.address, c.incarnation, std::move(c.budget), {}, {}, {}, {}});
  if (!added) it->second.refused.clear();
}

void Loop::carry_out(AddPost&& c) {
  const auto it = peers_.find(c.peer);
  if (it == peers_.end()) {  // forgotten between the caller's look and now
    return events_->push({c.post.id, TransferOutcome::kPeerLost, 0, true, true, "the peer was forgotten"});
  }
  Peer& peer = it->second;
  live_.emplace(c.post.id, peer.id);
  deadlines_.emplace(c.post.deadline, c.post.id);
  if (SteadyClock().now() >= peer.ask_again) peer.refused.clear();
  if (!peer.refused.empty()) {
    return end(peer, c.post, TransferOutcome::kRejected, 0, true, peer.refused);
  }
  peer.queue.push_back(std::move(c.post));
  pump(peer);
}

void Loop::carry_out(CancelPost&& c) {
  const auto it = live_.find(c.id);
  if (it == live_.end()) return;
  Peer& peer = peers_.at(it->second);
  const auto queued =
      std::find_if(peer.queue.begin(), peer.queue.end(), [&](const Outgoing& p) { return p.id == c.id; });
  if (queued != peer.queue.end()) {
    const Outgoing post = std::move(*queued);
    peer.queue.erase(queued);
    return end(peer, post, TransferOutcome::kCancelled, 0, true, "cancelled by the caller");
  }
  for (const auto& lane : peer.lanes) {
    if (lane->cancel(c.id)) return;
  }
}

void Loop::carry_out(ForgetPeer&& c) {
  const auto it = peers_.find(c.peer);
  if (it == peers_.end()) return;
  Peer& peer = it->second;
  while (!peer.lanes.empty()) lose_lane(peer, *peer.lanes.back(), "the peer was forgotten");
  fail_queue(peer, TransferOutcome::kPeerLost, "the peer was forgotten");
  if (fenced_.size() >= kFencedMax) fenced_.erase(fenced_.begin());
  fenced_.push_back(peer.incarnation);
  std::erase_if(inbound_, [&](const auto& entry) {
    const bool of_peer = entry.second->writer() == peer.incarnation;
    if (of_peer) guests_.leave(entry.first);
    return of_peer;
  });
  peers_.erase(it);
}

// Gives queued posts to idle connections; opens one more while there are fewer than wanted and none is about to be
// ready.
void Loop::pump(Peer& peer) {
  while (!peer.queue.empty()) {
    const auto idle = std::find_if(peer.lanes.begin(), peer.lanes.end(), [](const auto& l) { return l->can_take(); });
    if (idle != peer.lanes.end()) {
      (*idle)->give(std::move(peer.queue.front()));
      peer.queue.pop_front();
      drive(peer, **idle);
      continue;
    }
    const bool underway = std::any_of(peer.lanes.begin(), peer.lanes.end(), [](const auto& l) { return !l->ready(); });
    if (underway || peer.lanes.size() >= static_cast<size_t>(options_.connections_per_peer)) return;
    if (Status opened = open_lane(peer); !opened) {
      if (peer.lanes.empty()) fail_queue(peer, TransferOutcome::kPeerLost, opened.error().message);
      return;
    }
  }
}

Status Loop::open_lane(Peer& peer) {
  Result<UniqueFd> begun = begin_connect(peer.address);
  if (!begun) {
    return error(ErrorCode::kUnavailable, "cannot connect to {}: {}",
                 address_text(peer.address.host(), peer.address.port()), begun.error().message);
  }
  UniqueFd fd = std::move(begun).value();
  const int number = fd.get();
  auto lane =
      std::make_unique<Lane>(std::move(fd), owner_.incarnation, peer.incarnation,
                             SteadyClock().now() + options_.connect_timeout, Sources{owner_.regions, owner_.staging});
  lane->registered_interest = lane->interest();
  if (!try_watch(number, lane->registered_interest, true))
    return error(ErrorCode::kResourceExhausted, "epoll_ctl: {}", errno_text());
  lane_owner_[number] = peer.id;
  peer.lanes.push_back(std::move(lane));
  ++fresh_lanes_;
  return {};
}

// May destroy the lane.
void Loop::drive(Peer& peer, Lane& lane) {
  std::vector<Ended> ended;
  const bool was_ready = lane.ready();
  const Status handled = lane.handle(&ended);
  // An answer of the owner, and a cancel that sent nothing, are evidence: nothing of the post is on its way.
  for (Ended& e : ended) end(peer, e.post, e.outcome, e.bytes, true, std::move(e.detail));
  if (handled) {
    if (lane.wait() == Lane::Wait::kCopy) copying_.insert(lane.fd());
    if (lane.wait() == Lane::Wait::kChunk) chunkless_.insert(lane.fd());
    if (lane.interest() == lane.registered_interest) return;
    lane.registered_interest = lane.interest();
    return watch(lane.fd(), lane.registered_interest, false);
  }
  const std::string why = handled.error().message;
  if (lane.refused()) {
    peer.refused = why;
    peer.ask_again = SteadyClock().now() + kRefusalHolds;
  }
  lose_lane(peer, lane, why);
  if (!peer.refused.empty()) return fail_queue(peer, TransferOutcome::kRejected, why);
  // A connection that worked is opened again for what waits; one that never did is the answer to those that waited for
  // it.
  if (!was_ready && peer.lanes.empty()) fail_queue(peer, TransferOutcome::kPeerLost, why);
}

// Bytes of these posts may be on their way still, in the network or in a peer that does not read: no evidence.
void Loop::lose_lane(Peer& peer, Lane& lane, const std::string& why) {
  for (const Outgoing& post : lane.take_all()) end(peer, post, TransferOutcome::kPeerLost, 0, false, why);
  lane_owner_.erase(lane.fd());
  reset_on_close(lane.fd());
  std::erase_if(peer.lanes, [&](const auto& l) { return l.get() == &lane; });
}

void Loop::fail_queue(Peer& peer, TransferOutcome outcome, const std::string& why) {
  std::deque<Outgoing> queue = std::move(peer.queue);
  peer.queue.clear();
  for (const Outgoing& post : queue) end(peer, post, outcome, 0, true, why);
}

void Loop::end(Peer& peer, const Outgoing& post, TransferOutcome outcome, uint64_t bytes, bool remote_quiesced,
               std::string detail) {
  BATON_CHECK(live_.erase(post.id) == 1, "post {} ended twice", post.id);
  deadlines_.erase({post.deadline, post.id});
  peer.budget->give_back(post.what.cost());
  events_->push({post.id, outcome, bytes, true, remote_quiesced, std::move(detail)});
}

void Loop::expire(TimePoint now) {
  while (!deadlines_.empty() && deadlines_.begin()->first <= now) {
    const TransferId id = deadlines_.begin()->second;
    Peer& peer = peers_.at(live_.at(id));
    expire_post(peer, id);
    pump(peer);
  }
}

// A post that was begun takes its connection along: TCP tells nobody about a peer that has stopped, and bytes of a post
// that has ended must not follow later. Posts that were only waiting go on over another connection.
void Loop::expire_post(Peer& peer, TransferId id) {
  const auto queued = std::find_if(peer.queue.begin(), peer.queue.end(), [&](const Outgoing& p) { return p.id == id; });
  if (queued != peer.queue.end()) {
    const Outgoing post = std::move(*queued);
    peer.queue.erase(queued);
    return end(peer, post, TransferOutcome::kTimeout, 0, true, "the deadline passed before a byte was sent");
  }
  const auto lane = std::find_if(peer.lanes.begin(), peer.lanes.end(), [&](const auto& l) { return l->holds(id); });
  BATON_CHECK(lane != peer.lanes.end(), "post {} is live and nowhere", id);
  std::vector<Outgoing> posts = (*lane)->take_all();
  for (const Outgoing& post : posts) {
    if (post.id == id) {
      end(peer, post, TransferOutcome::kTimeout, 0, false,
          "the deadline passed without an answer; the connection was closed");
    } else {
      end(peer, post, TransferOutcome::kPeerLost, 0, false,
          fmt::format("its connection was closed: post {} timed out on it", id));
    }
  }
  lose_lane(peer, **lane, "");
}

void Loop::expire_lanes(TimePoint now) {
  if (fresh_lanes_ == 0) return;
  fresh_lanes_ = 0;
  for (auto& [id, peer] : peers_) {
    std::vector<Lane*> silent, unused;
    for (const auto& lane : peer.lanes) {
      if (lane->used()) continue;
      if (lane->first_use_deadline() > now) {
        ++fresh_lanes_;
      } else {
        (lane->ready() ? unused : silent).push_back(lane.get());
      }
    }
    for (Lane* lane : unused) lose_lane(peer, *lane, "");
    const std::string why =
        fmt::format("no answer from {} within {:.1f} s", address_text(peer.address.host(), peer.address.port()),
                    to_seconds(options_.connect_timeout));
    for (Lane* lane : silent) lose_lane(peer, *lane, why);
    if (!silent.empty() && peer.lanes.empty()) fail_queue(peer, TransferOutcome::kPeerLost, why);
  }
}

void Loop::expire_guests(TimePoint now) {
  const Guests::Patience patience{options_.connect_timeout, 2 * options_.connect_timeout, options_.stall_timeout};
  for (const int fd : guests_.overdue(now, patience)) {
    const bool stalled = inbound_.at(fd)->busy() && inbound_.at(fd)->proven();
    dismiss(fd, stalled ? "no byte came in the middle of something" : "it has shown no window");
  }
}

}  // namespace baton::transport::tcp
