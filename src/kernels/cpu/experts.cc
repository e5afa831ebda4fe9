// Mixture of experts: rows are gathered by expert, so that each expert's weights are read once.
#include <algorithm>
#include <cstring>

#include "kernels/cpu/growing_buffer.h"
#include "kernels/kernels.h"

namespace baton::kernels {
namespace {

struct Scratch {
  GrowingBuffer ends, chosen, input, gate_up, activated, output;
};
thread_local Scratch scratch;

}  // namespace

void experts(const float* x, int64_t rows, int64_t hidden, const int32_t* expert, const float* weight, int choices,
             int first, std::span<const ExpertLayers> local, float* y) {
  const auto count = static_cast<int64_t>(local.size());
  const auto local_of = [&](int64_t at) { return int64_t{expert[at]} - first; };
  const auto is_local = [&](int64_t e) { return e >= 0 && e < count; };
  // chosen: the numbers row * choices + choice of those who chose expert 0, of those who chose expert 1, ...; ends[e]:
  // where those of expert e end.
  auto* ends = scratch.ends.get<int64_t>(count + 1);
  std::fill_n(ends, count + 1, int64_t{0});
  for (int64_t at = 0; at < rows * choices; ++at)
    if (is_local(local_of(at))) ++ends[local_of(at) + 1];
  for (int64_t e = 0; e < count; ++e) ends[e + 1] += ends[e];
  auto* chosen = scratch.chosen.get<int64_t>(ends[count]);
  for (int64_t at = 0; at < rows * choices; ++at)
    if (is_local(local_of(at))) chosen[ends[local_of(at)]++] = at;

  for (int64_t e = 0, begin = 0; e < count; begin = ends[e], ++e) {
    const int64_t m = ends[e] - begin;
    if (m == 0) continue;
    const Linear &up = *local[static_cast<size_t>(e)].gate_up, &down = *local[static_cast<size_t>(e)].down;
    auto* input = scratch.input.get<float>(m * hidden);
    auto* gate_up = scratch.gate_up.get<float>(m * up.n());
    auto* activated = scratch.activated.get<float>(m * down.k());
    auto* output = scratch.output.get<float>(m * hidden);
    for (int64_t i = 0; i < m; ++i)
      std::memcpy(input + i * hidden, x + chosen[begin + i] / choices * hidden,
                  static_cast<size_t>(hidden) * sizeof(float));
    up.apply(input, m, gate_up);
    silu_mul(gate_up, m, down.k(), activated);
    down.apply(activated, m, output);
    for (int64_t i = 0; i < m; ++i)
      axpy(hidden, weight[chosen[begin + i]], output + i * hidden, y + chosen[begin + i] / choices * hidden);
  }
}

}  // namespace baton::kernels
