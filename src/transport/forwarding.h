// A transport that leaves everything to another one: a decorator overrides only what it changes.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "transport/transport.h"

namespace baton::transport {

class ForwardingTransport : public Transport {
 public:
  explicit ForwardingTransport(std::unique_ptr<Transport> inner) : inner_(std::move(inner)) {}

  [[nodiscard]] TransportCaps caps() const override { return inner_->caps(); }
  Result<Region> allocate(uint64_t bytes) override { return inner_->allocate(bytes); }
  Result<RegionId> register_memory(const device::Memory& memory) override { return inner_->register_memory(memory); }
  [[nodiscard]] std::string local_blob() const override { return inner_->local_blob(); }
  Result<PeerId> connect(std::string_view blob) override { return inner_->connect(blob); }
  Status open_window(const WindowToken& token, std::span<const WindowRange> ranges,
                     const Incarnation& writer) override {
    return inner_->open_window(token, ranges, writer);
  }
  bool close_window(const WindowToken& token) override { return inner_->close_window(token); }
  [[nodiscard]] bool window_quiet(const WindowToken& token) override { return inner_->window_quiet(token); }
  Result<TransferId> post_write(PeerId peer, std::span<const Block> blocks, const WindowToken& token,
                                TimePoint deadline) override {
    return inner_->post_write(peer, blocks, token, deadline);
  }
  void cancel(TransferId transfer) override { inner_->cancel(transfer); }
  void poll(std::vector<TransferEvent>* events) override { inner_->poll(events); }
  [[nodiscard]] int event_fd() const override { return inner_->event_fd(); }
  void forget(PeerId peer) override { inner_->forget(peer); }

 protected:
  [[nodiscard]] Transport& wrapped() const { return *inner_; }

 private:
  const std::unique_ptr<Transport> inner_;
};

}  // namespace baton::transport
