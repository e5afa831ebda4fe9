// The part of the prefill service that makes posts, a slice at a time, and takes what became of them.
#include <algorithm>
#include <utility>

#include "base/check.h"
#include "handoff/prefill_service.h"

namespace baton::handoff {
namespace {
// Rank pairs that are counted one by one: peers choose their layouts.
constexpr size_t kLinksMax = 4096;
}  // namespace

void PrefillHandoff::Service::take_transfer_events() {
  events_.clear();
  transport_.poll(&events_);
  for (const transport::TransferEvent& event : events_) {
    const auto found = posts_.find(event.transfer);
    BATON_CHECK(found != posts_.end(), "transfer {} ended twice or was never posted", event.transfer);
    OutPost post = std::move(found->second);
    posts_.erase(found);
    AttemptRecord& entry = *attempts_.at(post.attempt);
    entry.out.erase(event.transfer);
    entry.last_done = now_;
    PrefillAttempt::PostEnded ended{event.outcome, event.local_quiesced, event.remote_quiesced, event.detail};
    if (event.outcome == transport::TransferOutcome::kDone && event.bytes != post.bytes) {
      ended.outcome = transport::TransferOutcome::kFailed;
      ended.detail = fmt::format("{} of {} bytes applied at decode", event.bytes, post.bytes);
    }
    if (post.converted != nullptr && event.outcome != transport::TransferOutcome::kDone && !event.local_quiesced)
      never_quiet_.push_back(std::move(post.converted));
    if (ended.outcome == transport::TransferOutcome::kDone) {
      entry.bytes += post.bytes;
      count([&](HandoffStats& s) {
        for (const auto& [link, moved] : post.links) {
          if (s.links.size() < kLinksMax || s.links.contains(link)) {
            s.links[link].bytes += moved.bytes;
            s.links[link].copies += moved.copies;
          }
          s.bytes += moved.bytes;
          s.copies += moved.copies;
          entry.copies += moved.copies;
        }
      });
    }
    step(post.attempt, ended);
  }
}

// A slice of each attempt in turn, so that a long prompt does not hold up a short one, and only so much in all that the
// sockets are served meanwhile; a peer whose queue is full is left for later, and an attempt that waits for pages.
void PrefillHandoff::Service::pump() {
  std::set<uint64_t> full;
  std::deque<AttemptId> later;
  uint64_t worked = 0;
  while (!pump_order_.empty() && worked < options_.work_slice_bytes) {
    const AttemptId attempt = pump_order_.front();
    pump_order_.pop_front();
    const auto found = attempts_.find(attempt);
    if (found == attempts_.end() || !found->second->making) continue;
    const uint64_t peer = found->second->peer;
    const std::optional<uint64_t> work = full.contains(peer) ? std::nullopt : pump_one(attempt, *found->second);
    if (!work) full.insert(peer);
    if (!work || *work == 0) {
      later.push_back(attempt);
      continue;
    }
    worked += *work;
    const auto again = attempts_.find(attempt);  // a failed post may have ended it
    if (again != attempts_.end() && again->second->making) pump_order_.push_back(attempt);
  }
  pump_again_ = !pump_order_.empty();
  std::move(later.begin(), later.end(), std::back_inserter(pump_order_));
}

std::optional<uint64_t> PrefillHandoff::Service::pump_one(AttemptId attempt, AttemptRecord& entry) {
  if (entry.next) {
    if (!post(attempt, entry)) return std::nullopt;
    return 1;
  }
  if (entry.job->idle()) {
    entry.making = false;
    step(attempt, PrefillAttempt::PostEnded{});
    return 1;
  }
  SendJob::Step made = entry.job->step(options_.work_slice_bytes / 4 + 1, entry.pages);
  if (!made.post) return made.work;
  entry.next = std::move(made.post);
  if (!post(attempt, entry)) return std::nullopt;
  return made.work;
}

// False: the transport's queue is full, and the post stays the next.
bool PrefillHandoff::Service::post(AttemptId attempt, AttemptRecord& entry) {
  HandoffPost& post = *entry.next;
  const Result<transport::TransferId> posted = transport_.post_write(
      entry.transport_peer, post.blocks, {attempt, entry.grant.window_secret}, entry.machine.deadline());
  if (!posted && posted.error().code == ErrorCode::kResourceExhausted) return false;
  entry.machine.posts_made(1);
  if (posted) {
    if (entry.first_post == TimePoint{}) entry.first_post = clock_.now();
    posts_.emplace(*posted, OutPost{attempt, post.bytes, std::move(post.links), std::move(post.converted)});
    entry.out.insert(*posted);
    entry.next.reset();
    return true;
  }
  entry.next.reset();
  const bool no_peer = posted.error().code == ErrorCode::kUnavailable;
  const auto peer = peers_.find(entry.peer);
  const transport::TransferOutcome outcome =
      no_peer ? transport::TransferOutcome::kPeerLost : transport::TransferOutcome::kFailed;
  step(attempt, PrefillAttempt::PostEnded{outcome, true, true, posted.error().message});
  // Nothing of the pair can be sent any more: it has to meet anew, which connects the transport again.
  if (no_peer && peer != peers_.end())
    peer->second->connection.break_off("the transport has lost the peer: " + posted.error().message);
  return true;
}

void PrefillHandoff::Service::cancel_posts(AttemptId attempt) {
  AttemptRecord& entry = *attempts_.at(attempt);
  for (const transport::TransferId transfer : entry.out) transport_.cancel(transfer);
  entry.next.reset();
  if (!std::exchange(entry.making, false)) return;
  step(attempt, PrefillAttempt::PostEnded{transport::TransferOutcome::kCancelled, true, true, "not posted"});
}

void PrefillHandoff::Service::send_range(AttemptRecord& entry, PrefillAttempt::Actions::Range range,
                                         AttemptId attempt) {
  entry.job->extend(range.end, entry.pages);
  if (std::exchange(entry.making, true)) return;
  entry.machine.posts_made(1);
  if (std::find(pump_order_.begin(), pump_order_.end(), attempt) == pump_order_.end()) pump_order_.push_back(attempt);
}

}  // namespace baton::handoff
