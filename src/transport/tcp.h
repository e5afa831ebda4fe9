// Transport over TCP: a post is frames of block lists and payload, sent straight from the pool and received straight
// into the pages its window grants. The owner checks incarnation, token, bounds and window before it reads a byte of
// payload; what it refuses is read and dropped. Done: the owner has said that the last byte is in place. Reachable by
// anybody who can reach the port: a stranger needs the incarnation and a token, 128 and 127 random bits, but the bytes
// are not encrypted. tcp_frames.h describes the protocol.
#pragma once

#include <memory>

#include "transport/make_transport.h"

namespace baton::transport {

// kInvalidArgument: a bad address, or none that peers could be told. kUnavailable: it cannot be bound.
Result<std::unique_ptr<Transport>> make_tcp_transport(const TransportOptions& options);

}  // namespace baton::transport
