#include "transport/faulty.h"

#include <sys/epoll.h>
#include <sys/timerfd.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <unordered_map>

#include "base/random.h"
#include "transport/event_queue.h"
#include "transport/forwarding.h"
#include "transport/memory.h"

namespace baton::transport {
namespace {

enum class Fault { kNone, kDrop, kLoseAnswer, kLate, kDelay, kDuplicate, kReject, kKillPeer };

// Two draws a post whatever comes of them, so that a post's fate depends on the seed and its number alone.
struct Fate {
  Fault fault = Fault::kNone;
  Duration delay{};
};

Fate draw(Random* random, const FaultOptions& o) {
  double u = random->uniform();
  const Duration delay(static_cast<int64_t>(random->uniform() * static_cast<double>(o.delay_max.count())));
  const std::pair<double, Fault> faults[] = {{o.drop, Fault::kDrop},           {o.lose_answer, Fault::kLoseAnswer},
                                             {o.late, Fault::kLate},           {o.delay, Fault::kDelay},
                                             {o.duplicate, Fault::kDuplicate}, {o.reject, Fault::kReject},
                                             {o.kill_peer, Fault::kKillPeer}};
  for (const auto& [probability, fault] : faults) {
    if (u < probability) return {fault, delay};
    u -= probability;
  }
  return {Fault::kNone, delay};
}

class FaultyTransport final : public ForwardingTransport {
 public:
  FaultyTransport(std::unique_ptr<Transport> inner, uint64_t seed, const FaultOptions& options, Region scratch)
      : ForwardingTransport(std::move(inner)),
        options_(options),
        clock_(options.clock != nullptr ? options.clock : &steady_),
        scratch_(scratch),
        timer_(::timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)),
        ready_(::epoll_create1(EPOLL_CLOEXEC)),
        random_(seed) {
    BATON_CHECK(timer_.valid() && ready_.valid(), "descriptors: {}", errno_text());
    for (const int fd : {wrapped().event_fd(), wake_.fd(), timer_.get()}) {
      epoll_event event{};
      event.events = EPOLLIN;
      BATON_CHECK(::epoll_ctl(ready_.get(), EPOLL_CTL_ADD, fd, &event) == 0, "epoll_ctl: {}", errno_text());
    }
  }

  int event_fd() const override { return ready_.get(); }

  Result<Region> allocate(uint64_t bytes) override {
    BATON_ASSIGN(const Region region, wrapped().allocate(bytes));
    std::lock_guard lock(mutex_);
    memory_[region.id] = region.memory;
    return region;
  }
  Result<RegionId> register_memory(const device::Memory& memory) override {
    BATON_ASSIGN(const RegionId id, wrapped().register_memory(memory));
    std::lock_guard lock(mutex_);
    memory_[id] = memory;
    return id;
  }

  Result<PeerId> connect(std::string_view blob) override {
    BATON_ASSIGN(const PeerId peer, wrapped().connect(blob));
    std::lock_guard lock(mutex_);
    killed_.erase(peer);
    return peer;
  }

  void forget(PeerId peer) override {
    std::lock_guard lock(mutex_);
    kill(peer);
    killed_.erase(peer);
  }

  Result<TransferId> post_write(PeerId peer, std::span<const Block> blocks, const WindowToken& token,
                                TimePoint deadline) override;
  void cancel(TransferId transfer) override;
  void poll(std::vector<TransferEvent>* events) override;

 private:
  struct Post {
    TransferId id;
    PeerId peer;
    std::vector<Block> blocks;
    WindowToken token;
    TimePoint deadline;
    Fault fault = Fault::kNone;
    TimePoint due = TimePoint::max();  // of what the fault does next
    bool passed = false;               // it is, or was, with the inner transport
    bool quiet = true;                 // the inner transport does not read its source
  };
  // A write that comes when nobody waits for it any more.
  struct Ghost {
    PeerId peer;
    std::vector<Block> blocks;
    WindowToken token;
    std::optional<TransferId> owner;  // the post that it doubles, until that has ended
    TimePoint due = TimePoint::max();
  };

  // All below: mutex_ is held.
  Status pass(Post& post);
  bool capture(const Post& post);
  void on_inner(TransferEvent event);
  void run_due(TimePoint now);
  void act(Post& post, TimePoint now);
  void release_ghost(TimePoint now);
  void end(TransferId id, TransferEvent event);
  void end(TransferId id, TransferOutcome outcome, bool remote_quiesced, const char* why);
  void kill(PeerId peer);
  void arm(TimePoint now);

  const FaultOptions options_;
  const SteadyClock steady_;
  const Clock* const clock_;
  const Region scratch_;
  UniqueFd timer_;
  UniqueFd ready_;
  WakeFd wake_;

  std::mutex mutex_;  // guards all below
  Random random_;
  std::map<RegionId, device::Memory> memory_;
  std::set<PeerId> killed_;
  std::map<TransferId, Post> posts_;
  std::unordered_map<TransferId, TransferId> outer_of_;  // inner id -> ours; TransferId() is the ghost
  std::optional<Ghost> ghost_;
  std::vector<TransferEvent> ended_;
  uint64_t last_transfer_ = 0;
};

Result<TransferId> FaultyTransport::post_write(PeerId peer, std::span<const Block> blocks, const WindowToken& token,
                                               TimePoint deadline) {
  std::lock_guard lock(mutex_);
  const TimePoint now = clock_->now();
  const Fate fate = draw(&random_, options_);
  Post post{.id = TransferId(last_transfer_ + 1),
            .peer = peer,
            .blocks = {blocks.begin(), blocks.end()},
            .token = token,
            .deadline = deadline,
            .fault = fate.fault};
  if (killed_.contains(peer)) post.fault = Fault::kKillPeer;
  if (post.fault == Fault::kLate && !capture(post)) post.fault = Fault::kDrop;
  if (post.fault == Fault::kDuplicate && !capture(post)) post.fault = Fault::kNone;
  switch (post.fault) {
    case Fault::kNone:
    case Fault::kDuplicate:
    case Fault::kLoseAnswer:
      if (post.fault == Fault::kLoseAnswer) post.due = deadline;
      if (Status passed = pass(post); !passed) {
        if (ghost_ && ghost_->owner == post.id) ghost_.reset();
        return passed.error();
      }
      break;
    case Fault::kDrop:
    case Fault::kLate:
      post.due = deadline;
      break;
    case Fault::kDelay:
      post.due = std::min(now + fate.delay, deadline);
      break;
    case Fault::kReject:
    case Fault::kKillPeer:
      post.due = now;
      break;
  }
  const TransferId id(++last_transfer_);
  posts_.emplace(id, std::move(post));
  arm(now);
  return id;
}

Status FaultyTransport::pass(Post& post) {
  BATON_ASSIGN(const TransferId inner, wrapped().post_write(post.peer, post.blocks, post.token, post.deadline));
  outer_of_[inner] = post.id;
  post.passed = true;
  post.quiet = false;
  return {};
}

// Copies the bytes of a post as a network would hold them. False: too many, or the scratch is taken.
bool FaultyTransport::capture(const Post& post) {
  if (ghost_) return false;
  Ghost ghost{.peer = post.peer, .blocks = {}, .token = post.token, .owner = post.id};
  uint64_t at = 0;
  for (const Block& b : post.blocks) {
    const auto it = memory_.find(b.local_region);
    if (it == memory_.end() || !fits(b.local_offset, b.length, it->second.size)) return false;
    if (!fits(at, b.length, scratch_.memory.size)) return false;
    std::copy_n(it->second.host().begin() + static_cast<ptrdiff_t>(b.local_offset), b.length,
                scratch_.memory.host().begin() + static_cast<ptrdiff_t>(at));
    ghost.blocks.push_back({scratch_.id, at, b.remote_region, b.remote_offset, b.length});
    at += b.length;
  }
  ghost_ = std::move(ghost);
  return true;
}

void FaultyTransport::cancel(TransferId transfer) {
  std::lock_guard lock(mutex_);
  const auto it = posts_.find(transfer);
  if (it == posts_.end()) return;
  if (it->second.passed) {
    for (const auto& [inner, outer] : outer_of_) {
      if (outer == transfer) wrapped().cancel(inner);
    }
  } else if (it->second.fault == Fault::kDelay) {
    end(transfer, TransferOutcome::kCancelled, true, "cancelled by the caller");
    arm(clock_->now());
  }
  // What was dropped or is late is out of reach.
}

void FaultyTransport::poll(std::vector<TransferEvent>* events) {
  std::lock_guard lock(mutex_);
  wake_.clear();
  std::vector<TransferEvent> inner;
  wrapped().poll(&inner);
  for (TransferEvent& event : inner) on_inner(std::move(event));
  const TimePoint now = clock_->now();
  run_due(now);
  std::move(ended_.begin(), ended_.end(), std::back_inserter(*events));
  ended_.clear();
  arm(now);
}

void FaultyTransport::on_inner(TransferEvent event) {
  const auto known = outer_of_.find(event.transfer);
  if (known == outer_of_.end()) return;
  const TransferId id = known->second;
  outer_of_.erase(known);
  if (id == TransferId()) return ghost_.reset();
  const auto it = posts_.find(id);
  if (it == posts_.end()) return;
  Post& post = it->second;
  post.quiet = true;
  if (ghost_ && ghost_->owner == id) {
    ghost_->owner.reset();
    ghost_->due = clock_->now() + options_.delay_max;
  }
  // Its answer is lost, unless the peer was: that shows by itself.
  if (post.fault == Fault::kLoseAnswer && event.outcome != TransferOutcome::kPeerLost) return;
  event.transfer = id;
  end(id, std::move(event));
}

void FaultyTransport::run_due(TimePoint now) {
  std::vector<TransferId> due;
  for (const auto& [id, post] : posts_) {
    if (post.due <= now) due.push_back(id);
  }
  for (const TransferId id : due) {
    // One before it may have killed the peer.
    if (const auto it = posts_.find(id); it != posts_.end()) act(it->second, now);
  }
  if (ghost_ && ghost_->due <= now) release_ghost(now);
}

void FaultyTransport::act(Post& post, TimePoint now) {
  const TransferId id = post.id;
  switch (post.fault) {
    case Fault::kNone:
    case Fault::kDuplicate:
      return;
    case Fault::kDrop:
      return end(id, TransferOutcome::kTimeout, false, "injected: dropped");
    case Fault::kLoseAnswer:
      if (post.quiet) end(id, TransferOutcome::kTimeout, false, "injected: the answer was lost");
      return;
    case Fault::kLate:
      end(id, TransferOutcome::kTimeout, false, "injected: late");
      ghost_->owner.reset();
      return release_ghost(now);
    case Fault::kDelay:
      if (now >= post.deadline) return end(id, TransferOutcome::kTimeout, true, "injected: delayed past the deadline");
      post.due = TimePoint::max();
      if (Status passed = pass(post); !passed) {
        if (passed.error().code == ErrorCode::kResourceExhausted) {
          post.due = now + std::chrono::milliseconds(1);
          return;
        }
        end(id, TransferOutcome::kFailed, true, passed.error().message.c_str());
      }
      return;
    case Fault::kReject:
      return end(id, TransferOutcome::kRejected, true, "injected: rejected");
    case Fault::kKillPeer:
      killed_.insert(post.peer);
      return kill(post.peer);
  }
}

void FaultyTransport::release_ghost(TimePoint now) {
  ghost_->due = TimePoint::max();
  auto posted = wrapped().post_write(ghost_->peer, ghost_->blocks, ghost_->token, now + std::chrono::seconds(5));
  if (posted) {
    outer_of_[*posted] = TransferId();
  } else {
    ghost_.reset();
  }
}

// The posts with the inner transport get their event from there.
void FaultyTransport::kill(PeerId peer) {
  wrapped().forget(peer);
  std::vector<TransferId> held;
  for (const auto& [id, post] : posts_) {
    if (post.peer == peer && !post.passed) held.push_back(id);
  }
  for (const TransferId id : held) end(id, TransferOutcome::kPeerLost, true, "injected: the peer is gone");
}

void FaultyTransport::end(TransferId id, TransferOutcome outcome, bool remote_quiesced, const char* why) {
  end(id, {id, outcome, 0, true, remote_quiesced, why});
}

void FaultyTransport::end(TransferId id, TransferEvent event) {
  const auto it = posts_.find(id);
  BATON_CHECK(it != posts_.end(), "post {} ended twice", id);
  if (it->second.fault == Fault::kLate && event.outcome == TransferOutcome::kPeerLost && ghost_ && ghost_->owner == id)
    ghost_.reset();
  posts_.erase(it);
  ended_.push_back(std::move(event));
}

void FaultyTransport::arm(TimePoint now) {
  TimePoint next = ghost_ ? ghost_->due : TimePoint::max();
  for (const auto& [id, post] : posts_) {
    // An overdue lost answer waits for the inner transport, whose descriptor will tell.
    if (!(post.fault == Fault::kLoseAnswer && post.due <= now)) next = std::min(next, post.due);
  }
  if (!ended_.empty() || next <= now) return wake_.wake();
  itimerspec when{};
  if (next != TimePoint::max()) {
    const auto wait = std::chrono::ceil<std::chrono::nanoseconds>(next - now).count();
    when.it_value = {static_cast<time_t>(wait / 1'000'000'000), static_cast<long>(wait % 1'000'000'000)};
  }
  ::timerfd_settime(timer_.get(), 0, &when, nullptr);
}

}  // namespace

Result<std::unique_ptr<Transport>> faulty(std::unique_ptr<Transport> inner, uint64_t seed,
                                          const FaultOptions& options) {
  BATON_ASSIGN(const Transport::Region scratch, inner->allocate(options.scratch_bytes));
  return std::unique_ptr<Transport>(std::make_unique<FaultyTransport>(std::move(inner), seed, options, scratch));
}

}  // namespace baton::transport
