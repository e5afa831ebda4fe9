#include "kv/page_ledger.h"

#include <algorithm>

namespace baton::kv {

namespace {

int& count_of(PageCounts& counts, PageState state) {
  switch (state) {
    case PageState::kFree:
      return counts.free;
    case PageState::kOwned:
      return counts.owned;
    case PageState::kGranted:
      return counts.granted;
    case PageState::kQuarantined:
      return counts.quarantined;
    case PageState::kCached:
      break;
  }
  return counts.cached;
}

}  // namespace

const char* page_state_name(PageState state) {
  switch (state) {
    case PageState::kFree:
      return "free";
    case PageState::kOwned:
      return "owned";
    case PageState::kGranted:
      return "granted";
    case PageState::kQuarantined:
      return "quarantined";
    case PageState::kCached:
      return "cached";
  }
  return "unknown";
}

PageLease::~PageLease() {
  if (ledger_ != nullptr) ledger_->drop(page_);
}

PageLease::PageLease(PageLease&& other) noexcept : ledger_(std::exchange(other.ledger_, nullptr)), page_(other.page_) {}

PageLease& PageLease::operator=(PageLease&& other) noexcept {
  if (this != &other) {
    if (ledger_ != nullptr) ledger_->drop(page_);
    ledger_ = std::exchange(other.ledger_, nullptr);
    page_ = other.page_;
  }
  return *this;
}

PageLease PageLease::share() const {
  BATON_CHECK(!empty(), "share() of an empty lease");
  ledger_->retain(page_);
  return PageLease(ledger_, page_);
}

PageLedger::PageLedger(int pages) {
  BATON_CHECK(pages >= 1, "a ledger of {} pages", pages);
  entries_.resize(static_cast<size_t>(pages));
  counts_.free = pages;
  add_run(0, static_cast<uint32_t>(pages));
}

PageLedger::~PageLedger() {
  BATON_CHECK(counts_.owned + counts_.granted + counts_.cached == 0,
              "ledger ends with leases alive: owned {} granted {} cached {}", counts_.owned, counts_.granted,
              counts_.cached);
}

Result<std::vector<PageLease>> PageLedger::reserve(int count) {
  BATON_CHECK(count >= 0, "reserve({})", count);
  if (count > counts_.free) {
    return error(ErrorCode::kResourceExhausted,
                 "{} KV pages needed, {} of {} free ({} owned, {} granted, {} quarantined, {} cached)", count,
                 counts_.free, total(), counts_.owned, counts_.granted, counts_.quarantined, counts_.cached);
  }
  std::vector<uint32_t> taken;
  taken.reserve(static_cast<size_t>(count));
  for (auto left = static_cast<uint32_t>(count); left > 0;) left -= take_run(left, taken);
  std::sort(taken.begin(), taken.end());
  std::vector<PageLease> leases;
  leases.reserve(taken.size());
  for (const uint32_t number : taken) {
    const PageId page(number);
    PageRecord& e = entry(page);
    ++e.generation;
    e.references = 1;
    move_to(e, PageState::kOwned);
    leases.push_back(PageLease(this, page));
  }
  check();
  return leases;
}

void PageLedger::grant(const PageLease& lease) {
  PageRecord& e = entry_of(lease);
  BATON_CHECK(e.state == PageState::kOwned && e.references == 1 && !e.in_tree,
              "grant of page {}: {}, {} references, in tree {}", lease.page(), page_state_name(e.state), e.references,
              e.in_tree);
  move_to(e, PageState::kGranted);
  check();
}

void PageLedger::settle(const PageLease& lease) {
  PageRecord& e = entry_of(lease);
  BATON_CHECK(e.state == PageState::kGranted, "settle of page {}: {}", lease.page(), page_state_name(e.state));
  move_to(e, PageState::kOwned);
  check();
}

void PageLedger::release_quarantined(PageId page) {
  PageRecord& e = entry(page);
  BATON_CHECK(e.state == PageState::kQuarantined, "release of page {}: {}, not quarantined", page,
              page_state_name(e.state));
  move_to(e, PageState::kFree);
  free_page(page);
  check();
}

void PageLedger::mark_cached(PageId page, bool in_tree) {
  PageRecord& e = entry(page);
  BATON_CHECK(e.state == PageState::kOwned || e.state == PageState::kCached, "mark_cached of page {}: {}", page,
              page_state_name(e.state));
  BATON_CHECK(e.in_tree != in_tree, "page {} is {} in the tree", page, in_tree ? "already" : "not");
  e.in_tree = in_tree;
  move_to(e, in_tree && e.references == 1 ? PageState::kCached : PageState::kOwned);
  check();
}

void PageLedger::observe_use(PageUseObserver* observer) {
  BATON_CHECK(observer == nullptr || observer_ == nullptr, "a ledger of two prefix trees");
  observer_ = observer;
}

PageState PageLedger::state(PageId page) const { return entry(page).state; }
uint32_t PageLedger::generation(PageId page) const { return entry(page).generation; }
int PageLedger::references(PageId page) const { return entry(page).references; }

void PageLedger::retain(PageId page) {
  PageRecord& e = entry(page);
  BATON_CHECK(e.state == PageState::kOwned || e.state == PageState::kCached, "share of page {}: {}", page,
              page_state_name(e.state));
  const bool first_use = e.state == PageState::kCached;
  ++e.references;
  move_to(e, PageState::kOwned);
  check();
  if (first_use && observer_ != nullptr) observer_->page_used(page);
}

void PageLedger::drop(PageId page) {
  PageRecord& e = entry(page);
  BATON_CHECK(e.references > 0, "drop of page {}: {}, no references", page, page_state_name(e.state));
  --e.references;
  if (e.state == PageState::kGranted) {  // its writers may not be quiet
    move_to(e, PageState::kQuarantined);
  } else if (e.references == 0) {
    BATON_CHECK(!e.in_tree, "page {} is in the tree, which dropped its lease", page);
    move_to(e, PageState::kFree);
    free_page(page);
  } else if (e.references == 1 && e.in_tree) {
    move_to(e, PageState::kCached);
    if (observer_ != nullptr) observer_->page_unused(page);
  }
  check();
}

PageLedger::PageRecord& PageLedger::entry(PageId page) {
  BATON_CHECK(page.value() < entries_.size(), "page {} of {}", page, entries_.size());
  return entries_[page.value()];
}

const PageLedger::PageRecord& PageLedger::entry(PageId page) const {
  BATON_CHECK(page.value() < entries_.size(), "page {} of {}", page, entries_.size());
  return entries_[page.value()];
}

PageLedger::PageRecord& PageLedger::entry_of(const PageLease& lease) {
  BATON_CHECK(lease.ledger_ == this, "a lease of {}", lease.empty() ? "nothing" : "another ledger");
  return entry(lease.page());
}

void PageLedger::move_to(PageRecord& e, PageState state) {
  --count_of(counts_, e.state);
  ++count_of(counts_, state);
  e.state = state;
}

void PageLedger::check() const {
  const auto [free, owned, granted, quarantined, cached] = counts_;
  BATON_CHECK(std::min({free, owned, granted, quarantined, cached}) >= 0 && counts_.total() == total(),
              "free {} + owned {} + granted {} + quarantined {} + cached {} != {}", free, owned, granted, quarantined,
              cached, total());
}

void PageLedger::add_run(uint32_t begin, uint32_t end) {
  free_runs_.emplace(begin, end);
  free_runs_by_length_.emplace(end - begin, begin);
}

void PageLedger::remove_run(uint32_t begin) {
  const auto run = free_runs_.find(begin);
  free_runs_by_length_.erase({run->second - run->first, run->first});
  free_runs_.erase(run);
}

// Joins the page with its free neighbours.
void PageLedger::free_page(PageId page) {
  uint32_t begin = page.value();
  uint32_t end = begin + 1;
  const auto after = free_runs_.lower_bound(begin);
  const bool joins_after = after != free_runs_.end() && after->first == end;
  if (joins_after) end = after->second;
  if (after != free_runs_.begin()) {
    const auto before = std::prev(after);
    if (before->second == begin) begin = before->first;
  }
  if (joins_after) remove_run(page.value() + 1);
  if (begin != page.value()) remove_run(begin);
  add_run(begin, end);
}

// Takes up to `wanted` pages from the start of the shortest run that has them all, or the whole longest run. Returns
// how many.
uint32_t PageLedger::take_run(uint32_t wanted, std::vector<uint32_t>& taken) {
  auto run = free_runs_by_length_.lower_bound({wanted, 0});
  if (run == free_runs_by_length_.end()) --run;
  const auto [length, begin] = *run;
  const uint32_t count = std::min(wanted, length);
  remove_run(begin);
  if (count < length) add_run(begin + count, begin + length);
  for (uint32_t i = 0; i < count; ++i) taken.push_back(begin + i);
  return count;
}

void PageLedger::audit() const {
  PageCounts counted;
  uint32_t free_in_runs = 0;
  uint32_t last_end = 0;
  for (const auto& [begin, end] : free_runs_) {
    BATON_CHECK(begin < end && end <= entries_.size() && (free_in_runs == 0 || begin > last_end),
                "free run {}..{} after {}", begin, end, last_end);
    BATON_CHECK(free_runs_by_length_.contains({end - begin, begin}), "free run {}..{} is not listed by length", begin,
                end);
    for (uint32_t i = begin; i < end; ++i) {
      BATON_CHECK(entries_[i].state == PageState::kFree, "page {} in a free run: {}", i,
                  page_state_name(entries_[i].state));
    }
    free_in_runs += end - begin;
    last_end = end;
  }
  BATON_CHECK(free_runs_by_length_.size() == free_runs_.size(), "{} free runs, {} by length", free_runs_.size(),
              free_runs_by_length_.size());
  for (size_t i = 0; i < entries_.size(); ++i) {
    const PageRecord& e = entries_[i];
    ++count_of(counted, e.state);
    bool consistent = false;
    switch (e.state) {
      case PageState::kFree:
      case PageState::kQuarantined:
        consistent = e.references == 0 && !e.in_tree;
        break;
      case PageState::kOwned:
        consistent = e.references >= (e.in_tree ? 2 : 1);
        break;
      case PageState::kGranted:
        consistent = e.references == 1 && !e.in_tree;
        break;
      case PageState::kCached:
        consistent = e.references == 1 && e.in_tree;
        break;
    }
    BATON_CHECK(consistent, "page {}: {}, {} references, in tree {}", i, page_state_name(e.state), e.references,
                e.in_tree);
  }
  BATON_CHECK(counted == counts_ && free_in_runs == static_cast<uint32_t>(counts_.free),
              "counts differ: {} free counted, {} in runs, {} noted", counted.free, free_in_runs, counts_.free);
  check();
}

}  // namespace baton::kv
