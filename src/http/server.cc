#include "http/server.h"

#include <poll.h>
#include <sys/socket.h>

#include <atomic>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <mutex>
#include <thread>
#include <unordered_set>
#include <vector>

#include "base/port_owner.h"
#include "base/thread.h"
#include "http/api_error.h"
#include "http/url.h"

namespace baton {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
using asio::use_awaitable;
using asio::ip::tcp;

std::string head_text(int status, const Headers& headers, bool keep_alive) {
  std::string head = fmt::format("HTTP/1.1 {} {}\r\n", status, status_text(status));
  for (const auto& [name, value] : headers) head += fmt::format("{}: {}\r\n", name, value);
  if (!keep_alive) head += "Connection: close\r\n";
  return head;
}

// The answer under way: filled by any thread, emptied by the connection's coroutine on its strand.
class Exchange final : public ResponseWriter, public std::enable_shared_from_this<Exchange> {
 public:
  // `draining` outlives it.
  Exchange(asio::any_io_executor executor, bool keep_alive, const std::atomic<bool>& draining, bool head_only,
           size_t unread_bytes_max)
      : executor_(std::move(executor)),
        event_(executor_, asio::steady_timer::time_point::max()),
        keep_alive_(keep_alive),
        draining_(draining),
        head_only_(head_only),
        unread_bytes_max_(unread_bytes_max) {}

  ~Exchange() override = default;

  void send(int status, Headers headers, std::string body) override {
    headers.emplace_back("Content-Length", std::to_string(body.size()));
    std::string bytes = head_text(status, headers, keep_alive_ && !draining_) + "\r\n";
    if (!head_only_) bytes += body;
    push(std::move(bytes), true);
  }
  void start(int status, Headers headers) override {
    headers.emplace_back("Transfer-Encoding", "chunked");
    push(head_text(status, headers, keep_alive_ && !draining_) + "\r\n", false);
  }
  void write(std::string bytes) override {
    if (bytes.empty()) return;  // an empty chunk would end the answer
    push(fmt::format("{:x}\r\n", bytes.size()) + std::move(bytes) + "\r\n", false);
  }
  void finish() override { push("0\r\n\r\n", true); }

  void on_disconnect(std::function<void()> callback) override {
    {
      std::lock_guard lock(mutex_);
      if (complete_ && !gone_) return;
      if (!gone_) {
        disconnected_ = std::move(callback);
        return;
      }
    }
    callback();
  }

  void post(std::function<void()> work) override { asio::post(executor_, std::move(work)); }

  // What is queued, and whether that was the last of it.
  std::pair<std::string, bool> take() {
    std::lock_guard lock(mutex_);
    return {std::exchange(pending_, {}), complete_};
  }
  bool answered() {
    std::lock_guard lock(mutex_);
    return touched_;
  }
  void client_left() {
    std::function<void()> callback;
    bool tell = false;
    {
      std::lock_guard lock(mutex_);
      if (gone_) return;
      gone_ = true;
      tell = !complete_;
      callback = std::exchange(disconnected_, nullptr);
      pending_.clear();
    }
    wake();
    if (tell && callback) callback();
  }
  // Nothing more will be sent: forget whom to tell. What the callback holds may hold this exchange's writer, so it goes
  // unlocked.
  void done() {
    std::function<void()> forgotten;
    {
      std::lock_guard lock(mutex_);
      forgotten = std::exchange(disconnected_, nullptr);
    }
  }
  bool gone() {
    std::lock_guard lock(mutex_);
    return gone_;
  }
  asio::steady_timer& event() { return event_; }
  void wake() {
    asio::post(executor_, [self = shared_from_this()] { self->event_.cancel(); });
  }

 private:
  void push(std::string bytes, bool last) {
    bool stalled = false;
    {
      std::lock_guard lock(mutex_);
      if (gone_ || complete_ || stalled_) return;
      touched_ = true;
      // A single write may be of any size; what piles up behind one that the client does not read is bounded.
      stalled = !pending_.empty() && pending_.size() + bytes.size() > unread_bytes_max_;
      stalled_ = stalled;
      if (!stalled) {
        pending_ += bytes;
        complete_ = last;
      }
    }
    if (stalled) return asio::post(executor_, [self = shared_from_this()] { self->client_left(); });
    wake();
  }

  asio::any_io_executor executor_;
  asio::steady_timer event_;  // cancelled to wake the connection's coroutine; touched on the strand only
  const bool keep_alive_;
  const std::atomic<bool>& draining_;
  const bool head_only_;
  const size_t unread_bytes_max_;
  std::mutex mutex_;
  std::string pending_;
  bool touched_ = false;
  bool complete_ = false;
  bool stalled_ = false;  // the client reads too slowly to be served: gone_ soon
  bool gone_ = false;
  std::function<void()> disconnected_;
};

// What handlers hold: dropping it unanswered becomes a 500, so no client waits for ever.
class Writer final : public ResponseWriter {
 public:
  explicit Writer(std::shared_ptr<Exchange> exchange) : exchange_(std::move(exchange)) {}
  ~Writer() override {
    if (!exchange_->answered()) {
      send_error(*exchange_, 500, "the request ended without an answer");
    }
  }
  void send(int status, Headers headers, std::string body) override {
    exchange_->send(status, std::move(headers), std::move(body));
  }
  void start(int status, Headers headers) override { exchange_->start(status, std::move(headers)); }
  void write(std::string bytes) override { exchange_->write(std::move(bytes)); }
  void finish() override { exchange_->finish(); }
  void on_disconnect(std::function<void()> callback) override { exchange_->on_disconnect(std::move(callback)); }
  void post(std::function<void()> work) override { exchange_->post(std::move(work)); }

 private:
  std::shared_ptr<Exchange> exchange_;
};

}  // namespace

struct HttpServer::Impl {
  HttpServerOptions options;
  HttpHandler handler;
  std::mutex mutex;  // of `live`, `sockets` and `idle`; outlives the coroutines, which go with the context
  std::unordered_set<int> sockets;  // of every connection
  std::unordered_set<int> idle;     // of those between two requests
  asio::io_context context;
  tcp::acceptor acceptor{context};
  int port = 0;
  std::vector<std::thread> threads;
  std::atomic<size_t> connections{0};
  std::atomic<bool> stopping{false};
  std::atomic<bool> draining{false};
  std::unordered_set<std::shared_ptr<Exchange>> live;

  // A connection's socket while it is open, for stop().
  struct Registered {
    Registered(Impl* owner, int socket) : impl(owner), fd(socket) {
      std::lock_guard lock(impl->mutex);
      impl->sockets.insert(fd);
    }
    ~Registered() {
      std::lock_guard lock(impl->mutex);
      impl->sockets.erase(fd);
      impl->idle.erase(fd);
    }
    // Between two requests; false: there is no next one.
    [[nodiscard]] bool rest() const {
      std::lock_guard lock(impl->mutex);
      if (impl->draining) return false;
      impl->idle.insert(fd);
      return true;
    }
    void wake() const {
      std::lock_guard lock(impl->mutex);
      impl->idle.erase(fd);
    }
    Registered(const Registered&) = delete;
    Registered& operator=(const Registered&) = delete;
    Impl* impl;
    int fd;
  };

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
    while (!stopping) {
      boost::system::error_code failed;
      auto strand = asio::make_strand(context);
      tcp::socket socket = co_await acceptor.async_accept(strand, asio::redirect_error(use_awaitable, failed));
      if (stopping) co_return;
      if (failed) {  // out of descriptors, say: breathe, then go on
        asio::steady_timer pause(context, std::chrono::milliseconds(50));
        co_await pause.async_wait(asio::redirect_error(use_awaitable, failed));
        continue;
      }
      if (connections.load() >= options.connections_max) continue;  // closing the socket refuses it
      socket.set_option(tcp::no_delay(true), failed);
      connections.fetch_add(1);
      asio::co_spawn(strand, connection(std::move(socket)), [this](std::exception_ptr) { connections.fetch_sub(1); });
    }
  }

  asio::awaitable<void> connection(tcp::socket socket) {
    beast::tcp_stream stream(std::move(socket));
    const Registered registered(this, stream.socket().native_handle());
    boost::system::error_code failed;
    const auto endpoint = stream.socket().remote_endpoint(failed);
    const std::string peer = failed ? "" : fmt::format("{}:{}", endpoint.address().to_string(), endpoint.port());
    beast::flat_buffer buffer;
    bool first = true;
    while (!stopping) {
      beast::http::request_parser<beast::http::string_body> parser;
      parser.body_limit(options.body_bytes_max);
      parser.header_limit(static_cast<uint32_t>(options.header_bytes_max));
      // The header timeout runs from the first byte on a new connection; between requests of one connection the idle
      // timeout does.
      if (!first && !registered.rest()) break;
      stream.expires_after(first ? options.header_timeout : options.idle_timeout);
      co_await beast::http::async_read_header(stream, buffer, parser, asio::redirect_error(use_awaitable, failed));
      registered.wake();
      if (!failed && parser.get().count(beast::http::field::content_length) > 1) {
        failed = beast::http::error::bad_content_length;  // even equal ones: proxies disagree on what they mean
      }
      if (!failed && beast::iequals(parser.get()[beast::http::field::expect], "100-continue")) {
        co_await asio::async_write(stream, asio::buffer(std::string_view("HTTP/1.1 100 Continue\r\n\r\n")),
                                   asio::redirect_error(use_awaitable, failed));
      }
      stream.expires_after(options.body_timeout);
      if (!failed)
        co_await beast::http::async_read(stream, buffer, parser, asio::redirect_error(use_awaitable, failed));
      if (failed) {
        co_await refuse(stream, failed);
        break;
      }
      first = false;
      auto message = parser.release();
      auto target = parse_target({message.target().data(), message.target().size()});
      if (!target) {
        co_await refuse(stream, beast::http::error::bad_target);
        break;
      }
      stream.expires_never();
      if (!co_await exchange(stream, buffer, std::move(message), std::move(*target), peer)) break;
    }
    stream.socket().shutdown(tcp::socket::shutdown_send, failed);
  }

  // Says what is wrong with bytes that are not a request; a client that simply closed gets nothing.
  asio::awaitable<void> refuse(beast::tcp_stream& stream, boost::system::error_code why) {
    int status = 400;
    if (why == beast::http::error::end_of_stream || why == asio::error::eof || why == asio::error::operation_aborted ||
        why == beast::error::timeout || why == asio::error::connection_reset) {
      co_return;
    }
    if (why == beast::http::error::body_limit) status = 413;
    if (why == beast::http::error::header_limit || why == beast::http::error::buffer_overflow) status = 431;
    const std::string text = status == 413 ? fmt::format("the body is over {} bytes", options.body_bytes_max)
                                           : "malformed HTTP request: " + why.message();
    const std::string body = error_json(status, text) + "\n";
    const std::string answer =
        head_text(status, {{"Content-Type", "application/json"}, {"Content-Length", std::to_string(body.size())}},
                  false) +
        "\r\n" + body;
    boost::system::error_code ignored;
    stream.expires_after(std::chrono::seconds(5));
    co_await asio::async_write(stream, asio::buffer(answer), asio::redirect_error(use_awaitable, ignored));
    // Read what is still coming, a little: closing on unread bytes would reset the connection before the answer is
    // read.
    stream.socket().shutdown(tcp::socket::shutdown_send, ignored);
    std::string rest(64 << 10, '\0');
    for (int i = 0; i < 64 && !ignored; ++i) {
      co_await stream.async_read_some(asio::buffer(rest), asio::redirect_error(use_awaitable, ignored));
    }
  }

  static HttpRequest to_request(beast::http::request<beast::http::string_body>&& message, Target target,
                                const std::string& peer) {
    HttpRequest request;
    request.method = std::string(message.method_string());
    request.path = std::move(target.path);
    request.query = std::move(target.query);
    for (const auto& field : message)
      request.headers.emplace_back(std::string(field.name_string()), std::string(field.value()));
    request.body = std::move(message.body());
    request.peer = peer;
    return request;
  }

  // Hands one request to the handler and sends what it answers. False: the connection is over.
  asio::awaitable<bool> exchange(beast::tcp_stream& stream, const beast::flat_buffer& buffer,
                                 beast::http::request<beast::http::string_body> message, Target target,
                                 const std::string& peer) {
    const bool keep_alive = message.keep_alive();
    const auto executor = co_await asio::this_coro::executor;
    auto state = std::make_shared<Exchange>(executor, keep_alive, draining, message.method() == beast::http::verb::head,
                                            options.unread_bytes_max);
    {
      std::lock_guard lock(mutex);
      live.insert(state);
    }
    auto watching = std::make_shared<Watch>(executor, buffer.size() > 0);
    asio::co_spawn(executor, watch(stream.socket(), state, watching), asio::detached);
    handler(to_request(std::move(message), std::move(target), peer), std::make_shared<Writer>(state));

    bool alive = true;
    for (bool complete = false; !complete && alive;) {
      auto [bytes, last] = state->take();
      boost::system::error_code failed;
      if (!bytes.empty()) {
        for (size_t sent = 0; sent < bytes.size() && !failed && !state->gone();) {
          stream.expires_after(options.write_timeout);  // of the next byte to move, not of them all
          sent +=
              co_await stream.async_write_some(asio::buffer(bytes) + sent, asio::redirect_error(use_awaitable, failed));
        }
        stream.expires_never();
        if (failed || state->gone()) alive = false;
        complete = last;
      } else if (last) {
        complete = true;
      } else if (state->gone()) {
        alive = false;
      } else {
        state->event().expires_at(asio::steady_timer::time_point::max());
        co_await state->event().async_wait(asio::redirect_error(use_awaitable, failed));
      }
    }
    if (!alive) state->client_left();
    state->done();
    if (watching->on) {
      watching->on = false;
      boost::system::error_code ignored;
      stream.socket().cancel(ignored);  // ends the watch; nothing else is pending on the socket
      watching->pause.cancel();
    }
    while (watching.use_count() > 1) {  // the watch refers to the socket: let it end first
      co_await asio::post(executor, use_awaitable);
    }
    {
      std::lock_guard lock(mutex);
      live.erase(state);
    }
    co_return alive&& keep_alive && !draining;
  }

  struct Watch {
    Watch(const asio::any_io_executor& executor, bool bytes_are_here) : early(bytes_are_here), pause(executor) {}
    bool on = true;
    bool early;  // bytes of the next request are here already
    asio::steady_timer pause;
  };

  // A client that leaves shows as readable-with-nothing-to-read. Behind the bytes of a next request that would not be
  // seen: then the state of the connection is asked for now and then.
  static asio::awaitable<void> watch(tcp::socket& socket, std::shared_ptr<Exchange> state,
                                     std::shared_ptr<Watch> watching) {
    for (bool here = true; here;) {
      boost::system::error_code failed;
      if (watching->early) {
        watching->pause.expires_after(std::chrono::milliseconds(250));
        co_await watching->pause.async_wait(asio::redirect_error(use_awaitable, failed));
        if (!watching->on) co_return;
        pollfd ended{socket.native_handle(), POLLRDHUP, 0};
        here = ::poll(&ended, 1, 0) == 0;
      } else {
        co_await socket.async_wait(tcp::socket::wait_read, asio::redirect_error(use_awaitable, failed));
        if (!watching->on) co_return;
        char byte = 0;
        const ssize_t n = failed ? 0 : ::recv(socket.native_handle(), &byte, 1, MSG_PEEK | MSG_DONTWAIT);
        watching->early = n > 0;
        here = n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR));
      }
    }
    watching->on = false;
    state->client_left();
  }
};

HttpServer::HttpServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Result<std::unique_ptr<HttpServer>> HttpServer::start(const HttpServerOptions& options, HttpHandler handler) {
  auto impl = std::make_unique<Impl>();
  impl->options = options;
  impl->handler = std::move(handler);
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

void HttpServer::drain() {
  std::lock_guard lock(impl_->mutex);
  impl_->draining = true;
  // What has come already is still read and answered.
  for (const int fd : impl_->idle) ::shutdown(fd, SHUT_RD);
}

size_t HttpServer::in_flight() const {
  std::lock_guard lock(impl_->mutex);
  return impl_->live.size();
}

void HttpServer::stop() {
  if (impl_->stopping.exchange(true)) return;
  std::vector<std::shared_ptr<Exchange>> live;
  {
    std::lock_guard lock(impl_->mutex);
    live.assign(impl_->live.begin(), impl_->live.end());
  }
  for (auto& exchange : live) exchange->client_left();
  live.clear();
  impl_->context.stop();
  for (auto& thread : impl_->threads) thread.join();
  impl_->threads.clear();
  // Nobody runs the connections any more, so nobody else would close what they hold: clients must not wait.
  boost::system::error_code ignored;
  impl_->acceptor.close(ignored);
  for (const int fd : impl_->sockets) ::shutdown(fd, SHUT_RDWR);
}

}  // namespace baton
