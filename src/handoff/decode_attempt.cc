#include "handoff/decode_attempt.h"

#include <utility>

#include "base/check.h"

namespace baton::handoff {

const char* decode_state_name(DecodeAttempt::State state) {
  switch (state) {
    case DecodeAttempt::State::kPairing:
      return "pairing";
    case DecodeAttempt::State::kGranted:
      return "granted";
    case DecodeAttempt::State::kClosing:
      return "closing";
    case DecodeAttempt::State::kVerifying:
      return "verifying";
    case DecodeAttempt::State::kEnding:
      return "ending";
    case DecodeAttempt::State::kQuarantined:
      return "quarantined";
    case DecodeAttempt::State::kOver:
      return "over";
  }
  return "?";
}

DecodeAttempt::Actions DecodeAttempt::step(const Input& input, TimePoint now) {
  Actions actions;
  now_ = now;
  if (state_ == State::kOver) {
    actions.stale = !std::holds_alternative<Tick>(input);
    return actions;
  }
  BATON_CHECK(state_ != State::kEnding || std::holds_alternative<Fence>(input),
              "an input between close_window and its fence");
  std::visit([&](const auto& value) { on(value, &actions); }, input);
  return actions;
}

void DecodeAttempt::on(const PairReady& ready, Actions* actions) {
  if (state_ != State::kPairing) {
    actions->stale = true;
    return;
  }
  state_ = State::kGranted;
  writer_ = ready.prefill;
  digest_ = ready.digest;
  actions->send_grant = true;
}

void DecodeAttempt::on(const PairFailed& failed, Actions* actions) {
  if (state_ != State::kPairing) return;
  const char* reason = failed.forbidden ? kForbiddenReason : failed.refused ? "refused" : "unreachable";
  fail({AttemptOutcome::kFailed, reason, failed.message}, false, actions);
}

void DecodeAttempt::on(const CommitCame& commit, Actions* actions) {
  if (state_ != State::kGranted || commit.decode != self_ || commit.prefill != *writer_ || commit.digest != digest_) {
    actions->stale = true;
    return;
  }
  if (!commit.counts) {
    corrupt_ = true;
    fail({AttemptOutcome::kFailed, "counts", commit.counts.error().message}, true, actions);
    return;
  }
  state_ = State::kClosing;
  actions->emit_first_token = true;
  actions->close_window = true;
}

void DecodeAttempt::on(const CancelHere& cancel, Actions* actions) {
  fail({cancel.fault ? AttemptOutcome::kFailed : AttemptOutcome::kCancelled, cancel.fault ? "engine" : "",
        cancel.reason},
       true, actions);
}

void DecodeAttempt::on(const CancelThere& cancel, Actions* actions) {
  actions->send_drained = true;
  fail({cancel.fault ? AttemptOutcome::kFailed : AttemptOutcome::kCancelled, cancel.fault ? "peer" : "",
        "prefill: " + cancel.reason},
       false, actions);
}

void DecodeAttempt::on(const DrainedCame&, Actions* actions) {
  switch (state_) {
    case State::kPairing:
      actions->stale = true;
      return;
    case State::kGranted:
      drained_ = true;
      fail({AttemptOutcome::kFailed, "peer", "prefill gave the attempt up without saying why"}, false, actions);
      return;
    case State::kClosing:
      on(Fence{true}, actions);
      return;
    case State::kQuarantined:
      state_ = State::kOver;
      actions->emit_quiet = true;
      return;
    case State::kVerifying:
    case State::kEnding:
    case State::kOver:
      return;
  }
}

void DecodeAttempt::on(const PeerLost& lost, Actions* actions) {
  // After Commit everything of the peer's is here; without it the attempt cannot end well.
  if (state_ == State::kGranted)
    fail({AttemptOutcome::kFailed, "peer_lost", "prefill was lost: " + lost.reason}, false, actions);
}

void DecodeAttempt::on(const Fence& fence, Actions* actions) {
  switch (state_) {
    case State::kEnding:
      end(fence.quiet || drained_, actions);
      return;
    case State::kClosing:
      if (!fence.quiet) return;
      state_ = State::kVerifying;
      actions->start_verify = true;
      return;
    case State::kQuarantined:
      if (!fence.quiet) return;
      state_ = State::kOver;
      actions->emit_quiet = true;
      return;
    default:
      return;
  }
}

void DecodeAttempt::on(const Verified& verified, Actions* actions) {
  BATON_CHECK(state_ == State::kVerifying, "verified in state {}", decode_state_name(state_));
  if (!verified.status) {
    corrupt_ = true;
    actions->send_cancel = EndCause{AttemptOutcome::kFailed, "checksum", verified.status.error().message};
    cause_ = actions->send_cancel;
    end(true, actions);
    return;
  }
  state_ = State::kOver;
  actions->send_release = true;
  actions->emit_committed = true;
}

void DecodeAttempt::on(const Tick&, Actions* actions) {
  if (now_ < deadline_) return;
  switch (state_) {
    case State::kPairing:
      fail({AttemptOutcome::kFailed, "deadline", "no pair with prefill before the deadline"}, false, actions);
      return;
    case State::kGranted:
      fail({AttemptOutcome::kFailed, "deadline", "no commit came from prefill before the deadline"}, true, actions);
      return;
    case State::kClosing:
      fail({AttemptOutcome::kFailed, "deadline",
            "a writer stayed inside the window after the commit until the deadline"},
           true, actions);
      return;
    case State::kVerifying:  // bounded by our own work, and the bytes are here: let it end
    case State::kEnding:
    case State::kQuarantined:  // a timer is no evidence
    case State::kOver:
      return;
  }
}

void DecodeAttempt::fail(EndCause cause, bool tell_peer, Actions* actions) {
  if (state_ == State::kQuarantined) return;  // ended already
  const State before = state_;
  cause_ = std::move(cause);
  if (before == State::kPairing) {
    end(true, actions);
    return;
  }
  if (tell_peer) actions->send_cancel = cause_;
  if (before == State::kVerifying) {
    actions->stop_verify = true;
    end(true, actions);
    return;
  }
  state_ = State::kEnding;
  actions->close_window = true;
}

void DecodeAttempt::end(bool quiet, Actions* actions) {
  state_ = quiet ? State::kOver : State::kQuarantined;
  actions->end = cause_;
  actions->end_quiet = quiet;
  actions->end_corrupt = corrupt_;
}

}  // namespace baton::handoff
