// Inside of DecodeHandoff: the thread that runs pairs, attempt machines, local copies and checksums.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "base/queue.h"
#include "base/wake_fd.h"
#include "handoff/attended_time.h"
#include "handoff/control_connection.h"
#include "handoff/decode_attempt.h"
#include "handoff/decode_handoff.h"
#include "handoff/handshake.h"
#include "handoff/resolver.h"
#include "handoff/verify_job.h"

namespace baton::handoff {

class DecodeHandoff::Service {
 public:
  Service(DecodeHandoffOptions options, wire::Manifest self, transport::Transport& transport, std::vector<Pool> pools,
          DecodeSink sink);
  ~Service();

  void pair(const std::string& host, uint16_t port, bool told);
  Status receive(DecodeRequest request);
  void cancel(AttemptId attempt, std::string reason);
  [[nodiscard]] HandoffStats stats() const;

 private:
  struct PairCommand {
    std::string host;
    uint16_t port;
    bool told;
  };
  struct CancelCommand {
    AttemptId attempt;
    std::string reason;
  };
  using Command = std::variant<PairCommand, DecodeRequest, CancelCommand>;

  // A prefill instance's address.
  struct Pair {
    enum class State { kBackoff, kResolving, kConnecting, kHello, kProof, kManifest, kAccept, kPaired };
    std::string host;
    uint16_t port = 0;
    std::string address;
    State state = State::kBackoff;
    TimePoint since;     // of the try
    TimePoint attended;  // the same as Attention has it
    TimePoint next_try;  // in kBackoff
    TimePoint wanted;    // last asked for, or paired
    Duration backoff{};
    UniqueFd connecting;
    std::unique_ptr<ControlConnection> connection;
    std::optional<Handshake> handshake;
    wire::Manifest peer;
    std::shared_ptr<const layout::Planner> planner;
    std::string last_failure;  // said already
  };

  struct AttemptRecord {
    AttemptRecord(DecodeRequest r, Incarnation self) : request(std::move(r)), machine(self, request.deadline) {}
    DecodeRequest request;
    DecodeAttempt machine;
    Pair* pair = nullptr;  // null: it was not told of
    uint64_t window_secret = 0;
    uint64_t digest = 0;
    std::unique_ptr<ReceivePlan> plan;
    std::vector<wire::PromptRow> rows;  // as far as they have come
    wire::Commit commit;
    std::unique_ptr<VerifyJob> verify;
    TimePoint received, granted, committed;
  };

  void run();
  void wait_for_work();
  void take_commands();
  void command(PairCommand& pair);
  void command(DecodeRequest& request);
  void command(CancelCommand& cancel);
  [[nodiscard]] size_t trying() const;
  Pair& pair_with(const std::string& host, uint16_t port);
  void take_addresses();
  void serve_pairs();
  void serve_connecting(Pair& pair);
  void serve(Pair& pair);
  void frame(Pair& pair, wire::Frame& frame);
  void paired_frame(Pair& pair, wire::Frame& frame);
  void greet(Pair& pair, const wire::Hello& hello);
  void refuse(Pair& pair, const Error& why);
  void meet(Pair& pair, wire::Manifest& manifest);
  void accepted(Pair& pair, const wire::Accept& accept);
  [[nodiscard]] Status check_trust(const std::string& host, uint16_t port) const;
  [[nodiscard]] Status check_address(const Pair& pair, const SocketAddress& address) const;
  void paired(Pair& pair);
  void pair_failed(Pair& pair, const Status& status);
  void pair_lost(Pair& pair);
  void back_off(Pair& pair);
  void forget_pairs();
  void try_soon(Pair& pair);
  [[nodiscard]] std::vector<AttemptId> attempts_of(const Pair& pair) const;
  void on_prompt_logprobs(const Pair& pair, wire::PromptLogprobs& part);
  void on_commit(const Pair& pair, wire::Commit& commit);
  void tick();
  void verify_slices();
  void step(AttemptId attempt, const DecodeAttempt::Input& input);
  void apply(AttemptId attempt, AttemptRecord& entry, DecodeAttempt::Actions& actions);
  void offer(AttemptId attempt, AttemptRecord& entry);
  void send_grant(AttemptId attempt, AttemptRecord& entry);
  void committed(AttemptId attempt, const AttemptRecord& entry);
  void ended(AttemptId attempt, const DecodeAttempt::Actions& actions);
  void forget(AttemptId attempt);
  void shut_down();
  template <typename Change>
  void count(Change change) {
    std::lock_guard lock(mutex_);
    change(stats_);
  }

  const DecodeHandoffOptions options_;
  const wire::Manifest self_;
  transport::Transport& transport_;
  const std::vector<Pool> pools_;
  const DecodeSink sink_;
  SteadyClock clock_;
  WakeFd wake_;
  BoundedQueue<Command> commands_{1};  // only push_always(): live attempts bound it
  std::atomic<bool> stopping_{false};

  mutable std::mutex mutex_;  // guards the two below
  std::unordered_set<AttemptId> live_;
  HandoffStats stats_;

  // The thread's own.
  TimePoint now_;
  AttendedTime attention_;
  device::Streams streams_;  // before the attempts that use them
  std::map<std::pair<std::string, uint16_t>, std::unique_ptr<Pair>> pairs_;
  std::unordered_map<AttemptId, std::unique_ptr<AttemptRecord>> attempts_;
  TrustedPeers trusted_;
  HostResolver resolver_;
  std::thread thread_;
};

}  // namespace baton::handoff
