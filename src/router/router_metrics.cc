#include "router/router_metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <array>
#include <chrono>
#include <sstream>

#include "base/log.h"

namespace baton::router {

namespace {

struct CounterName {
  const char* name;
  const char* help;
};

// In the order of RouterMetrics::Event.
constexpr std::array<CounterName, 6> kCounters{{
    {"baton_router_requests_total", "Requests"},
    {"baton_router_retries_total", "New attempts after a failure the client did not see"},
    {"baton_router_prefill_errors_total", "Prefill legs that failed"},
    {"baton_router_decode_errors_total", "Decode legs that failed"},
    {"baton_router_clients_left_total", "Clients that left before the end"},
    {"baton_router_stream_errors_total", "Answers that broke off after their first byte"},
}};
const prometheus::Histogram::BucketBoundaries kSeconds{0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1,
                                                       0.25,   0.5,   1,      2.5,   5,    10,    30,   60};

}  // namespace

struct RouterMetrics::Impl {
  prometheus::Registry registry;
  std::array<prometheus::Counter*, kCounters.size()> counters{};
  prometheus::Histogram& in_router = prometheus::BuildHistogram()
                                         .Name("baton_ttft_part_seconds")
                                         .Help("TTFT as a sum of its parts; the others are the workers'")
                                         .Register(registry)
                                         .Add({{"part", "router"}}, kSeconds);

  [[nodiscard]] prometheus::Counter& of(Event event) const { return *counters.at(static_cast<size_t>(event)); }
};

RouterMetrics::RouterMetrics() : impl_(std::make_unique<Impl>()) {
  for (size_t i = 0; i < kCounters.size(); ++i) {
    impl_->counters[i] =
        &prometheus::BuildCounter().Name(kCounters[i].name).Help(kCounters[i].help).Register(impl_->registry).Add({});
  }
}
RouterMetrics::~RouterMetrics() = default;

void RouterMetrics::count(Event event) { impl_->of(event).Increment(); }
uint64_t RouterMetrics::counted(Event event) const { return static_cast<uint64_t>(impl_->of(event).Value()); }
void RouterMetrics::on_answer(Duration in_router) {
  impl_->in_router.Observe(std::chrono::duration<double>(in_router).count());
}

std::string RouterMetrics::render(const std::vector<WorkerView>& workers) const {
  // Workers come and go: their gauges live for one rendering.
  prometheus::Registry now;
  auto& healthy =
      prometheus::BuildGauge().Name("baton_router_worker_healthy").Help("Health of each worker").Register(now);
  auto& outstanding = prometheus::BuildGauge()
                          .Name("baton_router_worker_outstanding")
                          .Help("Requests under way on each worker")
                          .Register(now);
  for (const WorkerView& view : workers) {
    const prometheus::Labels labels{{"role", engine::role_name(view.address.role)},
                                    {"worker", view.address.url.authority()}};
    healthy.Add(labels).Set(view.healthy ? 1 : 0);
    outstanding.Add(labels).Set(static_cast<double>(view.outstanding));
  }
  prometheus::BuildCounter()
      .Name("baton_log_lines_dropped_total")
      .Help("Log lines that nobody read in time")
      .Register(now)
      .Add({})
      .Increment(static_cast<double>(log_lines_dropped()));
  std::ostringstream out;
  prometheus::TextSerializer().Serialize(out, impl_->registry.Collect());
  prometheus::TextSerializer().Serialize(out, now.Collect());
  return out.str();
}

}  // namespace baton::router
