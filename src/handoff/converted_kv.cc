#include "handoff/converted_kv.h"

#include <algorithm>

#include "base/check.h"
#include "layout/plan.h"

namespace baton::handoff {
namespace {

constexpr size_t kShares = 4;  // of the pages one attempt takes one at a time, so that it converts while others travel

}  // namespace

ConvertedPages::~ConvertedPages() {
  std::vector<PageId>& free = owner_.free_[static_cast<size_t>(dp_rank_)];
  free.insert(free.end(), pages.begin(), pages.end());
}

Result<std::unique_ptr<ConvertedKv>> ConvertedKv::make(transport::Transport& transport, const std::vector<Pool>& pools,
                                                       int dp, tensor::DType from, tensor::DType to,
                                                       uint64_t bytes_max) {
  std::unique_ptr<ConvertedKv> made(new ConvertedKv);
  made->from_ = from;
  made->to_ = to;
  uint64_t largest = 1;
  for (const Pool& pool : pools) {
    layout::PageShape shape = pool.shape;
    shape.geometry.element_size = static_cast<int>(tensor::dtype_size(to));
    largest = std::max(largest, shape.page_bytes());
    made->pools_.push_back({{}, {}, shape});
  }
  const auto page_tokens = static_cast<size_t>(pools.front().shape.page_tokens);
  made->pages_ = std::max<size_t>(bytes_max / largest, layout::kPageTokensMax / page_tokens + 2);
  // All rooms before any is made known: a transport keeps what it has registered.
  std::vector<device::Memory> on_cards(pools.size());
  for (size_t rank = 0; rank < pools.size(); ++rank) {
    const device::Home home = pools[rank].memory.home;
    const uint64_t bytes = made->pools_[rank].shape.page_bytes() * made->pages_;
    if (bytes == 0 || home.kind == device::DeviceKind::kCpu) continue;
    BATON_ASSIGN(device::Buffer buffer, device::Buffer::allocate(home, bytes));
    on_cards[rank] = buffer.memory();
    made->buffers_.push_back(std::move(buffer));
  }
  for (size_t rank = 0; rank < pools.size(); ++rank) {
    Pool& own = made->pools_[rank];
    const device::Home home = pools[rank].memory.home;
    const uint64_t bytes = own.shape.page_bytes() * made->pages_;
    if (bytes == 0) continue;
    if (home.kind == device::DeviceKind::kCpu) {
      BATON_ASSIGN(const transport::Transport::Region region, transport.allocate(bytes));
      own.region = region.id;
      own.memory = region.memory.part(0, bytes);
      own.memory.home = home;
    } else {
      own.memory = on_cards[rank];
      BATON_ASSIGN(own.region, transport.register_memory(own.memory));
    }
  }
  std::vector<PageId> all;
  for (size_t i = 0; i < made->pages_; ++i) all.emplace_back(static_cast<uint32_t>(i));
  made->free_.assign(static_cast<size_t>(dp), all);
  return made;
}

std::shared_ptr<const ConvertedPages> ConvertedKv::take(int dp_rank, size_t least, size_t most) {
  std::vector<PageId>& free = free_[static_cast<size_t>(dp_rank)];
  BATON_CHECK(least <= most && least <= pages_, "{} to {} of {} pages", least, most, pages_);
  if (free.size() < least) return nullptr;
  const size_t count = std::min({most, free.size(), std::max(least, pages_ / kShares)});
  std::vector<PageId> taken(free.end() - static_cast<ptrdiff_t>(count), free.end());
  free.erase(free.end() - static_cast<ptrdiff_t>(count), free.end());
  return std::make_shared<const ConvertedPages>(*this, dp_rank, std::move(taken));
}

}  // namespace baton::handoff
