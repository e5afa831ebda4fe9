// Who has a TCP port, for the message of a bind that failed.
#pragma once

#include <cstdint>
#include <string>

namespace baton {

// The text of a failed bind or listen. Where the port is taken it names the owner: "Address already in use, held by
// python3 (pid 4711)". Looks through /proc for a listener on the port, so it takes milliseconds; what this process may
// not see it says. `code` is an errno.
[[nodiscard]] std::string bind_failure_text(int code, uint16_t port);

}  // namespace baton
