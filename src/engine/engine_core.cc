#include "engine/engine_core.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "base/random.h"
#include "engine/role_part.h"

namespace baton::engine {

EngineCore::EngineCore(CoreOptions options) : options_(std::move(options)), scheduler_(options_.scheduler) {}

void EngineCore::open(SequenceId id, Request request, OutputSink sink) {
  auto owned = std::make_unique<LiveRequest>();
  LiveRequest& live = *owned;
  live.sequence = id;
  live.request = std::move(request);
  live.sink = std::move(sink);
  live.submitted = live.computable = live.request.arrival;
  live.recipe = recipe_of(live.request);
  live_.insert(live.sequence, std::move(owned));
  ++requests_;
  prompt_tokens_ += static_cast<uint64_t>(live.prompt_tokens());
  if (Status accepted = role_->accept(live); !accepted) {
    close(live, {FinishReason::kAbort, std::nullopt, accepted.error()});
  }
}

std::shared_ptr<sampling::Recipe> EngineCore::recipe_of(const Request& request) const {
  auto recipe = std::make_shared<sampling::Recipe>();
  recipe->params = request.sampling;
  recipe->seed = request.sampling.seed ? *request.sampling.seed : entropy();
  recipe->endings = endings_of(options_.eos_ids, request.sampling);
  if (request.sampling.repetition_of_prompt && request.sampling.repetition_penalty != 1) {
    recipe->prompt = request.prompt;
    std::sort(recipe->prompt.begin(), recipe->prompt.end());
    recipe->prompt.erase(std::unique(recipe->prompt.begin(), recipe->prompt.end()), recipe->prompt.end());
  }
  recipe->logprobs = request.logprobs;
  recipe->prompt_logprobs = request.prompt_tops();
  recipe->listed = request.token_ids_logprob;
  return recipe;
}

void EngineCore::bound_queue() {
  const auto most = options_.queue.waiting_max;
  if (!most || options_.info.role != Role::kUnified || scheduler_.waiting() <= static_cast<size_t>(*most)) return;
  const SequenceId last = scheduler_.last_waiting();
  const bool newest = last == scheduler_.newest();
  fail(*find(last),
       error(ErrorCode::kUnavailable, "{}",
             newest ? "The request queue is full." : "The request is aborted by a higher priority request."));
}

// What the scheduler takes for it: larger first.
int EngineCore::priority_of(const Request& request) const {
  const QueueOptions& queue = options_.queue;
  const std::optional<int> stated = request.priority ? request.priority : queue.default_priority;
  if (!stated) return std::numeric_limits<int>::min();
  return queue.low_values_first ? ~*stated : *stated;
}

LiveRequest* EngineCore::find(SequenceId sequence) { return live_.find(sequence); }

std::vector<SequenceId> EngineCore::live() const {
  std::vector<SequenceId> ids;
  ids.reserve(live_.size());
  live_.for_each([&ids](const LiveRequest& live) { ids.push_back(live.sequence); });
  std::sort(ids.begin(), ids.end());
  return ids;
}

void EngineCore::add_sequence(const LiveRequest& live, scheduler::EntryMode entry, int max_new_tokens) {
  scheduler::NewSequence fresh;
  fresh.id = live.sequence;
  fresh.prompt = live.request.prompt;
  fresh.max_new_tokens = max_new_tokens;
  fresh.dp_rank = live.request.dp_rank;
  fresh.cache_salt = live.request.cache_salt;
  fresh.entry = entry;
  fresh.priority = priority_of(live.request);
  // The logits of position i - 1 say how probable prompt token i was. Position 0 has none.
  const int start = live.request.prompt_logprob_start;
  if (start >= 0 && entry != scheduler::EntryMode::kPrebuilt) fresh.logits_from = std::max(0, start - 1);
  scheduler_.add(std::move(fresh));
}

Output& EngineCore::output_of(LiveRequest& live) {
  Output& output = delivery_;
  output.tokens.clear();
  output.finish.reset();
  output.ttft = {};
  output.handed_over = false;
  output.prompt_logprobs = std::exchange(live.prompt_logprobs, {});
  output.next = std::exchange(live.next, {});
  output.prompt_tokens = live.prompt_tokens();
  output.completion_tokens = live.completion_tokens;
  output.cached_tokens = live.cached_tokens;
  output.dp_rank = live.dp_rank;
  output.preemptions = live.preemptions;
  return output;
}

std::optional<Output::Finish> EngineCore::show(LiveRequest& live, GeneratedToken&& token, bool with_finish) {
  ++live.completion_tokens;
  ++generation_tokens_;
  auto finish = finish_after(live, token.id, live.completion_tokens);
  Output& output = output_of(live);
  if (live.completion_tokens == 1) {
    output.ttft = live.ttft;
    if (options_.observer != nullptr) options_.observer->on_ttft(live.ttft);
  }
  output.tokens.push_back(std::move(token));
  if (finish && with_finish) {
    output.finish = finish;
    options_.on_closed();
  }
  live.sink(std::move(output));
  return finish;
}

bool EngineCore::emit(LiveRequest& live, GeneratedToken&& token) {
  const int32_t id = token.id;
  if (!show(live, std::move(token), true)) {
    scheduler_.append(live.sequence, id);
    return false;
  }
  role_->release(live, "");
  live_.erase(live.sequence);
  return true;
}

void EngineCore::close(LiveRequest& live, Output::Finish finish, bool handed_over) {
  Output& output = output_of(live);
  if (handed_over) output.ttft = live.ttft;
  output.handed_over = handed_over;
  if (finish.reason == FinishReason::kAbort) ++aborted_;
  output.finish = std::move(finish);
  OutputSink sink = std::move(live.sink);
  options_.on_closed();
  live_.erase(live.sequence);
  sink(std::move(output));
}

void EngineCore::fail(LiveRequest& live, Error failure) {
  log_debug("request {} ends: {}", live.request.rid, failure.message);
  role_->release(live, failure.message);
  close(live, {FinishReason::kAbort, std::nullopt, std::move(failure)});
}

void EngineCore::fill(EngineStats* stats) const {
  const scheduler::SchedulerCounts counts = scheduler_.counts();
  stats->running = counts.running + counts.computing;
  stats->waiting = counts.waiting + counts.held + counts.reserved;
  stats->cache_hit_rate = counts.prompt_tokens == 0
                              ? 0
                              : static_cast<double>(counts.cached_tokens) / static_cast<double>(counts.prompt_tokens);
  const std::vector<int> bound = scheduler_.bound_waiting();
  for (int g = 0; g < scheduler_.options().dp; ++g) {
    const kv::PageCounts pages = scheduler_.ledger(g).counts();
    stats->pages.push_back({pages.free, pages.owned, pages.granted, pages.quarantined, pages.cached,
                            scheduler_.active_in(g), bound[static_cast<size_t>(g)]});
  }
  stats->running_tokens = counts.running_tokens;
  stats->retracted_prompt_tokens = counts.retracted_prompt_tokens;
  stats->retracted_new_tokens = counts.retracted_new_tokens;
  stats->requests_total = requests_;
  stats->aborted_total = aborted_;
  stats->prompt_tokens_total = prompt_tokens_;
  stats->generation_tokens_total = generation_tokens_;
  stats->cached_tokens_total = counts.cached_tokens;
  stats->preemptions_total = counts.retractions;
  if (counts.retractions > 0) {
    live_.for_each([stats](const LiveRequest& live) { stats->retracted += live.retracted ? 1 : 0; });
  }
}

}  // namespace baton::engine
