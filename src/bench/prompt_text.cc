#include "bench/prompt_text.h"

#include <algorithm>

namespace baton::bench {

std::string prompt_text(const text::Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  const size_t added = tokenizer.prefix_ids().size() + tokenizer.suffix_ids().size();
  const size_t wanted = std::max<size_t>(1, ids.size() - std::min(added, ids.size()));
  std::vector<int32_t> cut(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(std::min(wanted, ids.size())));
  std::string text;
  constexpr size_t kTries = 16;
  for (size_t i = 0; i < kTries; ++i) {
    text = tokenizer.decode(cut, true);
    auto encoded = tokenizer.encode(text, false);
    if (!encoded || encoded->size() <= wanted) break;
    encoded->resize(std::max<size_t>(1, wanted * (kTries - i) / kTries));  // a little less each time
    cut = std::move(*encoded);
  }
  return text;
}

}  // namespace baton::bench
