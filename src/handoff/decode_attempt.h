// The receiver's side of one attempt as a pure state machine: (input, now) -> what to do. No socket, thread or clock
// inside.
//
//   kPairing    no pair yet                           kEnding       outcome decided, the window is being closed
//   kGranted    window open, grant sent               kQuarantined  ended, a writer may still be inside the window
//   kClosing    Commit came, window closing           kOver         ended and quiet
//   kVerifying  window quiet, copying and hashing
//
// Invariants: verification starts only behind a closed and quiet window (S4); one of Committed and End, once (S5);
// quiet is only said on evidence: a Drained of the writer or our own fence (S2). Timers, cancels and lost peers end
// attempts, they never free pages.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>

#include "base/clock.h"
#include "base/result.h"
#include "handoff/events.h"
#include "handoff/prefill_attempt.h"

namespace baton::handoff {

// EndCause::reason of attempts whose peer we may not meet.
inline constexpr const char* kForbiddenReason = "forbidden";

class DecodeAttempt {
 public:
  enum class State : uint8_t { kPairing, kGranted, kClosing, kVerifying, kEnding, kQuarantined, kOver };

  // Inputs.
  struct PairReady {
    Incarnation prefill;
    uint64_t digest = 0;  // grant_digest() of the grant that will be sent
  };
  struct PairFailed {
    bool refused = false;
    std::string message;
    bool forbidden = false;  // the peer is not one that we may meet
  };
  struct CommitCame {
    Incarnation decode;
    Incarnation prefill;
    uint64_t digest = 0;
    Status counts;  // whether bytes and checksums are as many as the plan says
  };
  struct CancelHere {
    std::string reason;
    bool fault = false;
  };
  struct CancelThere {
    std::string reason;
    bool fault = false;
  };
  struct DrainedCame {};
  struct PeerLost {
    std::string reason;
  };
  // What close_window() or window_quiet() said.
  struct Fence {
    bool quiet = false;
  };
  struct Verified {
    Status status;
  };
  struct Tick {};
  using Input = std::variant<PairReady, PairFailed, CommitCame, CancelHere, CancelThere, DrainedCame, PeerLost, Fence,
                             Verified, Tick>;

  // What to do, in the order of the fields. `close_window` is answered by a Fence before any other input.
  struct Actions {
    bool stale = false;
    bool send_grant = false;  // open the window first
    bool emit_first_token = false;
    bool stop_verify = false;
    bool close_window = false;
    bool start_verify = false;
    bool send_release = false;
    std::optional<EndCause> send_cancel;
    bool send_drained = false;
    bool emit_committed = false;
    std::optional<EndCause> end;
    bool end_quiet = false;    // with `end`
    bool end_corrupt = false;  // with `end`
    bool emit_quiet = false;
  };

  DecodeAttempt(Incarnation self, TimePoint deadline) : self_(self), deadline_(deadline) {}

  Actions step(const Input& input, TimePoint now);

  [[nodiscard]] State state() const { return state_; }
  [[nodiscard]] TimePoint deadline() const { return deadline_; }
  // The prefill incarnation that was granted, when one was.
  [[nodiscard]] std::optional<Incarnation> writer() const { return writer_; }
  // Waiting for the fence to become quiet.
  [[nodiscard]] bool fencing() const { return state_ == State::kClosing || state_ == State::kQuarantined; }

 private:
  void on(const PairReady& ready, Actions* actions);
  void on(const PairFailed& failed, Actions* actions);
  void on(const CommitCame& commit, Actions* actions);
  void on(const CancelHere& cancel, Actions* actions);
  void on(const CancelThere& cancel, Actions* actions);
  void on(const DrainedCame& drained, Actions* actions);
  void on(const PeerLost& lost, Actions* actions);
  void on(const Fence& fence, Actions* actions);
  void on(const Verified& verified, Actions* actions);
  void on(const Tick& tick, Actions* actions);
  void fail(EndCause cause, bool tell_peer, Actions* actions);
  void end(bool quiet, Actions* actions);

  Incarnation self_;
  TimePoint deadline_;
  TimePoint now_;
  State state_ = State::kPairing;
  std::optional<Incarnation> writer_;
  uint64_t digest_ = 0;
  bool drained_ = false;
  bool corrupt_ = false;
  std::optional<EndCause> cause_;
};

[[nodiscard]] const char* decode_state_name(DecodeAttempt::State state);

}  // namespace baton::handoff
