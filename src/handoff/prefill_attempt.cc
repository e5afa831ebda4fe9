#include "handoff/prefill_attempt.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace baton::handoff {

const char* prefill_state_name(PrefillAttempt::State state) {
  switch (state) {
    case PrefillAttempt::State::kWaiting:
      return "waiting";
    case PrefillAttempt::State::kEarly:
      return "early";
    case PrefillAttempt::State::kSending:
      return "sending";
    case PrefillAttempt::State::kUnconfirmed:
      return "unconfirmed";
    case PrefillAttempt::State::kDraining:
      return "draining";
    case PrefillAttempt::State::kOver:
      return "over";
  }
  return "?";
}

PrefillAttempt::PrefillAttempt(Incarnation self, const Begin& begin)
    : self_(self),
      state_(State::kWaiting),
      begun_(true),
      deadline_(begin.deadline),
      prompt_tokens_(begin.prompt_tokens) {}

PrefillAttempt::PrefillAttempt(Incarnation self, const Granted& grant)
    : self_(self), state_(State::kEarly), grant_(grant), deadline_(grant.deadline), sent_(grant.cached_tokens) {
  BATON_CHECK(grant.prefill == self, "a grant to another incarnation");
}

PrefillAttempt::Actions PrefillAttempt::step(const Input& input, TimePoint now) {
  Actions actions;
  now_ = now;
  if (state_ == State::kOver) {
    actions.stale = !std::holds_alternative<Tick>(input);
    return actions;
  }
  std::visit([&](const auto& value) { on(value, &actions); }, input);
  return actions;
}

void PrefillAttempt::on(const Begin& begin, Actions* actions) {
  if (begun_) {
    actions->stale = true;
    return;
  }
  begun_ = true;
  prompt_tokens_ = begin.prompt_tokens;
  deadline_ = std::min(deadline_, begin.deadline);
  meet(actions);
}

void PrefillAttempt::on(const Granted& grant, Actions* actions) {
  if (grant.prefill != self_ || grant_.has_value() || state_ != State::kWaiting) {
    // A repeat of the grant we have is one grant; anything else is stale. Neither has an effect.
    actions->stale =
        !grant_ || grant.prefill != self_ || grant.digest != grant_->digest || grant.decode != grant_->decode;
    return;
  }
  grant_ = grant;
  sent_ = grant.cached_tokens;
  deadline_ = std::min(deadline_, grant.deadline);
  meet(actions);
}

// Request and grant are both here.
void PrefillAttempt::meet(Actions* actions) {
  state_ = State::kSending;
  if (grant_->prompt_tokens != prompt_tokens_) {
    give_up({AttemptOutcome::kFailed, "mismatch",
             fmt::format("the prompt has {} tokens on prefill and {} on decode: send both legs the same request",
                         prompt_tokens_, grant_->prompt_tokens)},
            true, actions);
    return;
  }
  actions->emit_granted = true;
  advance(actions);
}

void PrefillAttempt::on(const Computed& computed, Actions* actions) {
  if (state_ == State::kDraining || state_ == State::kUnconfirmed) return;  // the engine has not heard yet
  BATON_CHECK(begun_, "computed() before begin()");
  BATON_CHECK(computed.end >= computed_ && computed.end <= prompt_tokens_, "computed to {} after {} of {} tokens",
              computed.end, computed_, prompt_tokens_);
  computed_ = computed.end;
  advance(actions);
}

void PrefillAttempt::on(const Finish&, Actions* actions) {
  if (state_ == State::kDraining || state_ == State::kUnconfirmed) return;
  BATON_CHECK(begun_ && computed_ == prompt_tokens_, "finish() with {} of {} tokens computed", computed_,
              prompt_tokens_);
  finished_ = true;
  advance(actions);
}

// Sends what is computed and not yet sent, and commits when all is done. A send is always acted on before the next
// input, so the count of posts is right again by then.
void PrefillAttempt::advance(Actions* actions) {
  if (state_ != State::kSending) return;
  const int64_t end = computed_ == prompt_tokens_ ? prompt_tokens_ : computed_ / grant_->grain * grant_->grain;
  if (end > sent_) {
    actions->send = Actions::Range{sent_, end};
    sent_ = end;
    return;
  }
  if (finished_ && sent_ == prompt_tokens_ && posts_out_ == 0) {
    state_ = State::kUnconfirmed;
    actions->send_commit = true;
  }
}

void PrefillAttempt::on(const PostEnded& post, Actions* actions) {
  BATON_CHECK(posts_out_ > 0, "a post ended and none was out");
  --posts_out_;
  const bool done = post.outcome == transport::TransferOutcome::kDone;
  sources_quiet_ = sources_quiet_ && (done || post.local_quiesced);
  writers_quiet_ = writers_quiet_ && (done || post.remote_quiesced);
  if (state_ == State::kDraining) {
    finish_draining(actions);
    return;
  }
  BATON_CHECK(state_ == State::kSending, "a post ended in state {}", prefill_state_name(state_));
  if (done) {
    advance(actions);
    return;
  }
  const char* reason = post.outcome == transport::TransferOutcome::kPeerLost   ? "peer_lost"
                       : post.outcome == transport::TransferOutcome::kRejected ? "rejected"
                       : post.outcome == transport::TransferOutcome::kTimeout  ? "deadline"
                                                                               : "transfer";
  give_up({AttemptOutcome::kFailed, reason,
           fmt::format("transfer {}: {}", transport::transfer_outcome_name(post.outcome), post.detail)},
          true, actions);
}

void PrefillAttempt::on(const CancelHere& cancel, Actions* actions) {
  const AttemptOutcome outcome = cancel.fault ? AttemptOutcome::kFailed : AttemptOutcome::kCancelled;
  EndCause cause{outcome, cancel.fault ? "engine" : "", cancel.reason};
  if (state_ == State::kUnconfirmed) {
    // Decode may have committed already; it decides, with Release or with Drained.
    if (!cause_) {
      cause_ = cause;
      actions->send_cancel = std::move(cause);
    }
    return;
  }
  give_up(std::move(cause), true, actions);
}

void PrefillAttempt::on(const CancelThere& cancel, Actions* actions) {
  const AttemptOutcome outcome = cancel.fault ? AttemptOutcome::kFailed : AttemptOutcome::kCancelled;
  if (state_ == State::kWaiting || state_ == State::kEarly || state_ == State::kUnconfirmed) {
    // Nothing of ours is out: the answer can be given at once.
    actions->send_drained = writers_quiet();
    end({outcome, cancel.fault ? "peer" : "", "decode: " + cancel.reason}, actions);
    return;
  }
  give_up({outcome, cancel.fault ? "peer" : "", "decode: " + cancel.reason}, false, actions);
}

void PrefillAttempt::on(const PeerLost& lost, Actions* actions) {
  peer_reachable_ = false;
  if (state_ == State::kUnconfirmed) {
    end({AttemptOutcome::kFailed, "in_doubt", "decode was lost before it confirmed the commit: " + lost.reason},
        actions);
    return;
  }
  if (state_ == State::kWaiting) return;  // no peer yet
  give_up({AttemptOutcome::kFailed, "peer_lost", "decode was lost: " + lost.reason}, false, actions);
}

void PrefillAttempt::on(const ReleaseCame&, Actions* actions) {
  if (state_ != State::kUnconfirmed) {
    actions->stale = true;
    return;
  }
  end({AttemptOutcome::kCommitted, "", ""}, actions);
}

void PrefillAttempt::on(const DrainedCame&, Actions* actions) {
  if (state_ == State::kUnconfirmed && cause_) end(EndCause(*cause_), actions);
}

void PrefillAttempt::on(const Tick&, Actions* actions) {
  const bool waited_out = state_ == State::kEarly && now_ >= grant_->early_deadline;
  if (now_ < deadline_ && !waited_out) {
    advance(actions);
    return;
  }
  switch (state_) {
    case State::kWaiting:
      give_up({AttemptOutcome::kFailed, "deadline", "no grant came from decode before the deadline"}, false, actions);
      return;
    case State::kEarly:
      give_up({AttemptOutcome::kFailed, "deadline", "the request did not reach prefill before the grant ran out"}, true,
              actions);
      return;
    case State::kSending:
      give_up({AttemptOutcome::kFailed, "deadline",
               fmt::format("the deadline passed with {} of {} tokens computed and {} transfers out", computed_,
                           prompt_tokens_, posts_out_)},
              true, actions);
      return;
    case State::kUnconfirmed: {
      EndCause cause{AttemptOutcome::kFailed, "in_doubt", "decode did not confirm the commit before the deadline"};
      actions->send_cancel = cause;
      actions->send_drained = writers_quiet();
      end(std::move(cause), actions);
      return;
    }
    case State::kDraining:  // a timer is no evidence: the transport will say
    case State::kOver:
      return;
  }
}

void PrefillAttempt::give_up(EndCause cause, bool tell_peer, Actions* actions) {
  if (state_ == State::kDraining) return;  // decided already
  if (tell_peer && grant_ && peer_reachable_) actions->send_cancel = cause;
  actions->cancel_posts = posts_out_ > 0;
  state_ = State::kDraining;
  cause_ = std::move(cause);
  finish_draining(actions);
}

void PrefillAttempt::finish_draining(Actions* actions) {
  if (posts_out_ > 0) return;
  actions->send_drained = grant_.has_value() && peer_reachable_ && writers_quiet();
  end(EndCause(*cause_), actions);
}

void PrefillAttempt::end(EndCause cause, Actions* actions) {
  BATON_CHECK(posts_out_ == 0, "an attempt ended with {} posts out", posts_out_);
  state_ = State::kOver;
  actions->end = std::move(cause);
}

}  // namespace baton::handoff
