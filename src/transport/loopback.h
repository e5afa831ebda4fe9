// Moves bytes between transport objects of one process. No thread: a post is carried out by the poll() of the object
// that posted it, so a test decides when bytes land. For tests and for instances that share a process.
#pragma once

#include <memory>

#include "transport/make_transport.h"

namespace baton::transport {

// kUnavailable: the name is taken by another object that lives.
Result<std::unique_ptr<Transport>> make_loopback_transport(const TransportOptions& options);

}  // namespace baton::transport
