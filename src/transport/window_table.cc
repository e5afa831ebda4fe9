#include "transport/window_table.h"

namespace baton::transport {

Status admit_block(const RegionTable& regions, const Window& window, RegionId region, uint64_t offset,
                   uint64_t length) {
  const auto memory = regions.find(region);
  if (!memory) return error(ErrorCode::kInvalidArgument, "region {} does not exist here", region);
  if (!fits(offset, length, memory->size)) {
    return error(ErrorCode::kInvalidArgument, "{} bytes at offset {} leave region {} of {} bytes", length, offset,
                 region, memory->size);
  }
  if (!window.ranges.contains(region, offset, length)) {
    return error(ErrorCode::kInvalidArgument, "{} bytes at offset {} of region {} leave the window", length, offset,
                 region);
  }
  return {};
}

Status WindowTable::open(const RegionTable& regions, const WindowToken& token, std::span<const WindowRange> ranges,
                         const Incarnation& writer) {
  if (token.attempt.value() == 0) return error(ErrorCode::kInvalidArgument, "a window for attempt 0");
  BATON_ASSIGN(RangeSet set, RangeSet::make(regions, ranges));
  std::lock_guard lock(mutex_);
  if (closed_.contains(token) && !quiet_locked(token))
    return error(ErrorCode::kInvalidArgument, "the window of attempt {} is closed and not quiet yet", token.attempt);
  if (!windows_.try_emplace(token, std::make_shared<Window>(std::move(set), writer)).second) {
    return error(ErrorCode::kInvalidArgument, "the window of attempt {} is open already", token.attempt);
  }
  expected_.add(writer);
  return {};
}

std::shared_ptr<Window> WindowTable::find(const WindowToken& token, const Incarnation& writer) const {
  std::lock_guard lock(mutex_);
  const auto it = windows_.find(token);
  return it != windows_.end() && lets_in(it->second->writer, writer) ? it->second : nullptr;
}

bool WindowTable::quiet(const WindowToken& token) {
  std::lock_guard lock(mutex_);
  return quiet_locked(token);
}

bool WindowTable::quiet_locked(const WindowToken& token) {
  if (windows_.contains(token)) return false;
  const auto it = closed_.find(token);
  if (it == closed_.end()) return true;
  if (it->second->inside != 0) return false;
  closed_.erase(it);
  return true;
}

bool WindowTable::expects(const Incarnation& writer) const {
  std::lock_guard lock(mutex_);
  return expected_.contains(writer);
}

bool WindowTable::close(const WindowToken& token) {
  std::lock_guard lock(mutex_);
  if (const auto it = windows_.find(token); it != windows_.end()) {
    const std::shared_ptr<Window> window = std::move(it->second);
    windows_.erase(it);
    expected_.remove(window->writer);
    std::lock_guard writing(window->mutex);
    window->open = false;
    if (window->inside != 0) closed_.emplace(token, window);
  }
  return quiet_locked(token);
}

}  // namespace baton::transport
