// The fence of the shm transport by itself, step by step, and the edges of attaching.
#include "transport/shm.h"

#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "base/random.h"
#include "transport/blob.h"
#include "transport/shm_attachment.h"
#include "transport/shm_control.h"
#include "transport/shm_socket.h"
#include "transport/test_support.h"

namespace baton::transport::shm {
namespace {

using namespace baton::transport::testing;

UniqueFd pidfd_of(pid_t pid) { return UniqueFd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0))); }

class ShmFence : public ::testing::Test {
 protected:
  ShmFence()
      : memory_(1 << 20),
        owner_(WindowOwner::create({1, 2}).value()),
        view_(WindowView::map(owner_->fd(), {1, 2}).value()) {
    BATON_CHECK(regions_.add(device::Memory::of(memory_)).ok());
    row_ = owner_->add_writer(pidfd_of(::getpid())).value();
  }
  Status open(uint64_t attempt, uint64_t offset = 0, uint64_t length = 100) {
    const WindowRange range{RegionId(1), offset, length};
    return owner_->open(regions_, token(attempt), std::span(&range, 1));
  }

  std::vector<std::byte> memory_;
  RegionTable regions_;
  std::unique_ptr<WindowOwner> owner_;
  WindowView view_;
  uint32_t row_ = 0;
};

TEST_F(ShmFence, AWindowIsFoundWithItsRangesWhileItIsOpen) {
  EXPECT_FALSE(view_.find(token(1)).has_value());
  ASSERT_TRUE(open(1, 50, 10));
  const auto found = view_.find(token(1));
  ASSERT_TRUE(found.has_value());
  EXPECT_TRUE(found->ranges.contains(RegionId(1), 50, 10));
  EXPECT_FALSE(found->ranges.contains(RegionId(1), 49, 10));
  EXPECT_FALSE(view_.find(token(1, 78)).has_value());
  EXPECT_TRUE(owner_->close(token(1)));
  EXPECT_FALSE(view_.find(token(1)).has_value());
}

TEST_F(ShmFence, AWriterInsideKeepsTheWindowFromBeingQuietUntilItLeaves) {
  ASSERT_TRUE(open(1));
  const auto found = view_.find(token(1));
  ASSERT_TRUE(view_.enter(row_, 3, *found));
  EXPECT_FALSE(owner_->close(token(1)));
  EXPECT_FALSE(owner_->quiet(token(1)));
  EXPECT_FALSE(owner_->close(token(1)));
  EXPECT_EQ(open(1).error().code, ErrorCode::kInvalidArgument) << "the token is not quiet";
  view_.leave(row_, 3);
  EXPECT_TRUE(owner_->quiet(token(1)));
  EXPECT_TRUE(open(1));
}

TEST_F(ShmFence, NobodyEntersAClosedWindowEvenIfItsSlotServesAnother) {
  ASSERT_TRUE(open(1));
  const auto found = view_.find(token(1));
  EXPECT_TRUE(owner_->close(token(1)));
  EXPECT_FALSE(view_.enter(row_, 0, *found));
  ASSERT_TRUE(open(2));
  EXPECT_EQ(view_.find(token(2))->slot, found->slot);
  EXPECT_FALSE(view_.enter(row_, 0, *found));
  EXPECT_TRUE(owner_->close(token(2))) << "a refused entry leaves no mark";
}

TEST_F(ShmFence, AWriterInsideOneWindowDoesNotHoldAnother) {
  ASSERT_TRUE(open(1));
  ASSERT_TRUE(open(2));
  ASSERT_TRUE(view_.enter(row_, 0, *view_.find(token(1))));
  EXPECT_TRUE(owner_->close(token(2)));
  EXPECT_FALSE(owner_->close(token(1)));
  view_.leave(row_, 0);
}

TEST_F(ShmFence, ADeadWriterIsQuietWhereverItDied) {
  ASSERT_TRUE(open(1));
  const auto found = view_.find(token(1));
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {  // lives until it is killed
    const ssize_t n = ::write(ready[1], "x", 1);
    for (;;) ::pause();
    ::_exit(static_cast<int>(n));
  }
  char c = 0;
  ASSERT_EQ(::read(ready[0], &c, 1), 1);
  const uint32_t row = owner_->add_writer(pidfd_of(child)).value();
  ASSERT_NE(row, row_);
  ASSERT_TRUE(view_.enter(row, 0, *found));  // on the child's behalf: the mark is all that counts
  EXPECT_FALSE(owner_->close(token(1)));
  owner_->remove_writer(row);  // its socket closing is no evidence
  EXPECT_FALSE(owner_->quiet(token(1)));
  ::kill(child, SIGSTOP);
  EXPECT_FALSE(owner_->quiet(token(1)));
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  EXPECT_TRUE(owner_->quiet(token(1)));
  ::close(ready[0]);
  ::close(ready[1]);
}

TEST_F(ShmFence, ARowIsNotGivenAwayWhileItHasAMark) {
  ASSERT_TRUE(open(1));
  const uint32_t row = owner_->add_writer(pidfd_of(::getpid())).value();
  ASSERT_TRUE(view_.enter(row, 1, *view_.find(token(1))));
  owner_->remove_writer(row);
  EXPECT_NE(owner_->add_writer(pidfd_of(::getpid())).value(), row);
  view_.leave(row, 1);
  EXPECT_EQ(owner_->add_writer(pidfd_of(::getpid())).value(), row);
  while (owner_->add_writer(pidfd_of(::getpid())).ok()) {
  }
  EXPECT_EQ(owner_->add_writer(pidfd_of(::getpid())).error().code, ErrorCode::kResourceExhausted);
}

// Two threads against each other for a while: a writer that writes a cell only inside, an owner that closes and then
// claims the cell.
TEST_F(ShmFence, NoWriteFollowsAQuietClose) {
  std::atomic<uint64_t> cell{0};
  std::atomic<bool> stop{false};
  std::thread writer([&] {
    while (!stop) {
      const auto found = view_.find(token(1));
      if (!found) continue;
      for (int i = 0; i < 100; ++i) {
        if (!view_.enter(row_, 0, *found)) break;
        cell.store(found->epoch, std::memory_order_relaxed);
        view_.leave(row_, 0);
      }
    }
  });
  const TimePoint end = in(1s);
  uint64_t seen = 0, rounds = 0;
  while (SteadyClock().now() < end) {
    ASSERT_TRUE(open(1));
    for (int i = 0; i < 50 && cell.load() == 0; ++i) std::this_thread::yield();
    bool quiet = owner_->close(token(1));
    while (!quiet) quiet = owner_->quiet(token(1));
    seen += cell.load() != 0 ? 1 : 0;
    cell.store(0);
    for (int i = 0; i < 20; ++i) std::this_thread::yield();
    ASSERT_EQ(cell.load(), 0u) << "round " << rounds;
    ++rounds;
  }
  stop = true;
  writer.join();
  EXPECT_GT(seen, 0u);
}

TEST_F(ShmFence, ManyWindowsOfManyRangesAreKeptApart) {
  Random random(3);
  std::map<uint64_t, std::vector<WindowRange>> open_now;
  for (uint64_t attempt = 1; attempt <= 3000; ++attempt) {
    if (open_now.size() > 40 || (!open_now.empty() && random.below(3) == 0)) {
      auto it = open_now.begin();
      std::advance(it, static_cast<ptrdiff_t>(random.below(open_now.size())));
      EXPECT_TRUE(owner_->close(token(it->first)));
      open_now.erase(it);
    }
    std::vector<WindowRange> ranges;
    for (uint64_t i = 0; i <= random.below(30); ++i) ranges.push_back({RegionId(1), i * 1000, 1 + random.below(900)});
    ASSERT_TRUE(owner_->open(regions_, token(attempt), ranges));
    open_now[attempt] = ranges;
    if (attempt % 100 != 0) continue;
    for (const auto& [a, wanted] : open_now) {
      const auto found = view_.find(token(a));
      ASSERT_TRUE(found.has_value());
      ASSERT_EQ(found->ranges.ranges().size(), wanted.size());
      for (size_t i = 0; i < wanted.size(); ++i) {
        ASSERT_EQ(found->ranges.ranges()[i].offset, wanted[i].offset);
        ASSERT_EQ(found->ranges.ranges()[i].length, wanted[i].length);
      }
    }
  }
}

TEST_F(ShmFence, TheTableOfWindowsIsBounded) {
  for (uint64_t attempt = 1; attempt <= kSlots; ++attempt) ASSERT_TRUE(open(attempt));
  EXPECT_EQ(open(kSlots + 1).error().code, ErrorCode::kResourceExhausted);
  EXPECT_TRUE(owner_->close(token(77)));
  EXPECT_TRUE(open(kSlots + 1));
}

TEST(ShmSlab, CannotShrinkUnderAReader) {
  const UniqueFd slab = create_slab("test", 8192).value();
  EXPECT_NE(::ftruncate(slab.get(), 0), 0);
  EXPECT_NE(::ftruncate(slab.get(), 16384), 0);
  EXPECT_TRUE(map_peer_slab(slab.get(), 8192).ok());
  EXPECT_EQ(map_peer_slab(slab.get(), 8193).error().code, ErrorCode::kIncompatible) << "claims more than there is";
  const UniqueFd unsealed(::memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_EQ(::ftruncate(unsealed.get(), 8192), 0);
  EXPECT_EQ(map_peer_slab(unsealed.get(), 8192).error().code, ErrorCode::kIncompatible);
  EXPECT_EQ(create_slab("test", 0).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(create_slab("test", ~uint64_t{0}).error().code, ErrorCode::kInvalidArgument);
}

TEST(ShmAttach, RegionsAddedLaterReachAttachedWriters) {
  auto owner = make("shm");
  auto writer = make("shm");
  Events events(*writer);
  const auto from = writer->allocate(4096).value();
  fill(from.memory.host(), 6);
  const auto first = owner->allocate(4096).value();
  const PeerId peer = *writer->connect(owner->local_blob());
  const auto write_to = [&](RegionId region, uint64_t attempt) {
    const WindowRange all{region, 0, 4096};
    EXPECT_TRUE(owner->open_window(token(attempt), std::span(&all, 1)));
    const Block block{from.id, 0, region, 0, 4096};
    return events.wait(*writer->post_write(peer, std::span(&block, 1), token(attempt), in(20s))).outcome;
  };
  EXPECT_EQ(write_to(first.id, 1), TransferOutcome::kDone);
  const auto second = owner->allocate(4096).value();
  TransferOutcome outcome = TransferOutcome::kRejected;
  for (uint64_t attempt = 2; outcome != TransferOutcome::kDone && attempt < 200; ++attempt) {
    outcome = write_to(second.id, attempt);
    if (outcome != TransferOutcome::kDone) std::this_thread::sleep_for(10ms);
  }
  EXPECT_EQ(outcome, TransferOutcome::kDone);
  EXPECT_TRUE(all_equal(second.memory.host(), 6));
}

// Nothing tells the copy that the owner has died: it has to look, for a dead owner's memory takes bytes as before.
TEST(ShmAttach, ACopyToADeadOwnerIsNotDone) {
  for (const bool process_dies : {true, false}) {
    SCOPED_TRACE(process_dies ? "the process dies" : "the transport is destroyed");
    std::optional<Child> child;
    std::unique_ptr<Transport> here;
    PeerBlob blob;
    if (process_dies) {
      child.emplace("shm", 4096);
      blob = decode_blob(child->blob(), BlobKind::kShm).value();
      ASSERT_EQ(child->ask("open 1"), "ok");
    } else {
      here = make("shm");
      const WindowRange all{here->allocate(4096)->id, 0, 4096};
      ASSERT_TRUE(here->open_window(token(1), std::span(&all, 1)));
      blob = decode_blob(here->local_blob(), BlobKind::kShm).value();
    }
    const auto attachment = Attachment::begin(blob.address, {9, 9}, blob.incarnation).value();
    for (const TimePoint end = in(10s); !attachment->ready() && SteadyClock().now() < end;) {
      pollfd entry{.fd = attachment->fd(), .events = POLLIN, .revents = 0};
      ::poll(&entry, 1, 100);
      ASSERT_TRUE(attachment->on_readable());
    }
    std::vector<std::byte> source(4096);
    RegionTable local;
    const RegionId from = local.add(device::Memory::of(source)).value();
    const PreparedBlocks what{.blocks = {{source.data(), from, RegionId(1), 0, 4096}}, .bytes = 4096};
    device::Streams streams;
    const std::atomic<bool> cancelled{false};
    const auto copy = [&] {
      return attachment->copy(local, what, token(1), {&cancelled, in(10s), 0, &streams}).outcome;
    };
    EXPECT_EQ(copy(), TransferOutcome::kDone);
    child.reset();
    here.reset();
    EXPECT_EQ(copy(), TransferOutcome::kPeerLost);
  }
}

TEST(ShmAttach, HostileMessagesAreRefusedAndTheNextWriterIsServed) {
  TransportOptions options;
  options.bind_address = fmt::format("baton-test-hostile-{}", ::getpid());
  auto owner = make("shm", options);
  const auto to = owner->allocate(4096).value();
  Random random(9);
  for (int round = 0; round < 100; ++round) {
    const UniqueFd fd = connect_to(options.bind_address).value();
    std::string bytes = encode(AttachRequest{{1, 1}, {2, 2}});
    if (round % 2 == 0) {
      bytes[random.below(bytes.size())] = static_cast<char>(random.next());
    } else {
      bytes.resize(1 + random.below(600), 'x');
    }
    ASSERT_TRUE(send_message(fd.get(), bytes, round % 3 == 0 ? fd.get() : -1).ok());
    // At most a refusal, then the end.
    const TimePoint end = in(5s);
    bool ended = false;
    while (!ended && SteadyClock().now() < end) {
      pollfd entry{.fd = fd.get(), .events = POLLIN, .revents = 0};
      ::poll(&entry, 1, 100);
      const auto received = receive_message(fd.get());
      ended = !received.ok();
      EXPECT_FALSE(received.ok() && received->fd.valid()) << "a stranger was given a descriptor";
    }
    ASSERT_TRUE(ended) << round;
  }
  auto writer = make("shm");
  Events events(*writer);
  const auto from = writer->allocate(4096).value();
  const WindowRange all{to.id, 0, 4096};
  ASSERT_TRUE(owner->open_window(token(1), std::span(&all, 1)));
  const Block block{from.id, 0, to.id, 0, 4096};
  const auto id = *writer->post_write(*writer->connect(owner->local_blob()), std::span(&block, 1), token(1), in(20s));
  EXPECT_EQ(events.wait(id).outcome, TransferOutcome::kDone);
}

TEST(ShmAttach, AnOwnerThatNeverAnswersIsLost) {
  const std::string name = fmt::format("baton-test-silent-{}", ::getpid());
  const UniqueFd silent = listen_on(name).value();
  TransportOptions options;
  options.connect_timeout = 300ms;
  auto writer = make("shm", options);
  Events events(*writer);
  const auto from = writer->allocate(4096).value();
  const Block block{from.id, 0, RegionId(1), 0, 4096};
  const PeerId peer =
      *writer->connect(encode_blob({.kind = BlobKind::kShm, .incarnation = {1, 1}, .address = name, .port = 0}));
  EXPECT_EQ(events.wait(*writer->post_write(peer, std::span(&block, 1), token(1), in(20s)), 5s).outcome,
            TransferOutcome::kPeerLost);
}

TEST(ShmAttach, ATakenNameIsSaid) {
  TransportOptions options;
  options.bind_address = fmt::format("baton-test-taken-{}", ::getpid());
  auto first = make("shm", options);
  EXPECT_EQ(make_transport("shm", options).error().code, ErrorCode::kUnavailable);
  options.bind_address = std::string(200, 'n');
  EXPECT_EQ(make_transport("shm", options).error().code, ErrorCode::kInvalidArgument);
}

}  // namespace
}  // namespace baton::transport::shm
