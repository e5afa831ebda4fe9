// An instance's load in a header of its answers, for load balancers that speak ORCA (Open Request Cost Aggregation).
#pragma once

#include <optional>

#include "engine/engine.h"
#include "http/message.h"

namespace baton::http {

inline constexpr const char* kLoadFormatHeader = "endpoint-load-metrics-format";
inline constexpr const char* kLoadHeader = "endpoint-load-metrics";

// The share of the KV pool that is not free for others.
[[nodiscard]] double kv_usage(const engine::EngineStats& stats, const engine::InstanceInfo& info);

// As vLLM gives it: in the form that the request's kLoadFormatHeader names, TEXT or JSON; none for any other.
[[nodiscard]] std::optional<std::string> load_report(std::string_view format, const engine::EngineStats& stats,
                                                     const engine::InstanceInfo& info);

}  // namespace baton::http
