#include "comm/card_comm.h"

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <atomic>
#include <new>
#include <set>
#include <vector>

#include "base/cuda/cuda_check.h"
#include "comm/cuda/card_outbox.h"
#include "comm/cuda/exchange.h"
#include "comm/cuda/shared_card_memory.h"

namespace baton::comm {
namespace {

using cuda::SharedCardMemory;

Status failed(cudaError_t code) {
  if (code == cudaSuccess) return {};
  return error(ErrorCode::kUnavailable, "ranks on cards: {}", cuda_text(code));
}

// A word of the processor's that kernels read while they wait.
class AbortWord {
 public:
  explicit AbortWord(RankGroup& group) : group_(group) {
    void* memory = nullptr;
    BATON_CUDA_CHECK(cudaHostAlloc(&memory, sizeof(Word), cudaHostAllocPortable | cudaHostAllocMapped), "a word");
    word_ = new (memory) Word(0);
    group_.watch(*word_);
  }
  ~AbortWord() {
    group_.unwatch(*word_);
    (void)cudaFreeHost(word_);
  }
  AbortWord(const AbortWord&) = delete;
  AbortWord& operator=(const AbortWord&) = delete;
  [[nodiscard]] const uint32_t* address() const { return reinterpret_cast<const uint32_t*>(word_); }

 private:
  using Word = std::atomic<uint32_t>;
  RankGroup& group_;
  Word* word_ = nullptr;
};

class CardComm final : public Comm {
 public:
  CardComm(RankGroup& group, int rank, int card, cudaStream_t stream)
      : group_(group), rank_(rank), card_(card), stream_(stream) {
    BATON_CHECK(group.size() <= kCardRanksMax, "{} ranks on cards", group.size());
  }

  [[nodiscard]] int rank() const override { return rank_; }
  [[nodiscard]] int size() const override { return group_.size(); }
  [[nodiscard]] bool recordable() const override { return size() == 1 || way_ == Way::kPush; }

  Status reduce_scatter(void* partial, tensor::DType dtype, RowBounds bounds, int64_t width) override {
    if (size() == 1) return {};
    if (dtype == tensor::DType::kBF16) return sum(static_cast<__nv_bfloat16*>(partial), bounds, width);
    BATON_CHECK(dtype == tensor::DType::kF32, "a sum of {}", tensor::dtype_name(dtype));
    return sum(static_cast<float*>(partial), bounds, width);
  }

  [[nodiscard]] bool sums_everywhere(int64_t rows, int64_t row_bytes) const override {
    return way_ == Way::kPush && cuda::can_all_reduce_norm(size(), rows, row_bytes);
  }
  Status all_reduce(const void* partial, tensor::DType dtype, int64_t rows, int64_t width,
                    const SumsTarget& target) override {
    BATON_TRY(group_.status());
    const auto push = [&]<class T>(const T* values) {
      cuda::push_all_reduce_norm(stream_, exchange_, values, rows, width, static_cast<T*>(target.residual),
                                 target.weight, target.eps, static_cast<T*>(target.normed));
    };
    dtype == tensor::DType::kBF16 ? push(static_cast<const __nv_bfloat16*>(partial))
                                  : push(static_cast<const float*>(partial));
    return {};
  }

  Status all_gather(std::span<const RowBuffer> buffers, RowBounds bounds) override {
    if (size() == 1) return {};
    BATON_CHECK(buffers.size() <= kBuffersMax, "{} buffers", buffers.size());
    BATON_TRY(begin());
    if (way_ == Way::kPush) {
      cuda::GatheredRows rows{};
      for (const RowBuffer& buffer : buffers) {
        rows.rows[rows.count] = static_cast<std::byte*>(buffer.rows);
        rows.row_bytes[rows.count++] = static_cast<int64_t>(buffer.row_bytes);
      }
      cuda::push_all_gather(stream_, exchange_, rows, parts_of(bounds, 1));
      return {};
    }
    RankGroup::Pointers mine{};
    for (size_t b = 0; b < buffers.size(); ++b) mine[b] = buffers[b].rows;
    BATON_ASSIGN(const auto all, meet(mine));
    for (size_t r = 0; r < all.size(); ++r) {
      if (r == static_cast<size_t>(rank_) || bounds[r] == bounds[r + 1]) continue;
      for (size_t b = 0; b < buffers.size(); ++b) {
        const size_t offset = static_cast<size_t>(bounds[r] - bounds[0]) * buffers[b].row_bytes;
        const size_t bytes = static_cast<size_t>(bounds[r + 1] - bounds[r]) * buffers[b].row_bytes;
        BATON_TRY(failed(cudaMemcpyAsync(static_cast<std::byte*>(buffers[b].rows) + offset,
                                         static_cast<const std::byte*>(all[r][b]) + offset, bytes, cudaMemcpyDefault,
                                         stream_)));
      }
    }
    return {};
  }

  Status send(int to, std::span<const std::byte> bytes) override {
    return outboxes_.send(group_, rank_, to, card_, stream_, bytes);
  }
  Status receive(int from, std::span<std::byte> bytes) override {
    return outboxes_.receive(group_, from, rank_, stream_, bytes);
  }
  void abort(Error failure) override { group_.abort(std::move(failure)); }
  [[nodiscard]] bool aborted() const override { return group_.aborted(); }

 private:
  // Ranks that have a card each push (cuda/exchange.h). Those that share one must not wait in kernels, which might keep
  // each other from beginning: they meet in their threads.
  enum class Way : uint8_t { kUnknown, kPush, kMeet };

  template <class T>
  Status sum(T* partial, RowBounds bounds, int64_t width) {
    BATON_TRY(begin());
    const cuda::RankParts parts = parts_of(bounds, width);
    if (way_ == Way::kPush) {
      cuda::push_reduce_scatter(stream_, exchange_, partial, parts);
      return {};
    }
    BATON_ASSIGN(const auto all, meet({partial}));
    cuda::RankAddends addends{};
    addends.ranks = size();
    for (int r = 0; r < size(); ++r) addends.of_rank[r] = all[static_cast<size_t>(r)][0];
    const int64_t first = parts.first[rank_], n = parts.first[rank_ + 1] - first;
    cuda::sum_of_ranks(stream_, addends, first, n, partial + first);
    return {};
  }
  [[nodiscard]] cuda::RankParts parts_of(RowBounds bounds, int64_t width) const {
    BATON_CHECK(bounds.size() == static_cast<size_t>(size()) + 1, "{} bounds for {} ranks", bounds.size(), size());
    cuda::RankParts parts{};
    for (size_t r = 0; r < bounds.size(); ++r) parts.first[r] = (bounds[r] - bounds[0]) * width;
    return parts;
  }

  Status begin() {
    if (way_ == Way::kUnknown) BATON_TRY(connect());
    return group_.status();
  }
  // The first time. Ranks tell each other their cards, and, if everybody has one to himself, where their inboxes are.
  Status connect() {
    BATON_CUDA_CHECK(cudaSetDevice(card_), "card {}", card_);
    BATON_ASSIGN(const auto cards, group_.exchange(rank_, {reinterpret_cast<const void*>(uintptr_t(card_) + 1)}));
    std::set<uintptr_t> distinct;
    for (const auto& of_rank : cards) distinct.insert(reinterpret_cast<uintptr_t>(of_rank[0]) - 1);
    if (distinct.size() == 1) {
      way_ = Way::kMeet;
      return {};
    }
    const auto unfit = [&] {
      return error(ErrorCode::kIncompatible,
                   "{} ranks on cards {}: each needs one of its own that reaches the others' memory, or all the same; "
                   "see --gpu-id-step",
                   size(), fmt::join(distinct, ", "));
    };
    if (distinct.size() != cards.size()) return unfit();
    std::shared_ptr<SharedCardMemory> inbox = SharedCardMemory::make(card_, cuda::inbox_bytes(size()));
    BATON_ASSIGN(const auto inboxes, group_.exchange(rank_, {inbox == nullptr ? nullptr : &inbox}));
    if (std::any_of(inboxes.begin(), inboxes.end(), [](const auto& i) { return i[0] == nullptr; })) return unfit();
    for (const auto& of_rank : inboxes)
      inboxes_.push_back(*static_cast<const std::shared_ptr<SharedCardMemory>*>(of_rank[0]));
    abort_word_ = std::make_unique<AbortWord>(group_);
    exchange_.rank = rank_;
    exchange_.ranks = size();
    exchange_.aborted = abort_word_->address();
    for (size_t r = 0; r < inboxes_.size(); ++r) exchange_.inbox[r] = inboxes_[r]->base();
    way_ = Way::kPush;
    return group_.barrier();  // everybody has everybody's
  }

  // What this rank has written is there, and what it read of others it has read, before anybody goes on.
  Result<std::span<const RankGroup::Pointers>> meet(const RankGroup::Pointers& mine) {
    BATON_TRY(failed(cudaStreamSynchronize(stream_)));
    return group_.exchange(rank_, mine);
  }

  RankGroup& group_;
  int rank_, card_;
  cudaStream_t stream_;
  Way way_ = Way::kUnknown;
  // All ranks', since the others' kernels may be writing to this one's when its comm is let go.
  std::vector<std::shared_ptr<SharedCardMemory>> inboxes_;
  std::unique_ptr<AbortWord> abort_word_;
  cuda::ExchangeGroup exchange_{};
  cuda::CardOutboxes outboxes_;
};

}  // namespace

std::unique_ptr<Comm> make_card_comm(RankGroup& group, int rank, int card, void* stream) {
  return std::make_unique<CardComm>(group, rank, card, static_cast<cudaStream_t>(stream));
}

}  // namespace baton::comm
