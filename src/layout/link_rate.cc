#include "layout/link_rate.h"

#include <array>
#include <charconv>
#include <cmath>
#include <optional>
#include <utility>

namespace baton::layout {
namespace {

constexpr size_t kPointsMax = 64;
constexpr uint64_t kCopyBytesMax = uint64_t{1} << 40;

// Medians of docs/BENCHMARKS.md: two H200 of one host by NVLink; two processes of a Xeon (family 6, model 207).
constexpr std::array<std::pair<std::string_view, std::string_view>, 3> kMeasured{{
    {"cuda_ipc", "4K:131,64K:346,1M:360"},
    {"shm", "64K:7.1"},
    {"tcp", "64K:3.0"},
}};

template <typename T>
bool read(std::string_view text, T* value) {
  const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), *value);
  return failed == std::errc() && end == text.data() + text.size();
}

// What stands before the first comma; nothing is left when there is none.
std::string_view take_part(std::optional<std::string_view>* text) {
  const size_t comma = (*text)->find(',');
  const std::string_view part = (*text)->substr(0, comma);
  *text = comma == std::string_view::npos ? std::nullopt : std::optional((*text)->substr(comma + 1));
  return part;
}

}  // namespace

Result<LinkRate> LinkRate::parse(std::string_view text) {
  for (const auto& [name, points] : kMeasured) {
    if (text == name) return parse(points);
  }
  LinkRate rate;
  std::optional<std::string_view> rest = text;
  while (rest) {
    const std::string_view part = take_part(&rest);
    const size_t colon = part.find(':');
    std::string_view length = part.substr(0, colon);
    uint64_t unit = 1;
    if (length.ends_with('K')) unit = 1 << 10;
    if (length.ends_with('M')) unit = 1 << 20;
    if (unit > 1) length.remove_suffix(1);
    Point point;
    double gb_per_s = 0;
    const bool sound = colon != std::string_view::npos && read(length, &point.copy_bytes) &&
                       read(part.substr(colon + 1), &gb_per_s) && point.copy_bytes > 0 &&
                       point.copy_bytes <= kCopyBytesMax / unit && gb_per_s > 0 && std::isfinite(gb_per_s);
    point.copy_bytes *= unit;
    point.bytes_per_s = gb_per_s * 1e9;
    if (!sound || rate.points_.size() == kPointsMax ||
        (!rate.points_.empty() && rate.points_.back().copy_bytes >= point.copy_bytes)) {
      return error(ErrorCode::kInvalidArgument,
                   "rates \"{}\": write cuda_ipc, shm or tcp, or ascending lengths of a copy with GB/s each, as "
                   "64K:346,1M:360",
                   text.substr(0, 80));
    }
    rate.points_.push_back(point);
  }
  return rate;
}

double LinkRate::at(uint64_t copy_bytes) const {
  const Point& first = points_.front();
  if (copy_bytes <= first.copy_bytes)
    return first.bytes_per_s * static_cast<double>(copy_bytes) / static_cast<double>(first.copy_bytes);
  for (size_t i = 1; i < points_.size(); ++i) {
    const Point &low = points_[i - 1], &high = points_[i];
    if (copy_bytes > high.copy_bytes) continue;
    const auto log = [](uint64_t bytes) { return std::log(static_cast<double>(bytes)); };
    const double part = (log(copy_bytes) - log(low.copy_bytes)) / (log(high.copy_bytes) - log(low.copy_bytes));
    return low.bytes_per_s + part * (high.bytes_per_s - low.bytes_per_s);
  }
  return points_.back().bytes_per_s;
}

}  // namespace baton::layout
