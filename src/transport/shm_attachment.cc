#include "transport/shm_attachment.h"

#include <poll.h>

#include <algorithm>
#include <cstring>

#include "base/byte_io.h"
#include "transport/shm_socket.h"

namespace baton::transport::shm {
namespace {

// Small enough that a closing owner finds the mark clear again within 0.1 ms, large enough that the mark costs nothing:
// on a card, where a piece is waited for, that is more.
constexpr uint64_t kPieceBytes = uint64_t{1} << 20, kCardPieceBytes = uint64_t{32} << 20;
constexpr size_t kPieceCopies = 8192;

// The next piece of a post, as lists of copies between two regions each.
class PieceCutter {
 public:
  struct Part {
    RegionId from_region, to_region;
    device::Memory from, to;  // `to` is for the caller to find
    std::vector<layout::Copy> copies;
  };

  PieceCutter(const RegionTable& local, const PreparedBlocks& what) : local_(local), blocks_(what.blocks) {}
  [[nodiscard]] bool more() const { return at_ < blocks_.size(); }

  // How many bytes it has. `parts` keeps its room.
  uint64_t next(std::vector<Part>* parts) {
    uint64_t taken = 0, room = kPieceBytes;
    size_t used = 0;
    for (size_t copies = 0; taken < room && more() && copies < kPieceCopies; ++copies) {
      const SourceBlock& b = blocks_[at_];
      if (used == 0 || (*parts)[used - 1].from_region != b.local_region || (*parts)[used - 1].to_region != b.region) {
        if (++used > parts->size()) parts->emplace_back();
        Part& begun = (*parts)[used - 1];
        begun.from_region = b.local_region;
        begun.to_region = b.region;
        begun.from = *local_.find(b.local_region);
        begun.copies.clear();
        if (begun.from.home.kind != device::DeviceKind::kCpu) room = kCardPieceBytes;
      }
      Part& part = (*parts)[used - 1];
      const uint64_t n = std::min(room - taken, b.length - done_);
      part.copies.push_back({static_cast<uint64_t>(b.from - part.from.base) + done_, b.offset + done_, n});
      taken += n;
      done_ += n;
      if (done_ == b.length) {
        ++at_;
        done_ = 0;
      }
    }
    parts->resize(used);
    return taken;
  }

 private:
  const RegionTable& local_;
  const std::vector<SourceBlock>& blocks_;
  size_t at_ = 0;
  uint64_t done_ = 0;  // bytes of the block
};

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
    case OwnerMessage::Kind::kRegion:
      BATON_TRY(on_region(message, std::move(fd)));
      break;
  }
  std::lock_guard lock(mutex_);
  if (regions_.size() >= regions_wanted_) ready_ = true;
  return {};
}

Status Attachment::on_region(const OwnerMessage& message, UniqueFd fd) {
  if (!view_ || fd.valid() != message.on_card.empty()) return error(ErrorCode::kCorrupt, "a region out of turn");
  PeerRegion region{.slab = {}, .on_card = message.on_card, .mapped = {}, .bytes = message.bytes};
  if (fd.valid()) {
    BATON_ASSIGN(region.slab, map_peer_slab(fd.get(), message.bytes));
  }
  std::lock_guard lock(mutex_);
  if (regions_.size() >= RegionTable::kRegionsMax)
    return error(ErrorCode::kCorrupt, "more than {} regions", regions_.size());
  regions_.push_back(std::move(region));
  return {};
}

Result<device::Memory> Attachment::region_for(RegionId id, device::Home writer) {
  std::lock_guard lock(mutex_);
  PeerRegion& region = regions_[id.value() - 1];
  if (region.on_card.empty()) return device::Memory::of(region.slab.bytes());
  auto mapped = region.mapped.find(writer);
  if (mapped == region.mapped.end()) {
    BATON_ASSIGN(device::CudaMapping mapping, device::CudaMapping::open(region.on_card, writer));
    if (mapping.memory().size != region.bytes)
      return error(ErrorCode::kCorrupt, "a region of {} bytes that has {}", region.bytes, mapping.memory().size);
    mapped = region.mapped.emplace(writer, std::move(mapping)).first;
  }
  return mapped->second.memory();
}

void Attachment::map_regions(const std::set<device::Home>& homes) {
  size_t regions = 0;
  {
    std::lock_guard lock(mutex_);
    regions = regions_.size();
  }
  for (uint32_t id = 1; id <= regions; ++id) {
    for (const device::Home& home : homes) (void)region_for(RegionId(id), home);
  }
}

Status Attachment::check(const PreparedBlocks& what, const RangeSet& ranges) const {
  std::lock_guard lock(mutex_);
  for (const SourceBlock& b : what.blocks) {
    const uint32_t region = b.region.value();
    if (region == 0 || region > regions_.size())
      return error(ErrorCode::kInvalidArgument, "region {} does not exist at the peer", region);
    if (const uint64_t bytes = regions_[region - 1].bytes; !fits(b.offset, b.length, bytes)) {
      return error(ErrorCode::kInvalidArgument, "{} bytes at offset {} leave region {} of {} bytes", b.length, b.offset,
                   region, bytes);
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

Attachment::Copied Attachment::copy(const RegionTable& local, const PreparedBlocks& what, const WindowToken& token,
                                    const Control& control) {
  const std::optional<WindowView::Found> window = view_->find(token, self_);
  if (!window) return {TransferOutcome::kRejected, 0, fmt::format("no window is open for attempt {}", token.attempt)};
  if (Status checked = check(what, window->ranges); !checked)
    return {TransferOutcome::kRejected, 0, checked.error().message};

  uint64_t copied = 0;
  PieceCutter cutter(local, what);
  std::vector<PieceCutter::Part> parts;
  while (cutter.more()) {
    if (auto stop = interrupted(control)) {
      stop->bytes = copied;
      return *stop;
    }
    const uint64_t bytes = cutter.next(&parts);
    for (PieceCutter::Part& part : parts) {
      Result<device::Memory> to = region_for(part.to_region, part.from.home);
      if (!to) return {TransferOutcome::kFailed, copied, to.error().message};
      part.to = *to;
    }
    if (!view_->enter(row_, control.lane, *window)) {
      return {TransferOutcome::kRejected, copied, "the window was closed while its bytes were written"};
    }
    for (const PieceCutter::Part& part : parts) control.streams->of(part.from).copy(part.from, part.to, part.copies);
    control.streams->wait();
    view_->leave(row_, control.lane);
    copied += bytes;
  }
  if (!owner_alive()) return {TransferOutcome::kPeerLost, copied, "the peer's process ended or closed its socket"};
  return {TransferOutcome::kDone, copied, {}};
}

}  // namespace baton::transport::shm
