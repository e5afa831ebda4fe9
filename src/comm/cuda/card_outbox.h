// What a rank on a card sends down a pipeline.
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <map>
#include <memory>
#include <span>

#include "base/cuda/cuda_check.h"
#include "comm/cuda/shared_card_memory.h"
#include "comm/rank_group.h"

namespace baton::comm::cuda {

// From one rank to another. Messages lie on the sender's card in two places by turns, and the receiver's stream copies
// them from there; streams wait for each other by events, and threads only for the other one's calls.
//
// A message's mailbox is full until the receiver has put its copy into its stream. So when message m - 1 could be
// posted, the copy of m - 2, which lay where m will, has its event.
class CardOutbox : public std::enable_shared_from_this<CardOutbox> {
 public:
  explicit CardOutbox(int card) : card_(card) {
    for (Place& place : places_) place.filled = make_event();
  }
  ~CardOutbox() {
    for (Place& place : places_) (void)cudaEventDestroy(place.filled);
  }
  CardOutbox(const CardOutbox&) = delete;
  CardOutbox& operator=(const CardOutbox&) = delete;

  static cudaEvent_t make_event() {
    cudaEvent_t event = nullptr;
    BATON_CUDA_CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "an event");
    return event;
  }

  struct Place {
    std::shared_ptr<SharedCardMemory> memory;
    size_t room = 0;
    cudaEvent_t filled = nullptr;  // the sender's
    cudaEvent_t taken = nullptr;   // the receiver's, since it took a message of this place
  };
  // What the mailbox carries.
  struct Parcel {
    CardOutbox* outbox;
    Place* place;
    size_t bytes;
  };

  Status send(RankGroup& group, int from, int to, cudaStream_t stream, std::span<const std::byte> bytes) {
    Place& place = places_[sent_++ % 2];
    if (place.room < bytes.size() || place.memory == nullptr) {
      if (place.taken != nullptr) BATON_CUDA_CHECK(cudaEventSynchronize(place.taken), "a message before");
      place.memory = SharedCardMemory::make(card_, std::max<size_t>(bytes.size(), 1));
      if (place.memory == nullptr)
        return error(ErrorCode::kResourceExhausted, "no room on card {} for {} bytes to send", card_, bytes.size());
      place.room = bytes.size();
    }
    if (place.taken != nullptr) BATON_CUDA_CHECK(cudaStreamWaitEvent(stream, place.taken), "{} bytes", bytes.size());
    BATON_CUDA_CHECK(
        cudaMemcpyAsync(place.memory->base(), bytes.data(), bytes.size(), cudaMemcpyDeviceToDevice, stream), "{} bytes",
        bytes.size());
    BATON_CUDA_CHECK(cudaEventRecord(place.filled, stream), "{} bytes", bytes.size());
    const Parcel parcel{this, &place, bytes.size()};
    return group.post(from, to, std::as_bytes(std::span(&parcel, 1)));
  }

 private:
  int card_;
  Place places_[2];
  uint64_t sent_ = 0;
};

// Of one rank, to and from all others.
class CardOutboxes {
 public:
  CardOutboxes() = default;
  ~CardOutboxes() {
    for (const auto& [place, event] : taken_) (void)cudaEventDestroy(event);
  }
  CardOutboxes(const CardOutboxes&) = delete;
  CardOutboxes& operator=(const CardOutboxes&) = delete;

  // On the rank's card, whose stream it is.
  Status send(RankGroup& group, int from, int to, int card, cudaStream_t stream, std::span<const std::byte> bytes) {
    std::shared_ptr<CardOutbox>& outbox = out_[to];
    if (outbox == nullptr) outbox = std::make_shared<CardOutbox>(card);
    return outbox->send(group, from, to, stream, bytes);
  }
  Status receive(RankGroup& group, int from, int to, cudaStream_t stream, std::span<std::byte> bytes) {
    return group.fetch(from, to, [&](std::span<const std::byte> sent) -> Status {
      CardOutbox::Parcel parcel{};
      BATON_CHECK(sent.size() == sizeof(parcel), "a parcel of {} bytes", sent.size());
      std::memcpy(&parcel, sent.data(), sizeof(parcel));
      BATON_CHECK(parcel.bytes == bytes.size(), "{} bytes sent, {} expected", parcel.bytes, bytes.size());
      in_[from] = parcel.outbox->shared_from_this();
      BATON_CUDA_CHECK(cudaStreamWaitEvent(stream, parcel.place->filled), "{} bytes", bytes.size());
      BATON_CUDA_CHECK(
          cudaMemcpyAsync(bytes.data(), parcel.place->memory->base(), bytes.size(), cudaMemcpyDefault, stream),
          "{} bytes", bytes.size());
      cudaEvent_t& taken = taken_[parcel.place];
      if (taken == nullptr) taken = CardOutbox::make_event();
      BATON_CUDA_CHECK(cudaEventRecord(taken, stream), "{} bytes", bytes.size());
      parcel.place->taken = taken;
      return {};
    });
  }

 private:
  std::map<int, std::shared_ptr<CardOutbox>> out_;
  std::map<int, std::shared_ptr<CardOutbox>> in_;  // the senders', whose memory this rank's stream may be reading
  std::map<const void*, cudaEvent_t> taken_;       // by place
};

}  // namespace baton::comm::cuda
