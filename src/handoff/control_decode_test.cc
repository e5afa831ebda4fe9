// The decode service against a prefill instance that speaks the frames by hand: stale and false commits, silence, and
// evidence.
#include <gtest/gtest.h>

#include <atomic>
#include <map>

#include "handoff/against_decode_test.h"

namespace baton::handoff {

using wire::Grant;

namespace {

using namespace by_hand;

TEST_F(AgainstDecode, StaleCommitsHaveNoEffect) {
  ASSERT_TRUE(decode_->request(AttemptId(1), "127.0.0.1", port_, 0, 20));
  auto peer = meet();
  const Grant grant = peer->expect<Grant>();
  EXPECT_EQ(grant.pages.size(), 3u);
  wire::Commit stale = commit_of(grant);
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
  peer->send(wire::Cancel{AttemptId(1), wire::grant_digest(grant) + 1, true, "about an older grant"});
  EXPECT_EQ(peer->expect<wire::Drained>().grant_digest, wire::grant_digest(grant) + 1);
  EXPECT_FALSE(decode_->over(AttemptId(1)));
}

TEST_F(AgainstDecode, AnotherPlanHashIsRefused) {
  ASSERT_TRUE(decode_->request(AttemptId(1), "127.0.0.1", port_, 0, 20));
  auto peer = meet(kPrefill, 1);
  EXPECT_TRUE(peer->closed());
  ASSERT_TRUE(over(1));
  EXPECT_NE(decode_->outcome(AttemptId(1)).ended->message.find("plan hash"), std::string::npos);
  EXPECT_EQ(decode_->stats().pairings, 0u);
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
  wire::Commit few = commit_of(grants[AttemptId(1)]);
  --few.bytes;
  peer->send(few);
  wire::Commit short_list = commit_of(grants[AttemptId(2)]);
  short_list.checksums.pop_back();
  peer->send(short_list);
  peer->send(commit_of(grants[AttemptId(3)]));  // counts are right, nothing was written: the sums are wrong
  for (uint64_t attempt = 1; attempt <= 3; ++attempt) {
    ASSERT_TRUE(over(attempt));
    ASSERT_TRUE(decode_->outcome(AttemptId(attempt)).ended);
    EXPECT_TRUE(decode_->outcome(AttemptId(attempt)).ended->corrupt);
    EXPECT_TRUE(peer->expect<wire::Cancel>().fault);
  }
  EXPECT_EQ(decode_->stats().failures["counts"], 2u);
  EXPECT_EQ(decode_->stats().failures["checksum"], 1u);
}

// No more of them is kept than was asked for, and none is made up.
TEST_F(AgainstDecode, LogprobsThatWereNotAskedForEndTheAttempt) {
  decode_->prompt_rows = 3;
  decode_->beside_max = 2;
  const wire::PromptRow row{true, -1, {{4, -1}}, {-2}}, wide{true, -1, {{4, -1}, {5, -2}}, {-3}};
  struct Case {
    uint32_t begin;
    std::vector<wire::PromptRow> rows;
    bool right;
  };
  const Case cases[] = {{0, {row, row, row, row}, false},  // too many
                        {1, {row}, false},                 // out of order
                        {0, {row, wide}, false},           // too much beside one
                        {0, {row, row, row}, true}};
  uint64_t attempt = 0;
  std::unique_ptr<RawPeer> peer;
  for (const Case& c : cases) {
    ASSERT_TRUE(decode_->request(AttemptId(++attempt), "127.0.0.1", port_, 0, 20));
    if (!peer) peer = meet();
    const Grant grant = peer->expect<Grant>();
    wire::PromptLogprobs stale{grant.attempt, wire::grant_digest(grant) + 1, 0, {row}};
    peer->send(stale);  // of another grant
    peer->send(wire::PromptLogprobs{grant.attempt, wire::grant_digest(grant), c.begin, c.rows});
    if (c.right) peer->send(wire::PromptLogprobs{grant.attempt, wire::grant_digest(grant), 3, {row}});
    ASSERT_TRUE(over(attempt));
    EXPECT_NE(decode_->outcome(AttemptId(attempt)).ended->message.find("send both legs the same request"),
              std::string::npos);
    EXPECT_TRUE(peer->expect<wire::Cancel>().fault);
    peer->send(wire::Drained{grant.attempt, wire::grant_digest(grant)});
    EXPECT_EQ(decode_->stats().stale_frames, attempt);
  }
  // And a Commit before all of them have come.
  ASSERT_TRUE(decode_->request(AttemptId(++attempt), "127.0.0.1", port_, 0, 20));
  const Grant grant = peer->expect<Grant>();
  peer->send(wire::PromptLogprobs{grant.attempt, wire::grant_digest(grant), 0, {row}});
  peer->send(commit_of(grant));
  ASSERT_TRUE(over(attempt));
  EXPECT_EQ(decode_->stats().failures["counts"], 1u);
  EXPECT_FALSE(decode_->outcome(AttemptId(attempt)).first);
}

TEST_F(AgainstDecode, PagesStayQuarantinedUntilDrainedComes) {
  windows_->busy = true;
  ASSERT_TRUE(decode_->request(AttemptId(1), "127.0.0.1", port_, 0, 20, 0, 300ms));
  auto peer = meet();
  const Grant grant = peer->expect<Grant>();
  EXPECT_EQ(peer->expect<wire::Cancel>().grant_digest, wire::grant_digest(grant));  // the deadline
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
  peer->send(wire::Drained{AttemptId(1), wire::grant_digest(grant) + 1});  // of another grant
  EXPECT_FALSE(all_free(150ms)) << "neither time nor another grant's Drained is evidence";

  // The connection is lost, and with it any Drained that was on its way: decode asks again when it meets the same
  // incarnation.
  peer.reset();
  EXPECT_FALSE(all_free(50ms)) << "a closed socket is no evidence";
  auto stranger = meet({7, 7});
  stranger->send(wire::Drained{AttemptId(1), wire::grant_digest(grant)});
  EXPECT_FALSE(all_free(100ms)) << "only the writer's incarnation can say it";
  stranger.reset();
  auto again = meet();
  EXPECT_EQ(again->expect<wire::Cancel>().grant_digest, wire::grant_digest(grant));
  again->send(wire::Drained{AttemptId(1), wire::grant_digest(grant)});
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

TEST(DecodePairs, APeerThatNobodyAsksForIsNotTriedForEver) {
  const UniqueFd listener = listen_on("127.0.0.1", 0).value();
  const uint16_t port = bound_address(listener.get())->port();
  DecodeHandoffOptions options;
  options.reconnect_min = options.reconnect_max = 5ms;
  options.heartbeat = 20ms;
  options.forget_after = 100ms;
  TestDecode decode(spec(), loopback(kDecode), options);
  const auto tried = [&](Duration timeout) {
    return eventually([&] { return UniqueFd(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC)).valid(); },
                      timeout);
  };
  for (int round = 0; round < 2; ++round) {
    decode.handoff().pair("127.0.0.1", port, false);
    EXPECT_TRUE(tried(5s));
    EXPECT_TRUE(tried(5s)) << "one failure is not the end";
    EXPECT_TRUE(eventually([&] { return !tried(200ms); })) << "nobody asks any more";
  }
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
}  // namespace baton::handoff
