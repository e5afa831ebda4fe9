// Why a TCP port could not be had, and what to do about it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace baton {

// The text of a failed socket, bind or listen, with the remedy that fits it: "Address already in use, held by python3
// (pid 4711); choose another --port or stop the program that holds it", "no interface of this machine has that address;
// ...". `code` is an errno, `port_flag` names what sets the port. For a port that is taken it looks through /proc for
// the listener, which takes milliseconds; what this process may not see it says.
[[nodiscard]] std::string bind_failure_text(int code, uint16_t port, std::string_view port_flag = "port");

}  // namespace baton
