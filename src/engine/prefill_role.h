// Computes prompts and hands their KV and first token to a decode instance.
//
// Of an attempt: accept() holds its sequence and announces it; the grant releases it into the queue; each chunk is told
// to the handoff; after the last one the pages are pinned here until Ended (S3), and the client's leg is answered when
// decode has everything. A client that leaves earlier gets its abort at once; the pages stay until Ended all the same.
#pragma once

#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "engine/engine_core.h"
#include "engine/event_inbox.h"
#include "engine/role_part.h"
#include "handoff/prefill_handoff.h"

namespace baton::engine {

class PrefillRole final : public RolePart {
 public:
  // Starts the handoff service; the arguments are PrefillHandoff::start's. `attempt_timeout`: from accept() to the
  // commit.
  static Result<std::unique_ptr<RolePart>> start(EngineCore& core, std::function<void()> wake,
                                                 handoff::PrefillHandoffOptions options, wire::Manifest self,
                                                 transport::Transport& transport, std::vector<handoff::Pool> pools,
                                                 Duration attempt_timeout);
  ~PrefillRole() override;

  Status accept(LiveRequest& live) override;
  void poll(TimePoint now) override;
  void admitted(LiveRequest&) override {}
  void computed(LiveRequest& live, int64_t end) override;
  void sampled(LiveRequest& live, GeneratedToken token) override;
  void release(LiveRequest& live, const std::string& why) override;
  void machine_failed(const std::string& why) override;
  void pair(const std::string& host, int port, bool told, std::function<void(Status)> done) override;
  void fill(EngineStats* stats) const override;
  [[nodiscard]] std::string describe_pairs() const override;
  [[nodiscard]] int listening_port() const override { return handoff_->port(); }

 private:
  struct Attempt {
    SequenceId sequence;
    bool granted = false;
    bool in_scheduler = true;           // the sequence is there, with its pages
    size_t pages_told = 0;              // of its pages, in order
    std::vector<kv::PageLease> pinned;  // its pages once it has left the scheduler
  };

  PrefillRole(EngineCore& core, std::function<void()> wake, Duration attempt_timeout);
  void take_pages(Attempt* attempt);
  void on_granted(const handoff::PrefillGranted& event);
  void on_ended(const handoff::PrefillEnded& event);

  EngineCore& core_;
  const Duration attempt_timeout_;
  // The service calls it until its destructor returns; shared with the sink so that neither order of destruction
  // matters.
  std::shared_ptr<EventInbox<handoff::PrefillEvent>> inbox_;
  std::unordered_map<AttemptId, Attempt> attempts_;
  std::vector<kv::PageLease> pinned_for_good_;  // a transfer may read them while the process lives
  uint64_t bootstrap_failed_ = 0, transfer_failed_ = 0;
  std::unique_ptr<handoff::PrefillHandoff> handoff_;
};

}  // namespace baton::engine
