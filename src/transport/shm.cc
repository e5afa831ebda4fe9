#include "transport/shm.h"

#include <pthread.h>
#include <sys/epoll.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <thread>

#include "base/thread.h"
#include "device/cuda.h"
#include "transport/event_queue.h"
#include "transport/memory.h"
#include "transport/shm_acceptor.h"
#include "transport/shm_control.h"
#include "transport/shm_socket.h"
#include "transport/shm_writer.h"

namespace baton::transport {
namespace {

// One service thread for sockets and deadlines of both roles; the copy threads are the Writer's.
class ShmTransport final : public Transport {
 public:
  ShmTransport(const TransportOptions& options, PeerBlob blob, UniqueFd listener, UniqueFd epoll,
               std::unique_ptr<shm::WindowOwner> windows)
      : blob_(std::move(blob)),
        card_{device::DeviceKind::kCuda, options.card},
        epoll_(std::move(epoll)),
        regions_(on_cards() ? device::DeviceKind::kCuda : device::DeviceKind::kCpu),
        windows_(std::move(windows)),
        acceptor_(std::move(listener), blob_.incarnation, options.connect_timeout, windows_.get(), epoll_.get()),
        writer_({blob_.incarnation, options.queue_bytes, options.copy_threads, options.connect_timeout}, &regions_,
                epoll_.get(), &wake_, &events_) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.fd = wake_.fd();
    BATON_CHECK(::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, wake_.fd(), &event) == 0, "epoll_ctl: {}", errno_text());
    thread_ = std::thread([this] { serve(); });
  }

  ~ShmTransport() override {
    stopping_ = true;
    wake_.wake();
    thread_.join();
  }

  TransportCaps caps() const override { return {.name = on_cards() ? "cuda_ipc" : "shm", .owns_memory = !on_cards()}; }

  Result<Region> allocate(uint64_t bytes) override {
    shm::SharedRegion shared{.bytes = bytes};
    std::lock_guard lock(mutex_);  // ids and the order of announcement are the same
    Region region;
    if (on_cards()) {
      BATON_ASSIGN(device::Buffer buffer, device::Buffer::allocate(card_, bytes));
      BATON_ASSIGN(shared.on_card, device::share_cuda(buffer.memory()));
      BATON_ASSIGN(region, regions_.adopt(std::move(buffer)));
    } else {
      BATON_ASSIGN(shared.slab, shm::create_slab("baton-pool", bytes));
      BATON_ASSIGN(Mapping mapping, Mapping::shared(shared.slab.get(), bytes));
      BATON_ASSIGN(region, regions_.adopt(std::move(mapping)));
    }
    acceptor_.add_region(std::move(shared));
    wake_.wake();
    return region;
  }

  Result<RegionId> register_memory(const device::Memory& memory) override {
    if (!on_cards()) {
      return error(ErrorCode::kIncompatible, "shm cannot serve {} bytes of foreign memory: take them from allocate()",
                   memory.size);
    }
    shm::SharedRegion shared{.bytes = memory.size};
    BATON_ASSIGN(shared.on_card, device::share_cuda(memory));
    std::lock_guard lock(mutex_);
    BATON_ASSIGN(const RegionId id, regions_.add(memory));
    acceptor_.add_region(std::move(shared));
    wake_.wake();
    return id;
  }

  std::string local_blob() const override { return encode_blob(blob_); }

  Result<PeerId> connect(std::string_view bytes) override {
    BATON_ASSIGN(const PeerBlob blob, decode_blob(bytes, blob_.kind));
    return writer_.add_peer(blob);
  }

  Status open_window(const WindowToken& token, std::span<const WindowRange> ranges,
                     const Incarnation& writer) override {
    return windows_->open(regions_, token, ranges, writer);
  }
  bool close_window(const WindowToken& token) override { return windows_->close(token); }
  bool window_quiet(const WindowToken& token) override { return windows_->quiet(token); }

  Result<TransferId> post_write(PeerId peer, std::span<const Block> blocks, const WindowToken& token,
                                TimePoint deadline) override {
    BATON_ASSIGN(PreparedBlocks prepared, prepare_blocks(regions_, blocks));
    return writer_.post(peer, std::move(prepared), token, deadline);
  }
  void cancel(TransferId transfer) override { writer_.cancel(transfer); }
  void poll(std::vector<TransferEvent>* events) override { events_.drain(events); }
  int event_fd() const override { return events_.fd(); }

  void forget(PeerId peer) override {
    const auto incarnation = writer_.forget(peer);
    if (!incarnation) return;
    std::lock_guard lock(mutex_);
    dismissed_.push_back(*incarnation);
    wake_.wake();
  }

 private:
  [[nodiscard]] bool on_cards() const { return blob_.kind == BlobKind::kCudaIpc; }

  void serve() {
    name_thread(on_cards() ? "baton-cuda-ipc" : "baton-shm");
    std::array<epoll_event, 64> ready;
    SteadyClock clock;
    while (!stopping_) {
      const int n = ::epoll_wait(epoll_.get(), ready.data(), ready.size(), wait_ms(clock.now()));
      for (int i = 0; i < n; ++i) {
        const int fd = ready[static_cast<size_t>(i)].data.fd;
        if (fd == wake_.fd()) {
          wake_.clear();
        } else if (!acceptor_.on_fd(fd)) {
          writer_.on_fd(fd);
        }
      }
      acceptor_.announce();
      dismiss();
      acceptor_.tick(clock.now());
      writer_.tick(clock.now());
    }
  }

  [[nodiscard]] int wait_ms(TimePoint now) {
    const TimePoint next = std::min(writer_.next_tick(), acceptor_.next_tick());
    if (next == TimePoint::max()) return -1;
    if (next <= now) return 0;
    const auto ms = std::chrono::ceil<std::chrono::milliseconds>(next - now).count();
    return static_cast<int>(std::min<int64_t>(ms, 60'000));
  }

  void dismiss() {
    std::vector<Incarnation> gone;
    {
      std::lock_guard lock(mutex_);
      gone.swap(dismissed_);
    }
    for (const Incarnation& writer : gone) acceptor_.dismiss(writer);
  }

  const PeerBlob blob_;
  const device::Home card_;
  EventQueue events_;
  WakeFd wake_;
  UniqueFd epoll_;
  RegionTable regions_;
  std::mutex mutex_;
  std::vector<Incarnation> dismissed_;  // guarded by mutex_
  std::unique_ptr<shm::WindowOwner> windows_;
  shm::Acceptor acceptor_;
  shm::Writer writer_;
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

}  // namespace

Result<std::unique_ptr<Transport>> make_shm_transport(const TransportOptions& options, bool on_cards) {
  if (on_cards) {
    const int cards = device::cuda_device_count();
    if (cards == 0) {
      return error(ErrorCode::kIncompatible,
                   "transport cuda_ipc moves pages of GPUs, and this process sees none: use shm or tcp");
    }
    if (options.card < 0 || options.card >= cards)
      return error(ErrorCode::kInvalidArgument, "transport cuda_ipc: card {} of {}", options.card, cards);
  }
  PeerBlob blob{.kind = on_cards ? BlobKind::kCudaIpc : BlobKind::kShm,
                .incarnation = options.incarnation,
                .address = options.bind_address,
                .port = 0};
  if (blob.address.empty()) blob.address = (on_cards ? "baton-cuda-" : "baton-shm-") + options.incarnation.to_string();
  BATON_ASSIGN(UniqueFd listener, shm::listen_on(blob.address));
  BATON_ASSIGN(std::unique_ptr<shm::WindowOwner> windows, shm::WindowOwner::create(options.incarnation));
  UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll.valid())
    return error(ErrorCode::kResourceExhausted, "epoll_create1: {}; raise the limit of open files", errno_text());
  return std::unique_ptr<Transport>(std::make_unique<ShmTransport>(options, std::move(blob), std::move(listener),
                                                                   std::move(epoll), std::move(windows)));
}

}  // namespace baton::transport
