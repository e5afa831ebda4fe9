// Each service against a peer that speaks the frames by hand: stale, repeated, malformed and missing ones, and
// evidence.
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <atomic>
#include <thread>

#include "handoff/control_connection.h"
#include "handoff/pairing.h"
#include "handoff/rig_test.h"

namespace baton {
namespace {

using namespace std::chrono_literals;

constexpr Incarnation kPrefill{1, 1}, kDecode{2, 2};
constexpr int kPage = 8;

PairSpec spec() {
  return {.name = "",
          .geometry = mla_geometry(),
          .prefill = {{.tp = 1}, kPage, 16},
          .decode = {{.tp = 1}, kPage, 16},
          .fanout = {},
          .policy = {}};
}

std::unique_ptr<Transport> loopback(Incarnation incarnation) {
  TransportOptions options;
  options.incarnation = incarnation;
  options.bind_address = draw_incarnation().to_string();
  auto made = make_transport("loopback", options);
  BATON_CHECK(made.ok(), "{}", made.error().message);
  return std::move(*made);
}

sockaddr_in local(uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(port);
  return address;
}

// The other end, by hand.
class RawPeer {
 public:
  static ControlFd connect_to(uint16_t port) {
    ControlFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const sockaddr_in address = local(port);
    BATON_CHECK(::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0, "connect");
    return fd;
  }
  explicit RawPeer(ControlFd fd) : fd_(fd.get()), connection_(std::move(fd), SteadyClock().now()) {
    connection_.set_paired();
  }

  void send(const Frame& frame) { connection_.send(frame); }
  // The next frame that is not a Ping or a Pong; nullopt when there is none in time or the connection is closed.
  std::optional<Frame> next(Duration timeout = 5s) {
    const TimePoint until = SteadyClock().now() + timeout;
    for (;;) {
      const Result<std::optional<Frame>> frame = connection_.next();
      BATON_CHECK(frame.ok(), "{}", frame.error().message);
      if (frame->has_value()) {
        if (std::holds_alternative<Pong>(**frame)) ++pongs;
        if (std::holds_alternative<Ping>(**frame) || std::holds_alternative<Pong>(**frame)) continue;
        return **frame;
      }
      pollfd fd{fd_, POLLIN, 0};
      if (connection_.broken() || SteadyClock().now() > until) return std::nullopt;
      if (::poll(&fd, 1, 5) == 1) connection_.receive(SteadyClock().now());
    }
  }
  template <typename T>
  T expect() {
    const std::optional<Frame> frame = next();
    BATON_CHECK(frame && std::holds_alternative<T>(*frame), "got {}", frame ? frame_name(*frame) : "nothing");
    return std::get<T>(*frame);
  }
  [[nodiscard]] bool closed() {
    next(200ms);
    return connection_.broken();
  }
  int pongs = 0;

 private:
  int fd_;
  ControlConnection connection_;
};

template <typename Done>
bool eventually(Done done, Duration timeout = 5s) {
  const TimePoint until = SteadyClock().now() + timeout;
  while (!done()) {
    if (SteadyClock().now() > until) return false;
    std::this_thread::sleep_for(1ms);
  }
  return true;
}

// ---- a decode instance by hand, against the prefill service ----

class AgainstPrefill : public testing::Test {
 protected:
  // Patient unless told otherwise: the peer by hand does not answer pings.
  explicit AgainstPrefill(Duration heartbeat = 10s)
      : transport_(loopback(kDecode)),
        memory_(spec().decode, spec().geometry, *transport_),
        prefill_(spec(), loopback(kPrefill), kPrefill, options(heartbeat)) {}

  static PrefillHandoffOptions options(Duration heartbeat) {
    PrefillHandoffOptions options;
    options.heartbeat = heartbeat;
    options.early_grants_max = 2;
    return options;
  }
  std::unique_ptr<RawPeer> meet() {
    auto peer = std::make_unique<RawPeer>(RawPeer::connect_to(prefill_.port()));
    const Manifest self = complete_manifest(manifest_of(spec(), spec().decode, kDecode), InstanceRole::kDecode,
                                            *transport_, memory_.pools())
                              .value();
    peer->send(self);
    const Planner planner = agree(peer->expect<Manifest>(), self).value();
    EXPECT_EQ(peer->expect<Accept>().plan_hash, planner.hash());
    peer->send(Accept{planner.hash()});
    return peer;
  }
  static Grant grant(uint64_t attempt, int64_t tokens = 20) {
    Grant grant;
    grant.attempt = AttemptId(attempt);
    grant.decode = kDecode;
    grant.prefill = kPrefill;
    grant.prompt_tokens = tokens;
    grant.window_secret = attempt * 77;
    grant.budget_ms = 5000;
    for (int64_t i = 0; i * kPage < tokens; ++i) grant.pages.push_back({PageId(static_cast<uint32_t>(i)), 1});
    return grant;
  }

  std::unique_ptr<Transport> transport_;
  Memory memory_;
  TestPrefill prefill_;
};

TEST_F(AgainstPrefill, NoiseIsDroppedAndOthersAreServed) {
  const ControlFd noise = RawPeer::connect_to(prefill_.port());
  ASSERT_GT(::send(noise.get(), "GET / HTTP/1.1\r\n\r\n", 18, MSG_NOSIGNAL), 0);
  EXPECT_TRUE(eventually([&] { return prefill_.stats().bad_frames == 1; }));
  const ControlFd huge = RawPeer::connect_to(prefill_.port());
  ASSERT_GT(::send(huge.get(), "\xff\xff\xff\xff", 4, MSG_NOSIGNAL), 0);
  EXPECT_TRUE(eventually([&] { return prefill_.stats().bad_frames == 2; }));
  RawPeer early(RawPeer::connect_to(prefill_.port()));
  early.send(grant(1));  // before a manifest
  EXPECT_TRUE(early.closed());
  auto peer = meet();
  peer->send(Ping{3});
  EXPECT_FALSE(peer->next(100ms));
  EXPECT_GE(peer->pongs, 1);
}

TEST_F(AgainstPrefill, AnotherPlanHashIsRefused) {
  RawPeer peer(RawPeer::connect_to(prefill_.port()));
  peer.send(complete_manifest(manifest_of(spec(), spec().decode, kDecode), InstanceRole::kDecode, *transport_,
                              memory_.pools())
                .value());
  peer.expect<Manifest>();
  peer.send(Accept{peer.expect<Accept>().plan_hash + 1});
  EXPECT_NE(peer.expect<Refuse>().text.find("plan hash"), std::string::npos);
  EXPECT_TRUE(peer.closed());
}

TEST_F(AgainstPrefill, StaleGrantsHaveNoEffectAndARepeatIsOneGrant) {
  auto peer = meet();
  Grant stale = grant(1);
  stale.prefill = {9, 9};
  peer->send(stale);
  stale = grant(1);
  stale.decode = {9, 9};
  peer->send(stale);
  peer->send(Release{AttemptId(5), 1});
  EXPECT_TRUE(eventually([&] { return prefill_.stats().stale_frames == 3; }));

  ASSERT_TRUE(transport_
                  ->open_window({AttemptId(1), 77}, std::vector<WindowRange>{{memory_.pools()[0].region, 0,
                                                                              memory_.pools()[0].bytes.size()}})
                  .ok());
  prefill_.paused = true;
  prefill_.begin(AttemptId(1), 0, 20);
  peer->send(grant(1));
  peer->send(grant(1));
  Grant other = grant(1);
  other.pages[0].generation = 2;
  peer->send(other);
  EXPECT_TRUE(eventually([&] { return prefill_.stats().stale_frames == 4; }));
  prefill_.paused = false;
  std::optional<Frame> frame;
  ASSERT_TRUE(eventually([&] {
    prefill_.pump();
    frame = peer->next(1ms);
    return frame.has_value();
  }));
  const Commit commit = std::get<Commit>(*frame);
  EXPECT_EQ(commit.grant_digest, grant_digest(grant(1)));
  EXPECT_EQ(memory_.compare(1, 0, numbers_of(grant(1).pages), 0, 20), "");
  peer->send(Release{AttemptId(1), commit.grant_digest});
  peer->send(Release{AttemptId(1), commit.grant_digest});
  EXPECT_TRUE(eventually([&] { return prefill_.stats().stale_frames == 5 && prefill_.stats().committed == 1; }));
}

TEST_F(AgainstPrefill, GrantsThatCannotBeAreTurnedDown) {
  auto peer = meet();
  Grant outside = grant(1);
  outside.pages[1].page = PageId(16);
  Grant few = grant(2);
  few.pages.pop_back();
  Grant group = grant(3);
  group.dp_rank = 1;
  Grant cached = grant(4);
  cached.cached_tokens = 3;
  for (const Grant& bad : {outside, few, group, cached}) {
    peer->send(bad);
    const Cancel cancel = peer->expect<Cancel>();
    EXPECT_EQ(cancel.attempt, bad.attempt);
    EXPECT_TRUE(cancel.fault);
    EXPECT_EQ(peer->expect<Drained>().grant_digest, grant_digest(bad));
  }
  // The table of early grants is bounded.
  for (const uint64_t attempt : {10, 11, 12}) peer->send(grant(attempt));
  EXPECT_EQ(peer->expect<Cancel>().attempt, AttemptId(12));
  EXPECT_EQ(peer->expect<Drained>().attempt, AttemptId(12));
}

TEST_F(AgainstPrefill, CancelIsAnsweredWithDrainedKnownOrNot) {
  auto peer = meet();
  peer->send(Cancel{AttemptId(8), 123, false, "left"});
  EXPECT_EQ(peer->expect<Drained>().grant_digest, 123u);
  peer->send(grant(9));
  peer->send(Cancel{AttemptId(9), grant_digest(grant(9)), false, "left"});
  EXPECT_EQ(peer->expect<Drained>().grant_digest, grant_digest(grant(9)));
  prefill_.begin(AttemptId(9), 0, 20);  // comes late and is told at once
  ASSERT_TRUE(eventually([&] {
    prefill_.pump();
    return prefill_.idle();
  }));
  EXPECT_EQ(prefill_.ended().at(AttemptId(9)).outcome, AttemptOutcome::kCancelled);
}

class AgainstImpatientPrefill : public AgainstPrefill {
 protected:
  AgainstImpatientPrefill() : AgainstPrefill(100ms) {}
};

TEST_F(AgainstImpatientPrefill, ASilentDecodeIsLostAndItsAttemptsFail) {
  auto peer = meet();
  prefill_.begin(AttemptId(1), 0, 20);
  peer->send(grant(1));
  prefill_.paused = true;
  ASSERT_TRUE(eventually([&] {  // the peer does not answer pings from here on
    prefill_.pump();
    return prefill_.idle();
  }));
  EXPECT_EQ(prefill_.ended().at(AttemptId(1)).outcome, AttemptOutcome::kFailed);
  EXPECT_EQ(prefill_.stats().failures["peer_lost"], 1u);
  EXPECT_EQ(prefill_.stats().peers, 0u);
}

TEST_F(AgainstPrefill, ANewConnectionOfTheSameDecodeReplacesTheOld) {
  auto first = meet();
  first->send(grant(1));
  auto second = meet();
  EXPECT_TRUE(first->closed());
  EXPECT_TRUE(eventually([&] { return prefill_.stats().peers == 1; }));
  second->send(Cancel{AttemptId(1), grant_digest(grant(1)), true, "lost"});
  EXPECT_EQ(second->expect<Drained>().attempt, AttemptId(1));
}

// ---- a prefill instance by hand, against the decode service ----

// A transport whose windows do not become quiet until told.
class BusyWindows final : public Transport {
 public:
  explicit BusyWindows(std::unique_ptr<Transport> inner) : inner_(std::move(inner)) {}
  std::atomic<bool> busy{false};
  TransportCaps caps() const override { return inner_->caps(); }
  Result<Region> allocate(uint64_t bytes) override { return inner_->allocate(bytes); }
  Result<RegionId> register_memory(std::span<std::byte> bytes) override { return inner_->register_memory(bytes); }
  std::string local_blob() const override { return inner_->local_blob(); }
  Result<PeerId> connect(std::string_view blob) override { return inner_->connect(blob); }
  Status open_window(const WindowToken& token, std::span<const WindowRange> ranges) override {
    return inner_->open_window(token, ranges);
  }
  bool close_window(const WindowToken& token) override { return inner_->close_window(token) && !busy; }
  bool window_quiet(const WindowToken& token) override { return inner_->window_quiet(token) && !busy; }
  Result<TransferId> post_write(PeerId peer, std::span<const Block> blocks, const WindowToken& token,
                                TimePoint deadline) override {
    return inner_->post_write(peer, blocks, token, deadline);
  }
  void cancel(TransferId transfer) override { inner_->cancel(transfer); }
  void poll(std::vector<TransferEvent>* events) override { inner_->poll(events); }
  int event_fd() const override { return inner_->event_fd(); }
  void forget(PeerId peer) override { inner_->forget(peer); }

 private:
  std::unique_ptr<Transport> inner_;
};

class AgainstDecode : public testing::Test {
 protected:
  explicit AgainstDecode(Duration heartbeat = 10s)
      : transport_(loopback(kPrefill)), memory_(spec().prefill, spec().geometry, *transport_) {
    listener_ = listen_on("127.0.0.1", 0).value();
    port_ = bound_port(listener_.get()).value();
    auto busy = std::make_unique<BusyWindows>(loopback(kDecode));
    windows_ = busy.get();
    DecodeHandoffOptions options;
    options.heartbeat = heartbeat;
    decode_ = std::make_unique<TestDecode>(spec(), std::move(busy), kDecode, options);
  }
  std::unique_ptr<RawPeer> meet(Incarnation incarnation = kPrefill) {
    ControlFd fd;
    EXPECT_TRUE(eventually([&] {
      fd = ControlFd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      return fd.open();
    }));
    auto peer = std::make_unique<RawPeer>(std::move(fd));
    const Manifest self = complete_manifest(manifest_of(spec(), spec().prefill, incarnation), InstanceRole::kPrefill,
                                            *transport_, memory_.pools())
                              .value();
    const Planner planner = agree(self, peer->expect<Manifest>()).value();
    peer->send(self);
    peer->send(Accept{planner.hash()});
    EXPECT_EQ(peer->expect<Accept>().plan_hash, planner.hash());
    return peer;
  }
  bool over(uint64_t attempt) {
    return eventually([&] {
      decode_->pump();
      return decode_->over(AttemptId(attempt));
    });
  }
  bool all_free(Duration timeout = 5s) {
    return eventually(
        [&] {
          decode_->pump();
          return decode_->all_free();
        },
        timeout);
  }
  static Commit commit_of(const Grant& grant) {
    Commit commit;
    commit.attempt = grant.attempt;
    commit.decode = kDecode;
    commit.prefill = kPrefill;
    commit.grant_digest = grant_digest(grant);
    commit.first.token = 5;
    commit.bytes = expected_bytes(spec(), grant.prompt_tokens, grant.cached_tokens);
    commit.copies = 1;
    commit.checksum_pages = static_cast<uint32_t>(grant.pages.size());
    commit.checksums.assign(grant.pages.size(), 0);
    return commit;
  }

  std::unique_ptr<Transport> transport_;
  Memory memory_;
  ControlFd listener_;
  uint16_t port_ = 0;
  BusyWindows* windows_ = nullptr;
  std::unique_ptr<TestDecode> decode_;
};

TEST_F(AgainstDecode, StaleCommitsHaveNoEffect) {
  ASSERT_TRUE(decode_->request(AttemptId(1), "127.0.0.1", port_, 0, 20));
  auto peer = meet();
  const Grant grant = peer->expect<Grant>();
  EXPECT_EQ(grant.pages.size(), 3u);
  Commit stale = commit_of(grant);
  stale.prefill = {9, 9};
  peer->send(stale);
  stale = commit_of(grant);
  stale.decode = {9, 9};
  peer->send(stale);
  stale = commit_of(grant);
  ++stale.grant_digest;
  peer->send(stale);
  stale = commit_of(grant);
  stale.attempt = AttemptId(2);
  peer->send(stale);
  EXPECT_TRUE(eventually([&] { return decode_->stats().stale_frames == 4; }));
  decode_->pump();
  EXPECT_FALSE(decode_->over(AttemptId(1)));
  EXPECT_FALSE(decode_->outcome(AttemptId(1)).first);
  peer->send(Cancel{AttemptId(1), grant_digest(grant) + 1, true, "about an older grant"});
  EXPECT_EQ(peer->expect<Drained>().grant_digest, grant_digest(grant) + 1);
  EXPECT_FALSE(decode_->over(AttemptId(1)));
}

TEST_F(AgainstDecode, ACommitWithoutTheBytesIsNeverCommitted) {
  for (uint64_t attempt = 1; attempt <= 3; ++attempt)
    ASSERT_TRUE(decode_->request(AttemptId(attempt), "127.0.0.1", port_, 0, 20));
  auto peer = meet();
  std::map<AttemptId, Grant> grants;
  for (int i = 0; i < 3; ++i) {
    const Grant grant = peer->expect<Grant>();
    grants[grant.attempt] = grant;
  }
  Commit few = commit_of(grants[AttemptId(1)]);
  --few.bytes;
  peer->send(few);
  Commit short_list = commit_of(grants[AttemptId(2)]);
  short_list.checksums.pop_back();
  peer->send(short_list);
  peer->send(commit_of(grants[AttemptId(3)]));  // counts are right, nothing was written: the sums are wrong
  for (uint64_t attempt = 1; attempt <= 3; ++attempt) {
    ASSERT_TRUE(over(attempt));
    ASSERT_TRUE(decode_->outcome(AttemptId(attempt)).ended);
    EXPECT_TRUE(decode_->outcome(AttemptId(attempt)).ended->corrupt);
    EXPECT_TRUE(peer->expect<Cancel>().fault);
  }
  EXPECT_EQ(decode_->stats().failures["counts"], 2u);
  EXPECT_EQ(decode_->stats().failures["checksum"], 1u);
}

TEST_F(AgainstDecode, PagesStayQuarantinedUntilDrainedComes) {
  windows_->busy = true;
  ASSERT_TRUE(decode_->request(AttemptId(1), "127.0.0.1", port_, 0, 20, 0, 300ms));
  auto peer = meet();
  const Grant grant = peer->expect<Grant>();
  EXPECT_EQ(peer->expect<Cancel>().grant_digest, grant_digest(grant));  // the deadline
  ASSERT_TRUE(over(1));
  EXPECT_FALSE(decode_->outcome(AttemptId(1)).ended->quiet);
  EXPECT_EQ(decode_->stats().attempts_quarantined, 1u);
  EXPECT_FALSE(decode_->handoff()
                   .receive({.attempt = AttemptId(1),
                             .host = "127.0.0.1",
                             .port = port_,
                             .dp_rank = 0,
                             .prompt_tokens = 1,
                             .cached_tokens = 0,
                             .pages = {{PageId(9), 1}},
                             .deadline = SteadyClock().now() + 1s})
                   .ok());
  peer->send(Drained{AttemptId(1), grant_digest(grant) + 1});  // of another grant
  EXPECT_FALSE(all_free(150ms)) << "neither time nor another grant's Drained is evidence";

  // The connection is lost, and with it any Drained that was on its way: decode asks again when it meets the same
  // incarnation.
  peer.reset();
  EXPECT_FALSE(all_free(50ms)) << "a closed socket is no evidence";
  auto stranger = meet({7, 7});
  stranger->send(Drained{AttemptId(1), grant_digest(grant)});
  EXPECT_FALSE(all_free(100ms)) << "only the writer's incarnation can say it";
  stranger.reset();
  auto again = meet();
  EXPECT_EQ(again->expect<Cancel>().grant_digest, grant_digest(grant));
  again->send(Drained{AttemptId(1), grant_digest(grant)});
  EXPECT_TRUE(all_free());
  EXPECT_EQ(decode_->stats().attempts_quarantined, 0u);
}

TEST_F(AgainstDecode, OurOwnFenceIsEvidence) {
  windows_->busy = true;
  ASSERT_TRUE(decode_->request(AttemptId(1), "127.0.0.1", port_, 0, 20));
  auto peer = meet();
  const Grant grant = peer->expect<Grant>();
  decode_->cancel(AttemptId(1));
  ASSERT_TRUE(over(1));
  EXPECT_FALSE(all_free(50ms));
  windows_->busy = false;
  EXPECT_TRUE(all_free());
}

class AgainstImpatientDecode : public AgainstDecode {
 protected:
  AgainstImpatientDecode() : AgainstDecode(100ms) {}
};

TEST_F(AgainstImpatientDecode, ASilentPrefillIsLost) {
  ASSERT_TRUE(decode_->request(AttemptId(1), "127.0.0.1", port_, 0, 20));
  auto peer = meet();
  const Grant grant = peer->expect<Grant>();
  ASSERT_TRUE(over(1));  // pings are not answered
  EXPECT_NE(decode_->outcome(AttemptId(1)).ended->message.find("nothing heard"), std::string::npos);
  EXPECT_TRUE(all_free());
}

}  // namespace
}  // namespace baton
