// What decode does with a committed attempt's bytes: the copies between its own ranks, then the checksums of every
// page, a slice at a time so that the thread stays responsive. No I/O.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "device/stream.h"
#include "handoff/coverage.h"
#include "handoff/events.h"
#include "layout/plan.h"
#include "wire/frames.h"

namespace baton::handoff {

// What decode knows of a grant's transfer before it happens.
class ReceivePlan {
 public:
  // `pools` must outlive the object.
  ReceivePlan(std::shared_ptr<const layout::Planner> planner, const wire::Manifest& self, const wire::Grant& grant,
              std::span<const Pool> pools);

  // The byte ranges of the pages that may be written, on every rank of the DP group.
  [[nodiscard]] std::vector<transport::WindowRange> window() const;
  // Bytes that cross the fabric.
  [[nodiscard]] uint64_t bytes() const { return bytes_; }
  // Whether a Commit accounts for all of them.
  [[nodiscard]] Status check_counts(const wire::Commit& commit) const;

 private:
  friend class VerifyJob;
  [[nodiscard]] const Pool& pool(int r) const { return pools_[static_cast<size_t>(world_[static_cast<size_t>(r)])]; }

  std::shared_ptr<const layout::Planner> planner_;
  std::span<const Pool> pools_;
  layout::Plan plan_;
  std::vector<int> world_;
  std::vector<PageId> pages_;
  int64_t prompt_tokens_ = 0;
  int64_t cached_tokens_ = 0;
  uint64_t bytes_ = 0;
  uint64_t digest_ = 0;  // of the grant
};

class VerifyJob {
 public:
  // `plan` and `streams` must outlive the job.
  VerifyJob(const ReceivePlan& plan, wire::Commit commit, device::Streams& streams);

  // Works on about `bytes` bytes. True when finished; status() holds then.
  bool step(uint64_t bytes);
  // kCorrupt names rank, page and both sums of the first page that differs.
  [[nodiscard]] const Status& status() const { return status_; }
  [[nodiscard]] const wire::Commit& commit() const { return commit_; }
  [[nodiscard]] uint64_t local_bytes() const { return local_bytes_; }
  [[nodiscard]] uint64_t local_copies() const { return local_copies_; }
  [[nodiscard]] uint64_t checksums() const { return checked_; }

 private:
  // The next copies of one LocalCopy into copies_; false: there are no more.
  bool make_copies();
  // Each works on about `bytes` bytes and returns how many those were.
  uint64_t copy_some(uint64_t bytes);
  uint64_t check_some(uint64_t bytes);
  // Begins checksum `index`.
  uint64_t sum_one(uint64_t index);
  void compare(uint64_t sum);
  [[nodiscard]] std::pair<int64_t, int64_t> tokens_of(uint64_t index) const;

  const ReceivePlan& plan_;
  wire::Commit commit_;
  device::Streams& streams_;
  // All local copies of the plan before local_ and that one up to token_ are in copies_ or done.
  size_t local_ = 0;
  int64_t token_ = 0;
  size_t copies_of_ = 0;  // the local copy of copies_
  std::vector<layout::Copy> copies_;
  size_t taken_ = 0;  // of copies_
  Coverage coverage_;
  PageSums sums_;
  uint64_t checked_ = 0;  // of checksums
  uint64_t local_bytes_ = 0, local_copies_ = 0;
  Status status_;
};

}  // namespace baton::handoff
