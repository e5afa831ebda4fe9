// Chooses a transport by name.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "base/clock.h"
#include "device/stream.h"
#include "transport/transport.h"

namespace baton::transport {

// How tcp moves page bytes that the processor does not reach: through pinned memory, by streams of their device.
struct StagingOptions {
  bool always = false;  // also those that it reaches: for tests, of the same way without a card
  device::StreamFactory make_stream = device::make_stream;
};

struct TransportOptions {
  // tcp: "host", "host:port", "[v6]:port"; port 0 or none takes a free one; empty is 127.0.0.1. shm, cuda_ipc: name of
  // the abstract unix socket; loopback: name in this process; for these empty is derived from the incarnation.
  std::string bind_address;
  // tcp: the host that peers are told. Empty: the bound address, and for a wildcard that of the default route.
  std::string advertise_host;
  // The instance's. Zero: one is drawn.
  Incarnation incarnation;
  // Bytes of posts not yet ended, for each peer.
  uint64_t queue_bytes = uint64_t{256} << 20;
  int connections_per_peer = 2;                        // tcp, 1..16
  int copy_threads = 1;                                // shm, cuda_ipc: 1..8
  int card = 0;                                        // cuda_ipc: where allocate() takes memory
  Duration connect_timeout = std::chrono::seconds(5);  // to a peer's answer to the first message
  Duration stall_timeout = std::chrono::seconds(30);   // tcp: without a byte of a writer in the middle of a post
  StagingOptions staging;                              // tcp
};

// "loopback", "shm", "tcp" or "cuda_ipc"; kInvalidArgument for any other name or a bad option, kUnavailable if the
// address cannot be bound, kIncompatible for cuda_ipc where there is no card.
Result<std::unique_ptr<Transport>> make_transport(std::string_view name, const TransportOptions& options);

}  // namespace baton::transport
