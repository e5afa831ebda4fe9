// The flags of `up`, `demo` and `chat` that describe a cluster.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "cluster.h"
#include "command_line.h"
#include "device_flags.h"

namespace baton::apps {

struct ClusterFlags {
  std::string model_path;
  std::vector<std::string> prefill, decode;
  std::string unified;
  std::string host = "127.0.0.1";
  int port = 8000;
  DeviceFlags device;
  std::vector<std::string> common, serve, router;  // passed through: to every process, to every instance, to the router
  double drain_timeout_s = 30;
  ForeignFlags foreign;  // of `up`
};

void add_cluster_flags(CLI::App& app, ClusterFlags& flags);
// The level of every process's log, unless --log-level was given.
void default_log_level(ClusterFlags& flags, const char* level);
Result<ClusterOptions> cluster_options(const ClusterFlags& flags);

}  // namespace baton::apps
