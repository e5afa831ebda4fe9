#include "http/client.h"

#include <netinet/tcp.h>
#include <sys/socket.h>

#include <atomic>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/connect.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <charconv>
#include <future>
#include <mutex>
#include <thread>
#include <unordered_set>

#include "base/thread.h"

namespace baton::http {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
using asio::use_awaitable;
using asio::ip::tcp;

class Call final : public HttpCall, public std::enable_shared_from_this<Call> {
 public:
  Call(asio::io_context& context, HttpCallRequest request, HttpCallHandlers handlers)
      : strand_(asio::make_strand(context)),
        stream_(strand_),
        resolver_(strand_),
        request_(std::move(request)),
        handlers_(std::move(handlers)) {}

  void cancel() override {
    asio::post(strand_, [self = shared_from_this()] {
      self->cancelled_ = true;
      self->resolver_.cancel();
      self->stream_.close();
    });
  }

  void launch(std::function<void(std::shared_ptr<Call>)> ended) {
    asio::co_spawn(strand_, run(),
                   [self = shared_from_this(), ended = std::move(ended)](std::exception_ptr, Status status) {
                     if (self->handlers_.on_end) self->handlers_.on_end(std::move(status));
                     self->handlers_ = {};
                     ended(self);
                   });
  }

 private:
  [[nodiscard]] Status failure(const char* doing, boost::system::error_code why) const {
    if (cancelled_) return error(ErrorCode::kCancelled, "cancelled");
    if (why == beast::http::error::body_limit) {
      return error(ErrorCode::kResourceExhausted, "the answer of {} is over {} bytes", request_.url.authority(),
                   request_.answer_bytes_max.value_or(0));
    }
    const auto code = why == beast::error::timeout ? ErrorCode::kDeadlineExceeded : ErrorCode::kUnavailable;
    return error(code, "{} {}: {}", doing, request_.url.authority(), why.message());
  }

  asio::awaitable<Status> run() {
    boost::system::error_code failed;
    if (cancelled_) co_return failure("connecting to", failed);
    stream_.expires_after(request_.connect_timeout);
    const auto endpoints = co_await resolver_.async_resolve(request_.url.host, std::to_string(request_.url.port),
                                                            asio::redirect_error(use_awaitable, failed));
    if (failed || cancelled_) co_return failure("resolving", failed);
    co_await stream_.async_connect(endpoints, asio::redirect_error(use_awaitable, failed));
    if (failed || cancelled_) co_return failure("connecting to", failed);
    stream_.socket().set_option(tcp::no_delay(true), failed);
    watch_host();

    const size_t shared_bytes = request_.shared_body ? request_.shared_body->size() : 0;
    std::string head =
        fmt::format("{} {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n", request_.method,
                    request_.target, request_.url.authority(), shared_bytes + request_.body.size());
    for (const auto& [name, value] : request_.headers) head += fmt::format("{}: {}\r\n", name, value);
    head += "\r\n";
    stream_.expires_after(request_.idle_timeout);
    const std::array<asio::const_buffer, 3> parts{
        asio::buffer(head), asio::const_buffer(shared_bytes > 0 ? request_.shared_body->data() : nullptr, shared_bytes),
        asio::buffer(request_.body)};
    co_await asio::async_write(stream_, parts, asio::redirect_error(use_awaitable, failed));
    if (failed || cancelled_) co_return failure("writing to", failed);
    request_.shared_body.reset();  // the answer may take long
    std::string().swap(request_.body);
    co_return co_await read_answer();
  }

  // A host that is gone ends the call within half a minute, and one that came back without the connection at the first
  // question. (A process that is stopped does not: its kernel answers.)
  void watch_host() {
    boost::system::error_code ignored;
    stream_.socket().set_option(asio::socket_base::keep_alive(true), ignored);
    const int fd = stream_.socket().native_handle();
    for (const auto& [option, value] : {std::pair{TCP_KEEPIDLE, 10}, {TCP_KEEPINTVL, 5}, {TCP_KEEPCNT, 4}})
      setsockopt(fd, IPPROTO_TCP, option, &value, sizeof(value));
  }

  asio::awaitable<Status> read_answer() {
    boost::system::error_code failed;
    beast::flat_buffer buffer;
    beast::http::response_parser<beast::http::buffer_body> parser;
    if (request_.answer_bytes_max) {
      parser.body_limit(*request_.answer_bytes_max);
    } else {
      parser.body_limit(boost::none);
    }
    parser.header_limit(64 << 10);
    parser.skip(request_.method == "HEAD");
    co_await beast::http::async_read_header(stream_, buffer, parser, asio::redirect_error(use_awaitable, failed));
    if (failed || cancelled_) co_return failure("reading from", failed);
    Headers headers;
    for (const auto& field : parser.get())
      headers.emplace_back(std::string(field.name_string()), std::string(field.value()));
    if (handlers_.on_head) handlers_.on_head(static_cast<int>(parser.get().result_int()), headers);

    std::string piece(64 << 10, '\0');
    while (!parser.is_done()) {
      parser.get().body().data = piece.data();
      parser.get().body().size = piece.size();
      stream_.expires_after(request_.idle_timeout);
      co_await beast::http::async_read_some(stream_, buffer, parser, asio::redirect_error(use_awaitable, failed));
      if (failed == beast::http::error::need_buffer) failed = {};
      const size_t got = piece.size() - parser.get().body().size;
      if (got > 0 && handlers_.on_data && !cancelled_) handlers_.on_data(std::string_view(piece.data(), got));
      if (failed || cancelled_) co_return failure("reading from", failed);
    }
    co_return Status();
  }

  asio::strand<asio::io_context::executor_type> strand_;
  beast::tcp_stream stream_;
  tcp::resolver resolver_;
  HttpCallRequest request_;
  HttpCallHandlers handlers_;
  bool cancelled_ = false;  // touched on the strand only
};

}  // namespace

struct HttpClient::Impl {
  asio::io_context context;
  asio::executor_work_guard<asio::io_context::executor_type> work{context.get_executor()};
  std::vector<std::thread> threads;
  std::mutex mutex;
  std::unordered_set<std::shared_ptr<Call>> live;
};

HttpClient::HttpClient(int threads) : impl_(std::make_shared<Impl>()) {
  for (int i = 0; i < std::max(1, threads); ++i) {
    impl_->threads.emplace_back([context = &impl_->context] {
      name_thread("baton-client");
      context->run();
    });
  }
}

HttpClient::~HttpClient() {
  {
    std::lock_guard lock(impl_->mutex);
    for (const auto& call : impl_->live) call->cancel();
  }
  impl_->work.reset();  // the threads end when the last call has
  for (auto& thread : impl_->threads) thread.join();
}

std::shared_ptr<HttpCall> HttpClient::start(HttpCallRequest request, HttpCallHandlers handlers) {
  auto call = std::make_shared<Call>(impl_->context, std::move(request), std::move(handlers));
  {
    std::lock_guard lock(impl_->mutex);
    impl_->live.insert(call);
  }
  call->launch([impl = impl_.get()](const std::shared_ptr<Call>& ended) {
    std::lock_guard lock(impl->mutex);
    impl->live.erase(ended);
  });
  return call;
}

Result<HttpReply> HttpClient::fetch(HttpCallRequest request) {
  HttpReply reply;
  std::promise<Status> ended;
  HttpCallHandlers handlers;
  handlers.on_head = [&](int status, const Headers& headers) {
    reply.status = status;
    reply.headers = headers;
  };
  handlers.on_data = [&](std::string_view bytes) { reply.body += bytes; };
  handlers.on_end = [&](Status status) { ended.set_value(std::move(status)); };
  start(std::move(request), std::move(handlers));
  BATON_TRY(ended.get_future().get());
  return reply;
}

}  // namespace baton::http
