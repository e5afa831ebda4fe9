// What every transport promises of peers, and of posts that end before they are done.
#include "transport/blob.h"
#include "transport/conformance_test.h"

namespace baton::transport::testing {
namespace {

TEST_P(Conformance, BadLocalBlocksAndPeersAreRefusedAtOnce) {
  Pair pair(GetParam(), 4096);
  for (const Block& b : {Block{RegionId(7), 0, pair.to.id, 0, 1}, pair.block(4096, 0, 1), pair.block(0, 0, 4097),
                         pair.block(~uint64_t{0}, 0, 2), pair.block(1, 0, ~uint64_t{0})}) {
    EXPECT_EQ(pair.post({b}, token(1)).error().code, ErrorCode::kInvalidArgument);
  }
  const Block good = pair.block(0, 0, 1);
  EXPECT_EQ(pair.writer->post_write(PeerId(44), std::span(&good, 1), token(1), in(1s)).error().code,
            ErrorCode::kUnavailable);
  EXPECT_EQ(pair.writer->connect("nonsense").error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(pair.writer->connect("").error().code, ErrorCode::kInvalidArgument);
  const std::string blob = pair.owner->local_blob();
  for (size_t n = 0; n < blob.size(); ++n) EXPECT_FALSE(pair.writer->connect(blob.substr(0, n)).ok()) << n;
  EXPECT_EQ(*pair.writer->connect(blob), pair.peer);
}

TEST_P(Conformance, AnotherIncarnationAtTheSameAddressIsNotWritten) {
  const std::string name = GetParam();
  TransportOptions options;
  options.incarnation = {1, 1};
  if (!is_tcp(name)) options.bind_address = fmt::format("baton-test-{}", ::getpid());
  auto owner = make(name, options);
  if (is_tcp(name)) {
    options.bind_address = fmt::format("127.0.0.1:{}", decode_blob(owner->local_blob(), BlobKind::kTcp)->port);
  }
  const std::string blob = owner->local_blob();
  ASSERT_TRUE(owner->allocate(4096).ok());

  auto writer = make(name);
  Events events(*writer);
  const auto from = writer->allocate(4096).value();
  fill(from.memory, 0xff);
  const PeerId peer = *writer->connect(blob);
  const Block block{from.id, 0, RegionId(1), 0, 4096};
  const WindowRange all{RegionId(1), 0, 4096};
  ASSERT_TRUE(owner->open_window(token(1), std::span(&all, 1)));
  ASSERT_EQ(events.wait(*writer->post_write(peer, std::span(&block, 1), token(1), in(20s))).outcome,
            TransferOutcome::kDone);

  owner.reset();
  options.incarnation = {1, 2};
  owner = make(name, options);
  const auto to = owner->allocate(4096).value();
  ASSERT_TRUE(owner->open_window(token(1), std::span(&all, 1)));

  // The connection of before may be noticed to be gone by the first post; from then on the answer is clear.
  auto event = events.wait(*writer->post_write(peer, std::span(&block, 1), token(1), in(20s)));
  if (event.outcome == TransferOutcome::kPeerLost) {
    event = events.wait(*writer->post_write(peer, std::span(&block, 1), token(1), in(20s)));
  }
  EXPECT_EQ(event.outcome, TransferOutcome::kRejected) << event.detail;
  EXPECT_NE(event.detail.find("stale"), std::string::npos) << event.detail;
  auto fresh = make(name);
  Events fresh_events(*fresh);
  const auto source = fresh->allocate(4096).value();
  const Block again{source.id, 0, RegionId(1), 0, 4096};
  event = fresh_events.wait(*fresh->post_write(*fresh->connect(blob), std::span(&again, 1), token(1), in(20s)));
  EXPECT_EQ(event.outcome, TransferOutcome::kRejected) << event.detail;
  EXPECT_TRUE(all_equal(to.memory, 0));

  // The new blob is a new peer and works.
  event =
      events.wait(*writer->post_write(*writer->connect(owner->local_blob()), std::span(&block, 1), token(1), in(20s)));
  EXPECT_EQ(event.outcome, TransferOutcome::kDone) << event.detail;
  EXPECT_TRUE(all_equal(to.memory, 0xff));
}

TEST_P(Conformance, TwoInstancesOnOneHostAreTwo) {
  Pair pair(GetParam(), 4096);
  auto second = make(GetParam());
  const auto second_to = second->allocate(4096).value();
  ASSERT_NE(second->local_blob(), pair.owner->local_blob());
  fill(pair.from.memory, 0xff);
  const WindowRange all{second_to.id, 0, 4096};
  ASSERT_TRUE(second->open_window(token(1), std::span(&all, 1)));
  EXPECT_EQ(pair.write({pair.block(0, 0, 4096)}, token(1)).outcome, TransferOutcome::kRejected) << "the other's window";
  const Block block = pair.block(0, 0, 4096);
  const PeerId peer = *pair.writer->connect(second->local_blob());
  EXPECT_EQ(pair.events.wait(*pair.writer->post_write(peer, std::span(&block, 1), token(1), in(20s))).outcome,
            TransferOutcome::kDone);
  EXPECT_TRUE(all_equal(second_to.memory, 0xff));
  EXPECT_TRUE(all_equal(pair.to.memory, 0));
}

TEST_P(Conformance, ForgettingAPeerEndsItsPosts) {
  Pair pair(GetParam(), 32 * kMiB);
  ASSERT_TRUE(pair.open(1));
  const std::vector<TransferId> ids = pair.post_times(4, {pair.block(0, 0, 32 * kMiB)}, token(1));
  pair.writer->forget(pair.peer);
  EXPECT_EQ(pair.events.wait(ids.back()).outcome, TransferOutcome::kPeerLost);
  for (const TransferId id : ids) pair.events.wait(id);
  EXPECT_EQ(pair.post({pair.block(0, 0, 1)}, token(1)).error().code, ErrorCode::kUnavailable);
  // Pairing again makes it a peer again.
  pair.peer = *pair.writer->connect(pair.owner->local_blob());
  EXPECT_EQ(pair.write({pair.block(0, 0, 1)}, token(1)).outcome, TransferOutcome::kDone);
}

// Two pairings with one address: the first to leave does not end the other's.
TEST_P(Conformance, APeerLivesAsLongAsOneOfItsPairings) {
  Pair pair(GetParam(), 4096);
  ASSERT_TRUE(pair.open(1));
  ASSERT_EQ(*pair.writer->connect(pair.owner->local_blob()), pair.peer);
  pair.writer->forget(pair.peer);
  EXPECT_EQ(pair.write({pair.block(0, 0, 4096)}, token(1)).outcome, TransferOutcome::kDone);
  pair.writer->forget(pair.peer);
  EXPECT_EQ(pair.post({pair.block(0, 0, 1)}, token(1)).error().code, ErrorCode::kUnavailable);
  pair.writer->forget(pair.peer);  // once too often
  EXPECT_EQ(pair.post({pair.block(0, 0, 1)}, token(1)).error().code, ErrorCode::kUnavailable);
}

// The owner forgets a writer and pairs with it again: the writer is one more time as good as before.
TEST_P(Conformance, AForgottenWriterIsLetInAgainWhenBothPair) {
  Pair pair(GetParam(), 4096);
  ASSERT_TRUE(pair.open(1));
  const auto write = [&] { return pair.write({pair.block(0, 0, 4096)}, token(1)).outcome; };
  const auto becomes = [&](bool done) {
    bool is = write() == TransferOutcome::kDone;
    for (const TimePoint end = in(10s); is != done && SteadyClock().now() < end;)
      is = write() == TransferOutcome::kDone;
    return is == done;
  };
  const PeerId writer = *pair.owner->connect(pair.writer->local_blob());
  ASSERT_TRUE(becomes(true));
  pair.owner->forget(writer);
  if (is_tcp(GetParam())) {
    EXPECT_TRUE(becomes(false)) << "its connections are closed and new ones refused";
  }
  EXPECT_TRUE(pair.owner->connect(pair.writer->local_blob()).ok());
  EXPECT_EQ(*pair.writer->connect(pair.owner->local_blob()), pair.peer);
  EXPECT_TRUE(becomes(true));
}

TEST_P(Conformance, ACancelledPostEndsOnceAndWritesNoMore) {
  constexpr uint64_t kBytes = 32 * kMiB;
  Pair pair(GetParam(), kBytes);
  fill(pair.from.memory, 0xff);
  ASSERT_TRUE(pair.open(1));
  ASSERT_EQ(pair.write({pair.block(0, 0, 1)}, token(1)).outcome, TransferOutcome::kDone);
  const std::vector<TransferId> ids = pair.post_times(6, {pair.block(0, 0, kBytes)}, token(1));
  for (const TransferId id : ids) pair.writer->cancel(id);
  pair.writer->cancel(TransferId(999'999));
  int cancelled = 0;
  for (const TransferId id : ids) {
    const TransferEvent event = pair.events.wait(id);
    EXPECT_TRUE(event.outcome == TransferOutcome::kCancelled || event.outcome == TransferOutcome::kDone)
        << event.detail;
    EXPECT_TRUE(event.remote_quiesced);
    cancelled += event.outcome == TransferOutcome::kCancelled ? 1 : 0;
  }
  EXPECT_GE(cancelled, 4);
  fill(pair.to.memory, 0xaa);
  ASSERT_EQ(pair.write({pair.block(0, 0, 1)}, token(1)).outcome, TransferOutcome::kDone);
  EXPECT_TRUE(all_equal(behind(pair.to.memory, 1), 0xaa));
}

TEST_P(Conformance, APostWhoseDeadlineHasPassedTimesOut) {
  Pair pair(GetParam(), 4096);
  fill(pair.from.memory, 0xff);
  ASSERT_TRUE(pair.open(1));
  const TransferEvent event = pair.write({pair.block(0, 0, 4096)}, token(1), -1s);
  EXPECT_EQ(event.outcome, TransferOutcome::kTimeout);
  EXPECT_TRUE(event.remote_quiesced) << "nothing was sent";
  EXPECT_TRUE(all_equal(pair.to.memory, 0));
}

TEST(MakeTransport, RefusesWhatItDoesNotKnow) {
  EXPECT_EQ(make_transport("carrier pigeon", {}).error().code, ErrorCode::kInvalidArgument);
  TransportOptions options;
  options.queue_bytes = 0;
  EXPECT_EQ(make_transport("tcp", options).error().code, ErrorCode::kInvalidArgument);
  options = {};
  options.copy_threads = 9;
  EXPECT_EQ(make_transport("shm", options).error().code, ErrorCode::kInvalidArgument);
  options = {};
  options.advertise_host = "0.0.0.0";
  EXPECT_EQ(make_transport("tcp", options).error().code, ErrorCode::kInvalidArgument) << "peers cannot connect to it";
  options.advertise_host = "::1";
  EXPECT_EQ(make_transport("tcp", options).error().code, ErrorCode::kInvalidArgument) << "nobody listens there";
}

TEST(MakeTransport, ABlobOfAnotherTransportIsRefusedByName) {
  const auto failed = make("shm")->connect(make("tcp")->local_blob());
  EXPECT_EQ(failed.error().code, ErrorCode::kIncompatible);
  EXPECT_NE(failed.error().message.find("tcp"), std::string::npos) << failed.error().message;
}

}  // namespace
}  // namespace baton::transport::testing
