// A whole local cluster as child processes of this one: instances and a router, one log, stopped together.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "device_flags.h"
#include "layout/layout.h"
#include "signals.h"

namespace baton::apps {

struct ClusterOptions {
  std::string program;  // our own executable
  std::string model_path;
  std::vector<layout::Layout> prefill, decode;
  bool unified = false;
  layout::Layout unified_layout;
  // Of the API, which is the router's or the undivided instance's; the instances behind a router stay on loopback.
  std::string host = "127.0.0.1";
  int port = 8000;
  DeviceFlags device;                         // of all instances, the first one's --base-gpu-id
  std::vector<std::string> common_arguments;  // for every instance and the router
  std::vector<std::string> serve_arguments;   // for every instance
  std::vector<std::string> router_arguments;  // for the router
  Duration drain_timeout = std::chrono::seconds(30);
  bool quiet = false;  // no progress line
};

// One thread. Children die with this process, however it ends.
class Cluster {
 public:
  // Starts everything and waits until it serves. On an error everything that was started has been stopped; the error
  // of a child that ended has its exit code (exit_code_of).
  static Result<Cluster> start(ClusterOptions options, SignalWait& signals);
  ~Cluster();
  Cluster(Cluster&&) noexcept = default;
  Cluster& operator=(Cluster&&) = delete;

  [[nodiscard]] int port() const { return port_; }
  // What listens where, several lines.
  [[nodiscard]] std::string summary() const;
  // Waits for Ctrl-C (an ok result) or the death of a child (an error that names it).
  Status wait(SignalWait& signals);
  // An error that names a child that has ended; it does not wait.
  [[nodiscard]] Status find_dead();
  // Lets every child finish what it has begun and end: the router first, then the instances, which by then have nothing
  // to do but for those who asked them directly. A second signal, or a child that is not gone five seconds after its
  // drain_timeout, is the end of all (stop()). An error says who did not end well.
  Status drain(SignalWait& signals);
  // Ends every child at once, and kills what has not ended after ten seconds. Idempotent.
  void stop();

 private:
  struct Child {
    std::string name;
    std::string role;  // "prefill TP4"
    std::string host;
    pid_t pid = -1;
    int report_fd = -1;
    std::string buffer;
    std::string phase = "starting";
    uint64_t done = 0, total = 0;
    int port = 0, bootstrap_port = 0;
    bool ready = false;
    std::vector<std::string> lines;  // of the summary
  };
  explicit Cluster(ClusterOptions options) : options_(std::move(options)) {}
  // `arguments` without what every child gets: its name, its address, the common ones.
  Status spawn(std::string name, std::string role, std::string host, int port, std::vector<std::string> arguments);
  Status wait_all_ready(SignalWait& signals);
  void read_reports(Duration timeout);
  void take_line(Child& child, const std::string& line);
  void draw_progress(bool finished);
  // Its exit status (wait(2)); nothing: it did not end in time, or a signal came.
  static std::optional<int> await_end(Child& child, TimePoint give_up, SignalWait* signals);

  ClusterOptions options_;
  std::vector<Child> children_;
  int port_ = 0;
};

}  // namespace baton::apps
