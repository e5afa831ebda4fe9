#include "handoff/rig_test.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "device/convert.h"
#include "handoff/pairing.h"
#include "transport/blob.h"
#include "transport/forwarding.h"

namespace baton::handoff {

using transport::Transport;

std::unique_ptr<Transport> transport_of(const std::string& name, const transport::TransportOptions& options) {
  auto made = transport::make_transport(name, options);
  BATON_CHECK(made.ok(), "{}", made.error().message);
  return std::move(*made);
}

std::unique_ptr<Transport> transport_of(const std::string& name) {
  transport::TransportOptions options;
  options.incarnation = draw_incarnation();
  return transport_of(name, options);
}
Incarnation incarnation_of(const Transport& transport) {
  return transport::blob_incarnation(transport.local_blob()).value();
}

namespace {
constexpr std::byte kPoison{0xdd};
}

layout::KvGeometry gqa_geometry() { return {.layers = 5, .kv_heads = 8, .k_dim = 8, .v_dim = 8, .element_size = 2}; }
layout::KvGeometry mla_geometry() { return {.layers = 6, .kv_heads = 1, .k_dim = 36, .v_dim = 0, .element_size = 2}; }

std::vector<PageId> numbers_of(const std::vector<wire::GrantedPage>& pages) {
  std::vector<PageId> numbers;
  numbers.reserve(pages.size());
  for (const wire::GrantedPage& page : pages) numbers.push_back(page.page);
  return numbers;
}

namespace {
layout::KvGeometry with_elements(layout::KvGeometry geometry, tensor::DType dtype) {
  geometry.element_size = static_cast<int>(tensor::dtype_size(dtype));
  return geometry;
}
}  // namespace

wire::Manifest manifest_of(const PairSpec& spec, const SideSpec& side, Incarnation incarnation) {
  wire::Manifest manifest;
  manifest.incarnation = incarnation;
  manifest.model_digest = {0x3f, 0x9a};
  manifest.geometry = with_elements(spec.geometry, side.kv);
  manifest.kv_dtype = tensor::dtype_name(side.kv);
  manifest.layout = side.layout;
  manifest.page_tokens = side.page_tokens;
  manifest.pages_per_group = side.pages;
  manifest.writer_policy = spec.policy;
  manifest.fanout = spec.fanout;
  return manifest;
}

// ---- memory ----

PatternPools::PatternPools(const SideSpec& spec, const layout::KvGeometry& geometry, Transport& transport,
                           tensor::DType computed)
    : spec_(spec), computed_(computed), geometry_(with_elements(geometry, spec.kv)) {
  for (int rank = 0; rank < spec.layout.world(); ++rank) {
    const layout::PageShape shape = layout::rank_page_shape(spec.layout, rank, geometry_, spec.page_tokens);
    const uint64_t bytes = std::max<uint64_t>(shape.page_bytes(), 1) * static_cast<uint64_t>(spec.pages);
    Result<Transport::Region> region = transport.allocate(bytes);
    BATON_CHECK(region.ok(), "{}", region.error().message);
    pools_.push_back({region->id, region->memory.part(0, bytes), shape});
    pools_.back().memory.home.index = rank % spec.homes;
    std::memset(pools_.back().memory.host().data(), static_cast<int>(kPoison), bytes);
  }
}

template <typename Visit>
void PatternPools::visit(uint64_t key, int dp_rank, const std::vector<PageId>& pages, int64_t begin, int64_t end,
                         Visit visit) const {
  const int ranks = spec_.layout.attn_tp() * spec_.layout.pp;
  // On boundaries of eight bytes, so of the values of any type.
  std::vector<std::byte> entry(with_elements(geometry_, computed_).entry_bytes()), held(geometry_.entry_bytes());
  const auto k_bytes = static_cast<size_t>(geometry_.k_dim * geometry_.element_size);
  for (int r = 0; r < ranks; ++r) {
    const int rank = world_rank(spec_.layout, dp_rank, r);
    const Pool& pool = pools_[static_cast<size_t>(rank)];
    for (int layer = pool.shape.layers.begin; layer < pool.shape.layers.end; ++layer) {
      for (int head = pool.shape.heads.begin; head < pool.shape.heads.end; ++head) {
        for (int64_t token = begin; token < end; ++token) {
          Random random(key * 0x9e3779b97f4a7c15 ^ static_cast<uint64_t>(token * 4096 + layer * 64 + head));
          for (size_t i = 0; i < entry.size(); i += 8) {
            const uint64_t word = random.next();
            std::memcpy(entry.data() + i, &word, std::min<size_t>(8, entry.size() - i));
          }
          device::convert_values(entry.data(), computed_, held.data(), spec_.kv,
                                 static_cast<uint64_t>(geometry_.k_dim + geometry_.v_dim));
          const uint64_t page = pages[static_cast<size_t>(token / spec_.page_tokens)].value() * pool.shape.page_bytes();
          const int slot = static_cast<int>(token % spec_.page_tokens);
          std::byte* k = pool.memory.host().data() + page + pool.shape.k_offset(layer, head, slot);
          visit(rank, layer, head, token, k, std::span<const std::byte>(held).first(k_bytes));
          if (geometry_.v_dim == 0) continue;
          std::byte* v = pool.memory.host().data() + page + pool.shape.v_offset(layer, head, slot);
          visit(rank, layer, head, token, v, std::span<const std::byte>(held).subspan(k_bytes));
        }
      }
    }
  }
}

void PatternPools::write(uint64_t key, int dp_rank, const std::vector<PageId>& pages, int64_t begin, int64_t end) {
  visit(key, dp_rank, pages, begin, end, [](int, int, int, int64_t, std::byte* at, std::span<const std::byte> value) {
    std::memcpy(at, value.data(), value.size());
  });
}

std::string PatternPools::compare(uint64_t key, int dp_rank, const std::vector<PageId>& pages, int64_t begin,
                                  int64_t end) const {
  std::string difference;
  visit(key, dp_rank, pages, begin, end,
        [&](int rank, int layer, int head, int64_t token, const std::byte* at, std::span<const std::byte> value) {
          if (difference.empty() && std::memcmp(at, value.data(), value.size()) != 0)
            difference = fmt::format("rank {} layer {} head {} token {}", rank, layer, head, token);
        });
  return difference;
}

void PatternPools::fill_page(int dp_rank, PageId page, std::byte value) {
  for (int r = 0; r < spec_.layout.attn_tp() * spec_.layout.pp; ++r) {
    const Pool& pool = pools_[static_cast<size_t>(world_rank(spec_.layout, dp_rank, r))];
    std::memset(pool.memory.host().data() + page.value() * pool.shape.page_bytes(), static_cast<int>(value),
                pool.shape.page_bytes());
  }
}

bool PatternPools::page_is(int dp_rank, PageId page, std::byte value) const {
  for (int r = 0; r < spec_.layout.attn_tp() * spec_.layout.pp; ++r) {
    const Pool& pool = pools_[static_cast<size_t>(world_rank(spec_.layout, dp_rank, r))];
    const auto bytes = pool.memory.host().subspan(page.value() * pool.shape.page_bytes(), pool.shape.page_bytes());
    if (!std::all_of(bytes.begin(), bytes.end(), [value](std::byte b) { return b == value; })) return false;
  }
  return true;
}

// ---- pages ----

PageList::PageList(int pages) : total_(pages), generations_(static_cast<size_t>(pages)) {
  for (int i = 0; i < pages; ++i) free_.emplace_back(static_cast<uint32_t>(i));
}

std::optional<std::vector<wire::GrantedPage>> PageList::take(int64_t n, Random* random) {
  if (n > static_cast<int64_t>(free_.size())) return std::nullopt;
  std::vector<wire::GrantedPage> taken;
  // Runs of up to three pages from random places: some copies merge, some do not.
  while (static_cast<int64_t>(taken.size()) < n) {
    const size_t at = random->below(free_.size());
    for (int run = 0; run < 3 && at < free_.size() && static_cast<int64_t>(taken.size()) < n; ++run) {
      const PageId page = free_[at];
      free_.erase(free_.begin() + static_cast<ptrdiff_t>(at));
      taken.push_back({page, ++generations_[page.value()]});
    }
  }
  return taken;
}

void PageList::give_back(const std::vector<wire::GrantedPage>& pages) {
  for (const wire::GrantedPage& page : pages)
    free_.insert(std::lower_bound(free_.begin(), free_.end(), page.page), page.page);
}

// ---- prefill ----

TestPrefill::TestPrefill(const PairSpec& spec, std::unique_ptr<Transport> transport, PrefillHandoffOptions options)
    : spec_(spec),
      transport_(std::move(transport)),
      memory_(spec.prefill, spec.geometry, *transport_, spec.prefill.kv) {
  pages_.assign(static_cast<size_t>(spec.prefill.layout.dp), PageList(spec.prefill.pages));
  auto started = PrefillHandoff::start(options, manifest_of(spec, spec.prefill, incarnation_of(*transport_)),
                                       *transport_, memory_.pools(), [this](PrefillEvent event) {
                                         on_event();
                                         events_.push_always(std::move(event));
                                       });
  BATON_CHECK(started.ok(), "{}", started.error().message);
  handoff_ = std::move(*started);
}

void TestPrefill::begin(AttemptId attempt, int dp_rank, int64_t tokens, Duration timeout) {
  const Status begun = handoff_->begin(attempt, dp_rank, tokens, SteadyClock().now() + timeout);
  ASSERT_TRUE(begun.ok()) << begun.error().message;
  Sequence sequence;
  sequence.dp_rank = dp_rank;
  sequence.tokens = tokens;
  running_[attempt] = sequence;
}

void TestPrefill::pump() {
  for (PrefillEvent& event : events_.drain()) {
    if (const auto* granted = std::get_if<PrefillGranted>(&event)) {
      running_.at(granted->attempt).granted = true;
      running_.at(granted->attempt).cached = granted->cached_tokens;
      continue;
    }
    const PrefillEnded& ended = std::get<PrefillEnded>(event);
    const auto found = running_.find(ended.attempt);
    ASSERT_NE(found, running_.end()) << "a second end of attempt " << ended.attempt.value();
    if (ended.quiet) pages_[static_cast<size_t>(found->second.dp_rank)].give_back(found->second.pages);
    running_.erase(found);
    ended_[ended.attempt] = ended;
  }
  if (paused) return;
  for (auto& [attempt, sequence] : running_) compute(attempt, sequence);
}

void TestPrefill::compute(AttemptId attempt, Sequence& sequence) {
  if (!sequence.granted || sequence.finished) return;
  const int64_t end = std::min(sequence.tokens, sequence.computed + chunk);
  const int64_t pages = (end + spec_.prefill.page_tokens - 1) / spec_.prefill.page_tokens;
  const int64_t more = pages - static_cast<int64_t>(sequence.pages.size());
  auto taken = pages_[static_cast<size_t>(sequence.dp_rank)].take(more, &random_);
  if (!taken) return;  // full now
  sequence.pages.insert(sequence.pages.end(), taken->begin(), taken->end());
  memory_.write(attempt.value(), sequence.dp_rank, numbers_of(sequence.pages), sequence.computed, end);
  sequence.computed = end;
  handoff_->computed(attempt, end, numbers_of(*taken));
  if (end < sequence.tokens) return;
  sequence.finished = true;
  wire::FirstToken first;
  first.token = static_cast<int32_t>(attempt.value() & 0xffff);
  first.logprob = -0.5f;
  first.top_logprobs = {{first.token, -0.5f}, {1, -2.0f}};
  handoff_->finish(attempt, {first, prompt_rows, sequence.cached, {Duration(1000), Duration(2000), {}}});
}

bool TestPrefill::all_free() const {
  return std::all_of(pages_.begin(), pages_.end(), [](const PageList& list) { return list.all_free(); });
}

// ---- decode ----

TestDecode::TestDecode(const PairSpec& spec, std::unique_ptr<Transport> transport, DecodeHandoffOptions options)
    : spec_(spec), transport_(std::move(transport)), memory_(spec.decode, spec.geometry, *transport_, spec.prefill.kv) {
  pages_.assign(static_cast<size_t>(spec.decode.layout.dp), PageList(spec.decode.pages));
  auto started = DecodeHandoff::start(std::move(options), manifest_of(spec, spec.decode, incarnation_of(*transport_)),
                                      *transport_, memory_.pools(), [this](DecodeEvent event) {
                                        on_event();
                                        events_.push_always(std::move(event));
                                      });
  BATON_CHECK(started.ok(), "{}", started.error().message);
  handoff_ = std::move(*started);
}

bool TestDecode::request(AttemptId attempt, const std::string& host, uint16_t port, int dp_rank, int64_t tokens,
                         int64_t cached, Duration timeout) {
  auto pages = pages_[static_cast<size_t>(dp_rank)].take(
      (tokens + spec_.decode.page_tokens - 1) / spec_.decode.page_tokens, &random_);
  if (!pages) return false;
  // What decode has of the prefix; prefill has something else there, so that a byte sent for nothing is seen.
  if (cached > 0) memory_.write(~attempt.value(), dp_rank, numbers_of(*pages), 0, cached);
  held_[attempt] = {dp_rank, tokens, cached, *pages};
  outcomes_[attempt] = {};
  DecodeRequest request{.attempt = attempt,
                        .host = host,
                        .port = port,
                        .dp_rank = dp_rank,
                        .prompt_tokens = tokens,
                        .cached_tokens = cached,
                        .pages = *pages,
                        .deadline = SteadyClock().now() + timeout,
                        .prompt_rows = prompt_rows,
                        .beside_max = beside_max};
  const Status accepted = handoff_->receive(std::move(request));
  EXPECT_TRUE(accepted.ok()) << accepted.error().message;
  return true;
}

void TestDecode::pump() {
  for (DecodeEvent& event : events_.drain()) {
    if (auto* first = std::get_if<DecodeFirstToken>(&event)) {
      outcomes_.at(first->attempt).first = first->result.first;
      outcomes_.at(first->attempt).prompt_rows = first->result.prompt;
    } else if (auto* committed = std::get_if<DecodeCommitted>(&event)) {
      Outcome& outcome = outcomes_.at(committed->attempt);
      ASSERT_FALSE(outcome.committed || outcome.ended) << "two outcomes";
      const Held& held = held_.at(committed->attempt);
      const uint64_t key = committed->attempt.value();
      outcome.difference = memory_.compare(key, held.dp_rank, numbers_of(held.pages), held.cached, held.tokens) +
                           memory_.compare(~key, held.dp_rank, numbers_of(held.pages), 0, held.cached);
      outcome.committed = *committed;
      free_pages(committed->attempt);
    } else if (auto* ended = std::get_if<DecodeEnded>(&event)) {
      Outcome& outcome = outcomes_.at(ended->attempt);
      ASSERT_FALSE(outcome.committed || outcome.ended) << "two outcomes";
      outcome.ended = *ended;
      if (ended->quiet) free_pages(ended->attempt);
    } else if (auto* quiet = std::get_if<DecodeQuiet>(&event)) {
      ASSERT_TRUE(outcomes_.at(quiet->attempt).ended.has_value());
      free_pages(quiet->attempt);
    } else if (auto* paired = std::get_if<DecodePaired>(&event)) {
      if (paired->status) {
        ++paired_;
      } else {
        refusal_ = paired->status.error().message;
      }
    }
  }
}

void TestDecode::free_pages(AttemptId attempt) {
  const Held& held = held_.at(attempt);
  for (const wire::GrantedPage& page : held.pages) memory_.fill_page(held.dp_rank, page.page, kPoison);
  pages_[static_cast<size_t>(held.dp_rank)].give_back(held.pages);
  held_.erase(attempt);
}

bool TestDecode::over(AttemptId attempt) const {
  const Outcome& outcome = outcomes_.at(attempt);
  return outcome.committed || outcome.ended;
}
bool TestDecode::all_over() const {
  return std::all_of(outcomes_.begin(), outcomes_.end(), [&](const auto& item) { return over(item.first); });
}
bool TestDecode::all_free() const {
  return std::all_of(pages_.begin(), pages_.end(), [](const PageList& list) { return list.all_free(); });
}

std::string TestDecode::touched_free_pages() const {
  for (size_t group = 0; group < pages_.size(); ++group) {
    for (const PageId page : pages_[group].free()) {
      if (!memory_.page_is(static_cast<int>(group), page, kPoison)) return fmt::format("group {} page {}", group, page);
    }
  }
  return {};
}

uint64_t expected_bytes(const PairSpec& spec, int64_t tokens, int64_t cached) {
  const int page = spec.decode.page_tokens;
  const bool whole = page == spec.prefill.page_tokens;
  const auto moved = static_cast<uint64_t>(whole ? (tokens + page - 1) / page * page - cached : tokens - cached);
  const layout::KvGeometry held = with_elements(spec.geometry, spec.decode.kv);
  if (spec.fanout == layout::Fanout::kLocal) return moved * held.token_bytes();
  uint64_t bytes = 0;
  for (int r = 0; r < spec.decode.layout.attn_tp() * spec.decode.layout.pp; ++r)
    bytes +=
        layout::rank_page_shape(spec.decode.layout, world_rank(spec.decode.layout, 0, r), held, 1).page_bytes() * moved;
  return bytes;
}

// ---- corruption ----

namespace {

class CorruptingTransport final : public transport::ForwardingTransport {
 public:
  CorruptingTransport(std::unique_ptr<Transport> sound, int nth)
      : transport::ForwardingTransport(std::move(sound)), left_(nth) {}
  Result<Region> allocate(uint64_t bytes) override {
    Result<Region> region = wrapped().allocate(bytes);
    if (region) regions_[region->id] = region->memory.host();
    return region;
  }
  Result<transport::TransferId> post_write(transport::PeerId peer, std::span<const transport::Block> blocks,
                                           const transport::WindowToken& token, TimePoint deadline) override {
    if (--left_ == 0) regions_.at(blocks[0].local_region)[blocks[0].local_offset] ^= std::byte{4};
    return wrapped().post_write(peer, blocks, token, deadline);
  }

 private:
  std::map<transport::RegionId, std::span<std::byte>> regions_;
  int left_;
};

}  // namespace

std::unique_ptr<Transport> corrupting_transport(std::unique_ptr<Transport> inner, int nth) {
  return std::make_unique<CorruptingTransport>(std::move(inner), nth);
}

}  // namespace baton::handoff
