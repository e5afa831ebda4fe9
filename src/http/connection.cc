#include "http/connection.h"

#include <poll.h>
#include <sys/socket.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>

#include "http/api_error.h"
#include "http/request_head.h"
#include "http/url.h"

namespace baton::http {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
using asio::use_awaitable;
using asio::ip::tcp;
using boost::system::error_code;
using Parser = beast::http::request_parser<beast::http::string_body>;

// Tells when the client leaves while its request is being answered.
struct Watch {
  Watch(const asio::any_io_executor& executor, bool bytes_are_here) : early(bytes_are_here), pause(executor) {}
  bool on = true;
  bool early;  // bytes of the next request are here already
  asio::steady_timer pause;
};

// A client that leaves shows as readable-with-nothing-to-read. Behind the bytes of a next request that would not be
// seen: then the state of the connection is asked for now and then.
asio::awaitable<void> watch(tcp::socket& socket, std::shared_ptr<HttpAnswer> answer, std::shared_ptr<Watch> watching) {
  for (bool here = true; here;) {
    error_code failed;
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
  answer->leave();
}

class Connection {
 public:
  Connection(ConnectionContext context, tcp::socket socket)
      : context_(context),
        options_(context.options),
        stream_(std::move(socket)),
        place_(context.table, stream_.socket()) {
    error_code failed;
    const auto endpoint = stream_.socket().remote_endpoint(failed);
    if (!failed) peer_ = fmt::format("{}:{}", endpoint.address().to_string(), endpoint.port());
  }

  asio::awaitable<void> run() {
    bool more = true;
    for (bool first = true; more && !context_.stopping; first = false) {
      if (!place_.wait_for_request(first)) break;
      const size_t head = co_await read_head(first ? options_.header_timeout : options_.idle_timeout);
      more = head > 0 && co_await serve_one(head);
    }
    error_code ignored;
    stream_.socket().shutdown(tcp::socket::shutdown_send, ignored);
  }

 private:
  // What a refused request may still send so that its connection can go on to the next.
  static constexpr size_t kSkippedBytes = 64 << 10;

  [[nodiscard]] std::string_view received() const {
    return {static_cast<const char*>(buffer_.cdata().data()), buffer_.size()};
  }

  // Reads until a whole head is in the buffer and returns its size; 0 when there is none to come. The header timeout
  // runs from the first byte, `wait` until then.
  asio::awaitable<size_t> read_head(std::chrono::milliseconds wait) {
    stream_.expires_after(wait);
    always_ = {{kRequestIdHeader, make_request_id()}};
    bool begun = false;
    for (size_t looked = 0;;) {
      if (received().starts_with("\r\n")) {  // a stray line end behind the request before (RFC 9112, section 2.2)
        buffer_.consume(2);
        looked = 0;
        continue;
      }
      const size_t end = received().find("\r\n\r\n", looked);
      if (end != std::string_view::npos && end + 4 <= options_.header_bytes_max) co_return end + 4;
      std::optional<HeadFault> fault = received() == "\r" ? std::nullopt : find_early_head_fault(received(), looked);
      if (buffer_.size() >= options_.header_bytes_max)
        fault = HeadFault{431, fmt::format("the head is over {} bytes", options_.header_bytes_max)};
      if (fault) {
        const HttpRefusal refusal = malformed(fault->why, fault->status);
        co_await refuse(refusal);
        co_return 0;
      }
      looked = buffer_.size() < 3 ? 0 : buffer_.size() - 3;
      if (!begun && buffer_.size() > 0) {
        begun = true;
        place_.hear_request();
        stream_.expires_after(options_.header_timeout);
      }
      error_code failed;
      const size_t room = std::min<size_t>(16 << 10, options_.header_bytes_max - buffer_.size());
      const size_t got =
          co_await stream_.async_read_some(buffer_.prepare(room), asio::redirect_error(use_awaitable, failed));
      buffer_.commit(got);
      if (failed == asio::error::eof && buffer_.size() > 0) {
        const HttpRefusal refusal = malformed("it ends within its head");
        co_await refuse(refusal);
      }
      if (failed) co_return 0;
    }
  }

  // One request, whose head is in the buffer's first bytes. False: the connection is over.
  asio::awaitable<bool> serve_one(size_t head_bytes) {
    const std::string_view head = received().substr(0, head_bytes);
    if (const auto fault = find_head_fault(head)) {
      const HttpRefusal refusal = malformed(fault->why, fault->status);
      co_await refuse(refusal);
      co_return false;
    }
    Parser parser;
    parser.header_limit(static_cast<uint32_t>(options_.header_bytes_max));
    parser.body_limit(boost::none);  // until the client is known to be welcome
    error_code failed;
    parser.put(asio::const_buffer(head.data(), head.size()), failed);
    buffer_.consume(head_bytes);
    const auto target = parser.is_header_done() ? parse_target(std::string(parser.get().target())) : std::nullopt;
    if (failed || !target) {
      const HttpRefusal refusal = malformed(failed ? failed.message() : "the target is not a path or URL");
      co_await refuse(refusal);
      co_return false;
    }
    HttpRequest request = head_of(parser.get(), *target);
    // Said by the head, not by trailers.
    const AnswerForm form{parser.keep_alive(), request.method == "HEAD", parser.get().version() == 10};
    const bool expects = !form.one_zero && !find_header(request.headers, "expect").empty();
    const bool asks_first = is_preflight(request, options_.allowed_origins);
    std::optional<HttpRefusal> refusal;
    if (options_.check_head && !asks_first) refusal = options_.check_head(request);
    const auto length = parser.content_length();
    if (!refusal && length && *length > options_.body_bytes_max) refusal = too_large();
    const size_t skipped_max = std::min(kSkippedBytes, options_.body_bytes_max);
    if (refusal && !parser.is_done() && (expects || !length || *length > skipped_max)) {
      co_await refuse(*refusal);
      co_return false;
    }
    auto lease = context_.budget->lease();
    const std::optional<HttpRefusal> failure = co_await read_body(parser, *lease, expects);
    if (failure) {
      lease.reset();  // telling the client may take a while
      std::string().swap(parser.get().body());
      if (failure->status != 0) co_await refuse(*failure);
      co_return false;
    }
    place_.serve_request();
    stream_.expires_never();
    request.body = std::move(parser.get().body());
    if (!request.body.empty()) request.body_lease = std::move(lease);
    co_return co_await answer(request, form, refusal);
  }

  // GCC 12 destroys temporaries of a co_await expression twice, so refusals are made before they are awaited.
  static HttpRefusal malformed(const std::string& why, int status = 400) {
    return {status, "malformed HTTP request: " + why, {}};
  }
  static HttpRefusal no_room() {
    return {503, "the server holds as many bytes of request bodies as it may; try again", {}};
  }
  [[nodiscard]] HttpRefusal too_large() const {
    return {413, fmt::format("the body is over {} bytes (--max-body-bytes)", options_.body_bytes_max), {}};
  }

  [[nodiscard]] HttpRequest head_of(const Parser::value_type& message, const RequestTarget& target) {
    HttpRequest request;
    request.method = std::string(message.method_string());
    request.path = target.path;
    request.query = target.query;
    for (const auto& field : message)
      request.headers.emplace_back(std::string(field.name_string()), std::string(field.value()));
    if (const auto id = find_header(request.headers, kRequestIdHeader); id.empty()) {
      request.headers.insert(request.headers.end(), always_.begin(), always_.end());
    } else {
      always_ = {{kRequestIdHeader, std::string(id)}};
    }
    const Headers cors = cors_headers(request, options_.allowed_origins);
    always_.insert(always_.end(), cors.begin(), cors.end());
    request.peer = peer_;
    return request;
  }

  // Reads the body to its end. A refusal of status 0: the client left or was too slow, nobody is there to be told.
  asio::awaitable<std::optional<HttpRefusal>> read_body(Parser& parser, BodyBudget::Lease& lease, bool expects) {
    error_code failed;
    stream_.expires_after(options_.body_timeout);
    parser.body_limit(options_.body_bytes_max);
    if (expects && !parser.is_done()) {
      co_await asio::async_write(stream_, asio::buffer(std::string_view("HTTP/1.1 100 Continue\r\n\r\n")),
                                 asio::redirect_error(use_awaitable, failed));
    }
    while (!failed && !parser.is_done()) {
      co_await beast::http::async_read_some(stream_, buffer_, parser, asio::redirect_error(use_awaitable, failed));
      if (!lease.grow_to(parser.get().body().size())) co_return no_room();
    }
    if (!failed) co_return std::nullopt;
    co_return body_failure(failed);
  }

  [[nodiscard]] HttpRefusal body_failure(error_code why) const {
    if (why == beast::http::error::body_limit) return too_large();
    const bool gone = why == asio::error::operation_aborted || why == beast::error::timeout ||
                      why == asio::error::connection_reset || why == asio::error::broken_pipe;
    return gone ? HttpRefusal{0, "", {}} : malformed("in its body: " + why.message());
  }

  // Says no and ends the connection.
  asio::awaitable<void> refuse(const HttpRefusal& refusal) {
    const std::string answer = closing_error(refusal, always_);
    error_code failed;
    stream_.expires_after(std::chrono::seconds(10));
    co_await asio::async_write(stream_, asio::buffer(answer), asio::redirect_error(use_awaitable, failed));
    // Read what is still coming, for a while: closing on unread bytes would reset the connection before the answer is
    // read, and many clients read nothing until all of their request is out.
    stream_.socket().shutdown(tcp::socket::shutdown_send, failed);
    std::string rest(64 << 10, '\0');
    for (size_t left = options_.body_bytes_max * 2; left > 0 && !failed;) {
      const size_t got =
          co_await stream_.async_read_some(asio::buffer(rest), asio::redirect_error(use_awaitable, failed));
      left -= std::min(left, got);
    }
  }

  // Hands one request to the handler, which takes it, unless it is refused, and sends what it answers. False: the
  // connection is over.
  asio::awaitable<bool> answer(HttpRequest& request, AnswerForm form, const std::optional<HttpRefusal>& refusal) {
    const auto executor = stream_.get_executor();
    auto answer =
        std::make_shared<HttpAnswer>(executor, form, context_.table.draining(), options_.unread_bytes_max, always_);
    context_.table.insert(answer);
    auto watching = std::make_shared<Watch>(executor, buffer_.size() > 0);
    asio::co_spawn(executor, watch(stream_.socket(), answer, watching), asio::detached);
    if (refusal) {
      request.drop_body();
      send_error(*answer, refusal->status, refusal->message, refusal->headers);
    } else if (is_preflight(request, options_.allowed_origins)) {
      answer->send(204, preflight_headers(request), "");
    } else {
      context_.handler(std::move(request), writer_of(answer));
    }
    const bool alive = co_await send(*answer);
    if (!alive) answer->leave();
    answer->done();
    if (watching->on) {
      watching->on = false;
      error_code ignored;
      stream_.socket().cancel(ignored);  // ends the watch; nothing else is pending on the socket
      watching->pause.cancel();
    }
    while (watching.use_count() > 1) {  // the watch refers to the socket: let it end first
      co_await asio::post(executor, use_awaitable);
    }
    context_.table.erase(answer);
    co_return alive && answer->keeps_connection();
  }

  // Sends what is written to the answer until it is complete. False: the client left before.
  asio::awaitable<bool> send(HttpAnswer& answer) {
    while (true) {
      auto [bytes, last] = answer.take();
      error_code failed;
      for (size_t sent = 0; sent < bytes.size() && !failed && !answer.client_left();) {
        stream_.expires_after(options_.write_timeout);  // of the next byte to move, not of them all
        sent +=
            co_await stream_.async_write_some(asio::buffer(bytes) + sent, asio::redirect_error(use_awaitable, failed));
      }
      stream_.expires_never();
      if (failed || answer.client_left()) co_return false;
      if (last) co_return true;
      if (!bytes.empty()) continue;
      answer.event().expires_at(asio::steady_timer::time_point::max());
      co_await answer.event().async_wait(asio::redirect_error(use_awaitable, failed));
    }
  }

  const ConnectionContext context_;
  const HttpServerOptions& options_;
  beast::tcp_stream stream_;
  ConnectionTable::Place place_;
  std::string peer_;
  Headers always_;  // of every answer to the request at hand
  // What has come and was not looked at. The bound is of a head, or of the line before a chunk.
  beast::flat_buffer buffer_{context_.options.header_bytes_max + (64 << 10)};
};

}  // namespace

asio::awaitable<void> serve_connection(ConnectionContext context, tcp::socket socket) {
  Connection connection(context, std::move(socket));
  co_await connection.run();
}

}  // namespace baton::http
