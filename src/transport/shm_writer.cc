#include "transport/shm_writer.h"

#include <pthread.h>
#include <sys/epoll.h>

#include <algorithm>

#include "base/thread.h"

namespace baton::transport::shm {

Writer::Writer(const Options& options, const RegionTable* regions, int epoll, const WakeFd* service, EventQueue* events)
    : options_(options), regions_(regions), epoll_(epoll), service_(service), events_(events) {
  for (int i = 0; i < options_.copy_threads; ++i) {
    threads_.emplace_back([this, i] { copy_loop(static_cast<uint32_t>(i)); });
  }
}

Writer::~Writer() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    for (auto& [id, post] : live_) post->cancelled = true;
  }
  work_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

PeerId Writer::add_peer(const PeerBlob& blob) {
  std::lock_guard lock(mutex_);
  for (const auto& [id, peer] : peers_) {
    if (peer->blob != blob) continue;
    peer->refused.clear();  // pairing again: it may let us in now
    ++peer->pairings;
    return id;
  }
  const PeerId id(++last_peer_);
  peers_.emplace(id, std::make_shared<Peer>(id, blob, options_.queue_bytes));
  service_->wake();
  return id;
}

std::optional<Incarnation> Writer::forget(PeerId id) {
  std::lock_guard lock(mutex_);
  const auto it = peers_.find(id);
  if (it == peers_.end() || --it->second->pairings > 0) return std::nullopt;
  const std::shared_ptr<Peer> peer = it->second;
  lose(*peer, "the peer was forgotten");
  peers_.erase(it);
  return peer->blob.incarnation;
}

Result<TransferId> Writer::post(PeerId id, PreparedBlocks what, const WindowToken& token, TimePoint deadline) {
  std::lock_guard lock(mutex_);
  const auto it = peers_.find(id);
  if (it == peers_.end()) return error(ErrorCode::kUnavailable, "peer {} is not connected", id);
  Peer& peer = *it->second;
  BATON_TRY(peer.budget.take(what.cost()));
  auto post = std::make_shared<Post>();
  post->id = TransferId(++last_transfer_);
  post->peer = it->second;
  post->what = std::move(what);
  post->token = token;
  post->deadline = deadline;
  live_.emplace(post->id, post);
  const bool soonest = deadlines_.empty() || deadline < deadlines_.begin()->first;
  deadlines_.emplace(deadline, post->id);
  if (!peer.refused.empty()) {
    end(post, TransferOutcome::kRejected, 0, peer.refused);
  } else if (peer.attachment && peer.attachment->ready()) {
    ready_.push_back(post->id);
    work_.notify_one();
    if (soonest) service_->wake();
  } else {
    peer.waiting.push_back(post->id);
    peer.wants_attachment = peer.attachment == nullptr;
    service_->wake();
  }
  return post->id;
}

void Writer::cancel(TransferId id) {
  std::lock_guard lock(mutex_);
  const auto it = live_.find(id);
  if (it == live_.end()) return;
  const std::shared_ptr<Post> post = it->second;
  post->cancelled = true;
  if (!post->running) end(post, TransferOutcome::kCancelled, 0, "cancelled by the caller");
}

void Writer::copy_loop(uint32_t lane) {
  name_thread("baton-shm-copy");
  device::Streams streams;
  std::unique_lock lock(mutex_);
  for (;;) {
    work_.wait(lock, [this] { return stopping_ || !ready_.empty(); });
    if (stopping_) return;
    const auto it = live_.find(ready_.front());
    ready_.pop_front();
    if (it == live_.end()) continue;
    const std::shared_ptr<Post> post = it->second;
    post->running = true;
    std::shared_ptr<Attachment> attachment = post->peer->attachment;
    lock.unlock();
    Attachment::Copied copied{TransferOutcome::kPeerLost, 0, "the peer was lost before the copy began"};
    if (attachment)
      copied = attachment->copy(*regions_, post->what, post->token, {&post->cancelled, post->deadline, lane, &streams});
    lock.lock();
    // Noticed here first: the next post asks anew, whenever the thread that reads the socket comes to it.
    if (copied.outcome == TransferOutcome::kPeerLost && attachment && post->peer->attachment == attachment)
      lose(*post->peer, copied.detail);
    end(post, copied.outcome, copied.bytes, std::move(copied.detail));
  }
}

bool Writer::watch(int fd, PeerId peer) {
  epoll_event event{};
  event.events = EPOLLIN | EPOLLRDHUP;
  event.data.fd = fd;
  if (::epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event) != 0) return false;
  watched_[fd] = peer;
  return true;
}

bool Writer::on_fd(int fd) {
  std::lock_guard lock(mutex_);
  const auto it = watched_.find(fd);
  if (it == watched_.end()) return false;
  Peer& peer = *peers_.at(it->second);
  Attachment& attachment = *peer.attachment;
  if (fd == attachment.process_fd()) {
    if (process_dead(fd)) lose(peer, "the peer's process ended");
    return true;
  }
  const bool was_ready = attachment.ready();
  if (Status read = attachment.on_readable(); !read) {
    if (attachment.refused()) peer.refused = *attachment.refused();
    lose(peer, read.error().message);
    return true;
  }
  if (!was_ready && attachment.ready()) on_attached(peer);
  return true;
}

void Writer::attach(Peer& peer, TimePoint now) {
  peer.wants_attachment = false;
  Result<std::shared_ptr<Attachment>> begun =
      Attachment::begin(peer.blob.address, options_.self, peer.blob.incarnation);
  if (!begun) return end_queued(peer, TransferOutcome::kPeerLost, begun.error().message);
  peer.attachment = std::move(begun).value();
  peer.attach_deadline = now + options_.attach_timeout;
  for (const int fd : {peer.attachment->fd(), peer.attachment->process_fd()}) {
    if (!watch(fd, peer.id)) return lose(peer, "epoll_ctl: " + errno_text());
  }
}

void Writer::on_attached(Peer& peer) {
  peer.attachment->map_regions(regions_->homes());
  ready_.insert(ready_.end(), peer.waiting.begin(), peer.waiting.end());
  peer.waiting.clear();
  work_.notify_all();
}

void Writer::lose(Peer& peer, const std::string& why) {
  if (peer.attachment) {
    for (const int fd : {peer.attachment->fd(), peer.attachment->process_fd()}) {
      watched_.erase(fd);
      // A copy thread may keep the descriptors open for a while yet.
      ::epoll_ctl(epoll_, EPOLL_CTL_DEL, fd, nullptr);
    }
    peer.attachment->mark_lost();
    peer.attachment.reset();
  }
  end_queued(peer, peer.refused.empty() ? TransferOutcome::kPeerLost : TransferOutcome::kRejected, why);
}

void Writer::end_queued(Peer& peer, TransferOutcome outcome, const std::string& why) {
  std::vector<std::shared_ptr<Post>> queued;
  for (const auto& [id, post] : live_) {
    if (post->peer.get() == &peer && !post->running) queued.push_back(post);
  }
  for (const std::shared_ptr<Post>& post : queued) end(post, outcome, 0, why);
  peer.waiting.clear();
}

// Nothing of a post is on its way once its copy has stopped, whatever the outcome.
void Writer::end(const std::shared_ptr<Post>& post, TransferOutcome outcome, uint64_t bytes, std::string detail) {
  BATON_CHECK(live_.erase(post->id) == 1, "post {} ended twice", post->id);
  deadlines_.erase({post->deadline, post->id});
  post->peer->budget.give_back(post->what.cost());
  events_->push({post->id, outcome, bytes, true, true, std::move(detail)});
}

void Writer::tick(TimePoint now) {
  std::lock_guard lock(mutex_);
  for (auto& [id, peer] : peers_) {
    if (peer->attachment && !peer->attachment->ready() && peer->attach_deadline <= now) {
      lose(*peer, fmt::format("no answer from the unix socket @{} within {:.1f} s", peer->blob.address,
                              to_seconds(options_.attach_timeout)));
    }
    if (peer->wants_attachment && !peer->attachment) attach(*peer, now);
  }
  // A post that is being copied looks at its deadline itself.
  std::vector<std::shared_ptr<Post>> late;
  for (auto it = deadlines_.begin(); it != deadlines_.end() && it->first <= now; ++it) {
    const std::shared_ptr<Post>& post = live_.at(it->second);
    if (!post->running) late.push_back(post);
  }
  for (const auto& post : late) end(post, TransferOutcome::kTimeout, 0, "the deadline passed before the copy began");
}

TimePoint Writer::next_tick() {
  std::lock_guard lock(mutex_);
  TimePoint next = TimePoint::max();
  for (const auto& [deadline, id] : deadlines_) {
    if (live_.at(id)->running) continue;
    next = deadline;
    break;
  }
  for (const auto& [id, peer] : peers_) {
    if (peer->attachment && !peer->attachment->ready()) next = std::min(next, peer->attach_deadline);
  }
  return next;
}

}  // namespace baton::transport::shm
