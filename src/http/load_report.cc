#include "http/load_report.h"

#include <fmt/format.h>

namespace baton::http {

double kv_usage(const engine::EngineStats& stats, const engine::InstanceInfo& info) {
  int used = 0;
  for (const engine::EngineStats::Pages& p : stats.pages) used += p.used();
  const double capacity = static_cast<double>(info.pages_per_group) * static_cast<double>(stats.pages.size());
  return capacity > 0 ? used / capacity : 0;
}

std::optional<std::string> load_report(std::string_view format, const engine::EngineStats& stats,
                                       const engine::InstanceInfo& info) {
  const double usage = kv_usage(stats, info);
  const int waiting = stats.waiting + stats.waiting_grant;
  if (equal_ignoring_case(format, "TEXT")) {
    return fmt::format("TEXT named_metrics.kv_cache_usage_perc={}, named_metrics.num_requests_waiting={}", usage,
                       waiting);
  }
  if (equal_ignoring_case(format, "JSON")) {
    return fmt::format(R"(JSON {{"named_metrics": {{"kv_cache_usage_perc": {}, "num_requests_waiting": {}}}}})", usage,
                       waiting);
  }
  return std::nullopt;
}

}  // namespace baton::http
