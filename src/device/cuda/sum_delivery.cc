#include "device/cuda/sum_delivery.h"

#include <utility>

#include "base/cuda/cuda_check.h"

namespace baton::device {

SumDelivery::~SumDelivery() {
  for (Bringing& bringing : under_way_) free_.push_back(bringing.sums);
  for (WordSum* room : free_) BATON_CUDA_CHECK(cudaFreeHost(room), "room for sums");
}

WordSum* SumDelivery::add(uint64_t number, std::vector<WordSum*> outs) {
  const std::lock_guard lock(mutex_);
  if (free_.empty()) {
    void* room = nullptr;
    BATON_CUDA_CHECK(cudaMallocHost(&room, kSumsMax * sizeof(WordSum)), "room for {} sums", kSumsMax);
    free_.push_back(static_cast<WordSum*>(room));
  }
  WordSum* const sums = free_.back();
  free_.pop_back();
  under_way_.push_back({number, sums, std::move(outs)});
  return sums;
}

void SumDelivery::deliver(uint64_t number) {
  const std::lock_guard lock(mutex_);
  while (!under_way_.empty() && under_way_.front().number <= number) {
    const Bringing& bringing = under_way_.front();
    for (size_t i = 0; i < bringing.outs.size(); ++i) *bringing.outs[i] = bringing.sums[i];
    free_.push_back(bringing.sums);
    under_way_.pop_front();
  }
}

}  // namespace baton::device
