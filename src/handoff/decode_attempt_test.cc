#include "handoff/decode_attempt.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/random.h"

namespace baton::handoff {
namespace {

using State = DecodeAttempt::State;
using namespace std::chrono_literals;

constexpr Incarnation kSelf{2, 2};
constexpr Incarnation kPrefill{1, 1};
constexpr TimePoint kStart{};
constexpr TimePoint kLate = kStart + 11s;

// "grant", "first_token close", "cancel(deadline) close", "end(failed,deadline,quiet)"
std::string text(const DecodeAttempt::Actions& a) {
  std::string s;
  const auto add = [&s](const std::string& word) { s += (s.empty() ? "" : " ") + word; };
  if (a.stale) add("stale");
  if (a.send_grant) add("grant");
  if (a.emit_first_token) add("first_token");
  if (a.stop_verify) add("stop_verify");
  if (a.close_window) add("close");
  if (a.start_verify) add("verify");
  if (a.send_release) add("release");
  if (a.send_cancel) add(fmt::format("cancel({})", a.send_cancel->reason));
  if (a.send_drained) add("drained");
  if (a.emit_committed) add("committed");
  if (a.end) {
    add(fmt::format("end({},{},{}{})", attempt_outcome_name(a.end->outcome), a.end->reason,
                    a.end_quiet ? "quiet" : "busy", a.end_corrupt ? ",corrupt" : ""));
  }
  if (a.emit_quiet) add("quiet");
  return s;
}

DecodeAttempt::CommitCame commit_input() { return {kSelf, kPrefill, 7, {}}; }

DecodeAttempt machine_in(State state) {
  DecodeAttempt machine(kSelf, kStart + 10s);
  if (state == State::kPairing) return machine;
  EXPECT_EQ(text(machine.step(DecodeAttempt::PairReady{kPrefill, 7}, kStart)), "grant");
  if (state == State::kGranted) return machine;
  if (state == State::kEnding || state == State::kQuarantined) {
    EXPECT_EQ(text(machine.step(DecodeAttempt::CancelHere{"left", false}, kStart)), "close cancel()");
    if (state == State::kQuarantined) {
      EXPECT_EQ(text(machine.step(DecodeAttempt::Fence{false}, kStart)), "end(cancelled,,busy)");
    }
    return machine;
  }
  EXPECT_EQ(text(machine.step(commit_input(), kStart)), "first_token close");
  if (state == State::kClosing) return machine;
  EXPECT_EQ(text(machine.step(DecodeAttempt::Fence{true}, kStart)), "verify");
  if (state == State::kVerifying) return machine;
  EXPECT_EQ(text(machine.step(DecodeAttempt::Verified{}, kStart)), "release committed");
  return machine;
}

struct Row {
  State state;
  const char* name;
  DecodeAttempt::Input input;
  TimePoint now;
  State next;
  const char* actions;
};

std::vector<Row> table() {
  const DecodeAttempt::PairReady ready{kPrefill, 7};
  const DecodeAttempt::PairFailed unreachable{false, "refused connection"}, refused{true, "digest"};
  const DecodeAttempt::CancelHere here{"client left", false};
  const DecodeAttempt::CancelThere there{"client left", false}, fault{"transfer", true};
  const DecodeAttempt::DrainedCame drained;
  const DecodeAttempt::PeerLost lost{"closed"};
  const DecodeAttempt::Fence quiet{true}, busy{false};
  const DecodeAttempt::Verified wrong{error(ErrorCode::kCorrupt, "page 3")};
  const DecodeAttempt::Tick tick;
  DecodeAttempt::CommitCame other_prefill = commit_input(), other_self = commit_input(), other_grant = commit_input(),
                            short_commit = commit_input();
  other_prefill.prefill = {9, 9};
  other_self.decode = {9, 9};
  other_grant.digest = 8;
  short_commit.counts = error(ErrorCode::kCorrupt, "bytes");
  using enum DecodeAttempt::State;
  return {
      {kPairing, "ready", ready, kStart, kGranted, "grant"},
      {kPairing, "unreachable", unreachable, kStart, kOver, "end(failed,unreachable,quiet)"},
      {kPairing, "refused", refused, kStart, kOver, "end(failed,refused,quiet)"},
      {kPairing, "commit", commit_input(), kStart, kPairing, "stale"},
      {kPairing, "cancel here", here, kStart, kOver, "end(cancelled,,quiet)"},
      {kPairing, "drained", drained, kStart, kPairing, "stale"},
      {kPairing, "peer lost", lost, kStart, kPairing, ""},
      {kPairing, "fence", quiet, kStart, kPairing, ""},
      {kPairing, "early tick", tick, kStart, kPairing, ""},
      {kPairing, "deadline", tick, kLate, kOver, "end(failed,deadline,quiet)"},

      {kGranted, "ready again", ready, kStart, kGranted, "stale"},
      {kGranted, "pair failed", unreachable, kStart, kGranted, ""},
      {kGranted, "commit", commit_input(), kStart, kClosing, "first_token close"},
      {kGranted, "commit of another prefill", other_prefill, kStart, kGranted, "stale"},
      {kGranted, "commit to another decode", other_self, kStart, kGranted, "stale"},
      {kGranted, "commit of another grant", other_grant, kStart, kGranted, "stale"},
      {kGranted, "commit that lacks bytes", short_commit, kStart, kEnding, "close cancel(counts)"},
      {kGranted, "cancel here", here, kStart, kEnding, "close cancel()"},
      {kGranted, "cancel there", there, kStart, kEnding, "close drained"},
      {kGranted, "fault there", fault, kStart, kEnding, "close drained"},
      {kGranted, "drained", drained, kStart, kEnding, "close"},
      {kGranted, "peer lost", lost, kStart, kEnding, "close"},
      {kGranted, "fence", quiet, kStart, kGranted, ""},
      {kGranted, "early tick", tick, kStart, kGranted, ""},
      {kGranted, "deadline", tick, kLate, kEnding, "close cancel(deadline)"},

      {kClosing, "commit again", commit_input(), kStart, kClosing, "stale"},
      {kClosing, "pair failed", unreachable, kStart, kClosing, ""},
      {kClosing, "cancel here", here, kStart, kEnding, "close cancel()"},
      {kClosing, "cancel there", there, kStart, kEnding, "close drained"},
      {kClosing, "drained", drained, kStart, kVerifying, "verify"},
      {kClosing, "peer lost", lost, kStart, kClosing, ""},
      {kClosing, "fence quiet", quiet, kStart, kVerifying, "verify"},
      {kClosing, "fence busy", busy, kStart, kClosing, ""},
      {kClosing, "deadline", tick, kLate, kEnding, "close cancel(deadline)"},

      {kVerifying, "commit again", commit_input(), kStart, kVerifying, "stale"},
      {kVerifying, "cancel here", here, kStart, kOver, "stop_verify cancel() end(cancelled,,quiet)"},
      {kVerifying, "cancel there", there, kStart, kOver, "stop_verify drained end(cancelled,,quiet)"},
      {kVerifying, "drained", drained, kStart, kVerifying, ""},
      {kVerifying, "peer lost", lost, kStart, kVerifying, ""},
      {kVerifying, "fence", quiet, kStart, kVerifying, ""},
      {kVerifying, "equal", DecodeAttempt::Verified{}, kStart, kOver, "release committed"},
      {kVerifying, "different", wrong, kStart, kOver, "cancel(checksum) end(failed,checksum,quiet,corrupt)"},
      {kVerifying, "deadline", tick, kLate, kVerifying, ""},

      {kEnding, "fence quiet", quiet, kStart, kOver, "end(cancelled,,quiet)"},
      {kEnding, "fence busy", busy, kStart, kQuarantined, "end(cancelled,,busy)"},

      {kQuarantined, "ready again", ready, kStart, kQuarantined, "stale"},
      {kQuarantined, "commit", commit_input(), kStart, kQuarantined, "stale"},
      {kQuarantined, "cancel here", here, kStart, kQuarantined, ""},
      {kQuarantined, "cancel there", there, kStart, kQuarantined, "drained"},
      {kQuarantined, "peer lost", lost, kStart, kQuarantined, ""},
      {kQuarantined, "fence busy", busy, kStart, kQuarantined, ""},
      {kQuarantined, "fence quiet", quiet, kStart, kOver, "quiet"},
      {kQuarantined, "drained", drained, kStart, kOver, "quiet"},
      {kQuarantined, "deadline", tick, kLate, kQuarantined, ""},

      {kOver, "ready again", ready, kStart, kOver, "stale"},
      {kOver, "commit again", commit_input(), kStart, kOver, "stale"},
      {kOver, "cancel here", here, kStart, kOver, "stale"},
      {kOver, "cancel there", there, kStart, kOver, "stale"},
      {kOver, "drained", drained, kStart, kOver, "stale"},
      {kOver, "peer lost", lost, kStart, kOver, "stale"},
      {kOver, "deadline", tick, kLate, kOver, ""},
  };
}

TEST(DecodeAttempt, EveryInputInEveryState) {
  for (const Row& row : table()) {
    DecodeAttempt machine = machine_in(row.state);
    ASSERT_EQ(machine.state(), row.state) << row.name;
    const std::string actions = text(machine.step(row.input, row.now));
    EXPECT_EQ(actions, row.actions) << decode_state_name(row.state) << ": " << row.name;
    EXPECT_EQ(machine.state(), row.next) << decode_state_name(row.state) << ": " << row.name;
  }
}

TEST(DecodeAttempt, DrainedBeforeTheFenceIsEvidence) {
  DecodeAttempt machine = machine_in(State::kGranted);
  EXPECT_EQ(text(machine.step(DecodeAttempt::DrainedCame{}, kStart)), "close");
  EXPECT_EQ(text(machine.step(DecodeAttempt::Fence{false}, kStart)), "end(failed,peer,quiet)");
}

// Any order of inputs: one outcome; quiet only after a fence or a Drained; never verified with a writer inside the
// window.
TEST(DecodeAttempt, RandomOrdersKeepTheInvariants) {
  for (uint64_t seed = 0; seed < 3000; ++seed) {
    Random random(seed);
    DecodeAttempt machine(kSelf, kStart + 10s);
    TimePoint now = kStart;
    int outcomes = 0;
    bool evidence = true, verifying = false;
    for (int i = 0; i < 40; ++i) {
      DecodeAttempt::Input input = DecodeAttempt::Tick{};
      switch (random.below(10)) {
        case 0:
          input = DecodeAttempt::PairReady{kPrefill, 7};
          break;
        case 1:
          input = DecodeAttempt::PairFailed{false, "x"};
          break;
        case 2:
          input = commit_input();
          break;
        case 3:
          if (random.below(3) == 0) input = DecodeAttempt::CancelHere{"x", false};
          break;
        case 4:
          if (random.below(3) == 0) input = DecodeAttempt::CancelThere{"x", true};
          break;
        case 5:
          if (random.below(3) == 0)
            input = DecodeAttempt::DrainedCame{}, evidence = evidence || machine.state() != State::kPairing;
          break;
        case 6:
          input = DecodeAttempt::PeerLost{"x"};
          break;
        case 7:
          if (!verifying) continue;
          input = DecodeAttempt::Verified{random.below(2) == 0 ? Status() : Status(error(ErrorCode::kCorrupt, "x"))};
          break;
        case 8:
          if (!machine.fencing()) continue;
          evidence = evidence || random.below(2) == 0;
          input = DecodeAttempt::Fence{evidence};
          break;
        default:
          now += 500ms;
      }
      for (DecodeAttempt::Actions a = machine.step(input, now);;) {
        if (a.send_grant) evidence = false;
        outcomes += (a.emit_committed ? 1 : 0) + (a.end ? 1 : 0);
        if (a.start_verify) {
          ASSERT_TRUE(evidence) << seed;
        }
        if ((a.end && a.end_quiet) || a.emit_quiet || a.emit_committed) {
          ASSERT_TRUE(evidence) << seed;
        }
        verifying = machine.state() == State::kVerifying;
        if (!a.close_window) break;
        evidence = evidence || random.below(2) == 0;
        a = machine.step(DecodeAttempt::Fence{evidence}, now);
      }
    }
    ASSERT_LE(outcomes, 1) << seed;
  }
}

}  // namespace
}  // namespace baton::handoff
