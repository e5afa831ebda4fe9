#include "handoff/prefill_attempt.h"

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "base/random.h"

namespace baton::handoff {
namespace {

using State = PrefillAttempt::State;
using namespace std::chrono_literals;

constexpr Incarnation kSelf{1, 1};
constexpr Incarnation kDecode{2, 2};
constexpr TimePoint kStart{};
constexpr TimePoint kDeadline = kStart + 10s;
constexpr TimePoint kLate = kStart + 11s;

PrefillAttempt::Begin begin_input() { return {.prompt_tokens = 10, .deadline = kDeadline}; }
PrefillAttempt::Granted grant_input() {
  return {.digest = 7,
          .decode = kDecode,
          .prefill = kSelf,
          .prompt_tokens = 10,
          .cached_tokens = 0,
          .grain = 4,
          .deadline = kDeadline,
          .early_deadline = kStart + 5s};
}

// "granted send[0,8) commit cancel(deadline) cancel_posts drained end(failed,deadline)"
std::string text(const PrefillAttempt::Actions& a) {
  std::string s;
  const auto add = [&s](const std::string& word) { s += (s.empty() ? "" : " ") + word; };
  if (a.stale) add("stale");
  if (a.emit_granted) add("granted");
  if (a.send) add(fmt::format("send[{},{})", a.send->begin, a.send->end));
  if (a.send_commit) add("commit");
  if (a.send_cancel) add(fmt::format("cancel({})", a.send_cancel->reason));
  if (a.cancel_posts) add("cancel_posts");
  if (a.send_drained) add("drained");
  if (a.end) add(fmt::format("end({},{})", attempt_outcome_name(a.end->outcome), a.end->reason));
  return s;
}

// In the state, with what the table below says is out: kSending has computed 9 of 10 tokens, sent [0, 8) and two posts
// out.
PrefillAttempt machine_in(State state) {
  if (state == State::kEarly) return {kSelf, grant_input()};
  PrefillAttempt machine(kSelf, begin_input());
  if (state == State::kWaiting) return machine;
  EXPECT_EQ(text(machine.step(grant_input(), kStart)), "granted");
  EXPECT_EQ(text(machine.step(PrefillAttempt::Computed{9}, kStart)), "send[0,8)");
  machine.posts_made(2);
  if (state == State::kSending) return machine;
  if (state == State::kDraining) {
    EXPECT_EQ(text(machine.step(PrefillAttempt::CancelHere{"client left", false}, kStart)), "cancel() cancel_posts");
    return machine;
  }
  EXPECT_EQ(text(machine.step(PrefillAttempt::Computed{10}, kStart)), "send[8,10)");
  machine.posts_made(1);
  EXPECT_EQ(text(machine.step(PrefillAttempt::Finish{}, kStart)), "");
  EXPECT_EQ(text(machine.step(PrefillAttempt::PostEnded{}, kStart)), "");
  EXPECT_EQ(text(machine.step(PrefillAttempt::PostEnded{}, kStart)), "");
  EXPECT_EQ(text(machine.step(PrefillAttempt::PostEnded{}, kStart)), "commit");
  if (state == State::kOver) {
    EXPECT_EQ(text(machine.step(PrefillAttempt::ReleaseCame{}, kStart)), "end(committed,)");
  }
  return machine;
}

struct Row {
  State state;
  const char* name;
  PrefillAttempt::Input input;
  TimePoint now;
  State next;
  const char* actions;
};

std::vector<Row> table() {
  const PrefillAttempt::CancelHere here{"client left", false}, broke{"executor failed", true};
  const PrefillAttempt::CancelThere there{"client left", false}, fault{"checksum", true};
  const PrefillAttempt::PeerLost lost{"closed"};
  const PrefillAttempt::PostEnded done{}, failed{transport::TransferOutcome::kFailed, true, true, "io"},
      gone{transport::TransferOutcome::kPeerLost, true, false, "reset"};
  const PrefillAttempt::ReleaseCame release;
  const PrefillAttempt::DrainedCame drained;
  const PrefillAttempt::Tick tick;
  PrefillAttempt::Granted other = grant_input(), stale = grant_input(), longer = grant_input();
  other.digest = 8;
  stale.prefill = {9, 9};
  longer.prompt_tokens = 11;
  using enum PrefillAttempt::State;
  return {
      {kWaiting, "begin again", begin_input(), kStart, kWaiting, "stale"},
      {kWaiting, "grant", grant_input(), kStart, kSending, "granted"},
      {kWaiting, "grant of another prompt", longer, kStart, kOver, "cancel(mismatch) drained end(failed,mismatch)"},
      {kWaiting, "grant to another incarnation", stale, kStart, kWaiting, "stale"},
      {kWaiting, "computed", PrefillAttempt::Computed{4}, kStart, kWaiting, ""},
      {kWaiting, "cancel here", here, kStart, kOver, "end(cancelled,)"},
      {kWaiting, "fault here", broke, kStart, kOver, "end(failed,engine)"},
      {kWaiting, "cancel there", there, kStart, kOver, "drained end(cancelled,)"},
      {kWaiting, "peer lost", lost, kStart, kWaiting, ""},
      {kWaiting, "release", release, kStart, kWaiting, "stale"},
      {kWaiting, "drained", drained, kStart, kWaiting, ""},
      {kWaiting, "early tick", tick, kStart, kWaiting, ""},
      {kWaiting, "deadline", tick, kLate, kOver, "end(failed,deadline)"},

      {kEarly, "begin", begin_input(), kStart, kSending, "granted"},
      {kEarly, "same grant", grant_input(), kStart, kEarly, ""},
      {kEarly, "other grant", other, kStart, kEarly, "stale"},
      {kEarly, "grant to another incarnation", stale, kStart, kEarly, "stale"},
      {kEarly, "cancel here", here, kStart, kOver, "cancel() drained end(cancelled,)"},
      {kEarly, "cancel there", there, kStart, kOver, "drained end(cancelled,)"},
      {kEarly, "peer lost", lost, kStart, kOver, "end(failed,peer_lost)"},
      {kEarly, "release", release, kStart, kEarly, "stale"},
      {kEarly, "drained", drained, kStart, kEarly, ""},
      {kEarly, "early tick", tick, kStart, kEarly, ""},
      {kEarly, "early deadline", tick, kStart + 6s, kOver, "cancel(deadline) drained end(failed,deadline)"},

      {kSending, "begin again", begin_input(), kStart, kSending, "stale"},
      {kSending, "same grant", grant_input(), kStart, kSending, ""},
      {kSending, "other grant", other, kStart, kSending, "stale"},
      {kSending, "computed", PrefillAttempt::Computed{10}, kStart, kSending, "send[8,10)"},
      {kSending, "cancel here", here, kStart, kDraining, "cancel() cancel_posts"},
      {kSending, "fault here", broke, kStart, kDraining, "cancel(engine) cancel_posts"},
      {kSending, "cancel there", there, kStart, kDraining, "cancel_posts"},
      {kSending, "peer lost", lost, kStart, kDraining, "cancel_posts"},
      {kSending, "post done", done, kStart, kSending, ""},
      {kSending, "post failed", failed, kStart, kDraining, "cancel(transfer) cancel_posts"},
      {kSending, "post lost", gone, kStart, kDraining, "cancel(peer_lost) cancel_posts"},
      {kSending, "release", release, kStart, kSending, "stale"},
      {kSending, "drained", drained, kStart, kSending, ""},
      {kSending, "early tick", tick, kStart, kSending, ""},
      {kSending, "deadline", tick, kLate, kDraining, "cancel(deadline) cancel_posts"},

      {kUnconfirmed, "begin again", begin_input(), kStart, kUnconfirmed, "stale"},
      {kUnconfirmed, "same grant", grant_input(), kStart, kUnconfirmed, ""},
      {kUnconfirmed, "computed", PrefillAttempt::Computed{10}, kStart, kUnconfirmed, ""},
      {kUnconfirmed, "finish again", PrefillAttempt::Finish{}, kStart, kUnconfirmed, ""},
      {kUnconfirmed, "cancel here", here, kStart, kUnconfirmed, "cancel()"},
      {kUnconfirmed, "cancel there", there, kStart, kOver, "drained end(cancelled,)"},
      {kUnconfirmed, "fault there", fault, kStart, kOver, "drained end(failed,peer)"},
      {kUnconfirmed, "peer lost", lost, kStart, kOver, "end(failed,in_doubt)"},
      {kUnconfirmed, "release", release, kStart, kOver, "end(committed,)"},
      {kUnconfirmed, "drained", drained, kStart, kUnconfirmed, ""},
      {kUnconfirmed, "deadline", tick, kLate, kOver, "cancel(in_doubt) drained end(failed,in_doubt)"},

      {kDraining, "begin again", begin_input(), kStart, kDraining, "stale"},
      {kDraining, "same grant", grant_input(), kStart, kDraining, ""},
      {kDraining, "computed", PrefillAttempt::Computed{10}, kStart, kDraining, ""},
      {kDraining, "finish", PrefillAttempt::Finish{}, kStart, kDraining, ""},
      {kDraining, "cancel here", here, kStart, kDraining, ""},
      {kDraining, "cancel there", there, kStart, kDraining, ""},
      {kDraining, "peer lost", lost, kStart, kDraining, ""},
      {kDraining, "post done", done, kStart, kDraining, ""},
      {kDraining, "release", release, kStart, kDraining, "stale"},
      {kDraining, "drained", drained, kStart, kDraining, ""},
      {kDraining, "deadline", tick, kLate, kDraining, ""},

      {kOver, "begin again", begin_input(), kStart, kOver, "stale"},
      {kOver, "same grant", grant_input(), kStart, kOver, "stale"},
      {kOver, "computed", PrefillAttempt::Computed{10}, kStart, kOver, "stale"},
      {kOver, "finish", PrefillAttempt::Finish{}, kStart, kOver, "stale"},
      {kOver, "cancel here", here, kStart, kOver, "stale"},
      {kOver, "cancel there", there, kStart, kOver, "stale"},
      {kOver, "peer lost", lost, kStart, kOver, "stale"},
      {kOver, "post done", done, kStart, kOver, "stale"},
      {kOver, "release again", release, kStart, kOver, "stale"},
      {kOver, "drained", drained, kStart, kOver, "stale"},
      {kOver, "deadline", tick, kLate, kOver, ""},
  };
}

TEST(PrefillAttempt, EveryInputInEveryState) {
  for (const Row& row : table()) {
    PrefillAttempt machine = machine_in(row.state);
    ASSERT_EQ(machine.state(), row.state) << row.name;
    const std::string actions = text(machine.step(row.input, row.now));
    EXPECT_EQ(actions, row.actions) << prefill_state_name(row.state) << ": " << row.name;
    EXPECT_EQ(machine.state(), row.next) << prefill_state_name(row.state) << ": " << row.name;
  }
}

TEST(PrefillAttempt, EndsAndSaysDrainedOnlyWhenTheLastPostEnded) {
  PrefillAttempt machine = machine_in(State::kSending);
  EXPECT_EQ(text(machine.step(PrefillAttempt::CancelThere{"left", false}, kStart)), "cancel_posts");
  EXPECT_EQ(text(machine.step(PrefillAttempt::Tick{}, kLate)), "") << "a deadline is no evidence";
  EXPECT_EQ(
      text(machine.step(PrefillAttempt::PostEnded{transport::TransferOutcome::kCancelled, true, true, ""}, kLate)), "");
  EXPECT_EQ(text(machine.step(PrefillAttempt::PostEnded{}, kLate)), "drained end(cancelled,)");
  EXPECT_TRUE(machine.sources_quiet());
}

TEST(PrefillAttempt, NeverSaysDrainedWhenAWriterMayStillLand) {
  PrefillAttempt machine = machine_in(State::kSending);
  machine.step(PrefillAttempt::PostEnded{transport::TransferOutcome::kTimeout, true, false, "slow"}, kStart);
  EXPECT_EQ(text(machine.step(PrefillAttempt::PostEnded{}, kStart)), "end(failed,deadline)");
  EXPECT_TRUE(machine.sources_quiet());
  EXPECT_FALSE(machine.writers_quiet());

  PrefillAttempt stuck = machine_in(State::kSending);
  stuck.step(PrefillAttempt::PostEnded{transport::TransferOutcome::kFailed, false, false, "nic"}, kStart);
  EXPECT_EQ(text(stuck.step(PrefillAttempt::PostEnded{}, kStart)), "end(failed,transfer)");
  EXPECT_FALSE(stuck.sources_quiet());
}

TEST(PrefillAttempt, ACancelAfterCommitIsDecidedByDecode) {
  PrefillAttempt committed = machine_in(State::kUnconfirmed);
  EXPECT_EQ(text(committed.step(PrefillAttempt::CancelHere{"left", false}, kStart)), "cancel()");
  EXPECT_EQ(text(committed.step(PrefillAttempt::ReleaseCame{}, kStart)), "end(committed,)");

  PrefillAttempt cancelled = machine_in(State::kUnconfirmed);
  EXPECT_EQ(text(cancelled.step(PrefillAttempt::CancelHere{"left", false}, kStart)), "cancel()");
  EXPECT_EQ(text(cancelled.step(PrefillAttempt::CancelHere{"left", false}, kStart)), "");
  EXPECT_EQ(text(cancelled.step(PrefillAttempt::DrainedCame{}, kStart)), "end(cancelled,)");
}

TEST(PrefillAttempt, TokensCachedOnDecodeAreNotSent) {
  PrefillAttempt::Granted grant = grant_input();
  grant.cached_tokens = 8;
  PrefillAttempt machine(kSelf, grant);
  EXPECT_EQ(text(machine.step(begin_input(), kStart)), "granted");
  EXPECT_EQ(text(machine.step(PrefillAttempt::Computed{6}, kStart)), "");
  EXPECT_EQ(text(machine.step(PrefillAttempt::Computed{10}, kStart)), "send[8,10)");
}

// Any order of inputs: one end at most, none with posts out, one commit and only when every post was done.
TEST(PrefillAttempt, RandomOrdersKeepTheInvariants) {
  for (uint64_t seed = 0; seed < 3000; ++seed) {
    Random random(seed);
    const bool early = random.below(2) == 0;
    PrefillAttempt machine = early ? PrefillAttempt(kSelf, grant_input()) : PrefillAttempt(kSelf, begin_input());
    bool begun = !early;
    int64_t computed = 0;
    int out = 0, ends = 0, commits = 0;
    bool failed_post = false;
    TimePoint now = kStart;
    for (int i = 0; i < 40; ++i) {
      PrefillAttempt::Input input = PrefillAttempt::Tick{};
      switch (random.below(12)) {
        case 0:
          input = begin_input(), begun = true;
          break;
        case 1:
          input = grant_input();
          break;
        case 2:
        case 3:
          if (!begun) continue;
          computed += static_cast<int64_t>(random.below(static_cast<uint64_t>(11 - computed)));
          input = PrefillAttempt::Computed{computed};
          break;
        case 4:
          if (computed != 10) continue;
          input = PrefillAttempt::Finish{};
          break;
        case 5:
          if (random.below(4) == 0) input = PrefillAttempt::CancelHere{"x", false};
          break;
        case 6:
          if (random.below(4) == 0) input = PrefillAttempt::CancelThere{"x", true};
          break;
        case 7:
          if (random.below(6) == 0) input = PrefillAttempt::PeerLost{"x"};
          break;
        case 8:
          input = PrefillAttempt::ReleaseCame{};
          break;
        case 9:
          now += 500ms;
          break;
        default: {
          if (out == 0) continue;
          --out;
          const bool fails = random.below(8) == 0;
          failed_post |= fails;
          input = PrefillAttempt::PostEnded{
              fails ? transport::TransferOutcome::kFailed : transport::TransferOutcome::kDone, true, true, ""};
        }
      }
      const PrefillAttempt::Actions actions = machine.step(input, now);
      if (actions.send) {
        const int n = 1 + static_cast<int>(random.below(3));
        machine.posts_made(n);
        out += n;
      }
      if (actions.send_commit) {
        ++commits;
        ASSERT_TRUE(out == 0 && !failed_post && computed == 10) << seed;
      }
      if (actions.end || actions.send_drained) {
        ASSERT_EQ(out, 0) << seed;
      }
      ends += actions.end ? 1 : 0;
      if (actions.end && actions.end->outcome == AttemptOutcome::kCommitted) {
        ASSERT_EQ(commits, 1) << seed;
      }
    }
    ASSERT_LE(ends, 1) << seed;
    ASSERT_LE(commits, 1) << seed;
    ASSERT_EQ(ends == 1, machine.state() == State::kOver) << seed;
  }
}

}  // namespace
}  // namespace baton::handoff
