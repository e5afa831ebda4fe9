#include "transport/shm_attachment.h"

#include <poll.h>

#include <algorithm>
#include <cstring>

#include "base/byte_io.h"
#include "transport/shm_socket.h"

namespace baton::transport::shm {
namespace {

// Small enough that a closing owner finds the mark clear again within 0.1 ms, large enough that the mark costs nothing.
constexpr uint64_t kPieceBytes = uint64_t{1} << 20;

}  // namespace

Result<std::shared_ptr<Attachment>> Attachment::begin(const std::string& name, const Incarnation& self,
                                                      const Incarnation& owner) {
  std::shared_ptr<Attachment> out(new Attachment);
  out->self_ = self;
  out->owner_ = owner;
  BATON_ASSIGN(out->socket_, connect_to(name));
  BATON_ASSIGN(out->process_, peer_process(out->socket_.get()));
  BATON_TRY(send_message(out->socket_.get(), encode(AttachRequest{self, owner}), -1));
  return out;
}

Status Attachment::on_readable() {
  for (;;) {
    BATON_ASSIGN(Received received, receive_message(socket_.get()));
    if (received.bytes.empty()) return {};
    BATON_ASSIGN(OwnerMessage message, decode_owner_message(as_span(received.bytes)));
    BATON_TRY(on_message(std::move(message), std::move(received.fd)));
  }
}

Status Attachment::on_message(OwnerMessage message, UniqueFd fd) {
  switch (message.kind) {
    case OwnerMessage::Kind::kRefuse:
      refused_ = message.detail;
      return error(ErrorCode::kIncompatible, "{}", message.detail);
    case OwnerMessage::Kind::kAccept: {
      if (view_ || !fd.valid()) return error(ErrorCode::kCorrupt, "an acceptance out of turn");
      BATON_ASSIGN(WindowView view, WindowView::map(fd.get(), owner_));
      view_.emplace(std::move(view));
      row_ = message.writer;
      regions_wanted_ = message.regions;
      break;
    }
    case OwnerMessage::Kind::kRegion: {
      if (!view_ || !fd.valid()) return error(ErrorCode::kCorrupt, "a region out of turn");
      BATON_ASSIGN(Mapping mapping, map_peer_slab(fd.get(), message.bytes));
      std::lock_guard lock(mutex_);
      if (regions_.size() >= RegionTable::kRegionsMax)
        return error(ErrorCode::kCorrupt, "more than {} regions", regions_.size());
      regions_.push_back(std::move(mapping));
      break;
    }
  }
  std::lock_guard lock(mutex_);
  if (regions_.size() >= regions_wanted_) ready_ = true;
  return {};
}

std::vector<std::span<std::byte>> Attachment::regions() const {
  std::lock_guard lock(mutex_);
  std::vector<std::span<std::byte>> out;
  for (const Mapping& m : regions_) out.push_back(m.bytes());
  return out;
}

Status Attachment::check(const PreparedBlocks& what, const RangeSet& ranges,
                         const std::vector<std::span<std::byte>>& regions) const {
  for (const SourceBlock& b : what.blocks) {
    const uint32_t region = b.region.value();
    if (region == 0 || region > regions.size())
      return error(ErrorCode::kInvalidArgument, "region {} does not exist at the peer", region);
    if (!fits(b.offset, b.length, regions[region - 1].size())) {
      return error(ErrorCode::kInvalidArgument, "{} bytes at offset {} leave region {} of {} bytes", b.length, b.offset,
                   region, regions[region - 1].size());
    }
    if (!ranges.contains(b.region, b.offset, b.length)) {
      return error(ErrorCode::kInvalidArgument, "{} bytes at offset {} of region {} leave the window", b.length,
                   b.offset, region);
    }
  }
  return {};
}

std::optional<Attachment::Copied> Attachment::interrupted(const Control& control) const {
  if (lost_) return Copied{TransferOutcome::kPeerLost, 0, "the peer's process ended or closed its socket"};
  if (control.cancelled->load()) return Copied{TransferOutcome::kCancelled, 0, "cancelled by the caller"};
  if (SteadyClock().now() >= control.deadline)
    return Copied{TransferOutcome::kTimeout, 0, "the deadline passed; the copy was stopped"};
  return std::nullopt;
}

// A dead owner's memory can still be written, so that only this tells that the bytes arrived anywhere.
bool Attachment::owner_alive() const {
  if (lost_ || process_dead(process_.get())) return false;
  pollfd entry{.fd = socket_.get(), .events = POLLRDHUP, .revents = 0};
  return ::poll(&entry, 1, 0) >= 0 && (entry.revents & (POLLHUP | POLLERR | POLLRDHUP)) == 0;
}

Attachment::Copied Attachment::copy(const PreparedBlocks& what, const WindowToken& token, uint32_t lane,
                                    const Control& control) {
  const std::optional<WindowView::Found> window = view_->find(token, self_);
  if (!window) return {TransferOutcome::kRejected, 0, fmt::format("no window is open for attempt {}", token.attempt)};
  const std::vector<std::span<std::byte>> to = regions();
  if (Status checked = check(what, window->ranges, to); !checked)
    return {TransferOutcome::kRejected, 0, checked.error().message};

  uint64_t copied = 0;
  uint64_t done = 0;  // bytes of the block
  for (size_t i = 0; i < what.blocks.size();) {
    if (auto stop = interrupted(control)) {
      stop->bytes = copied;
      return *stop;
    }
    if (!view_->enter(row_, lane, *window)) {
      return {TransferOutcome::kRejected, copied, "the window was closed while its bytes were written"};
    }
    for (uint64_t room = kPieceBytes; room > 0 && i < what.blocks.size();) {
      const SourceBlock& b = what.blocks[i];
      const uint64_t n = std::min(room, b.length - done);
      std::memcpy(to[b.region.value() - 1].data() + b.offset + done, b.from + done, n);
      room -= n;
      copied += n;
      done += n;
      if (done == b.length) {
        ++i;
        done = 0;
      }
    }
    view_->leave(row_, lane);
  }
  if (!owner_alive()) return {TransferOutcome::kPeerLost, copied, "the peer's process ended or closed its socket"};
  return {TransferOutcome::kDone, copied, {}};
}

}  // namespace baton::transport::shm
