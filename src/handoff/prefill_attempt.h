// The sender's side of one attempt as a pure state machine: (input, now) -> what to do. No socket, thread or clock
// inside, so that tests can try inputs in any order.
//
//   kWaiting      begun, no grant yet               kUnconfirmed  Commit sent, every post done
//   kEarly        granted, no request yet           kDraining     outcome decided, posts still out
//   kSending      both: chunks are being written    kOver         ended
//
// Invariants: at most one Commit, and only when every post is done; at most one End (S5); no End and no Drained while a
// post is out (S2, S3), whatever timer fired or peer vanished; nothing happens after kOver.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>

#include "base/clock.h"
#include "handoff/events.h"
#include "wire/frames.h"

namespace baton::handoff {

// Why an attempt ended, for the failure counters: a fixed word, and a sentence.
struct EndCause {
  AttemptOutcome outcome = AttemptOutcome::kFailed;
  // "", "deadline", "peer_lost", "transfer", "rejected", "peer", "mismatch", "engine" or "in_doubt".
  const char* reason = "";
  std::string message;
  bool operator==(const EndCause&) const = default;
};

class PrefillAttempt {
 public:
  enum class State : uint8_t { kWaiting, kEarly, kSending, kUnconfirmed, kDraining, kOver };

  // Inputs.
  struct Begin {
    int64_t prompt_tokens = 0;
    TimePoint deadline;
  };
  struct Granted {
    uint64_t digest = 0;  // grant_digest()
    Incarnation decode;
    Incarnation prefill;
    int64_t prompt_tokens = 0;
    int64_t cached_tokens = 0;
    int64_t grain = 1;  // ranges are sent up to multiples of so many tokens, and the end
    TimePoint deadline;
    TimePoint early_deadline;  // by when the request must have come
  };
  struct Computed {
    int64_t end = 0;
  };
  struct Finish {};
  struct CancelHere {
    std::string reason;
    bool fault = false;
  };
  struct CancelThere {
    std::string reason;
    bool fault = false;
  };
  struct PeerLost {
    std::string reason;
  };
  struct PostEnded {
    transport::TransferOutcome outcome = transport::TransferOutcome::kDone;
    bool local_quiesced = true;
    bool remote_quiesced = true;
    std::string detail;
  };
  struct ReleaseCame {};
  struct DrainedCame {};
  struct Tick {};
  using Input = std::variant<Begin, Granted, Computed, Finish, CancelHere, CancelThere, PeerLost, PostEnded,
                             ReleaseCame, DrainedCame, Tick>;

  // What to do, in the order of the fields.
  struct Actions {
    bool stale = false;  // the input was dropped: count it (S8)
    bool emit_granted = false;
    struct Range {
      int64_t begin = 0, end = 0;
      bool operator==(const Range&) const = default;
    };
    std::optional<Range> send;  // make posts for these tokens, then say posts_made()
    bool send_commit = false;
    std::optional<EndCause> send_cancel;  // Cancel frame
    bool cancel_posts = false;            // drop what is queued, cancel what is out; each ends by a PostEnded
    bool send_drained = false;
    std::optional<EndCause> end;  // the attempt is over; sources_quiet() and writers_quiet() say what is known
  };

  // From begin() or from an early grant.
  PrefillAttempt(Incarnation self, const Begin& begin);
  PrefillAttempt(Incarnation self, const Granted& grant);

  Actions step(const Input& input, TimePoint now);

  // `n` posts came of the last send, queued or out. An attempt whose send made none may be complete: call step(Tick)
  // after.
  void posts_made(int n) { posts_out_ += n; }

  [[nodiscard]] State state() const { return state_; }
  [[nodiscard]] bool begun() const { return begun_; }
  [[nodiscard]] bool granted() const { return grant_.has_value(); }
  [[nodiscard]] TimePoint deadline() const { return deadline_; }
  [[nodiscard]] int posts_out() const { return posts_out_; }
  [[nodiscard]] bool sources_quiet() const { return posts_out_ == 0 && sources_quiet_; }
  [[nodiscard]] bool writers_quiet() const { return posts_out_ == 0 && writers_quiet_; }

 private:
  void on(const Begin& begin, Actions* actions);
  void on(const Granted& grant, Actions* actions);
  void on(const Computed& computed, Actions* actions);
  void on(const Finish& finish, Actions* actions);
  void on(const CancelHere& cancel, Actions* actions);
  void on(const CancelThere& cancel, Actions* actions);
  void on(const PeerLost& lost, Actions* actions);
  void on(const PostEnded& post, Actions* actions);
  void on(const ReleaseCame& release, Actions* actions);
  void on(const DrainedCame& drained, Actions* actions);
  void on(const Tick& tick, Actions* actions);
  void meet(Actions* actions);
  void advance(Actions* actions);
  void give_up(EndCause cause, bool tell_peer, Actions* actions);
  void finish_draining(Actions* actions);
  void end(EndCause cause, Actions* actions);

  Incarnation self_;
  State state_;
  bool begun_ = false;
  std::optional<Granted> grant_;
  TimePoint deadline_;
  TimePoint now_;
  int64_t prompt_tokens_ = 0;
  int64_t computed_ = 0;
  int64_t sent_ = 0;
  bool finished_ = false;
  int posts_out_ = 0;
  bool sources_quiet_ = true;
  bool writers_quiet_ = true;
  bool peer_reachable_ = true;
  std::optional<EndCause> cause_;  // while kDraining
};

[[nodiscard]] const char* prefill_state_name(PrefillAttempt::State state);

}  // namespace baton::handoff
