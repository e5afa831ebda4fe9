#include "cluster.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <sstream>
#include <thread>

#include "base/log.h"
#include "device/cuda.h"
#include "exit_code.h"
#include "http/url.h"

namespace baton::apps {
namespace {

std::vector<std::string> layout_flags(const layout::Layout& layout) {
  std::vector<std::string> flags = {"--tp-size", std::to_string(layout.tp), "--dp-size", std::to_string(layout.dp),
                                    "--pp-size", std::to_string(layout.pp), "--ep-size", std::to_string(layout.ep)};
  if (layout.dp > 1) flags.emplace_back("--enable-dp-attention");
  return flags;
}

std::string describe_exit(int status) {
  if (WIFSIGNALED(status))
    return fmt::format("was killed by signal {} ({})", WTERMSIG(status), strsignal(WTERMSIG(status)));
  return fmt::format("ended with exit code {}", WEXITSTATUS(status));
}

constexpr const char* kLoopback = "127.0.0.1";

// From an instance's first GPU to behind its last.
int gpus_of(const layout::Layout& layout, int step) { return (layout.world() - 1) * step + 1; }

// Where the instances are computed: all on GPUs or none, because their pages must reach each other.
struct Placement {
  std::string device;
  bool spread = false;  // each has GPUs of its own
};

Placement place(const ClusterOptions& o) {
  std::vector<layout::Layout> all = o.prefill;
  all.insert(all.end(), o.decode.begin(), o.decode.end());
  if (o.unified) all.push_back(o.unified_layout);
  int largest = 0, together = 0;
  for (const layout::Layout& layout : all) {
    const int gpus = gpus_of(layout, o.device.gpu_id_step);
    largest = std::max(largest, gpus);
    together += gpus;
  }
  const int cards = device::cuda_device_count() - o.device.base_gpu_id;
  return {o.device.device == "auto" && largest > cards ? "cpu" : o.device.device, together <= cards};
}

}  // namespace

Result<Cluster> Cluster::start(ClusterOptions options, SignalWait& signals) {
  Cluster cluster(std::move(options));
  const ClusterOptions& o = cluster.options_;
  const Placement placement = place(o);
  int gpu = o.device.base_gpu_id;
  const auto serve = [&](const std::string& name, const layout::Layout& layout, const std::string& mode, int port) {
    std::vector<std::string> arguments = {"serve", "--model-path", o.model_path};
    if (!mode.empty()) {
      for (const char* word : {"--disaggregation-mode", mode.c_str()}) arguments.emplace_back(word);
      if (mode == "prefill") {
        for (const char* word : {"--disaggregation-bootstrap-port", "0"}) arguments.emplace_back(word);
      }
    }
    for (std::string& flag : layout_flags(layout)) arguments.push_back(std::move(flag));
    for (const std::string& word :
         {std::string("--device"), placement.device, std::string("--base-gpu-id"), std::to_string(gpu),
          std::string("--gpu-id-step"), std::to_string(o.device.gpu_id_step)}) {
      arguments.push_back(word);
    }
    if (placement.spread) gpu += gpus_of(layout, o.device.gpu_id_step);
    arguments.insert(arguments.end(), o.serve_arguments.begin(), o.serve_arguments.end());
    return cluster.spawn(name, (mode.empty() ? "unified " : mode + " ") + layout.to_string(),
                         o.unified ? o.host : kLoopback, port, std::move(arguments));
  };
  if (o.unified) {
    BATON_TRY(serve("unified", o.unified_layout, "", o.port));
  }
  for (size_t i = 0; i < o.prefill.size(); ++i)
    BATON_TRY(serve(fmt::format("prefill-{}", i), o.prefill[i], "prefill", 0));
  for (size_t i = 0; i < o.decode.size(); ++i) BATON_TRY(serve(fmt::format("decode-{}", i), o.decode[i], "decode", 0));
  BATON_TRY(cluster.wait_all_ready(signals));
  if (o.unified) {
    cluster.port_ = cluster.children_.front().port;
    return cluster;
  }
  std::vector<std::string> arguments = {"router"};
  for (const Child& child : cluster.children_) {
    const bool prefill = child.bootstrap_port != 0;
    arguments.emplace_back(prefill ? "--prefill" : "--decode");
    arguments.push_back("http://" + http::Url{child.host, child.port, ""}.authority());
    if (prefill) arguments.push_back(std::to_string(child.bootstrap_port));
  }
  arguments.insert(arguments.end(), o.router_arguments.begin(), o.router_arguments.end());
  BATON_TRY(cluster.spawn("router", "router", o.host, o.port, std::move(arguments)));
  BATON_TRY(cluster.wait_all_ready(signals));
  cluster.port_ = cluster.children_.back().port;
  return cluster;
}

Cluster::~Cluster() { stop(); }

Status Cluster::spawn(std::string name, std::string role, std::string host, int port,
                      std::vector<std::string> arguments) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0)
    return error(ErrorCode::kUnavailable, "cannot make a pipe for {}: errno {}", name, errno);
  arguments.insert(arguments.begin(), options_.program);
  for (const std::string& word :
       {std::string("--host"), host, std::string("--port"), std::to_string(port), std::string("--log-name"), name,
        std::string("--report-fd"), std::to_string(ends[1])}) {
    arguments.push_back(word);
  }
  arguments.insert(arguments.end(), options_.common_arguments.begin(), options_.common_arguments.end());
  arguments.insert(arguments.end(), {"--drain-timeout", fmt::format("{}", to_seconds(options_.drain_timeout))});
  std::vector<char*> argv;
  argv.reserve(arguments.size() + 1);
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid < 0) return error(ErrorCode::kUnavailable, "cannot start {}: errno {}", name, errno);
  if (pid == 0) {
    // Between fork and exec only calls that are safe in a copy of a threaded process.
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent) _exit(1);
    setpgid(0, 0);  // Ctrl-C reaches the parent alone, which stops its children in order
    fcntl(ends[1], F_SETFD, 0);
    execv(options_.program.c_str(), argv.data());
    _exit(127);
  }
  close(ends[1]);
  Child child;
  child.name = std::move(name);
  child.role = std::move(role);
  child.host = std::move(host);
  child.pid = pid;
  child.report_fd = ends[0];
  children_.push_back(std::move(child));
  return {};
}

Status Cluster::find_dead() {
  for (Child& child : children_) {
    int status = 0;
    if (child.pid > 0 && waitpid(child.pid, &status, WNOHANG) == child.pid) {
      child.pid = -1;
      return error(error_code_of_exit(WIFEXITED(status) ? WEXITSTATUS(status) : kExitFailed),
                   "{} ({}) {}; its last words are in the log above", child.name, child.role, describe_exit(status));
    }
  }
  return {};
}

Status Cluster::wait_all_ready(SignalWait& signals) {
  while (true) {
    bool all = true;
    for (const Child& child : children_) all = all && child.ready;
    draw_progress(all);
    if (all) return {};
    const int signal = signals.wait(std::chrono::milliseconds(0));
    if (signal == SIGINT || signal == SIGTERM) return error(ErrorCode::kCancelled, "stopped while starting");
    BATON_TRY(find_dead());
    read_reports(std::chrono::milliseconds(100));
  }
}

void Cluster::read_reports(Duration timeout) {
  std::vector<pollfd> fds;
  for (const Child& child : children_) fds.push_back({child.report_fd, POLLIN, 0});
  poll(fds.data(), fds.size(), static_cast<int>(to_ms(timeout)));
  for (size_t i = 0; i < fds.size(); ++i) {
    if ((fds[i].revents & (POLLIN | POLLHUP)) == 0) continue;
    Child& child = children_[i];
    char bytes[4096];
    const ssize_t n = read(child.report_fd, bytes, sizeof(bytes));
    if (n <= 0) {
      close(child.report_fd);
      child.report_fd = -1;  // poll skips it
      continue;
    }
    child.buffer.append(bytes, static_cast<size_t>(n));
    for (size_t end; (end = child.buffer.find('\n')) != std::string::npos;) {
      take_line(child, child.buffer.substr(0, end));
      child.buffer.erase(0, end + 1);
    }
  }
}

void Cluster::take_line(Child& child, const std::string& line) {
  std::istringstream words(line);
  std::string kind;
  words >> kind;
  if (kind == "progress") {
    words >> child.phase >> child.done >> child.total;
  } else if (kind == "ready") {
    words >> child.port >> child.bootstrap_port;
    child.ready = true;
  } else if (kind == "summary") {
    child.lines.push_back(line.substr(kind.size() + 1));
  }
}

// One line that is drawn over itself on a terminal, and only its last state elsewhere.
void Cluster::draw_progress(bool finished) {
  const bool terminal = isatty(STDERR_FILENO) != 0;
  if (options_.quiet || !terminal) return;
  std::string text;
  for (const Child& child : children_) {
    const std::string state =
        child.ready       ? "ready"
        : child.total > 0 ? fmt::format("{} {:.0f}%", child.phase,
                                        100.0 * static_cast<double>(child.done) / static_cast<double>(child.total))
                          : child.phase;
    text += fmt::format("{}{}: {}", text.empty() ? "" : "  ", child.name, state);
  }
  log_last_words(fmt::format("\r\x1b[K{}{}", text, finished ? "\n" : ""));
}

std::string Cluster::summary() const {
  std::string out;
  for (const Child& child : children_) {
    const std::string bootstrap =
        child.bootstrap_port != 0 ? fmt::format(", bootstrap port {}", child.bootstrap_port) : "";
    out += fmt::format("  {:<10} {:<20} http://{}{} (pid {})\n", child.name, child.role,
                       http::Url{child.host, child.port, ""}.authority(), bootstrap, child.pid);
    for (const std::string& line : child.lines) out += fmt::format("  {:<10}   {}\n", "", line);
  }
  return out;
}

Status Cluster::wait(SignalWait& signals) {
  while (true) {
    BATON_TRY(find_dead());
    const int signal = signals.wait(std::chrono::milliseconds(500));
    if (signal == SIGINT || signal == SIGTERM) return {};
    read_reports(std::chrono::milliseconds(0));
  }
}

std::optional<int> Cluster::await_end(Child& child, TimePoint give_up, SignalWait* signals) {
  int status = 0;
  while (child.pid > 0 && waitpid(child.pid, &status, WNOHANG) != child.pid) {
    const bool interrupted = signals != nullptr && signals->wait_stop(Duration(0));
    if (interrupted || std::chrono::steady_clock::now() > give_up) return std::nullopt;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  child.pid = -1;
  if (child.report_fd >= 0) close(child.report_fd);
  child.report_fd = -1;
  return status;
}

Status Cluster::drain(SignalWait& signals) {
  const auto router = children_.empty() || children_.back().role != "router" ? children_.end() : children_.end() - 1;
  std::string failures;
  for (const auto& [begin, end] : {std::pair{router, children_.end()}, {children_.begin(), router}}) {
    for (auto child = begin; child != end; ++child) {
      if (child->pid > 0) kill(child->pid, SIGTERM);
    }
    const TimePoint give_up = std::chrono::steady_clock::now() + options_.drain_timeout + std::chrono::seconds(5);
    for (auto child = begin; child != end; ++child) {
      const std::optional<int> status = await_end(*child, give_up, &signals);
      if (!status) {
        stop();
        return error(ErrorCode::kCancelled, "{} ({}) was ended before its work was", child->name, child->role);
      }
      if (*status != 0) failures += fmt::format("; {} ({}) {}", child->name, child->role, describe_exit(*status));
    }
  }
  if (failures.empty()) return {};
  return error(ErrorCode::kCancelled, "not all work was finished{}", failures);
}

void Cluster::stop() {
  const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  const auto ask = [](const Child& child) {
    if (child.pid <= 0) return;
    kill(child.pid, SIGTERM);
    kill(child.pid, SIGINT);  // the second signal: at once
  };
  const auto see_off = [&](Child& child) {
    if (await_end(child, give_up, nullptr)) return;
    kill(child.pid, SIGKILL);
    await_end(child, TimePoint::max(), nullptr);
  };
  // The router is gone before its workers are, so that it does not report their end as a failure.
  if (!children_.empty() && children_.back().role == "router") {
    ask(children_.back());
    see_off(children_.back());
  }
  for (const Child& child : children_) ask(child);
  for (Child& child : children_) see_off(child);
}

}  // namespace baton::apps
