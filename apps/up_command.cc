// baton up: a whole local cluster in one command.
#include <limits.h>
#include <unistd.h>

#include <memory>

#include "base/line_writer.h"
#include "cluster.h"
#include "cluster_flags.h"
#include "commands.h"
#include "exit_code.h"
#include "http/url.h"
#include "serve_flags.h"

namespace baton::apps {
namespace {

int run_up(const CLI::App& app, const ClusterFlags& flags) {
  SignalWait signals;
  log_init(LogLevel::kInfo, "up");
  auto options = cluster_options(flags);
  if (!options) return fail(app, options.error());
  const auto start = std::chrono::steady_clock::now();
  auto cluster = Cluster::start(std::move(*options), signals);
  if (!cluster) return fail(app, cluster.error());
  const std::string summary = fmt::format(
      "\n{0}\n  API: http://{1}   (try: curl http://{1}/v1/models)\n  ready in {2:.1f} s; Ctrl-C stops "
      "everything\n",
      cluster->summary(), http::Url{flags.host, cluster->port(), ""}.authority(),
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  UnhurriedOutput(STDOUT_FILENO).write_within(summary, std::chrono::seconds(2));
  Status ended = cluster->wait(signals);
  if (ended) {
    log_info("stopping: running requests are finished first; a second signal ends them");
    ended = cluster->drain(signals);
  }
  cluster->stop();
  if (!ended) return fail(app, ended.error());
  return kExitOk;
}

}  // namespace

Subcommand add_up(CLI::App& parent) {
  CLI::App* app = parent.add_subcommand("up", "Start prefill, decode and router as one local cluster");
  auto flags = std::make_shared<ClusterFlags>();
  add_cluster_flags(*app, *flags);
  add_foreign_flags(*app, flags->foreign);
  return {app, [app, flags] { return run_up(*app, *flags); }};
}

}  // namespace baton::apps
