// For the tests of this folder: waiting for events, and another process with a transport that is driven line by line.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/fd.h"
#include "device/cuda.h"
#include "device/stream.h"
#include "transport/forwarding.h"
#include "transport/make_transport.h"
#include "transport/worker_stream_test.h"

namespace baton::transport::testing {

using namespace std::chrono_literals;

inline TimePoint in(Duration d) { return SteadyClock().now() + d; }
inline WindowToken token(uint64_t attempt, uint64_t secret = 77) { return {AttemptId(attempt), secret}; }

// tcp whose regions lie on a card.
class TcpOnCard final : public ForwardingTransport {
 public:
  explicit TcpOnCard(const TransportOptions& options) : ForwardingTransport(make_transport("tcp", options).value()) {}
  Result<Region> allocate(uint64_t bytes) override {
    BATON_ASSIGN(device::Buffer slab, device::Buffer::allocate({device::DeviceKind::kCuda, 0}, bytes));
    BATON_ASSIGN(const RegionId id, register_memory(slab.memory()));
    slabs_.push_back(std::move(slab));
    return Region{id, slabs_.back().memory()};
  }

 private:
  std::vector<device::Buffer> slabs_;
};

// By its name. "tcp_staged": tcp, as between cards, but of memory of the processor; "tcp_cuda": of memory of a card.
inline std::unique_ptr<Transport> make(const std::string& name, TransportOptions options = {}) {
  if (name == "tcp_cuda") return std::make_unique<TcpOnCard>(options);
  const bool staged = name == "tcp_staged";
  if (staged) options.staging = {.always = true, .make_stream = worker_streams()};
  auto made = make_transport(staged ? "tcp" : name, options);
  BATON_CHECK(made.ok(), "{}", made.error().message);
  return std::move(made).value();
}

inline bool is_tcp(const std::string& name) { return name.starts_with("tcp"); }

inline bool all_equal(std::span<const std::byte> bytes, uint8_t value) {
  return std::all_of(bytes.begin(), bytes.end(), [value](std::byte b) { return b == std::byte{value}; });
}
inline void fill(std::span<std::byte> bytes, uint8_t value) { std::fill(bytes.begin(), bytes.end(), std::byte{value}); }

// Bytes of a region, whatever device they lie on.
inline void put(std::span<const std::byte> bytes, const device::Memory& to) {
  if (to.home.kind == device::DeviceKind::kCpu) {
    std::copy(bytes.begin(), bytes.end(), to.host().begin());
    return;
  }
  const auto stream = device::make_stream(to.home);
  const layout::Copy all{0, 0, bytes.size()};
  const std::span<std::byte> read_only(const_cast<std::byte*>(bytes.data()), bytes.size());
  stream->copy(device::Memory::of(read_only), to, std::span(&all, 1));
  stream->record()->wait();
}
inline std::vector<std::byte> get(const device::Memory& from) {
  if (from.home.kind == device::DeviceKind::kCpu) return {from.host().begin(), from.host().end()};
  std::vector<std::byte> bytes(from.size);
  const auto stream = device::make_stream(from.home);
  const layout::Copy all{0, 0, bytes.size()};
  stream->copy(from, device::Memory::of(bytes), std::span(&all, 1));
  stream->record()->wait();
  return bytes;
}
inline device::Memory behind(const device::Memory& memory, uint64_t offset) {
  return memory.part(offset, memory.size - offset);
}
inline bool all_equal(const device::Memory& memory, uint8_t value) { return all_equal(get(memory), value); }
inline void fill(const device::Memory& memory, uint8_t value) {
  put(std::vector<std::byte>(memory.size, std::byte{value}), memory);
}

// A look at memory that a transport may be writing: only to learn that it has begun. Kept from ThreadSanitizer, which
// is right to object.
__attribute__((noinline, no_sanitize("thread"))) inline bool written(const std::byte& at) {
  return *const_cast<const volatile std::byte*>(&at) != std::byte{0};
}
inline bool written(const device::Memory& memory) {
  if (memory.home.kind == device::DeviceKind::kCpu) return written(*memory.base);
  return get(memory.part(0, 1))[0] != std::byte{0};
}

// Skips the tests of transports that move bytes of cards where there is none.
class OfTransport : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (GetParam().find("cuda") != std::string::npos && device::cuda_device_count() == 0)
      GTEST_SKIP() << "this machine has no GPU";
  }
};
// Tests with a second process.
class TwoProcesses : public OfTransport {};

inline std::string transport_name(const ::testing::TestParamInfo<std::string>& info) { return info.param; }

inline size_t open_descriptors() {
  size_t n = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) ++n;
  return n;
}

// Polls a transport and keeps every event, so that none can come twice unnoticed.
class Events {
 public:
  explicit Events(Transport& transport) : transport_(transport) {}

  // The event of a post; a missing one after `limit` is a test failure and comes back as kFailed "no event".
  TransferEvent wait(TransferId id, Duration limit = 20s) {
    const TimePoint end = in(limit);
    while (!seen_.contains(id)) {
      if (SteadyClock().now() >= end) {
        ADD_FAILURE() << "no event of post " << id.value();
        TransferEvent none;
        none.detail = "no event";
        return none;
      }
      pollfd entry{.fd = transport_.event_fd(), .events = POLLIN, .revents = 0};
      ::poll(&entry, 1, 100);
      collect();
    }
    return seen_.at(id);
  }

  void collect() {
    std::vector<TransferEvent> events;
    transport_.poll(&events);
    for (TransferEvent& e : events) {
      EXPECT_TRUE(e.local_quiesced) << "an event whose source is still read";
      const TransferId id = e.transfer;
      EXPECT_TRUE(seen_.emplace(id, std::move(e)).second) << "a second event of post " << id.value();
    }
  }
  [[nodiscard]] size_t count() const { return seen_.size(); }

 private:
  Transport& transport_;
  std::map<TransferId, TransferEvent> seen_;
};

inline std::string to_hex(std::string_view bytes) {
  std::string out;
  for (const char c : bytes) out += fmt::format("{:02x}", static_cast<uint8_t>(c));
  return out;
}
inline std::string from_hex(std::string_view hex) {
  std::string out;
  for (size_t i = 0; i + 1 < hex.size(); i += 2) {
    out += static_cast<char>(std::stoi(std::string(hex.substr(i, 2)), nullptr, 16));
  }
  return out;
}

// This test program again, as a process of its own (child_process_main in child_test.cc), with one transport and one
// region. Dies with this object.
class Child {
 public:
  Child(const std::string& transport, uint64_t region_bytes) {
    int to[2], from[2];
    BATON_CHECK(::pipe2(to, O_CLOEXEC) == 0 && ::pipe2(from, O_CLOEXEC) == 0);
    const std::string bytes = std::to_string(region_bytes);
    pid_ = ::fork();
    BATON_CHECK(pid_ >= 0, "fork: {}", errno_text());
    if (pid_ == 0) {
      ::dup2(to[0], STDIN_FILENO);
      ::dup2(from[1], STDOUT_FILENO);
      ::execl("/proc/self/exe", "transport_test", "--child", transport.c_str(), bytes.c_str(), nullptr);
      ::_exit(127);
    }
    ::close(to[0]);
    ::close(from[1]);
    to_ = UniqueFd(to[1]);
    from_ = UniqueFd(from[0]);
  }
  ~Child() { kill(); }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  // Says a line and returns the answer.
  std::string ask(const std::string& line) {
    const std::string out = line + "\n";
    BATON_CHECK(::write(to_.get(), out.data(), out.size()) == static_cast<ssize_t>(out.size()), "the child is gone");
    std::string answer;
    for (char c = 0;;) {
      pollfd entry{.fd = from_.get(), .events = POLLIN, .revents = 0};
      BATON_CHECK(::poll(&entry, 1, 60'000) == 1, "the child does not answer \"{}\"", line);
      BATON_CHECK(::read(from_.get(), &c, 1) == 1, "the child ended at \"{}\"", line);
      if (c == '\n') return answer;
      answer += c;
    }
  }
  std::string blob() { return from_hex(ask("blob")); }

  // Returns when every thread has stopped: a signal alone is only a wish.
  void stop() {
    ::kill(pid_, SIGSTOP);
    int status = 0;
    BATON_CHECK(::waitpid(pid_, &status, WUNTRACED) == pid_ && WIFSTOPPED(status));
  }
  void go_on() { ::kill(pid_, SIGCONT); }
  void kill() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }

 private:
  pid_t pid_ = -1;
  UniqueFd to_, from_;
};

}  // namespace baton::transport::testing
