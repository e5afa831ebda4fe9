// What staged bytes add to tcp: copies that are under way when something ends. Held back by a valve, so that every test
// has its moment.
#include <functional>
#include <optional>

#include "transport/conformance_test.h"
#include "transport/tcp_owner_test.h"
#include "transport/tcp_staging.h"

namespace baton::transport::tcp {
namespace {

bool becomes_true(const std::function<bool()>& what, Duration limit = 10s) {
  for (const TimePoint end = in(limit); SteadyClock().now() < end; std::this_thread::sleep_for(1ms)) {
    if (what()) return true;
  }
  return what();
}

TransportOptions staged_by(const std::shared_ptr<Valve>& valve) {
  TransportOptions options;
  options.connections_per_peer = 16;
  options.staging = {.always = true, .make_stream = worker_streams(valve)};
  return options;
}

class TcpStaging : public ::testing::Test {
 protected:
  explicit TcpStaging(uint64_t bytes = 3 * kMiB) {
    owner_ = make("tcp", staged_by(at_owner_));
    writer_ = make("tcp", staged_by(at_writer_));
    to_ = owner_->allocate(bytes).value();
    from_ = writer_->allocate(bytes).value();
    fill(from_.memory.host(), 0xff);
    peer_ = writer_->connect(owner_->local_blob()).value();
    events_.emplace(*writer_);
    open(1);
  }
  ~TcpStaging() override {
    at_owner_->open();
    at_writer_->open();
  }
  void open(uint64_t attempt) {
    const WindowRange all{to_.id, 0, to_.memory.size};
    ASSERT_TRUE(owner_->open_window(token(attempt), std::span(&all, 1)));
  }
  TransferId post(uint64_t bytes, uint64_t attempt = 1) {
    const Block block{from_.id, 0, to_.id, 0, bytes};
    return writer_->post_write(peer_, std::span(&block, 1), token(attempt), in(20s)).value();
  }
  size_t ended() {
    events_->collect();
    return events_->count();
  }

  std::shared_ptr<Valve> at_owner_ = std::make_shared<Valve>(), at_writer_ = std::make_shared<Valve>();
  std::unique_ptr<Transport> owner_, writer_;
  Transport::Region to_, from_;
  PeerId peer_;
  std::optional<Events> events_;
};

TEST_F(TcpStaging, APostIsDoneWhenItsCopiesAreAndNotBefore) {
  at_owner_->shut();
  const TransferId id = post(4096);
  ASSERT_TRUE(becomes_true([&] { return at_owner_->waiting() > 0; }));
  std::this_thread::sleep_for(50ms);
  EXPECT_EQ(ended(), 0u);
  at_owner_->open();
  EXPECT_EQ(events_->wait(id).outcome, TransferOutcome::kDone);
  EXPECT_TRUE(all_equal(to_.memory.host().first(4096), 0xff));
}

TEST_F(TcpStaging, AWindowWithACopyInsideIsNotQuiet) {
  at_owner_->shut();
  const TransferId id = post(3 * kMiB);
  ASSERT_TRUE(becomes_true([&] { return at_owner_->waiting() > 0; }));
  EXPECT_FALSE(owner_->close_window(token(1)));
  EXPECT_FALSE(owner_->close_window(token(1))) << "again";
  EXPECT_FALSE(owner_->window_quiet(token(1)));
  const WindowRange all{to_.id, 0, kMiB};
  EXPECT_EQ(owner_->open_window(token(1), std::span(&all, 1)).error().code, ErrorCode::kInvalidArgument);
  std::this_thread::sleep_for(50ms);
  EXPECT_EQ(ended(), 0u) << "an answer, also a refusal, says that nothing of the post is on its way";
  at_owner_->open();
  ASSERT_TRUE(becomes_true([&] { return owner_->window_quiet(token(1)); }));
  fill(to_.memory.host(), 0xaa);
  const TransferEvent event = events_->wait(id);
  // All of it may have been let in before the window was closed.
  EXPECT_TRUE(event.outcome == TransferOutcome::kRejected || event.outcome == TransferOutcome::kDone);
  EXPECT_TRUE(all_equal(to_.memory.host(), 0xaa));
  EXPECT_TRUE(owner_->close_window(token(1)));
  open(1);
  EXPECT_EQ(events_->wait(post(4096)).outcome, TransferOutcome::kDone);
}

// The owner's end of a connection is closed with a copy inside, by the death of its writer.
TEST_F(TcpStaging, AWriterThatLeavesTakesItsCopiesOutOfTheWindow) {
  at_owner_->shut();
  post(kMiB);
  ASSERT_TRUE(becomes_true([&] { return at_owner_->waiting() > 0; }));
  events_.reset();
  writer_.reset();
  std::this_thread::sleep_for(50ms);
  EXPECT_FALSE(owner_->close_window(token(1)));
  at_owner_->open();
  EXPECT_TRUE(becomes_true([&] { return owner_->window_quiet(token(1)); }));
  fill(to_.memory.host(), 0xaa);
  std::this_thread::sleep_for(50ms);
  EXPECT_TRUE(all_equal(to_.memory.host(), 0xaa));
}

TEST_F(TcpStaging, AnEndedPostIsReadNoLonger) {
  for (const bool forget : {true, false}) {
    if (forget) {
      ASSERT_EQ(events_->wait(post(1)).outcome, TransferOutcome::kDone) << "connected";
    }
    const size_t before = ended();
    at_writer_->shut();
    const TransferId id = post(3 * kMiB);
    ASSERT_TRUE(becomes_true([&] { return at_writer_->waiting() > 0; }));
    if (forget) {
      writer_->forget(peer_);
    } else {
      writer_->cancel(id);
    }
    std::this_thread::sleep_for(50ms);
    EXPECT_EQ(ended(), before) << "its pages are being read";
    at_writer_->open();
    EXPECT_EQ(events_->wait(id).outcome, forget ? TransferOutcome::kPeerLost : TransferOutcome::kCancelled);
    if (forget) {
      peer_ = writer_->connect(owner_->local_blob()).value();
    }
  }
}

// Sixteen connections and half as many chunks that are all in use: the others wait, and go on.
TEST_F(TcpStaging, ConnectionsWaitForTheChunksOfOthers) {
  at_owner_->shut();
  std::vector<TransferId> ids(64);
  for (TransferId& id : ids) id = post(3 * kMiB);
  std::this_thread::sleep_for(200ms);
  EXPECT_EQ(ended(), 0u);
  at_owner_->open();
  for (const TransferId id : ids) EXPECT_EQ(events_->wait(id).outcome, TransferOutcome::kDone);
}

TEST_F(TcpStaging, AnIdleConnectionHoldsNoChunk) {
  std::vector<std::unique_ptr<Transport>> owners;
  for (size_t i = 0; i <= Staging::kChunksOut; ++i) {
    owners.push_back(make("tcp"));
    const Transport::Region to = owners.back()->allocate(4096).value();
    const WindowRange all{to.id, 0, 4096};
    ASSERT_TRUE(owners.back()->open_window(token(1), std::span(&all, 1)));
    const Block block{from_.id, 0, to.id, 0, 4096};
    const PeerId peer = writer_->connect(owners.back()->local_blob()).value();
    const auto id = writer_->post_write(peer, std::span(&block, 1), token(1), in(2s)).value();
    ASSERT_EQ(events_->wait(id).outcome, TransferOutcome::kDone) << i;
  }
}

// Writers that stop in the middle of a frame, which may have a window each, keep nothing that others need.
TEST_F(TcpOwner, NoChunkWaitsForAWriter) {
  start(staged_by(std::make_shared<Valve>()));
  std::vector<UniqueFd> halves;
  for (size_t i = 0; i < 2 * Staging::kChunksIn; ++i) {
    halves.push_back(greet({2, i}));
    say(halves.back(), write(1, token(1), {{region_.id, 1, 4096, 4096, 0}}) + std::string(2048, 'x'));
  }
  const UniqueFd fd = greet();
  say(fd, write(1, token(1), {{region_.id, 1, 8192, 4096, 0}}) + std::string(4096, 'y'));
  EXPECT_EQ(result(fd).outcome, TransferOutcome::kDone);
  EXPECT_TRUE(all_equal(region_.memory.host().subspan(8192, 4096), 'y'));
  // What came of the others is in place, and the rest goes on from there.
  say(halves[0], std::string(2048, 'z'));
  EXPECT_EQ(result(halves[0]).outcome, TransferOutcome::kDone);
  EXPECT_TRUE(all_equal(region_.memory.host().subspan(4096, 2048), 'x'));
  EXPECT_TRUE(all_equal(region_.memory.host().subspan(6144, 2048), 'z'));
}

// Owners that do not read hold the chunks of their posts until these time out; then others get them.
TEST_F(TcpOwner, ChunksOfPostsToOwnersThatDoNotReadComeBack) {
  start();
  TransportOptions options = staged_by(std::make_shared<Valve>());
  options.connections_per_peer = 1;
  const auto writer = make("tcp", options);
  Events events(*writer);
  const auto from = writer->allocate(64 * kMiB).value();
  const auto post = [&](const std::string& blob, uint64_t bytes, uint64_t offset, Duration limit) {
    const Block block{from.id, 0, region_.id, offset, bytes};
    return writer->post_write(writer->connect(blob).value(), std::span(&block, 1), token(1), in(limit)).value();
  };
  std::vector<UniqueFd> silent, accepted;
  std::vector<TransferId> ids;
  for (size_t i = 0; i < Staging::kChunksOut; ++i) {
    silent.push_back(listen_on(make_address("127.0.0.1", 0, false).value()).value());
    const PeerBlob blob{.kind = BlobKind::kTcp,
                        .incarnation = {9, i},
                        .address = "127.0.0.1",
                        .port = bound_address(silent.back().get())->port()};
    ids.push_back(post(encode_blob(blob), 64 * kMiB, 0, 1s));
    pollfd entry{.fd = silent.back().get(), .events = POLLIN, .revents = 0};
    ASSERT_EQ(::poll(&entry, 1, 5000), 1);
    accepted.emplace_back(::accept4(silent.back().get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    ASSERT_EQ(hear(accepted.back(), kHeaderBytes + 32).size(), kHeaderBytes + 32);
    say(accepted.back(), encode(Welcome{.accepted = true, .detail = {}}));
  }
  const TransferEvent event = events.wait(post(owner_->local_blob(), 4096, 4096, 20s));
  EXPECT_EQ(event.outcome, TransferOutcome::kDone) << event.detail;
  for (const TransferId id : ids) EXPECT_EQ(events.wait(id).outcome, TransferOutcome::kTimeout);
}

}  // namespace
}  // namespace baton::transport::tcp
