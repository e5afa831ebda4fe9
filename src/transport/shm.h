// Transports between processes of one host and one user. The owner's regions are sealed memfds; a writer maps them
// (descriptors come over an abstract unix socket) and copies straight into them with its own thread. The fence against
// late writes is described in shm_control.h. Done: the bytes are in the owner's memory and its process lived after the
// last of them.
//
// close_window() returns false while a piece (at most 1 MiB) is being copied, and window_quiet() stays false for as
// long as a stopped writer is in the middle of one. The checks of bounds and window are made by the writer's library
// against the owner's table: code of the same uid that bypasses the library is not kept out. That is as much as shared
// memory can give; use tcp between tenants.
// With regions on cards it is the transport cuda_ipc: writers map them by handles of the driver and copy by kernels of
// their own card, in pieces of at most 32 MiB, each waited for before its mark is cleared. The bytes of a killed
// writer have stopped before its end shows, because the system closes what a process has open (and with it the driver
// ends its work) first.
// Regions are announced to attached writers; a post to a region in the moment before its announcement arrives is
// rejected, so that owners allocate before they hand out local_blob().
#pragma once

#include <memory>

#include "transport/make_transport.h"

namespace baton::transport {

// `on_cards`: cuda_ipc. kUnavailable: the socket name is taken. kResourceExhausted: no room for the control slab.
// kIncompatible: no card.
Result<std::unique_ptr<Transport>> make_shm_transport(const TransportOptions& options, bool on_cards);

}  // namespace baton::transport
