// Test engines: memory with a known pattern, page lists with quarantine, and what stands in for a prefill and a decode
// engine.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/queue.h"
#include "base/random.h"
#include "handoff/decode_handoff.h"
#include "handoff/prefill_handoff.h"
#include "transport/make_transport.h"

namespace baton::handoff {

// A transport of another incarnation each time, or with the given options.
[[nodiscard]] std::unique_ptr<transport::Transport> transport_of(const std::string& name);
[[nodiscard]] std::unique_ptr<transport::Transport> transport_of(const std::string& name,
                                                                 const transport::TransportOptions& options);

[[nodiscard]] Incarnation incarnation_of(const transport::Transport& transport);

struct SideSpec {
  layout::Layout layout;
  int page_tokens = 8;
  int pages = 96;  // per DP group
  int homes = 1;   // devices that the ranks' pools lie on in turn
  tensor::DType kv = tensor::DType::kBF16;
};

struct PairSpec {
  std::string name;
  layout::KvGeometry geometry;  // its element_size is that of SideSpec::kv on either side
  SideSpec prefill, decode;
  layout::Fanout fanout = layout::Fanout::kDirect;
  layout::WriterPolicy policy = layout::WriterPolicy::kBalanced;
};

// The pools of an instance. The bytes of (key, layer, head, token, k or v) are a function of these alone, so that
// either side of a handoff, in any process, knows what the other must hold: the bytes of values of `computed`,
// converted where the pools hold others.
class PatternPools {
 public:
  PatternPools(const SideSpec& spec, const layout::KvGeometry& geometry, transport::Transport& transport,
               tensor::DType computed = tensor::DType::kBF16);
  [[nodiscard]] const std::vector<Pool>& pools() const { return pools_; }
  void write(uint64_t key, int dp_rank, const std::vector<PageId>& pages, int64_t begin, int64_t end);
  // The first difference in words, or empty.
  [[nodiscard]] std::string compare(uint64_t key, int dp_rank, const std::vector<PageId>& pages, int64_t begin,
                                    int64_t end) const;
  void fill_page(int dp_rank, PageId page, std::byte value);
  [[nodiscard]] bool page_is(int dp_rank, PageId page, std::byte value) const;

 private:
  template <typename Visit>
  void visit(uint64_t key, int dp_rank, const std::vector<PageId>& pages, int64_t begin, int64_t end,
             Visit visit) const;
  SideSpec spec_;
  tensor::DType computed_;
  layout::KvGeometry geometry_;
  std::vector<Pool> pools_;
};

// Free pages of one DP group, handed out scattered; quarantined pages are neither free nor held.
class PageList {
 public:
  explicit PageList(int pages);
  std::optional<std::vector<wire::GrantedPage>> take(int64_t n, Random* random);
  void give_back(const std::vector<wire::GrantedPage>& pages);
  [[nodiscard]] bool all_free() const { return static_cast<int>(free_.size()) == total_; }
  [[nodiscard]] const std::vector<PageId>& free() const { return free_; }

 private:
  int total_;
  std::vector<PageId> free_;
  std::vector<uint32_t> generations_;
};

[[nodiscard]] std::vector<PageId> numbers_of(const std::vector<wire::GrantedPage>& pages);
[[nodiscard]] wire::Manifest manifest_of(const PairSpec& spec, const SideSpec& side, Incarnation incarnation);

// What a test wants done on the service's thread with each event; set by the test's thread while the service runs.
class EventHook {
 public:
  // Waits for a call under way.
  void set(std::function<void()> hook) {
    const std::lock_guard lock(mutex_);
    hook_ = std::move(hook);
  }
  void operator()() {
    const std::lock_guard lock(mutex_);
    hook_();
  }

 private:
  std::mutex mutex_;
  std::function<void()> hook_ = [] {};
};

// Computes (writes the pattern) in chunks when granted. One thread calls its methods.
class TestPrefill {
 public:
  TestPrefill(const PairSpec& spec, std::unique_ptr<transport::Transport> transport,
              PrefillHandoffOptions options = {});
  // Wraps the transport's posts; see corrupting_transport().
  void begin(AttemptId attempt, int dp_rank, int64_t tokens, Duration timeout = std::chrono::seconds(20));
  void cancel(AttemptId attempt) { handoff_->cancel(attempt, "test"); }
  // Carries out what the events ask for; call it often. `chunk` tokens at a time, one chunk of every sequence a call.
  void pump();
  int64_t chunk = 24;
  bool paused = false;  // computes nothing more
  EventHook on_event;
  std::vector<wire::PromptRow> prompt_rows;  // of every prompt

  [[nodiscard]] uint16_t port() const { return handoff_->port(); }
  [[nodiscard]] const std::map<AttemptId, PrefillEnded>& ended() const { return ended_; }
  [[nodiscard]] bool idle() const { return running_.empty(); }
  [[nodiscard]] bool all_free() const;
  [[nodiscard]] HandoffStats stats() const { return handoff_->stats(); }
  [[nodiscard]] PrefillHandoff& handoff() { return *handoff_; }
  void stop() { handoff_.reset(); }

 private:
  struct Sequence {
    int dp_rank = 0;
    int64_t tokens = 0, cached = 0, computed = 0;
    bool granted = false, finished = false;
    std::vector<wire::GrantedPage> pages;
  };
  void compute(AttemptId attempt, Sequence& sequence);

  PairSpec spec_;
  std::unique_ptr<transport::Transport> transport_;
  PatternPools memory_;
  std::vector<PageList> pages_;
  Random random_{1};
  BoundedQueue<PrefillEvent> events_{1};
  std::map<AttemptId, Sequence> running_;
  std::map<AttemptId, PrefillEnded> ended_;
  std::unique_ptr<PrefillHandoff> handoff_;
};

// Asks for KV, compares it when committed, poisons and frees pages on evidence. One thread calls its methods.
class TestDecode {
 public:
  struct Outcome {
    std::optional<wire::FirstToken> first;
    std::vector<wire::PromptRow> prompt_rows;
    std::optional<DecodeCommitted> committed;
    std::optional<DecodeEnded> ended;
    std::string difference;  // of the memory when committed; must be empty
  };

  TestDecode(const PairSpec& spec, std::unique_ptr<transport::Transport> transport, DecodeHandoffOptions options = {});
  // False: no pages.
  bool request(AttemptId attempt, const std::string& host, uint16_t port, int dp_rank, int64_t tokens,
               int64_t cached = 0, Duration timeout = std::chrono::seconds(20));
  void cancel(AttemptId attempt) { handoff_->cancel(attempt, "test"); }
  void pump();
  EventHook on_event;
  int64_t prompt_rows = 0;  // as in DecodeRequest
  size_t beside_max = 0;

  [[nodiscard]] const std::map<AttemptId, Outcome>& outcomes() const { return outcomes_; }
  [[nodiscard]] const Outcome& outcome(AttemptId attempt) const { return outcomes_.at(attempt); }
  [[nodiscard]] bool over(AttemptId attempt) const;
  [[nodiscard]] bool all_over() const;
  [[nodiscard]] bool all_free() const;
  // Empty when no byte of a page that is free has changed since it was freed (S2).
  [[nodiscard]] std::string touched_free_pages() const;
  [[nodiscard]] int paired() const { return paired_; }
  [[nodiscard]] const std::string& refusal() const { return refusal_; }
  [[nodiscard]] HandoffStats stats() const { return handoff_->stats(); }
  [[nodiscard]] DecodeHandoff& handoff() { return *handoff_; }
  PatternPools& memory() { return memory_; }
  [[nodiscard]] std::vector<PageId> pages_of(AttemptId attempt) const { return numbers_of(held_.at(attempt).pages); }
  void stop() { handoff_.reset(); }

 private:
  struct Held {
    int dp_rank = 0;
    int64_t tokens = 0, cached = 0;
    std::vector<wire::GrantedPage> pages;
  };
  void free_pages(AttemptId attempt);

  PairSpec spec_;
  std::unique_ptr<transport::Transport> transport_;
  PatternPools memory_;
  std::vector<PageList> pages_;
  Random random_{2};
  BoundedQueue<DecodeEvent> events_{1};
  std::map<AttemptId, Held> held_;
  std::map<AttemptId, Outcome> outcomes_;
  int paired_ = 0;
  std::string refusal_;
  std::unique_ptr<DecodeHandoff> handoff_;
};

// Bytes that cross the fabric for tokens [cached, tokens).
[[nodiscard]] uint64_t expected_bytes(const PairSpec& spec, int64_t tokens, int64_t cached);

// A small GQA model (8 heads) and a small MLA one.
[[nodiscard]] layout::KvGeometry gqa_geometry();
[[nodiscard]] layout::KvGeometry mla_geometry();

// Flips one bit of the source of the n-th post after the sender has hashed it.
[[nodiscard]] std::unique_ptr<transport::Transport> corrupting_transport(std::unique_ptr<transport::Transport> inner,
                                                                         int nth);

}  // namespace baton::handoff
