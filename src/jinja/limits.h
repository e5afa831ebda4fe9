// The bounds of one rendering, so that no template and no input can take the server's time or memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <stop_token>

namespace baton::jinja {

struct RenderLimits {
  std::size_t output_bytes_max = std::size_t{16} << 20;  // of the result, and of any one text made on the way
  // Expressions and statements run, elements visited, and one for every kReadBytesPerStep of text read: each takes some
  // tenth of a microsecond.
  std::size_t steps_max = 5'000'000;
  std::size_t created_bytes_max = std::size_t{256} << 20;  // of all values ever made, so also of those alive
  int depth_max = 1500;                                    // of calls and nested expressions together
  std::size_t range_max = 100'000;                         // elements of a range(), as in the reference
  std::optional<std::int64_t> now;                         // Unix seconds for strftime_now; without, the system's clock
  std::stop_token stop;                                    // asked every kStepsPerLook steps
};

inline constexpr std::size_t kReadBytesPerStep = 64;
inline constexpr std::size_t kStepsPerLook = 4096;

}  // namespace baton::jinja
