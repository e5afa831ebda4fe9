// Inside of PrefillHandoff: the thread that runs attempt machines, control connections and the transport's events.
#pragma once

#include <atomic>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "base/listener.h"
#include "base/queue.h"
#include "base/sparse_log.h"
#include "base/wake_fd.h"
#include "handoff/attended_time.h"
#include "handoff/control_connection.h"
#include "handoff/handshake.h"
#include "handoff/prefill_attempt.h"
#include "handoff/prefill_handoff.h"
#include "handoff/send_job.h"
#include "handoff/tombstones.h"

namespace baton::handoff {

class PrefillHandoff::Service {
 public:
  Service(PrefillHandoffOptions options, wire::Manifest self, transport::Transport& transport, std::vector<Pool> pools,
          PrefillSink sink, UniqueFd listener);
  ~Service();

  [[nodiscard]] uint16_t port() const { return port_; }
  Status begin(AttemptId attempt, int dp_rank, int64_t prompt_tokens, TimePoint deadline);
  void computed(AttemptId attempt, int64_t end, std::vector<PageId> new_pages);
  void finish(AttemptId attempt, PrefillResult result);
  void cancel(AttemptId attempt, std::string reason, bool fault);
  [[nodiscard]] HandoffStats stats() const;

 private:
  struct BeginCommand {
    int dp_rank;
    int64_t prompt_tokens;
    TimePoint deadline;
  };
  struct ComputedCommand {
    int64_t end;
    std::vector<PageId> new_pages;
  };
  struct FinishCommand {
    PrefillResult result;
  };
  struct CancelCommand {
    std::string reason;
    bool fault;
  };
  struct Command {
    AttemptId attempt;
    std::variant<BeginCommand, ComputedCommand, FinishCommand, CancelCommand> what;
  };

  // A decode instance's connection; numbers are never reused.
  struct Peer {
    enum class State { kHello, kProof, kManifest, kElders, kAccept, kPaired, kRefused };
    Peer(UniqueFd fd, TimePoint attended, const std::string& key)
        : connection(std::move(fd), attended), handshake(wire::InstanceRole::kPrefill, key), since(attended) {}
    ControlConnection connection;
    Handshake handshake;
    TimePoint since;  // of the handshake
    State state = State::kHello;
    bool proved = false;  // see PrefillHandoffOptions::peers_max
    size_t early = 0;     // grants that wait for their requests, and their bytes
    size_t early_bytes = 0;
    size_t counted = 0;  // of unproved_bytes_
    wire::Manifest manifest;
    std::shared_ptr<const layout::Planner> planner;
    ConvertedKv* converted_kv = nullptr;  // for one whose KV is of another element type
    // In kElders: older connections of the same incarnation, and the Ping that each has to answer.
    std::map<uint64_t, uint64_t> elders;
    transport::PeerId transport_peer;
    bool connected = false;  // transport_peer is valid
  };

  struct AttemptRecord {
    explicit AttemptRecord(PrefillAttempt m) : machine(std::move(m)) {}
    PrefillAttempt machine;
    uint64_t peer = 0;
    wire::Grant grant;
    uint64_t digest = 0;
    int dp_rank = 0;
    std::unique_ptr<SendJob> job;
    transport::PeerId transport_peer;
    std::vector<PageId> pages;
    // The job still makes posts; the machine counts the making as one post.
    bool making = false;
    std::optional<HandoffPost> next;  // made, and the transport had no room for it
    std::unordered_set<transport::TransferId> out;
    PrefillResult result;
    size_t rows_sent = 0;  // of result.prompt
    uint64_t bytes = 0, copies = 0;
    TimePoint begun, granted, first_post, last_done, finished;
  };

  struct OutPost {
    AttemptId attempt;
    uint64_t bytes = 0;
    std::map<std::pair<int, int>, HandoffStats::Link> links;
    std::shared_ptr<const ConvertedPages> converted;
  };

  void run();
  void wait_for_work();
  [[nodiscard]] int poll_timeout_ms() const;
  void take_commands();
  void command(AttemptId attempt, BeginCommand& begin);
  void command(AttemptId attempt, ComputedCommand& computed);
  void command(AttemptId attempt, FinishCommand& finish);
  void command(AttemptId attempt, CancelCommand& cancel);
  void accept_peers();
  bool make_room();
  void recount(Peer& peer);
  void serve_peers();
  void serve(uint64_t id, Peer& peer);
  void drop_peer(uint64_t id);
  void frame(uint64_t id, Peer& peer, wire::Frame& frame);
  void paired_frame(uint64_t id, Peer& peer, wire::Frame& frame);
  void greet(Peer& peer, const wire::Hello& hello);
  void accepted(Peer& peer, const wire::Accept& accept);
  void meet(uint64_t id, Peer& peer, wire::Manifest& manifest);
  // Memory for KV of that type; made when a peer first asks for it.
  Result<ConvertedKv*> converted_to(const std::string& kv_dtype);
  void await_elders(Peer& peer);
  void admit(Peer& peer);
  void refuse(Peer& peer, const std::string& text);
  void on_grant(uint64_t id, Peer& peer, wire::Grant& grant);
  [[nodiscard]] bool room_for_early(const Peer& peer);
  void leave_early(AttemptRecord& entry);
  void on_cancel(Peer& peer, const wire::Cancel& cancel);
  [[nodiscard]] Status check_grant(const Peer& peer, const wire::Grant& grant) const;
  void turn_down(Peer& peer, const wire::Grant& grant, const std::string& reason, bool fault);
  void take_transfer_events();
  void pump();
  // What it took, as SendJob::Step::work; nullopt: the transport's queue is full.
  std::optional<uint64_t> pump_one(AttemptId attempt, AttemptRecord& entry);
  bool post(AttemptId attempt, AttemptRecord& entry);
  void tick();
  void step(AttemptId attempt, const PrefillAttempt::Input& input);
  void apply(AttemptId attempt, AttemptRecord& entry, PrefillAttempt::Actions actions);
  void send_range(AttemptRecord& entry, PrefillAttempt::Actions::Range range, AttemptId attempt);
  void speak();
  bool say(AttemptId attempt, AttemptRecord& entry);
  wire::PromptLogprobs next_rows(AttemptId attempt, AttemptRecord& entry);
  wire::Commit commit_of(AttemptId attempt, const AttemptRecord& entry) const;
  void cancel_posts(AttemptId attempt);
  void end(AttemptId attempt, const EndCause& cause);
  void emit_ended(PrefillEnded ended, const char* reason);
  void shut_down();
  template <typename Change>
  void count(Change change) {
    std::lock_guard lock(mutex_);
    change(stats_);
  }

  const PrefillHandoffOptions options_;
  const wire::Manifest self_;
  transport::Transport& transport_;
  const std::vector<Pool> pools_;
  const PrefillSink sink_;
  SteadyClock clock_;
  Listener listener_;
  uint16_t port_ = 0;
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
  // By element type; before the attempts and posts that hold pages of it.
  std::map<tensor::DType, std::unique_ptr<ConvertedKv>> converted_kv_;
  SparseLog strangers_log_;
  uint64_t next_peer_ = 1;
  uint64_t planned_for_ = 0;   // the last peer whose manifest was planned for
  bool planned_ = false;       // in this turn
  bool input_left_ = false;    // frames wait for the next turn
  size_t unproved_bytes_ = 0;  // the sum of Peer::counted
  std::map<uint64_t, std::unique_ptr<Peer>> peers_;
  std::unordered_map<AttemptId, std::unique_ptr<AttemptRecord>> attempts_;
  size_t early_ = 0;
  std::unordered_map<transport::TransferId, OutPost> posts_;
  std::vector<std::shared_ptr<const ConvertedPages>> never_quiet_;  // the transport may still read them
  std::deque<AttemptId> pump_order_;                                // attempts that make posts; each once
  bool pump_again_ = false;                                         // the turn's share of work was used up
  Tombstones tombstones_{8192, std::chrono::seconds(120)};
  std::set<uint64_t> never_drained_;  // digests of grants whose writers the transport could not call quiet
  std::vector<AttemptId> speaking_;   // complete, and Commit is not yet on its way
  std::vector<transport::TransferEvent> events_;
  std::thread thread_;
};

}  // namespace baton::handoff
