// Takes prompts' KV from prefill instances and generates the rest.
//
// Of an attempt: accept() queues its sequence as prebuilt; when the scheduler has reserved its pages, those that did
// not come from the prefix tree are granted and the grant is sent; the first token is shown when it arrives; after
// Committed the pages are owned again and the sequence joins the running batch. Pages of an attempt that ended
// otherwise are reused only with evidence that its writers are quiet; until then the ledger quarantines them.
//
// A fake transfer (bootstrap_host 2.2.2.2: warm-ups, and measurements of decode alone) is over at once, and leaves in
// the pages what was there. Steps are run over them as over any, but nothing of what comes of it is seen: each token is
// the prompt's last one again, and no other request finds the pages in the prefix tree.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "engine/engine_core.h"
#include "engine/event_inbox.h"
#include "engine/role_part.h"
#include "handoff/decode_handoff.h"
#include "layout/plan.h"

namespace baton::engine {

class DecodeRole final : public RolePart {
 public:
  // Starts the handoff service; the arguments are DecodeHandoff::start's. `attempt_timeout`: from accept() to the
  // grant, and from the grant to the commit.
  static Result<std::unique_ptr<RolePart>> start(EngineCore& core, std::function<void()> wake,
                                                 handoff::DecodeHandoffOptions options, wire::Manifest self,
                                                 transport::Transport& transport, std::vector<handoff::Pool> pools,
                                                 Duration attempt_timeout);
  ~DecodeRole() override;

  Status accept(LiveRequest& live) override;
  void poll(TimePoint now) override;
  void admitted(LiveRequest& live) override;
  void computed(LiveRequest&, int64_t) override {}
  void sampled(LiveRequest& live, GeneratedToken token) override;
  void release(LiveRequest& live, const std::string& why) override;
  void machine_failed(const std::string&) override {}
  void pair(const std::string& host, int port, bool told, std::function<void(Status)> done) override;
  void fill(EngineStats* stats) const override;
  [[nodiscard]] std::string describe_pairs() const override;
  [[nodiscard]] int listening_port() const override { return 0; }

 private:
  enum class State : uint8_t {
    kQueued,       // no pages yet
    kGranted,      // a peer may write
    kQuarantined,  // over, but its writers are not known to be quiet
  };
  struct Attempt {
    State state = State::kQueued;
    SequenceId sequence;
    bool in_scheduler = true;
    std::string address;  // of the prefill instance
    int group = 0;
    size_t cached_pages = 0;           // the first ones; they are shared and were never granted
    std::vector<kv::PageLease> pages;  // its pages once it has left the scheduler
    std::vector<PageId> quarantined;
    std::optional<int32_t> first_token;
    std::optional<GeneratedToken> last;    // the first token ends the request: it is shown with the end
    std::optional<Output::Finish> finish;  // no token is wanted
    TimePoint accepted{}, granted{};
  };

  DecodeRole(EngineCore& core, std::function<void()> wake, wire::Manifest self, Duration attempt_timeout);
  void on(const handoff::DecodePaired& event);
  void on(const handoff::DecodePairLost& event);
  void on(const handoff::DecodeFirstToken& event);
  void on(const handoff::DecodeCommitted& event);
  void on(const handoff::DecodeEnded& event);
  void on(const handoff::DecodeQuiet& event);
  [[nodiscard]] Attempt* find(AttemptId room);
  void accept_fake(LiveRequest& live);
  void begin_fake(LiveRequest& live);
  void settle(const Attempt& attempt, const std::vector<kv::PageLease>& pages);
  void expire(TimePoint now);
  void forbid(const std::string& address, const Error& why);
  void add_links(const layout::Planner& planner);
  [[nodiscard]] ErrorCode code_of(const handoff::DecodeEnded& event, const Attempt& attempt) const;

  EngineCore& core_;
  const wire::Manifest self_;
  const Duration attempt_timeout_;
  // The service calls it until its destructor returns; shared with the sink so that neither order of destruction
  // matters.
  std::shared_ptr<EventInbox<handoff::DecodeEvent>> inbox_;
  std::unordered_map<AttemptId, Attempt> attempts_;
  std::vector<SequenceId> fakes_;             // warm-ups that have got their pages
  std::set<std::pair<int, int>> links_;       // world ranks (prefill, decode) that some plan names
  std::map<std::string, std::string> pairs_;  // address -> the plan in words
  std::map<std::string, std::vector<std::function<void(Status)>>> awaited_;
  TimePoint next_expiry_{};
  uint64_t bootstrap_failed_ = 0, transfer_failed_ = 0;
  std::unique_ptr<handoff::DecodeHandoff> handoff_;
};

}  // namespace baton::engine
