#include "engine/fake_executor.h"

#include <cstring>

#include "base/check.h"
#include "base/random.h"

namespace baton::engine {
namespace {

constexpr uint64_t kStart = 0x5eed;
constexpr float kPeak = 12;

uint64_t mix(uint64_t a, uint64_t b) { return Random(a * 0x9e3779b97f4a7c15 ^ b).next(); }

// What the next token depends on: all h so far, in order.
uint64_t fold(uint64_t summary, uint64_t h) { return mix(summary, h ^ 0xf01d); }

void fill_logits(uint64_t summary, int vocab, float* logits) {
  Random noise(summary);
  const auto peak = noise.below(static_cast<uint64_t>(vocab));
  for (int i = 0; i < vocab; ++i) logits[i] = static_cast<float>(noise.uniform());
  logits[peak] += kPeak;
}

}  // namespace

FakeExecutor::FakeExecutor(FakeExecutorOptions options, std::vector<std::span<std::byte>> pools)
    : options_(std::move(options)), pools_(std::move(pools)), sampler_({{0, options_.vocab}}) {
  BATON_CHECK(static_cast<int>(pools_.size()) == options_.layout.world());
  steps_.resize(static_cast<size_t>(steps_max()) + 1);
  BATON_CHECK(options_.geometry.k_dim * options_.geometry.element_size >= 8);
  for (int r = 0; r < options_.layout.world(); ++r) {
    shapes_.push_back(layout::rank_page_shape(options_.layout, r, options_.geometry, options_.page_tokens));
  }
}

template <typename Visit>
void FakeExecutor::for_each_slot(const kv::Segment& segment, int64_t position, Visit visit) const {
  const auto index = static_cast<size_t>(position / options_.page_tokens);
  BATON_CHECK(index < segment.pages.size(), "position {} lies outside {} pages", position, segment.pages.size());
  const uint32_t page = segment.pages[index];
  const int token = static_cast<int>(position % options_.page_tokens);
  for (int r = 0; r < options_.layout.world(); ++r) {
    if (options_.layout.coordinates_of(r).dp_rank != segment.dp_rank) continue;
    const layout::PageShape& shape = shapes_[static_cast<size_t>(r)];
    const std::span<std::byte> pool = pools_[static_cast<size_t>(r)];
    const uint64_t base = uint64_t{page} * shape.page_bytes();
    BATON_CHECK(base + shape.page_bytes() <= pool.size(), "page {} is outside a pool of {} bytes", page, pool.size());
    const layout::KvGeometry& g = shape.geometry;
    const auto k_bytes = static_cast<uint64_t>(g.k_dim * g.element_size),
               v_bytes = static_cast<uint64_t>(g.v_dim * g.element_size);
    for (int layer = shape.layers.begin; layer < shape.layers.end; ++layer) {
      for (int head = shape.heads.begin; head < shape.heads.end; ++head) {
        std::byte* k = pool.data() + base + shape.k_offset(layer, head, token);
        std::byte* v = pool.data() + base + shape.k_offset(layer, head, 0) + shape.v_offset() +
                       static_cast<uint64_t>(token) * v_bytes;
        visit(Slot{k, k_bytes, v_bytes, v, mix(static_cast<uint64_t>(layer), static_cast<uint64_t>(head))});
      }
    }
  }
}

void FakeExecutor::write(const kv::Segment& segment, int64_t position, uint64_t h) const {
  for_each_slot(segment, position, [h](const Slot& slot) {
    const uint64_t word = h ^ slot.disguise;
    for (uint64_t i = 0; i < slot.k_bytes; ++i) slot.k[i] = static_cast<std::byte>(word >> (i % 8 * 8));
    for (uint64_t i = 0; i < slot.v_bytes; ++i) slot.v[i] = static_cast<std::byte>(~word >> (i % 8 * 8));
  });
}

// h of the position if every holder agrees in every byte, else a number that it is not.
uint64_t FakeExecutor::read(const kv::Segment& segment, int64_t position) const {
  bool first = true, sound = true;
  uint64_t h = 0;
  for_each_slot(segment, position, [&](const Slot& slot) {
    uint64_t word;
    std::memcpy(&word, slot.k, sizeof(word));
    if (first) h = word ^ slot.disguise;
    first = false;
    sound &= h == (word ^ slot.disguise);
    for (uint64_t i = 0; i < slot.k_bytes; ++i) sound &= slot.k[i] == static_cast<std::byte>(word >> (i % 8 * 8));
    for (uint64_t i = 0; i < slot.v_bytes; ++i) sound &= slot.v[i] == static_cast<std::byte>(~word >> (i % 8 * 8));
  });
  return sound ? h : ~h;
}

model::Ticket FakeExecutor::submit(const kv::StepPlan& plan, std::span<const sampling::RowsWanted> wanted) {
  BATON_CHECK(submitted_ - collected_ < static_cast<uint64_t>(steps_max()), "too many steps are not collected");
  Step& step = steps_[submitted_ % steps_.size()];
  step.plan = kv::KeptPlan(plan);
  step.recipes.clear();
  step.wanted.clear();
  step.output.first_row.clear();
  for (size_t i = 0; i < plan.segments.size(); ++i) {
    const auto first = step.wanted.size(), count = static_cast<size_t>(plan.segments[i].logits_rows);
    step.output.first_row.push_back(first);
    step.wanted.resize(first + count);
    if (i >= wanted.size() || wanted[i].recipe == nullptr) continue;
    step.recipes.push_back(wanted[i].recipe);
    sampling::want_rows(wanted[i], std::span(step.wanted).subspan(first, count));
  }
  step.output.answers.resize(step.wanted.size());
  return submitted_++;
}

Result<model::StepOutput*> FakeExecutor::collect(model::Ticket ticket) {
  BATON_CHECK(ticket == collected_ && ticket < submitted_, "step {} is collected, the next is {}", ticket, collected_);
  Step& step = steps_[ticket % steps_.size()];
  if (options_.before_run) options_.before_run(step.plan.plan());
  if (options_.fault) BATON_TRY(options_.fault());
  compute(step, steps_[(ticket + steps_.size() - 1) % steps_.size()]);
  ++collected_;
  return &step.output;
}

void FakeExecutor::compute(Step& step, const Step& before) {
  std::vector<float> logits;
  for (size_t i = 0; i < step.plan.plan().segments.size(); ++i) {
    const kv::Segment& segment = step.plan.plan().segments[i];
    const auto count = static_cast<int64_t>(segment.tokens.size());
    const int64_t end = segment.begin + count;
    BATON_CHECK(count > 0 && segment.begin >= 0 && segment.logits_rows >= 0 && segment.logits_rows <= count);
    BATON_CHECK(static_cast<int64_t>(segment.pages.size()) * options_.page_tokens >= end, "{} pages for {} tokens",
                segment.pages.size(), end);
    if (segment.drawn_by >= 0) {
      const auto by = static_cast<size_t>(segment.drawn_by);
      const size_t row =
          before.output.first_row.at(by) + static_cast<size_t>(before.plan.plan().segments.at(by).logits_rows) - 1;
      step.plan.tokens(i).back() = before.output.answers.at(row).token.id;
    }
    uint64_t h = segment.begin == 0 ? kStart : read(segment, segment.begin - 1);
    for (int64_t t = 0; t < count; ++t) {
      h = mix(h, static_cast<uint64_t>(segment.tokens[static_cast<size_t>(t)]));
      write(segment, segment.begin + t, h);
    }
    uint64_t summary = kStart;
    for (int64_t p = 0; p < end; ++p) {
      summary = fold(summary, read(segment, p));
      if (p < end - segment.logits_rows) continue;
      logits.resize(logits.size() + static_cast<size_t>(options_.vocab));
      fill_logits(summary, options_.vocab, logits.data() + logits.size() - options_.vocab);
    }
  }
  const Interval all{0, static_cast<int>(step.wanted.size())};
  sampler_.reserve(0, step.wanted.size());
  sampler_.find_best(0, step.wanted, all, logits.data(), options_.vocab);
  if (sampling::VocabularySampler::needs_weights(step.wanted))
    sampler_.weigh(0, step.wanted, all, logits.data(), options_.vocab);
  if (sampling::VocabularySampler::needs_picks(step.wanted))
    sampler_.pick(0, step.wanted, all, logits.data(), options_.vocab);
  sampler_.finish(step.wanted, all, step.output.answers);
}

std::vector<float> FakeExecutor::logits_after(std::span<const int32_t> tokens, int vocab) {
  uint64_t h = kStart, summary = kStart;
  for (const int32_t token : tokens) {
    h = mix(h, static_cast<uint64_t>(token));
    summary = fold(summary, h);
  }
  std::vector<float> logits(static_cast<size_t>(vocab));
  fill_logits(summary, vocab, logits.data());
  return logits;
}

std::vector<int32_t> FakeExecutor::greedy_text(const std::vector<int32_t>& prompt, int count, int vocab) {
  std::vector<int32_t> tokens = prompt;
  for (int i = 0; i < count; ++i) {
    const std::vector<float> logits = logits_after(tokens, vocab);
    int best = 0;
    for (int t = 1; t < vocab; ++t) {
      if (logits[static_cast<size_t>(t)] > logits[static_cast<size_t>(best)]) best = t;
    }
    tokens.push_back(best);
  }
  return {tokens.begin() + static_cast<ptrdiff_t>(prompt.size()), tokens.end()};
}

}  // namespace baton::engine
