// One connection of the server: requests in, answers out. connection.cc is the server's one file with Beast in it.
#pragma once

#include <atomic>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <memory>

#include "http/body_budget.h"
#include "http/connection_table.h"
#include "http/server.h"

namespace baton::http {

// What all connections of a server share. Outlives them.
struct ConnectionContext {
  const HttpServerOptions& options;
  const HttpHandler& handler;
  ConnectionTable& table;
  const std::shared_ptr<BodyBudget>& budget;
  const std::atomic<bool>& stopping;
};

// Serves one request after another until the client, a timeout or `stopping` ends it. Runs on the socket's strand.
boost::asio::awaitable<void> serve_connection(ConnectionContext context, boost::asio::ip::tcp::socket socket);

}  // namespace baton::http
