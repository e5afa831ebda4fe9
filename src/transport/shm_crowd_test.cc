// An owner of the shm transport and more connections than it has places for.
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstddef>
#include <cstring>
#include <ctime>

#include "base/byte_io.h"
#include "transport/blob.h"
#include "transport/shm_acceptor.h"
#include "transport/test_support.h"

namespace baton::transport::shm {
namespace {

using namespace baton::transport::testing;

constexpr Incarnation kOwner{11, 22}, kHonest{3, 4};

class ShmCrowd : public ::testing::Test {
 protected:
  void start(Duration connect_timeout = 5s) {
    options_.bind_address = fmt::format("baton-test-crowd-{}", ::getpid());
    options_.incarnation = kOwner;
    options_.connect_timeout = connect_timeout;
    owner_ = make("shm", options_);
    region_ = owner_->allocate(4096).value();
  }
  // A full backlog is answered at once on a unix socket, so that a caller tries again.
  UniqueFd dial() const {
    for (const TimePoint end = in(10s); SteadyClock().now() < end; std::this_thread::sleep_for(1ms)) {
      if (Result<UniqueFd> fd = connect_to(options_.bind_address)) return std::move(fd).value();
    }
    ADD_FAILURE() << "nobody accepts";
    return {};
  }
  UniqueFd ask(const Incarnation& writer) const {
    UniqueFd fd = dial();
    EXPECT_TRUE(send_message(fd.get(), encode(AttachRequest{writer, kOwner}), -1).ok());
    return fd;
  }
  // The owner's first word, or nullopt if it closes without one.
  static std::optional<OwnerMessage::Kind> answer(const UniqueFd& fd) {
    pollfd entry{.fd = fd.get(), .events = POLLIN, .revents = 0};
    EXPECT_EQ(::poll(&entry, 1, 10'000), 1);
    const auto received = receive_message(fd.get());
    if (!received || received->bytes.empty()) return std::nullopt;
    return decode_owner_message(as_span(received->bytes)).value().kind;
  }
  static bool closed(const UniqueFd& fd, Duration limit = 10s) {
    for (const TimePoint end = in(limit); SteadyClock().now() < end; std::this_thread::sleep_for(5ms)) {
      if (!receive_message(fd.get())) return true;
    }
    return false;
  }
  void open(uint64_t attempt) {
    const WindowRange all{region_.id, 0, 4096};
    EXPECT_TRUE(owner_->open_window(token(attempt), std::span(&all, 1), kHonest));
  }
  struct Honest {
    std::unique_ptr<Transport> transport;
    Transport::Region from;
    PeerId peer;
  };
  Honest honest() {
    TransportOptions options;
    options.incarnation = kHonest;
    Honest out{make("shm", options), {}, {}};
    out.from = out.transport->allocate(4096).value();
    out.peer = out.transport->connect(owner_->local_blob()).value();
    return out;
  }
  TransferOutcome write(Honest& writer, uint64_t attempt) const {
    Events events(*writer.transport);
    const Block block{writer.from.id, 0, region_.id, 0, 4096};
    return events.wait(writer.transport->post_write(writer.peer, std::span(&block, 1), token(attempt), in(20s)).value())
        .outcome;
  }

  TransportOptions options_;
  std::unique_ptr<Transport> owner_;
  Transport::Region region_;
};

TEST_F(ShmCrowd, ThoseThatSayNothingKeepNobodyOut) {
  start();
  std::vector<UniqueFd> crowd;
  for (int i = 0; i < 300; ++i) crowd.push_back(dial());
  open(1);
  Honest writer = honest();
  EXPECT_EQ(write(writer, 1), TransferOutcome::kDone);
  EXPECT_LE(static_cast<size_t>(std::count_if(crowd.begin(), crowd.end(),
                                              [](const UniqueFd& fd) { return receive_message(fd.get()).ok(); })),
            kPendingMax);
}

// A thread that was held up finds many at once: still the first of them go, not those that come last.
TEST(ShmAcceptor, TheOldestOfThoseThatComeTogetherGo) {
  const std::string name = fmt::format("baton-test-together-{}", ::getpid());
  const UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
  UniqueFd listener = listen_on(name).value();
  const int fd = listener.get();
  Acceptor acceptor(std::move(listener), kOwner, 5s, nullptr, epoll.get());
  std::vector<UniqueFd> crowd;
  for (size_t i = 0; i < kPendingMax + 20; ++i) crowd.push_back(connect_to(name).value());
  EXPECT_TRUE(acceptor.on_fd(fd));
  for (size_t i = 0; i < crowd.size(); ++i) EXPECT_EQ(receive_message(crowd[i].get()).ok(), i >= 20) << i;
}

TEST_F(ShmCrowd, WhoDoesNotAskHasToGo) {
  start(200ms);
  const UniqueFd silent = dial();
  const UniqueFd attached = ask({7, 7});
  EXPECT_EQ(answer(attached), OwnerMessage::Kind::kAccept);
  EXPECT_TRUE(closed(silent));
  EXPECT_TRUE(receive_message(attached.get()).ok()) << "an attached writer may be idle";
}

TEST_F(ShmCrowd, AnotherUsersProcessIsClosedAtOnce) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can become another user";
  start();
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    constexpr uid_t kNobody = 65534;
    if (::setuid(kNobody) != 0) ::_exit(2);
    const Result<UniqueFd> fd = connect_to(options_.bind_address);
    if (!fd) ::_exit(3);
    pollfd entry{.fd = fd->get(), .events = POLLIN, .revents = 0};
    char c = 0;
    ::_exit(::poll(&entry, 1, 3000) == 1 && ::recv(fd->get(), &c, 1, MSG_DONTWAIT) == 0 ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(WEXITSTATUS(status), 0) << "1: it was left waiting";
}

TEST_F(ShmCrowd, OneWriterHasFewRows) {
  start();
  std::vector<UniqueFd> crowd;
  for (size_t i = 0; i < kRowsOfAWriter; ++i) {
    crowd.push_back(ask({7, 7}));
    EXPECT_EQ(answer(crowd.back()), OwnerMessage::Kind::kAccept);
  }
  EXPECT_EQ(answer(ask({7, 7})), std::nullopt);
  EXPECT_EQ(answer(ask({8, 8})), OwnerMessage::Kind::kAccept);
  crowd.pop_back();
  for (const TimePoint end = in(10s); SteadyClock().now() < end;) {
    if (answer(ask({7, 7})) == OwnerMessage::Kind::kAccept) return;
  }
  ADD_FAILURE() << "a row that was given back is not given again";
}

TEST_F(ShmCrowd, TheLastRowsAreForWritersWithAWindow) {
  start();
  constexpr size_t kOpenRows = kWriters - kRowsReserved;
  // Processes that attach as many writers as they may, and stay.
  std::vector<pid_t> others;
  int said[2];
  ASSERT_EQ(::pipe2(said, O_CLOEXEC), 0);
  for (size_t row = 0; row < kOpenRows; row += kRowsOfAProcess) {
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      std::vector<UniqueFd> rows;
      char let_in = 0;
      for (size_t i = 0; i < kRowsOfAProcess; ++i) {
        rows.push_back(ask({100 + row + i, 1}));
        let_in = static_cast<char>(let_in + (answer(rows.back()) == OwnerMessage::Kind::kAccept ? 1 : 0));
      }
      if (answer(ask({99, row}))) let_in = 0;  // one too many for a process
      for (ssize_t n = ::write(said[1], &let_in, 1);; ::pause()) static_cast<void>(n);
    }
    others.push_back(child);
    char let_in = 0;
    ASSERT_EQ(::read(said[0], &let_in, 1), 1);
    EXPECT_EQ(let_in, static_cast<char>(kRowsOfAProcess));
  }
  EXPECT_EQ(answer(ask({7, 7})), std::nullopt) << "no window is open for it";
  Honest writer = honest();  // attaches, and is not let in
  EXPECT_EQ(write(writer, 1), TransferOutcome::kPeerLost);
  open(1);
  EXPECT_EQ(write(writer, 1), TransferOutcome::kDone) << "asked again, and expected";
  for (const pid_t child : others) {
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
  }
  ::close(said[0]);
  ::close(said[1]);
}

TEST_F(ShmCrowd, WaitsQuietlyForADescriptorToBecomeFree) {
  start();
  // Out of descriptors for new ones; the ones that are open stay so. A socket made before can still connect.
  const UniqueFd client(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  sockaddr_un there{};
  there.sun_family = AF_UNIX;
  std::memcpy(there.sun_path + 1, options_.bind_address.data(), options_.bind_address.size());
  const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + options_.bind_address.size());
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit none{0, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  const int connected = ::connect(client.get(), reinterpret_cast<const sockaddr*>(&there), length);
  const std::clock_t cpu = std::clock();
  std::this_thread::sleep_for(500ms);
  const std::clock_t spent = std::clock() - cpu;
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_EQ(connected, 0);
  EXPECT_LT(spent, CLOCKS_PER_SEC / 10) << "a thread that spins takes all it can get";
  ASSERT_TRUE(send_message(client.get(), encode(AttachRequest{{7, 7}, kOwner}), -1).ok());
  EXPECT_EQ(answer(client), OwnerMessage::Kind::kAccept) << "who waited is served";
}

}  // namespace
}  // namespace baton::transport::shm
