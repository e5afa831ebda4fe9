#include "http/server.h"

#include <sys/resource.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <thread>
#include <vector>

#include "base/port_owner.h"
#include "base/thread.h"
#include "http/connection.h"

namespace baton::http {
namespace {

namespace asio = boost::asio;
using asio::use_awaitable;
using asio::ip::tcp;

// The process needs descriptors for other things too: weights, peers, calls to other servers. The usual limit of 1024
// is one for select(); as many as the system allows may be taken.
size_t connections_for(size_t wanted) {
  rlimit files{};
  if (::getrlimit(RLIMIT_NOFILE, &files) != 0 || files.rlim_cur == RLIM_INFINITY) return wanted;
  if (files.rlim_cur < files.rlim_max && files.rlim_cur / 4 < wanted) {
    files.rlim_cur = std::min<rlim_t>(files.rlim_max, wanted * 4);
    ::setrlimit(RLIMIT_NOFILE, &files);
    ::getrlimit(RLIMIT_NOFILE, &files);
  }
  return std::clamp<size_t>(files.rlim_cur / 4, 16, std::max<size_t>(wanted, 16));
}

}  // namespace

struct HttpServer::Impl {
  HttpServerOptions options;
  HttpHandler handler;
  ConnectionTable table;  // outlives the connections, which go with the context
  std::shared_ptr<BodyBudget> budget;
  std::atomic<bool> stopping{false};
  asio::io_context context;
  tcp::acceptor acceptor{context};
  int port = 0;
  std::vector<std::thread> threads;

  Status listen() {
    boost::system::error_code failed;
    const auto address = asio::ip::make_address(options.host == "localhost" ? "127.0.0.1" : options.host, failed);
    if (failed) return error(ErrorCode::kInvalidArgument, "--host {} is not an IP address", options.host);
    const tcp::endpoint endpoint(address, static_cast<uint16_t>(options.port));
    acceptor.open(endpoint.protocol(), failed);
    if (!failed) acceptor.set_option(asio::socket_base::reuse_address(true), failed);
    if (!failed) acceptor.bind(endpoint, failed);
    if (!failed) acceptor.listen(asio::socket_base::max_listen_connections, failed);
    if (failed) {
      return error(ErrorCode::kUnavailable, "cannot listen on {}:{}: {}", options.host, options.port,
                   bind_failure_text(failed.value(), static_cast<uint16_t>(options.port), "--port"));
    }
    port = acceptor.local_endpoint().port();
    return {};
  }

  asio::awaitable<void> accept_loop() {
    const size_t connections_max = connections_for(options.connections_max);
    while (!stopping) {
      boost::system::error_code failed;
      auto strand = asio::make_strand(context);
      tcp::socket socket = co_await acceptor.async_accept(strand, asio::redirect_error(use_awaitable, failed));
      if (stopping) co_return;
      if (failed) {  // out of descriptors, say: make room if that can be, breathe, then go on
        table.end_longest_waiting();
        asio::steady_timer pause(context, std::chrono::milliseconds(50));
        co_await pause.async_wait(asio::redirect_error(use_awaitable, failed));
        continue;
      }
      if (table.size() >= connections_max && !table.end_longest_waiting()) continue;  // closing the socket refuses it
      socket.set_option(tcp::no_delay(true), failed);
      asio::co_spawn(strand, serve_connection({options, handler, table, budget, stopping}, std::move(socket)),
                     asio::detached);
    }
  }
};

HttpServer::HttpServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Result<std::unique_ptr<HttpServer>> HttpServer::start(const HttpServerOptions& options, HttpHandler handler) {
  auto impl = std::make_unique<Impl>();
  impl->options = options;
  impl->handler = std::move(handler);
  impl->budget = std::make_shared<BodyBudget>(std::max(options.body_bytes_in_flight_max, 2 * options.body_bytes_max));
  BATON_TRY(impl->listen());
  asio::co_spawn(impl->context, impl->accept_loop(), asio::detached);
  for (int i = 0; i < std::max(1, options.threads); ++i) {
    impl->threads.emplace_back([context = &impl->context] {
      name_thread("baton-http");
      context->run();
    });
  }
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(impl)));
}

HttpServer::~HttpServer() { stop(); }

int HttpServer::port() const { return impl_->port; }

void HttpServer::drain() { impl_->table.drain(); }

size_t HttpServer::in_flight() const { return impl_->table.answers_under_way(); }

void HttpServer::stop() {
  if (impl_->stopping.exchange(true)) return;
  for (auto& answer : impl_->table.answers()) answer->leave();
  impl_->context.stop();
  for (auto& thread : impl_->threads) thread.join();
  impl_->threads.clear();
  // Nobody runs the connections any more, so nobody else would close what they hold: clients must not wait.
  boost::system::error_code ignored;
  impl_->acceptor.close(ignored);
  impl_->table.end_all();
}

}  // namespace baton::http
