#include "model/verify_model.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "model/golden.h"

namespace baton::model {

namespace {

// One golden case on its way through the steps.
struct Run {
  const GoldenCase* golden = nullptr;
  int index = 0;
  int dp_rank = 0;
  std::vector<int32_t> tokens;  // the prompt and the golden tokens after it
  std::vector<uint32_t> pages;
  int64_t done = 0;  // tokens in the KV
  size_t row = 0;    // next golden row
};

// Pages of the groups, handed out from the top down so that a sequence's pages never ascend: their order must not
// matter.
void give_pages(std::vector<Run>& runs, const ExecutorOptions& options, uint32_t& pages_per_group) {
  std::vector<uint32_t> used(static_cast<size_t>(options.layout.dp), 0);
  const auto needed = [&](const Run& run) {
    return static_cast<uint32_t>((static_cast<int64_t>(run.tokens.size()) + options.page_tokens - 1) /
                                 options.page_tokens);
  };
  for (const Run& run : runs) used[static_cast<size_t>(run.dp_rank)] += needed(run);
  pages_per_group = *std::max_element(used.begin(), used.end());
  for (Run& run : runs) {
    uint32_t& next = used[static_cast<size_t>(run.dp_rank)];
    for (uint32_t i = needed(run); i > 0; --i) run.pages.push_back(--next);
  }
}

kv::Segment next_segment(const Run& run, int chunk_tokens) {
  const auto prompt = static_cast<int64_t>(run.golden->prompt_ids.size());
  int64_t n = 1;
  if (run.done < prompt) n = chunk_tokens > 0 ? std::min<int64_t>(chunk_tokens, prompt - run.done) : prompt - run.done;
  kv::Segment s;
  s.sequence = SequenceId(static_cast<uint64_t>(run.index) + 1);
  s.dp_rank = run.dp_rank;
  s.begin = run.done;
  s.tokens = std::span(run.tokens).subspan(static_cast<size_t>(run.done), static_cast<size_t>(n));
  s.pages = run.pages;
  s.logits_rows = run.done + n >= prompt ? 1 : 0;
  return s;
}

double relative_error(const GoldenRow& golden, const float* logits, int vocab) {
  double difference = 0;
  double norm = 0;
  const auto add = [&](double ours, double theirs) {
    difference += (ours - theirs) * (ours - theirs);
    norm += theirs * theirs;
  };
  for (size_t i = 0; i < golden.logits.size(); ++i) {
    add(logits[golden.ids.empty() ? i : static_cast<size_t>(golden.ids[i])], golden.logits[i]);
  }
  if (golden.logsumexp) {
    const double top = *std::max_element(logits, logits + vocab);
    double sum = 0;
    for (int i = 0; i < vocab; ++i) sum += std::exp(logits[i] - top);
    add(top + std::log(sum), *golden.logsumexp);
  }
  const double error = std::sqrt(difference / std::max(norm, 1e-30));
  return std::isfinite(error) ? error : HUGE_VAL;
}

// Whether the golden row itself tells the two tokens apart by less than `tolerance` of its largest logit.
bool nearly_equal(const GoldenRow& golden, int32_t a, int32_t b, double tolerance) {
  const auto logit = [&](int32_t token) -> std::optional<double> {
    if (golden.ids.empty()) return golden.logits[static_cast<size_t>(token)];
    const auto found = std::find(golden.ids.begin(), golden.ids.end(), token);
    if (found == golden.ids.end()) return std::nullopt;
    return golden.logits[static_cast<size_t>(found - golden.ids.begin())];
  };
  const auto [x, y] = std::pair(logit(a), logit(b));
  return x && y && std::abs(*x - *y) <= tolerance * std::max(std::abs(*x), std::abs(*y));
}

void compare(Run& run, const float* logits, const ModelConfig& config, bool exact, VerifyReport& report,
             std::vector<double>& errors) {
  const size_t step = run.row++;
  const GoldenRow& golden = run.golden->rows[step];
  const double error = relative_error(golden, logits, config.vocab);
  errors.push_back(error);
  if (report.worst_at.empty() || error > report.worst_error) {
    report.worst_error = error;
    report.worst_at = fmt::format("case {}, step {}", run.index, step);
  }
  if (step >= run.golden->greedy_ids.size()) return;
  const auto ours = static_cast<int32_t>(std::max_element(logits, logits + config.vocab) - logits);
  const int32_t theirs = run.golden->greedy_ids[step];
  if (ours == theirs) return;
  const bool tie = !exact && nearly_equal(golden, ours, theirs, report.tolerance);
  report.token_ties += tie ? 1 : 0;
  report.mismatches.push_back(fmt::format("case {}, step {}: token {} ({:.5f}) here, golden {} ({:.5f}){}", run.index,
                                          step, ours, logits[ours], theirs, logits[theirs],
                                          tie ? ", a tie within the tolerance" : ""));
}

void summarize(std::vector<double>& errors, VerifyReport& report) {
  report.rows = static_cast<int>(errors.size());
  report.rows_over =
      static_cast<int>(std::count_if(errors.begin(), errors.end(), [&](double e) { return e > report.tolerance; }));
  const auto middle = errors.begin() + static_cast<int64_t>(errors.size() / 2);
  std::nth_element(errors.begin(), middle, errors.end());
  report.median_error = *middle;
}

// All cases at once through an executor of its own; `take` is given each golden row's logits.
template <typename Take>
Status run_steps(const ExecutorOptions& how, const ModelConfig& config, int chunk_tokens, uint32_t pages,
                 std::vector<Run>& runs, const Take& take) {
  std::vector<device::Buffer> memory;
  std::vector<device::Memory> pools;
  for (int r = 0; r < how.layout.world(); ++r) {
    const layout::PageShape shape =
        layout::rank_page_shape(how.layout, r, config.kv_geometry(how.kv_dtype), how.page_tokens);
    BATON_ASSIGN(memory.emplace_back(), device::Buffer::allocate(home_of(how, r), shape.page_bytes() * pages));
    pools.push_back(memory.back().memory());
  }
  StepLogits logits;
  ExecutorOptions options = how;
  options.logits = &logits;
  BATON_ASSIGN(const std::unique_ptr<Executor> executor, make_thread_executor(options, config, pools));
  for (int step = 0;; ++step) {
    if (how.routing != nullptr) how.routing->begin_step(step);
    kv::StepPlan plan;
    std::vector<Run*> stepped;
    for (Run& run : runs) {
      if (run.row == run.golden->rows.size()) continue;
      plan.segments.push_back(next_segment(run, chunk_tokens));
      stepped.push_back(&run);
    }
    if (stepped.empty()) return {};
    BATON_TRY(compute_logits(*executor, plan, logits));
    for (size_t i = 0; i < stepped.size(); ++i) {
      stepped[i]->done += static_cast<int64_t>(plan.segments[i].tokens.size());
      if (plan.segments[i].logits_rows > 0) take(*stepped[i], logits.row(i, 0));
    }
  }
}

std::vector<Run> make_runs(const std::vector<GoldenCase>& cases, const VerifyOptions& options, VerifyReport& report) {
  std::vector<Run> runs;
  for (size_t i = 0; i < cases.size(); ++i) {
    const GoldenCase& c = cases[i];
    if (options.prompt_tokens_max > 0 && static_cast<int64_t>(c.prompt_ids.size()) > options.prompt_tokens_max) {
      ++report.cases_left_out;
      continue;
    }
    Run run;
    run.golden = &c;
    run.index = static_cast<int>(i);
    run.dp_rank = static_cast<int>(runs.size() % static_cast<size_t>(options.executor.layout.dp));
    run.tokens = c.prompt_ids;
    run.tokens.insert(run.tokens.end(), c.greedy_ids.begin(),
                      c.greedy_ids.begin() + static_cast<int64_t>(c.rows.size()) - 1);
    runs.push_back(std::move(run));
  }
  report.cases = static_cast<int>(runs.size());
  return runs;
}

}  // namespace

std::string VerifyReport::to_string() const {
  std::string text = fmt::format(
      "{}: {} rows of {} cases, worst relative error {:.3g} at {}, median {:.3g} (at most {:.3g}; {} rows beyond), "
      "{} greedy tokens differ",
      ok() ? "equal" : "NOT equal", rows, cases, worst_error, worst_at, median_error, tolerance, rows_over,
      mismatches.size());
  if (routing_ties > 0) {
    text += fmt::format(", {} expert choices were ties within the tolerance and follow float32", routing_ties);
  }
  if (routing_differences > 0) text += fmt::format(", {} expert choices differ", routing_differences);
  if (cases_left_out > 0) text += fmt::format(", {} cases left out", cases_left_out);
  for (const std::string& line : mismatches) text += "\n  " + line;
  return text;
}

Result<VerifyReport> verify_model(const VerifyOptions& options) {
  const ExecutorOptions& how = options.executor;
  BATON_ASSIGN(const ModelConfig config, load_model_config(how.model_path));
  BATON_TRY(check_model_layout(config, how.layout));
  BATON_ASSIGN(const std::vector<GoldenCase> cases, read_golden(options.golden_path, config.vocab));
  VerifyReport report;
  const bool exact = how.compute == kernels::Compute::kF32 && how.kv_dtype == tensor::DType::kF32;
  const double usual = exact ? 1e-4 : how.kv_dtype == tensor::DType::kF8E4M3 ? 8e-2 : 3e-2;
  report.tolerance = options.tolerance > 0 ? options.tolerance : usual;
  std::vector<Run> runs = make_runs(cases, options, report);
  if (runs.empty())
    return error(ErrorCode::kInvalidArgument, "{}: every case is longer than {} tokens", options.golden_path,
                 options.prompt_tokens_max);
  for (const Run& run : runs) {
    if (static_cast<int64_t>(run.tokens.size()) > config.max_position) {
      return error(ErrorCode::kIncompatible, "{}: case {} has {} tokens, the model takes {}", options.golden_path,
                   run.index, run.tokens.size(), config.max_position);
    }
  }

  uint32_t pages = 0;
  give_pages(runs, how, pages);
  RoutingReference routing(report.tolerance);
  const bool mixture =
      std::find(config.layer_is_moe.begin(), config.layer_is_moe.end(), true) != config.layer_is_moe.end();
  if (mixture && !exact && !options.own_routing) {
    ExecutorOptions first = how;
    first.compute = kernels::Compute::kF32;
    first.kv_dtype = tensor::DType::kF32;
    first.routing = &routing;
    BATON_TRY(run_steps(first, config, options.chunk_tokens, pages, runs, [](Run& run, const float*) { ++run.row; }));
    routing.follow();
    for (Run& run : runs) run.row = 0, run.done = 0;
  }
  ExecutorOptions asked = how;
  if (routing.following()) asked.routing = &routing;
  std::vector<double> errors;
  BATON_TRY(run_steps(asked, config, options.chunk_tokens, pages, runs,
                      [&](Run& run, const float* logits) { compare(run, logits, config, exact, report, errors); }));
  report.routing_ties = routing.ties();
  report.routing_differences = routing.differences();
  summarize(errors, report);
  return report;
}

}  // namespace baton::model
