#include "transport/shm_control.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>

namespace baton::transport::shm {
namespace {

constexpr uint64_t kMagic = 0x324d48534e4f5442;  // "BTONSHM2"
constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

}  // namespace

Result<UniqueFd> create_slab(const char* name, uint64_t bytes) {
  if (bytes == 0 || bytes > uint64_t{1} << 46) return error(ErrorCode::kInvalidArgument, "a slab of {} bytes", bytes);
  UniqueFd fd(::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd.valid()) return error(ErrorCode::kResourceExhausted, "memfd_create: {}", errno_text());
  if (::ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0 || ::fcntl(fd.get(), F_ADD_SEALS, kSeals) != 0) {
    return error(ErrorCode::kResourceExhausted, "no room for a shared slab of {} bytes: {}", bytes, errno_text());
  }
  return fd;
}

Result<Mapping> map_peer_slab(int fd, uint64_t bytes) {
  const int seals = ::fcntl(fd, F_GET_SEALS);
  struct stat about {};
  if (seals < 0 || (seals & F_SEAL_SHRINK) == 0 || ::fstat(fd, &about) != 0 ||
      static_cast<uint64_t>(about.st_size) < bytes) {
    return error(ErrorCode::kIncompatible, "the peer's slab is not sealed or has fewer than {} bytes", bytes);
  }
  BATON_ASSIGN(Mapping mapping, Mapping::shared(fd, bytes));
  // A child forked without exec would write past the fence: it has no mark.
  ::madvise(mapping.bytes().data(), bytes, MADV_DONTFORK);
  return mapping;
}

bool process_dead(int pidfd) {
  pollfd entry{.fd = pidfd, .events = POLLIN, .revents = 0};
  return ::poll(&entry, 1, 0) == 1 && (entry.revents & POLLIN) != 0;
}

Result<std::unique_ptr<WindowOwner>> WindowOwner::create(const Incarnation& incarnation) {
  BATON_ASSIGN(UniqueFd fd, create_slab("baton-control", sizeof(ControlSlab)));
  BATON_ASSIGN(Mapping mapping, Mapping::shared(fd.get(), sizeof(ControlSlab)));
  std::unique_ptr<WindowOwner> owner(new WindowOwner(std::move(fd), std::move(mapping)));
  owner->slab().incarnation_high = incarnation.high;
  owner->slab().incarnation_low = incarnation.low;
  owner->slab().magic = kMagic;
  return owner;
}

WindowOwner::WindowOwner(UniqueFd fd, Mapping mapping) : fd_(std::move(fd)), mapping_(std::move(mapping)) {
  for (uint32_t i = kSlots; i > 0; --i) free_slots_.push_back(i - 1);
  free_ranges_.emplace(0, kRangeEntries);
}

Status WindowOwner::open(const RegionTable& regions, const WindowToken& token, std::span<const WindowRange> ranges,
                         const Incarnation& writer) {
  if (token.attempt.value() == 0) return error(ErrorCode::kInvalidArgument, "a window for attempt 0");
  BATON_ASSIGN(const RangeSet set, RangeSet::make(regions, ranges));
  std::lock_guard lock(mutex_);
  if (open_.contains(token) || closing_.contains(token)) {
    return error(ErrorCode::kInvalidArgument, "the window of attempt {} is open already or not quiet yet",
                 token.attempt);
  }
  if (free_slots_.empty()) return error(ErrorCode::kResourceExhausted, "{} windows are open, the limit of shm", kSlots);
  const auto first = take_ranges(set.ranges().size());
  if (!first)
    return error(ErrorCode::kResourceExhausted, "no room for {} ranges in the table of {}", set.ranges().size(),
                 kRangeEntries);

  const OpenWindow window{free_slots_.back(), *first, set.ranges().size(), ++last_epoch_, writer};
  free_slots_.pop_back();
  for (uint64_t i = 0; i < window.range_count; ++i) {
    RangeEntry& entry = slab().ranges[*first + i];
    entry.region = set.ranges()[i].region.value();
    entry.offset = set.ranges()[i].offset;
    entry.length = set.ranges()[i].length;
  }
  Slot& slot = slab().slots[window.slot];
  slot.attempt = token.attempt.value();
  slot.secret = token.secret;
  slot.writer_high = writer.high;
  slot.writer_low = writer.low;
  slot.first_range = window.first_range;
  slot.range_count = window.range_count;
  slot.epoch = window.epoch;  // publishes all of it
  slab().slots_used = std::max<uint64_t>(slab().slots_used, window.slot + 1);
  open_.emplace(token, window);
  expected_.add(writer);
  return {};
}

bool WindowOwner::close(const WindowToken& token) {
  std::lock_guard lock(mutex_);
  const auto it = open_.find(token);
  if (it == open_.end()) return quiet_locked(token);
  const OpenWindow window = it->second;
  open_.erase(it);
  expected_.remove(window.writer);
  slab().slots[window.slot].epoch.store(0, std::memory_order_seq_cst);
  const bool inside = writer_inside(window.epoch);
  if (inside) closing_.emplace(token, window.epoch);
  // The slot and its ranges can serve another window at once: its epoch is new, and a writer that still holds the old
  // one sees that before its next piece.
  free_slots_.push_back(window.slot);
  return_ranges(window.first_range, window.range_count);
  return !inside;
}

bool WindowOwner::quiet(const WindowToken& token) {
  std::lock_guard lock(mutex_);
  return quiet_locked(token);
}

bool WindowOwner::expects(const Incarnation& writer) {
  std::lock_guard lock(mutex_);
  return expected_.contains(writer);
}

bool WindowOwner::quiet_locked(const WindowToken& token) {
  if (open_.contains(token)) return false;
  const auto it = closing_.find(token);
  if (it == closing_.end()) return true;
  if (writer_inside(it->second)) return false;
  closing_.erase(it);
  return true;
}

bool WindowOwner::writer_inside(uint64_t epoch) {
  for (uint32_t w = 0; w < kWriters; ++w) {
    if (!writers_[w].pidfd.valid()) continue;
    for (Mark& mark : slab().marks[w]) {
      if (mark.epoch.load(std::memory_order_seq_cst) != epoch) continue;
      if (!process_dead(writers_[w].pidfd.get())) return true;
      mark.epoch = 0;
    }
  }
  return false;
}

Result<uint32_t> WindowOwner::add_writer(UniqueFd pidfd) {
  std::lock_guard lock(mutex_);
  for (uint32_t w = 0; w < kWriters; ++w) {
    Writer& writer = writers_[w];
    if (writer.attached) continue;
    if (writer.pidfd.valid()) {
      const bool clear = std::all_of(std::begin(slab().marks[w]), std::end(slab().marks[w]),
                                     [](const Mark& m) { return m.epoch == 0; });
      if (!clear && !process_dead(writer.pidfd.get())) continue;
    }
    for (Mark& mark : slab().marks[w]) mark.epoch = 0;
    writer = {std::move(pidfd), true};
    return w;
  }
  return error(ErrorCode::kResourceExhausted, "{} writers are attached, the limit of shm", kWriters);
}

void WindowOwner::remove_writer(uint32_t writer) {
  std::lock_guard lock(mutex_);
  writers_[writer].attached = false;
}

std::optional<uint64_t> WindowOwner::take_ranges(uint64_t count) {
  for (auto it = free_ranges_.begin(); it != free_ranges_.end(); ++it) {
    const auto [first, room] = *it;
    if (room < count) continue;
    free_ranges_.erase(it);
    if (room > count) free_ranges_.emplace(first + count, room - count);
    return first;
  }
  return std::nullopt;
}

void WindowOwner::return_ranges(uint64_t first, uint64_t count) {
  auto after = free_ranges_.lower_bound(first);
  if (after != free_ranges_.end() && after->first == first + count) {
    count += after->second;
    after = free_ranges_.erase(after);
  }
  if (after != free_ranges_.begin()) {
    const auto before = std::prev(after);
    if (before->first + before->second == first) {
      before->second += count;
      return;
    }
  }
  free_ranges_.emplace(first, count);
}

Result<WindowView> WindowView::map(int fd, const Incarnation& owner) {
  BATON_ASSIGN(Mapping mapping, map_peer_slab(fd, sizeof(ControlSlab)));
  WindowView view(std::move(mapping));
  const ControlSlab& slab = view.slab();
  if (slab.magic != kMagic || slab.incarnation_high != owner.high || slab.incarnation_low != owner.low) {
    return error(ErrorCode::kIncompatible, "the peer's control slab is not of incarnation {}", owner.to_string());
  }
  return view;
}

std::optional<WindowView::Found> WindowView::find(const WindowToken& token, const Incarnation& writer) const {
  const uint64_t used = std::min<uint64_t>(slab().slots_used, kSlots);
  for (uint32_t i = 0; i < used; ++i) {
    const Slot& slot = slab().slots[i];
    const uint64_t epoch = slot.epoch;
    if (epoch == 0 || slot.attempt != token.attempt.value() || slot.secret != token.secret) continue;
    if (!lets_in({slot.writer_high, slot.writer_low}, writer)) return std::nullopt;
    const uint64_t first = slot.first_range;
    const uint64_t count = slot.range_count;
    if (!fits(first, count, kRangeEntries)) return std::nullopt;
    std::vector<WindowRange> ranges;
    ranges.reserve(count);
    for (uint64_t r = first; r < first + count; ++r) {
      const RangeEntry& entry = slab().ranges[r];
      ranges.push_back({RegionId(static_cast<uint32_t>(entry.region)), entry.offset, entry.length});
    }
    // The owner clears the epoch before it changes anything else: the same epoch after reading means that all of it
    // belongs together.
    if (slot.epoch != epoch) return std::nullopt;
    return Found{i, epoch, RangeSet::from_sorted(std::move(ranges))};
  }
  return std::nullopt;
}

bool WindowView::enter(uint32_t writer, uint32_t lane, const Found& window) const {
  slab().marks[writer][lane].epoch.store(window.epoch, std::memory_order_seq_cst);
  if (slab().slots[window.slot].epoch.load(std::memory_order_seq_cst) == window.epoch) return true;
  leave(writer, lane);
  return false;
}

void WindowView::leave(uint32_t writer, uint32_t lane) const {
  slab().marks[writer][lane].epoch.store(0, std::memory_order_release);
}

}  // namespace baton::transport::shm
