// Transport between processes of one host and one user. The owner's regions are sealed memfds; a writer maps them
// (descriptors come over an abstract unix socket) and copies straight into them with its own thread. The fence against
// late writes is described in shm_control.h. Done: the bytes are in the owner's memory and its process lived after the
// last of them.
//
// close_window() returns false while a piece (at most 1 MiB) is being copied, and window_quiet() stays false for as
// long as a stopped writer is in the middle of one. The checks of bounds and window are made by the writer's library
// against the owner's table: code of the same uid that bypasses the library is not kept out. That is as much as shared
// memory can give; use tcp between tenants.
// Regions are announced to attached writers; a post to a region in the moment before its announcement arrives is
// rejected, so that owners allocate before they hand out local_blob().
#pragma once

#include <memory>

#include "transport/make_transport.h"

namespace baton::transport {

// kUnavailable: the socket name is taken. kResourceExhausted: no room for the control slab.
Result<std::unique_ptr<Transport>> make_shm_transport(const TransportOptions& options);

}  // namespace baton::transport
