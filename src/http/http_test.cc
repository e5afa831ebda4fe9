// The server and the client against each other, and raw bytes against the server.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <fstream>
#include <future>
#include <map>
#include <mutex>
#include <sstream>
#include <thread>

#include "http/client.h"
#include "http/server.h"

namespace baton::http {
namespace {

using namespace std::chrono_literals;

std::unique_ptr<HttpServer> serve(HttpHandler handler, HttpServerOptions options = {}) {
  auto server = HttpServer::start(options, std::move(handler));
  EXPECT_TRUE(server.ok());
  return std::move(server).value();
}

HttpCallRequest call_to(const HttpServer& server, std::string target, std::string body = {}) {
  HttpCallRequest request;
  request.url = Url{"127.0.0.1", server.port(), ""};
  request.method = body.empty() ? "GET" : "POST";
  request.target = std::move(target);
  request.body = std::move(body);
  return request;
}

// Connects and sends bytes as they are.
int raw_socket(int port, const std::string& bytes) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  EXPECT_EQ(send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL), static_cast<ssize_t>(bytes.size()));
  return fd;
}

// Sends bytes as they are and returns everything the server says until it closes.
std::string raw(int port, const std::string& bytes) {
  const int fd = raw_socket(port, bytes);
  shutdown(fd, SHUT_WR);
  std::string all(1 << 16, '\0');
  size_t got = 0;
  for (ssize_t n; got < all.size() && (n = recv(fd, all.data() + got, all.size() - got, 0)) > 0;)
    got += static_cast<size_t>(n);
  close(fd);
  all.resize(got);
  return all;
}

void echo(HttpRequest request, std::shared_ptr<ResponseWriter> writer) {
  writer->send(200, {{"Content-Type", "text/plain"}},
               request.method + " " + request.path + " " + request.query + " " + request.body);
}

TEST(Http, AnswersWholeRequests) {
  auto server = serve(echo);
  HttpClient client;
  auto reply = client.fetch(call_to(*server, "//v1///models?x=a%20b", "body"));
  ASSERT_TRUE(reply.ok()) << reply.error().message;
  EXPECT_EQ(reply->status, 200);
  EXPECT_EQ(reply->body, "POST /v1/models x=a%20b body");
  EXPECT_EQ(find_header(reply->headers, "content-TYPE"), "text/plain");
  EXPECT_EQ(query_value("a=1&x=a%20b+c", "x"), "a b c");
}

TEST(Http, KeepsAConnectionForPipelinedRequests) {
  auto server = serve(echo);
  const std::string said = raw(server->port(), "GET /a HTTP/1.1\r\nHost: h\r\n\r\nGET /b HTTP/1.1\r\nHost: h\r\n\r\n");
  EXPECT_NE(said.find("GET /a"), std::string::npos);
  EXPECT_NE(said.find("GET /b"), std::string::npos);
}

TEST(Http, StreamsEachWrite) {
  auto server = serve([](HttpRequest, std::shared_ptr<ResponseWriter> writer) {
    writer->start(200, {{"Content-Type", "text/event-stream"}});
    std::thread([writer] {
      for (int i = 0; i < 5; ++i) {
        writer->write(fmt::format("data: {}\n\n", i));
        std::this_thread::sleep_for(5ms);
      }
      writer->finish();
    }).detach();
  });
  HttpClient client;
  auto reply = client.fetch(call_to(*server, "/"));
  ASSERT_TRUE(reply.ok());
  EXPECT_EQ(reply->body, "data: 0\n\ndata: 1\n\ndata: 2\n\ndata: 3\n\ndata: 4\n\n");
}

TEST(Http, RefusesAmbiguousAndOversizedMessages) {
  HttpServerOptions options;
  options.body_bytes_max = 1000;
  auto server = serve(echo, options);
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"},
      {"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", "400"},
      {"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc", "400"},
      {"GET / HTTP/1.1\nHost: h\n\n", "400"},
      {"GET / HTTP/1.1\r\nHost h\r\n\r\n", "400"},
      {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "400"},
      {"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1001\r\n\r\n", "413"},
      {"GET / HTTP/1.1\r\nHost: h\r\nX: " + std::string(70000, 'x') + "\r\n\r\n", "431"},
  };
  for (const auto& [bytes, status] : cases) {
    EXPECT_EQ(raw(server->port(), bytes).substr(0, 12), "HTTP/1.1 " + status) << bytes.substr(0, 60);
  }
}

TEST(Http, TellsTheHandlerWhenTheClientLeaves) {
  std::mutex mutex;
  std::condition_variable changed;
  std::shared_ptr<ResponseWriter> held;
  bool left = false;
  auto server = serve([&](HttpRequest, std::shared_ptr<ResponseWriter> writer) {
    writer->on_disconnect([&] {
      std::lock_guard lock(mutex);
      left = true;
      changed.notify_all();
    });
    writer->start(200, {{"Content-Type", "text/plain"}});
    writer->write("first");
    std::lock_guard lock(mutex);
    held = writer;
  });
  HttpClient client;
  std::shared_ptr<HttpCall> call;
  HttpCallHandlers handlers;
  handlers.on_data = [&](std::string_view) {
    std::lock_guard lock(mutex);
    changed.notify_all();
  };
  std::optional<ErrorCode> ended;
  handlers.on_end = [&](Status status) {
    std::lock_guard lock(mutex);
    ended = status.ok() ? std::nullopt : std::optional(status.error().code);
    changed.notify_all();
  };
  call = client.start(call_to(*server, "/"), std::move(handlers));
  std::unique_lock lock(mutex);
  ASSERT_TRUE(changed.wait_for(lock, 10s, [&] { return held != nullptr; }));
  call->cancel();
  EXPECT_TRUE(changed.wait_for(lock, 10s, [&] { return left && ended.has_value(); }));
  EXPECT_EQ(ended, ErrorCode::kCancelled);
  lock.unlock();
  held->write("into the void");
  server->stop();
  held.reset();
}

// A stray byte behind the request, with it or after it, does not hide the goodbye.
TEST(Http, TellsTheHandlerWhenTheClientLeavesBytesBehind) {
  for (const bool with_the_request : {true, false}) {
    std::promise<void> asked, left;
    std::shared_ptr<ResponseWriter> held;
    auto server = serve([&](HttpRequest, std::shared_ptr<ResponseWriter> writer) {
      writer->on_disconnect([&] { left.set_value(); });
      held = std::move(writer);
      asked.set_value();
    });
    const int fd =
        raw_socket(server->port(), std::string("GET / HTTP/1.1\r\nHost: h\r\n\r\n") + (with_the_request ? "x" : ""));
    ASSERT_EQ(asked.get_future().wait_for(10s), std::future_status::ready);
    if (!with_the_request) {
      EXPECT_EQ(send(fd, "x", 1, MSG_NOSIGNAL), 1);
    }
    close(fd);
    EXPECT_EQ(left.get_future().wait_for(10s), std::future_status::ready);
    server->stop();
    held.reset();
  }
}

TEST(Http, AClientThatDoesNotReadHasLeft) {
  HttpServerOptions options;
  options.unread_bytes_max = 1 << 20;
  std::promise<void> left;
  std::atomic<bool> gone{false};
  std::thread writing;
  auto server = serve(
      [&](HttpRequest, std::shared_ptr<ResponseWriter> writer) {
        writer->on_disconnect([&] {
          gone = true;
          left.set_value();
        });
        writer->start(200, {{"Content-Type", "text/plain"}});
        writing = std::thread([writer, &gone] {
          for (int i = 0; i < 10'000 && !gone; ++i) {
            writer->write(std::string(64 << 10, 'x'));
            std::this_thread::sleep_for(1ms);
          }
        });
      },
      options);
  const int fd = raw_socket(server->port(), "GET / HTTP/1.1\r\nHost: h\r\n\r\n");
  EXPECT_EQ(left.get_future().wait_for(10s), std::future_status::ready);
  gone = true;
  writing.join();
  close(fd);
}

// The write timeout is that of a client that reads nothing; one that reads slowly gets all of a long answer.
TEST(Http, AClientMayReadSlowly) {
  HttpServerOptions options;
  options.write_timeout = 1s;
  const size_t body = 24 << 20;
  auto server = serve(
      [&](HttpRequest, std::shared_ptr<ResponseWriter> writer) {
        writer->send(200, {{"Content-Type", "text/plain"}}, std::string(body, 'x'));
      },
      options);
  const int fd = raw_socket(server->port(), "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
  std::string some(512 << 10, '\0');
  size_t got = 0;
  for (ssize_t n; (n = recv(fd, some.data(), some.size(), MSG_WAITALL)) > 0; got += static_cast<size_t>(n)) {
    std::this_thread::sleep_for(50ms);
  }
  close(fd);
  EXPECT_GT(got, body);
}

// stop() itself ends what is open; a client need not wait for the server object to go.
TEST(Http, StopClosesTheListenerAndEveryConnection) {
  std::atomic<bool> asked{false};
  std::shared_ptr<ResponseWriter> held;
  auto server = serve([&](HttpRequest, std::shared_ptr<ResponseWriter> writer) {
    held = std::move(writer);
    asked = true;
  });
  HttpClient client;
  std::promise<Status> ended;
  HttpCallHandlers handlers;
  handlers.on_end = [&](Status status) { ended.set_value(std::move(status)); };
  client.start(call_to(*server, "/"), std::move(handlers));
  for (int i = 0; i < 1000 && !asked; ++i) std::this_thread::sleep_for(5ms);
  server->stop();
  auto result = ended.get_future();
  ASSERT_EQ(result.wait_for(5s), std::future_status::ready);
  EXPECT_EQ(result.get().error().code, ErrorCode::kUnavailable);
  HttpCallRequest late = call_to(*server, "/");
  late.idle_timeout = 5s;
  const auto refused = client.fetch(late);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kUnavailable);  // refused, not timed out
  held.reset();
}

// What a handler gives to on_disconnect often holds the writer itself: letting go of it must not lock twice.
std::string read_until_closed(int fd) {
  std::string all;
  char bytes[4096];
  for (ssize_t n; (n = recv(fd, bytes, sizeof(bytes), 0)) > 0;) all.append(bytes, static_cast<size_t>(n));
  close(fd);
  return all;
}

// What is under way is finished, with the last byte of it sent; connections that rest are closed; new requests are
// still answered, each on a connection that then ends.
TEST(Http, DrainFinishesWhatIsUnderWay) {
  std::mutex mutex;
  std::map<std::string, std::shared_ptr<ResponseWriter>> held;
  auto server = serve([&](HttpRequest request, std::shared_ptr<ResponseWriter> writer) {
    if (request.path == "/now") return writer->send(200, {{"Content-Type", "text/plain"}}, "now");
    if (request.path == "/stream") {
      writer->start(200, {{"Content-Type", "text/event-stream"}});
      writer->write("first");
    }
    std::lock_guard lock(mutex);
    held[request.path] = std::move(writer);
  });
  const auto wait = [](auto condition) {
    for (int i = 0; i < 2000 && !condition(); ++i) std::this_thread::sleep_for(5ms);
    EXPECT_TRUE(condition());
  };
  const std::string end = " HTTP/1.1\r\nHost: h\r\n\r\n";
  const int resting = raw_socket(server->port(), "GET /now" + end);
  wait([&] {
    char byte = 0;
    return recv(resting, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 1 && server->in_flight() == 0;
  });
  const int waiting = raw_socket(server->port(), "GET /later" + end);
  const int streaming = raw_socket(server->port(), "GET /stream" + end);
  wait([&] {
    std::lock_guard lock(mutex);
    return held.size() == 2 && server->in_flight() == 2;
  });
  server->drain();
  const std::string rested = read_until_closed(resting);
  EXPECT_TRUE(rested.ends_with("now")) << rested;
  EXPECT_EQ(rested.find("Connection: close"), std::string::npos);
  const std::string fresh = read_until_closed(raw_socket(server->port(), "GET /now" + end));
  EXPECT_TRUE(fresh.ends_with("now")) << fresh;
  EXPECT_NE(fresh.find("Connection: close"), std::string::npos);
  EXPECT_EQ(server->in_flight(), 2U);
  {
    std::lock_guard lock(mutex);
    held["/later"]->send(200, {{"Content-Type", "text/plain"}}, "later");
    held["/stream"]->write("last");
    held["/stream"]->finish();
  }
  const std::string waited = read_until_closed(waiting);
  EXPECT_TRUE(waited.ends_with("later")) << waited;
  EXPECT_NE(waited.find("Connection: close"), std::string::npos);
  const std::string streamed = read_until_closed(streaming);
  EXPECT_NE(streamed.find("first"), std::string::npos);
  EXPECT_TRUE(streamed.ends_with("last\r\n0\r\n\r\n")) << streamed;
  wait([&] { return server->in_flight() == 0; });
  server->stop();
  held.clear();
}

TEST(Http, TheDisconnectCallbackMayHoldTheWriter) {
  auto server = serve([](HttpRequest, std::shared_ptr<ResponseWriter> writer) {
    writer->on_disconnect([writer] {});
    writer->send(200, {{"Content-Type", "text/plain"}}, "x");
  });
  HttpClient client;
  for (int i = 0; i < 3; ++i) EXPECT_EQ(client.fetch(call_to(*server, "/"))->body, "x");
}

TEST(Http, ADroppedWriterIsA500AndAPortInUseSaysSo) {
  auto server = serve([](HttpRequest, std::shared_ptr<ResponseWriter>) {});
  HttpClient client;
  EXPECT_EQ(client.fetch(call_to(*server, "/"))->status, 500);
  HttpServerOptions taken;
  taken.port = server->port();
  auto second = HttpServer::start(taken, echo);
  ASSERT_FALSE(second.ok());
  EXPECT_NE(second.error().message.find(std::to_string(server->port())), std::string::npos);
}

// A body in two parts is one body, and an answer has a bound.
TEST(Http, WhatAClientSendsAndTakes) {
  auto server = serve(echo);
  HttpClient client;
  HttpCallRequest request = call_to(*server, "/x", "end");
  request.shared_body = std::make_shared<const std::string>("begin ");
  EXPECT_EQ(client.fetch(request)->body, "POST /x  begin end");
  request.answer_bytes_max = 10;
  const auto reply = client.fetch(request);
  ASSERT_FALSE(reply.ok());
  EXPECT_EQ(reply.error().code, ErrorCode::kResourceExhausted);
  EXPECT_NE(reply.error().message.find("over 10 bytes"), std::string::npos);
}

// The kernel's own view of the connection: a keepalive timer runs (2 in the column "tr").
TEST(Http, AHostThatVanishesIsAskedWhetherItIsThere) {
  std::mutex mutex;
  std::vector<std::shared_ptr<ResponseWriter>> held;
  auto server = serve([&](HttpRequest, std::shared_ptr<ResponseWriter> writer) {
    std::lock_guard lock(mutex);
    held.push_back(std::move(writer));
  });
  HttpClient client;
  auto call = client.start(call_to(*server, "/"), {});
  const std::string port = fmt::format(":{:04X} 01 ", server->port());
  const auto watched = [&] {
    std::ifstream table("/proc/self/net/tcp");
    for (std::string line; std::getline(table, line);) {
      std::istringstream words(line);
      std::string number, local, remote, state, queues, timer;
      words >> number >> local >> remote >> state >> queues >> timer;
      if ((remote.substr(remote.find(':') == std::string::npos ? 0 : remote.find(':')) + " " + state + " ") == port)
        return timer.starts_with("02:");
    }
    return false;
  };
  for (int i = 0; i < 1000 && !watched(); ++i) std::this_thread::sleep_for(5ms);
  EXPECT_TRUE(watched());
  call->cancel();
  server->stop();
  held.clear();
}

TEST(Http, ReportsAServerThatIsNotThere) {
  HttpClient client;
  HttpCallRequest request;
  request.url = Url{"127.0.0.1", 1, ""};
  auto reply = client.fetch(request);
  ASSERT_FALSE(reply.ok());
  EXPECT_EQ(reply.error().code, ErrorCode::kUnavailable);
}

TEST(Http, ManyConcurrentCalls) {
  HttpServerOptions options;
  options.threads = 2;
  auto server = serve(echo, options);
  HttpClient client(2);
  std::atomic<int> good{0}, ended{0};
  for (int i = 0; i < 300; ++i) {
    HttpCallHandlers handlers;
    handlers.on_head = [&](int status, const Headers&) { good += status == 200; };
    handlers.on_end = [&](Status) { ++ended; };
    client.start(call_to(*server, "/x", "y"), std::move(handlers));
  }
  for (int i = 0; i < 2000 && ended < 300; ++i) std::this_thread::sleep_for(5ms);
  EXPECT_EQ(good, 300);
  EXPECT_EQ(ended, 300);
}

TEST(Http, PathsKeepTheirPlusAndGoBackOnTheWireAsOneWord) {
  auto server = serve(echo);
  const std::string said = raw(server->port(), "GET //a+b%20c%0D%0AX:%20y?q=1+2 HTTP/1.1\r\nHost: h\r\n\r\n");
  EXPECT_NE(said.find("GET /a+b c\r\nX: y q=1+2"), std::string::npos) << said;
  const std::string decoded = "/v1/models/a+b c\r\nX: \xC3\xA9%?#";
  const std::string sent = encode_path(decoded);
  EXPECT_EQ(sent, "/v1/models/a+b%20c%0D%0AX:%20%C3%A9%25%3F%23");
  EXPECT_EQ(parse_target(sent)->path, decoded);
}

TEST(Http, ATargetIsInOriginOrAbsoluteForm) {
  EXPECT_EQ(parse_target("http://h:80//a?b=c")->path, "/a");
  EXPECT_EQ(parse_target("http://h:80//a?b=c")->query, "b=c");
  for (const char* bad : {"*", "a", "/%zz", "/%", "/a b", "/a#b"}) EXPECT_FALSE(parse_target(bad)) << bad;
  auto server = serve(echo);
  EXPECT_TRUE(raw(server->port(), "GET /%zz HTTP/1.1\r\nHost: h\r\n\r\n").starts_with("HTTP/1.1 400 "));
}

TEST(Url, Cases) {
  EXPECT_EQ(parse_url("http://h:80/a/")->path, "/a");
  EXPECT_EQ(parse_url("[::1]:9")->authority(), "[::1]:9");
  EXPECT_EQ(parse_url("[::1]:9")->host, "::1");
  EXPECT_EQ(parse_url("localhost:30000")->port, 30000);
  EXPECT_EQ(parse_url("localhost:30000")->host, "localhost");
  EXPECT_EQ(parse_url("http://a_b.svc")->authority(), "a_b.svc:80");
  for (const char* bad : {"https://h", "http://:80", "h:99999", "h:0", "h:x", "[::1", "", "http://u@h", "h?q", "h h"})
    EXPECT_FALSE(parse_url(bad).ok()) << bad;
}

}  // namespace
}  // namespace baton::http
