#include "base/port_owner.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <vector>

namespace baton {
namespace {

namespace fs = std::filesystem;

struct Listener {
  std::string link;  // what its descriptors point to: "socket:[12345]"
  std::string uid;
};

// The sockets that listen on the port, on any address: both families' tables of this network namespace. Columns as in
// proc(5): sl, local address:port in hex, remote, state (0A: listening), queues, timer, retransmits, uid, timeout,
// inode.
std::vector<Listener> listeners_on(uint16_t port) {
  const std::string wanted = fmt::format(":{:04X}", port);
  std::vector<Listener> found;
  for (const char* table : {"/proc/net/tcp", "/proc/net/tcp6"}) {
    std::ifstream file(table);
    for (std::string line; std::getline(file, line);) {
      std::istringstream columns(line);
      std::string sl, local, remote, state, queues, timer, retransmits, uid, timeout, inode;
      columns >> sl >> local >> remote >> state >> queues >> timer >> retransmits >> uid >> timeout >> inode;
      if (columns && state == "0A" && local.ends_with(wanted)) found.push_back({"socket:[" + inode + "]", uid});
    }
  }
  return found;
}

bool holds(const fs::path& process, const std::vector<Listener>& listeners) {
  std::error_code failed;
  for (fs::directory_iterator fd(process / "fd", failed), end; !failed && fd != end; fd.increment(failed)) {
    std::error_code gone;
    const std::string link = fs::read_symlink(fd->path(), gone).string();
    if (std::any_of(listeners.begin(), listeners.end(), [&](const Listener& l) { return l.link == link; })) return true;
  }
  return false;  // or it is not ours to look into
}

// "python3 (pid 4711)" of every process with such a descriptor: a fork shares it.
std::vector<std::string> processes_with(const std::vector<Listener>& listeners) {
  std::vector<std::string> found;
  std::error_code failed;
  for (fs::directory_iterator entry("/proc", failed), end; !failed && entry != end; entry.increment(failed)) {
    const std::string pid = entry->path().filename().string();
    if (pid.find_first_not_of("0123456789") != std::string::npos || !holds(entry->path(), listeners)) continue;
    std::string program;
    std::ifstream comm(entry->path() / "comm");
    std::getline(comm, program);
    const bool self = pid == std::to_string(::getpid());
    found.push_back(fmt::format("{} (pid {}{})", program, pid, self ? ", this process itself" : ""));
  }
  return found;
}

std::string owner_of(uint16_t port) {
  const std::vector<Listener> listeners = listeners_on(port);
  if (listeners.empty()) return "held by a socket that does not listen, or from another network namespace";
  const std::vector<std::string> processes = processes_with(listeners);
  if (!processes.empty()) return fmt::format("held by {}", fmt::join(processes, ", "));
  return fmt::format("held by a process of user id {} that this one may not look into; ss -ltnp run as root names it",
                     listeners.front().uid);
}

}  // namespace

std::string bind_failure_text(int code, uint16_t port, std::string_view port_flag) {
  const std::string text = std::strerror(code);
  switch (code) {
    case EADDRINUSE:
      if (port == 0) return text + ": no free port is left; see net.ipv4.ip_local_port_range";
      return fmt::format("{}, {}; choose another {} or stop the program that holds it", text, owner_of(port),
                         port_flag);
    case EADDRNOTAVAIL:
      return text +
             ": no interface of this machine has that address; `ip address` lists those there are, 127.0.0.1 "
             "serves this machine alone and 0.0.0.0 listens on all";
    case EACCES:
      return fmt::format(
          "{}: port {} is kept for privileged programs (net.ipv4.ip_unprivileged_port_start); choose a "
          "higher {} or give the program CAP_NET_BIND_SERVICE",
          text, port, port_flag);
    case EAFNOSUPPORT:
      return text + ": this machine has no addresses of that family (IPv6 may be switched off); give one of the other";
    case EINVAL:
      return text + ": an address of one link (fe80::...) needs its interface, as in fe80::1%eth0";
    default:
      return text;
  }
}

}  // namespace baton
