// The bounds of one rendering, so that no template and no input can take the server's time or memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

namespace baton::jinja {

struct RenderLimits {
  std::size_t output_bytes_max = std::size_t{16} << 20;  // of the result, and of any one text made on the way
  std::size_t steps_max = 5'000'000;                     // expressions and statements run; large copies count as many
  int depth_max = 1500;                                  // of calls and nested expressions together
  std::size_t range_max = 100'000;                       // elements of a range(), as in the reference
  std::optional<std::int64_t> now;                       // Unix seconds for strftime_now; without, the system's clock
};

}  // namespace baton::jinja
