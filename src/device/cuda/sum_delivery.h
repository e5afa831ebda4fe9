// Sums on their way from a card to whoever asked for them. Any thread.
#pragma once

#include <cstdint>
#include <deque>
#include <mutex>
#include <vector>

#include "device/page_sum.h"

namespace baton::device {

class SumDelivery {
 public:
  static constexpr size_t kSumsMax = 512;  // of one bringing

  SumDelivery() = default;
  ~SumDelivery();
  SumDelivery(const SumDelivery&) = delete;
  SumDelivery& operator=(const SumDelivery&) = delete;

  // Pinned room for kSumsMax sums, which the card is to write to and which then goes to `outs` as bringing `number`;
  // numbers ascend.
  [[nodiscard]] WordSum* add(uint64_t number, std::vector<WordSum*> outs);
  // All bringings up to `number` are there.
  void deliver(uint64_t number);

 private:
  struct Bringing {
    uint64_t number = 0;
    WordSum* sums = nullptr;
    std::vector<WordSum*> outs;
  };
  std::mutex mutex_;
  std::deque<Bringing> under_way_;
  std::vector<WordSum*> free_;  // pinned
};

}  // namespace baton::device
