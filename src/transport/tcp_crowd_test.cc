// An owner of the tcp transport and more connections than it has places for.
#include <malloc.h>
#include <sys/resource.h>

#include <array>
#include <ctime>
#include <optional>

#include "transport/tcp_owner_test.h"

namespace baton::transport::tcp {
namespace {

constexpr Incarnation kHonest{3, 4};

class TcpCrowd : public TcpOwner {
 protected:
  TcpCrowd() {
    ::getrlimit(RLIMIT_NOFILE, &before_);
    const rlimit most{before_.rlim_max, before_.rlim_max};
    ::setrlimit(RLIMIT_NOFILE, &most);
  }
  ~TcpCrowd() override { ::setrlimit(RLIMIT_NOFILE, &before_); }

  static constexpr int kCrowd = 1100;  // more than the owner ever has connections
  // Connects kCrowd times and says what `greeting` returns for each.
  template <typename Greeting>
  void crowd(Greeting greeting) {
    for (int i = 0; i < kCrowd; ++i) {
      crowd_.push_back(dial());
      say(crowd_.back(), greeting(static_cast<uint64_t>(i)));
    }
  }
  // How many of the crowd the owner has kept, once it has read what they said.
  size_t kept() {
    size_t open = 0;
    for (const UniqueFd& fd : crowd_) {
      char bytes[64];
      ssize_t n = 1;
      while (n > 0) n = ::recv(fd.get(), bytes, sizeof(bytes), 0);
      if (n < 0 && errno == EAGAIN) ++open;
    }
    return open;
  }
  // A real writer, which the owner has opened a window for, gets its bytes in.
  TransferOutcome write_honestly(Duration limit = 20s) {
    const WindowRange range{region_.id, 4096, 8192};
    EXPECT_TRUE(owner_->open_window(token(5), std::span(&range, 1), kHonest));
    TransportOptions options;
    options.incarnation = kHonest;
    auto writer = make("tcp", options);
    Events events(*writer);
    const auto from = writer->allocate(8192).value();
    const Block block{from.id, 0, region_.id, 4096, 8192};
    const PeerId peer = writer->connect(owner_->local_blob()).value();
    return events.wait(writer->post_write(peer, std::span(&block, 1), token(5), in(limit)).value()).outcome;
  }
  std::string post(uint64_t id, const WindowToken& t) const {
    return write(id, t, {{region_.id, 1, 4096, 1, 0}}) + "z";
  }

  std::vector<UniqueFd> crowd_;

 private:
  rlimit before_{};
};

TEST_F(TcpCrowd, ThoseThatSayNothingKeepNobodyOut) {
  start();
  crowd([](uint64_t) { return std::string(); });
  EXPECT_EQ(write_honestly(), TransferOutcome::kDone);
  EXPECT_LE(kept(), 128u);
}

TEST_F(TcpCrowd, ThoseThatGreetHalfwayKeepNobodyOut) {
  start();
  crowd([](uint64_t) { return hello().substr(0, 40); });
  EXPECT_EQ(write_honestly(), TransferOutcome::kDone);
  EXPECT_LE(kept(), 128u);
}

TEST_F(TcpCrowd, ThoseThatGreetRightlyAndSayNothingKeepNobodyOut) {
  start();
  crowd([](uint64_t i) { return hello({i + 100, 1}); });
  EXPECT_EQ(write_honestly(), TransferOutcome::kDone);
  EXPECT_LE(kept(), 128u);
}

TEST_F(TcpCrowd, OneWriterHasFewConnections) {
  start();
  crowd([](uint64_t) { return hello({100, 1}); });
  EXPECT_EQ(write_honestly(), TransferOutcome::kDone);
  EXPECT_LE(kept(), 16u);
}

TEST_F(TcpCrowd, ThoseThatClaimToBeAWriterWithAWindowDoNotKeepItOut) {
  start();
  const WindowRange range{region_.id, 4096, 8192};
  ASSERT_TRUE(owner_->open_window(token(9), std::span(&range, 1), kHonest));
  crowd([](uint64_t) { return hello(kHonest); });
  EXPECT_EQ(write_honestly(), TransferOutcome::kDone);
  EXPECT_LE(kept(), 16u);
}

TEST_F(TcpCrowd, AWriterWithAWindowKeepsItsPlaceBeforeItHasWritten) {
  start();
  const WindowRange range{region_.id, 4096, 8192};
  ASSERT_TRUE(owner_->open_window(token(9), std::span(&range, 1), kHonest));
  const UniqueFd early = greet(kHonest);
  const UniqueFd other = greet({7, 7});
  crowd([](uint64_t i) { return hello({i + 100, 1}); });
  say(early, post(1, token(9)));
  EXPECT_EQ(result(early).outcome, TransferOutcome::kDone);
  EXPECT_TRUE(closed(other)) << "without a window it made room";
}

TEST_F(TcpCrowd, AWriterThatHasWrittenKeepsItsPlace) {
  start();
  const UniqueFd fd = greet();
  say(fd, post(1, token(1)));
  ASSERT_EQ(result(fd).outcome, TransferOutcome::kDone);
  crowd([](uint64_t i) { return hello({i + 100, 1}); });
  say(fd, post(2, token(1)));
  EXPECT_EQ(result(fd).outcome, TransferOutcome::kDone);
}

TEST_F(TcpCrowd, AGuestOfAQuietNetworkStaysWhileAnotherNetworkFloods) {
  start();
  const UniqueFd quiet = dial("127.0.0.2");
  say(quiet, hello({7, 7}));
  EXPECT_EQ(hear(quiet, kHeaderBytes + 3).size(), kHeaderBytes + 3);
  crowd([](uint64_t i) { return hello({i + 100, 1}); });
  say(quiet, post(1, token(1)));
  EXPECT_EQ(result(quiet).outcome, TransferOutcome::kDone);
}

TEST_F(TcpCrowd, AGreetingThatComesByteByByteHasOneDeadline) {
  TransportOptions options;
  options.connect_timeout = 300ms;
  start(options);
  const UniqueFd fd = dial();
  const std::string greeting = hello();
  const TimePoint end = in(10s);
  bool gone = false;
  for (size_t i = 0; !gone && SteadyClock().now() < end; ++i) {
    if (i + 1 < greeting.size()) say(fd, greeting.substr(i, 1));
    gone = closed(fd, 40ms);
  }
  EXPECT_TRUE(gone);
}

TEST_F(TcpCrowd, WhoShowsNoWindowHasToGoAndWhoIsExpectedMayWait) {
  TransportOptions options;
  options.connect_timeout = 150ms;
  start(options);
  const WindowRange range{region_.id, 4096, 8192};
  ASSERT_TRUE(owner_->open_window(token(9), std::span(&range, 1), kHonest));
  const UniqueFd expected = greet(kHonest);
  const UniqueFd stranger = greet({7, 7});
  EXPECT_TRUE(closed(stranger, 10s));
  std::this_thread::sleep_for(300ms);
  say(expected, post(1, token(9)));
  EXPECT_EQ(result(expected).outcome, TransferOutcome::kDone);
}

TEST_F(TcpCrowd, RefusedPostsProveNothing) {
  start();
  const UniqueFd fd = greet();
  std::string posts;
  for (uint64_t i = 1; i <= 65; ++i) posts += write(i, token(8), {});
  say(fd, posts);
  EXPECT_TRUE(closed(fd));
  const UniqueFd good = greet();
  say(good, post(1, token(1)));
  ASSERT_EQ(result(good).outcome, TransferOutcome::kDone);
  say(good, posts);
  for (int i = 1; i <= 65; ++i) EXPECT_EQ(result(good).outcome, TransferOutcome::kRejected) << i;
}

// Half a header, half a list of runs, half a payload, a post without its last frame: all hold a place, none a window.
TEST_F(TcpCrowd, WhoStopsInTheMiddleHasToGo) {
  TransportOptions options;
  options.stall_timeout = 300ms;
  start(options);
  const WindowToken t = token(20);
  const WindowRange range{region_.id, 4096, 8192};
  ASSERT_TRUE(owner_->open_window(t, std::span(&range, 1)));
  const std::string runs = write(2, t, {{region_.id, 1, 4096, 100, 0}, {region_.id, 1, 5000, 10, 0}});
  const std::string first = write(2, t, {{region_.id, 1, 4096, 1, 0}}, true, false) + "x";
  const std::string beginnings[] = {
      runs.substr(0, 10), runs.substr(0, 40), runs.substr(0, runs.size() - 3), runs, runs + "half", first};
  std::vector<UniqueFd> stopped;
  uint64_t n = 0;
  for (const std::string& beginning : beginnings) {
    stopped.push_back(greet({50 + n++, 0}));
    say(stopped.back(), post(1, t));
    ASSERT_EQ(result(stopped.back()).outcome, TransferOutcome::kDone);
    say(stopped.back(), beginning);
  }
  const UniqueFd idle = greet({80, 0});
  say(idle, post(1, t));
  ASSERT_EQ(result(idle).outcome, TransferOutcome::kDone);
  EXPECT_TRUE(owner_->close_window(t)) << "nobody is waited for";
  EXPECT_TRUE(owner_->window_quiet(t));
  for (size_t i = 0; i < stopped.size(); ++i) EXPECT_TRUE(closed(stopped[i], 10s)) << i;
  say(idle, post(2, token(1)));
  EXPECT_EQ(result(idle).outcome, TransferOutcome::kDone) << "idle between posts is no fault";
}

TEST_F(TcpCrowd, WhoNeverReadsItsAnswersHasToGo) {
  TransportOptions options;
  options.stall_timeout = 300ms;
  start(options);
  const UniqueFd fd = greet();
  const int small = 4096;
  ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
  say(fd, post(1, token(1)));
  ASSERT_EQ(result(fd).outcome, TransferOutcome::kDone);
  std::string posts;
  for (uint64_t i = 2; i <= 2000; ++i) posts += write(i, token(9), {});
  // Until the owner resets the connection: it has kept neither all answers nor the place.
  bool reset = false;
  size_t sent = 0;
  for (const TimePoint end = in(30s); !reset && SteadyClock().now() < end;) {
    const size_t at = sent % posts.size();
    const ssize_t n = ::send(fd.get(), posts.data() + at, posts.size() - at, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n > 0) sent += static_cast<size_t>(n);
    reset = n < 0 && errno != EAGAIN;
    if (n < 0) std::this_thread::sleep_for(1ms);
  }
  EXPECT_TRUE(reset);
}

TEST_F(TcpCrowd, AStrangerIsGivenNoMemoryForWhatItClaims) {
  start();
  std::vector<BlockRun> runs(kFrameBlocksMax, {region_.id, 1, 4096, 1, 0});
  const std::string frame = write(1, token(8), runs);
  ASSERT_GT(frame.size(), 128u << 10);
  const size_t before = ::mallinfo2().uordblks;
  for (uint64_t i = 0; i < 100; ++i) {
    crowd_.push_back(greet({i + 100, 1}));
    say(crowd_.back(), frame.substr(0, frame.size() - 10));
    EXPECT_EQ(result(crowd_.back()).outcome, TransferOutcome::kRejected) << "said before the runs have come";
  }
  EXPECT_LT(::mallinfo2().uordblks, before + (2u << 20));
  say(crowd_.back(), frame.substr(frame.size() - 10) + std::string(kFrameBlocksMax, 'p') + post(2, token(1)));
  EXPECT_EQ(result(crowd_.back()).outcome, TransferOutcome::kDone) << "what was refused was dropped in step";
}

TEST_F(TcpCrowd, WaitsQuietlyForADescriptorToBecomeFree) {
  start();
  const UniqueFd client(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const SocketAddress there = make_address(blob_.address, blob_.port, false).value();
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit none{0, before.rlim_max};  // no new ones; those that are open stay so
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  const int connected = ::connect(client.get(), there.get(), there.length);
  const std::clock_t cpu = std::clock();
  std::this_thread::sleep_for(500ms);
  const std::clock_t spent = std::clock() - cpu;
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_EQ(connected, 0);
  EXPECT_LT(spent, CLOCKS_PER_SEC / 10) << "a thread that spins takes all it can get";
  say(client, hello());
  EXPECT_EQ(hear(client, kHeaderBytes + 3).size(), kHeaderBytes + 3);
}

TEST_F(TcpCrowd, AForgottenWriterIsRefusedUntilItIsConnectedToAgain) {
  start();
  const std::string blob =
      encode_blob({.kind = BlobKind::kTcp, .incarnation = {1, 1}, .address = "127.0.0.1", .port = 9});
  const UniqueFd open = greet();
  owner_->forget(owner_->connect(blob).value());
  EXPECT_TRUE(closed(open));
  const UniqueFd fd = dial();
  say(fd, hello());
  const std::string head = hear(fd, kHeaderBytes);
  const auto welcome = decode_welcome(as_span(hear(fd, decode_header(as_span(head))->body_bytes))).value();
  EXPECT_FALSE(welcome.accepted);
  EXPECT_NE(welcome.detail.find("fenced"), std::string::npos) << welcome.detail;
  say(fd, post(1, token(1)));
  EXPECT_TRUE(closed(fd));
  EXPECT_TRUE(all_equal(region_.memory.host(), 0));
  ASSERT_TRUE(owner_->connect(blob));
  for (const TimePoint end = in(10s); SteadyClock().now() < end; std::this_thread::sleep_for(5ms)) {
    const UniqueFd again = dial();
    say(again, hello());
    const std::string answer = hear(again, kHeaderBytes + 3);
    if (answer.size() > kHeaderBytes && decode_welcome(as_span(answer).subspan(kHeaderBytes)))
      return;  // a refusal has a text behind that
  }
  ADD_FAILURE() << "still fenced";
}

// A writer of the tcp transport, and an owner that is only a socket.
class TcpWriter : public ::testing::Test {
 protected:
  TcpWriter() {
    TransportOptions options;
    options.connect_timeout = 1s;
    writer_ = make("tcp", options);
    from_ = writer_->allocate(64 << 20).value();
    peer_ = writer_
                ->connect(encode_blob({.kind = BlobKind::kTcp,
                                       .incarnation = {5, 5},
                                       .address = "127.0.0.1",
                                       .port = bound_address(listener_.get())->port()}))
                .value();
    events_.emplace(*writer_);
  }
  UniqueFd accept() const {
    pollfd entry{.fd = listener_.get(), .events = POLLIN, .revents = 0};
    ::poll(&entry, 1, 10'000);
    UniqueFd fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    const timeval limit{.tv_sec = 10, .tv_usec = 0};
    ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    return fd;
  }
  static void say(const UniqueFd& fd, const std::string& bytes) {
    EXPECT_EQ(::send(fd.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL), static_cast<ssize_t>(bytes.size()));
  }
  TransferId post(uint64_t bytes) {
    const Block block{from_.id, 0, RegionId(1), 0, bytes};
    return writer_->post_write(peer_, std::span(&block, 1), token(1), in(20s)).value();
  }

  UniqueFd listener_ = listen_on(make_address("127.0.0.1", 0, false).value()).value();
  std::unique_ptr<Transport> writer_;
  Transport::Region from_;
  PeerId peer_;
  std::optional<Events> events_;
};

TEST_F(TcpWriter, AnAnswerThatClaimsMoreThanWasSentIsNotBelieved) {
  for (const TransferOutcome outcome : {TransferOutcome::kRejected, TransferOutcome::kDone}) {
    const TransferId id = post(100);
    const UniqueFd fd = accept();
    say(fd, encode(Welcome{true, ""}));
    std::string frame(kHeaderBytes + 32 + kHeaderBytes + kWriteHeadBytes + kRunBytes + 100, 0);
    ASSERT_EQ(::recv(fd.get(), frame.data(), frame.size(), MSG_WAITALL), static_cast<ssize_t>(frame.size()));
    say(fd, encode(ResultFrame{id.value(), 101, outcome, ""}));
    EXPECT_EQ(events_->wait(id).outcome, TransferOutcome::kPeerLost);
  }
}

// It was opened for a post which another connection then took, or which was cancelled. The owner would close it before
// long, perhaps in the moment in which a post is given to it.
TEST_F(TcpWriter, ClosesAConnectionThatItDoesNotNeed) {
  (void)post(64 << 20);
  const UniqueFd first = accept();
  say(first, encode(Welcome{true, ""}));  // and never read from: the large post stays in it
  const TransferId waiting = post(100);
  const UniqueFd second = accept();
  writer_->cancel(waiting);
  EXPECT_EQ(events_->wait(waiting).outcome, TransferOutcome::kCancelled);
  say(second, encode(Welcome{true, ""}));
  std::array<char, 256> bytes;
  ssize_t n = 1;
  while (n > 0) n = ::recv(second.get(), bytes.data(), bytes.size(), 0);
  EXPECT_TRUE(n == 0 || errno == ECONNRESET) << errno_text();
}

}  // namespace
}  // namespace baton::transport::tcp
