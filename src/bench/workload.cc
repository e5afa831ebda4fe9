#include "bench/workload.h"

#include <algorithm>

#include "base/random.h"
#include "bench/numpy_random.h"

namespace baton::bench {

std::vector<BenchPrompt> make_workload(const BenchOptions& options, const BenchVocabulary& vocabulary) {
  NumpyRandom random(options.seed);
  std::vector<BenchPrompt> prompts(static_cast<size_t>(options.num_prompts));
  const auto draw_length = [&](int length) {
    return static_cast<int>(random.randint(std::max(static_cast<int>(length * options.range_ratio), 1), length + 1));
  };
  std::vector<int> lengths;
  for (size_t i = 0; i < prompts.size(); ++i) lengths.push_back(draw_length(options.input_len));
  for (BenchPrompt& prompt : prompts) prompt.output_len = draw_length(options.output_len);

  std::vector<int32_t> ordinary;
  for (int32_t id = 0; id < vocabulary.vocab; ++id) {
    if (!std::binary_search(vocabulary.special.begin(), vocabulary.special.end(), id)) ordinary.push_back(id);
  }
  const auto size = static_cast<int64_t>(ordinary.size());
  if (options.dataset == "random-ids") {
    for (size_t i = 0; i < prompts.size(); ++i) {
      const int64_t offset = random.randint(0, size);
      for (int j = 0; j < lengths[i]; ++j)
        prompts[i].ids.push_back(ordinary[static_cast<size_t>((offset + static_cast<int64_t>(i) + j) % size)]);
    }
  } else {
    Random tokens(options.seed);  // not numpy's: the arrivals must not depend on the prompts' text
    for (size_t i = 0; i < prompts.size(); ++i) {
      for (int j = 0; j < lengths[i]; ++j) prompts[i].ids.push_back(ordinary[tokens.below(ordinary.size())]);
    }
  }
  double at = 0;
  for (BenchPrompt& prompt : prompts) {
    prompt.arrival_s = at;  // the first goes at once; each waits its gap before the next
    if (options.request_rate > 0) at += random.exponential(1.0 / options.request_rate);
  }
  return prompts;
}

}  // namespace baton::bench
