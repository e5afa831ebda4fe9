// Raw bytes against the server: what a request is, where it ends, how long it may take and how much it may hold.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <set>
#include <thread>

#include "http/api_error.h"
#include "http/raw_client.h"
#include "http/request_head.h"
#include "http/server.h"

namespace baton::http {
namespace {

using namespace std::chrono_literals;

// Answers with the length of the body and keeps the paths that it was asked for.
struct Counted {
  explicit Counted(HttpServerOptions options = {}) {
    server = HttpServer::start(options, [this](HttpRequest request, std::shared_ptr<ResponseWriter> writer) {
               {
                 std::lock_guard lock(mutex);
                 asked.push_back(request.path);
               }
               send_json(*writer, 200, fmt::format("{{\"bytes\":{}}}", request.body.size()));
             }).value();
  }
  ~Counted() { server->stop(); }
  std::vector<std::string> paths() {
    std::lock_guard lock(mutex);
    return asked;
  }
  std::mutex mutex;
  std::vector<std::string> asked;
  std::unique_ptr<HttpServer> server;
};

size_t answers_in(std::string_view said) {
  size_t count = 0;
  for (size_t at = 0; (at = said.find("HTTP/1.1 ", at)) != std::string_view::npos; ++at)
    count += at == 0 || said[at - 1] == '\n';
  return count;
}

struct Row {
  const char* bytes;
  int status;
};

constexpr const char* kSecond = "GET /second HTTP/1.1\r\nHost: h\r\n\r\n";

// Each is answered once, the connection closes, and what comes behind it is never taken for a request.
const Row kRefused[] = {
    // Where the body ends.
    {"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: identity\r\n\r\n", 400},
    {"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\n\r\n", 400},
    {"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 400},
    {"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400},
    {"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n", 400},
    {"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked;x=1\r\n\r\n0\r\n\r\n", 400},
    {"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400},
    {"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked,\r\n\r\n0\r\n\r\n", 400},
    {"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding:\r\n\r\n0\r\n\r\n", 400},
    {"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding:\vchunked\r\n\r\n0\r\n\r\n", 400},
    {"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
    {"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
    {"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400},
    {"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", 400},
    {"POST / HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
    {"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2, 2\r\n\r\nab", 400},
    {"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nab", 400},
    {"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: +2\r\n\r\nab", 400},
    {"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: -2\r\n\r\nab", 400},
    {"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0x2\r\n\r\nab", 400},
    {"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2 0\r\n\r\nab", 400},
    {"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2.0\r\n\r\nab", 400},
    {"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: \"2\"\r\n\r\nab", 400},
    {"POST / HTTP/1.1\r\nHost: h\r\nContent-Length:\r\n\r\nab", 400},
    {"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 18446744073709551618\r\n\r\nab", 400},
    {"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 999999999999999999\r\n\r\nab", 413},
    // Chunks.
    {"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000000\r\nab\r\n0\r\n\r\n", 400},
    {"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nab\r\n0\r\n\r\n", 400},
    {"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nab\r\n0\r\n\r\n", 413},
    {"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n-2\r\nab\r\n0\r\n\r\n", 400},
    {"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0x2\r\nab\r\n0\r\n\r\n", 400},
    {"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2 \nab\r\n0\r\n\r\n", 400},
    {"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n", 400},
    {"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n\r\n0\r\n\r\n", 400},
    {"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2;\"x\r\nab\r\n0\r\n\r\n", 400},
    {"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 3\r\n\r\n", 400},
    {"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX y: 3\r\n\r\n", 400},
    // Whom it is for.
    {"GET / HTTP/1.1\r\n\r\n", 400},
    {"GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n", 400},
    {"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400},
    {"GET / HTTP/1.1\r\nHost: u@h\r\n\r\n", 400},
    {"GET http://other/ HTTP/1.1\r\nHost: h\r\n\r\n", 400},
    {"GET http://h:81/ HTTP/1.1\r\nHost: h\r\n\r\n", 400},
    {"CONNECT h:80 HTTP/1.1\r\nHost: h\r\n\r\n", 400},
    {"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", 400},
    // Characters in wrong places.
    {"GET / HTTP/1.1\r\nHost: h\r\nX: a\r\n b\r\n\r\n", 400},
    {"GET / HTTP/1.1\r\n Host: h\r\n\r\n", 400},
    {"GET / HTTP/1.1\r\nHost: h\r\nX : a\r\n\r\n", 400},
    {"GET / HTTP/1.1\r\nHost: h\r\n: a\r\n\r\n", 400},
    {"GET / HTTP/1.1\r\nHost: h\r\nX\r\n\r\n", 400},
    {"GET / HTTP/1.1\r\nHost: h\r\nX: a\rb\r\n\r\n", 400},
    {"GET / HTTP/1.1\r\nHost: h\r\nX: a\x7f\r\n\r\n", 400},
    {"GET / HTTP/1.1\nHost: h\n\n", 400},
    {"GET / HTTP/1.1\r\nHost: h\n\r\n", 400},
    {"GET  / HTTP/1.1\r\nHost: h\r\n\r\n", 400},
    {"GET /a b HTTP/1.1\r\nHost: h\r\n\r\n", 400},
    {"GET\t/ HTTP/1.1\r\nHost: h\r\n\r\n", 400},
    {"GET / HTTP/1.1 \r\nHost: h\r\n\r\n", 400},
    {"GET /\xc3\xa9 HTTP/1.1\r\nHost: h\r\n\r\n", 400},
    {"GET /%zz HTTP/1.1\r\nHost: h\r\n\r\n", 400},
    {"G(T / HTTP/1.1\r\nHost: h\r\n\r\n", 400},
    {"GET /\r\n\r\n", 400},
    {"GET / HTTP/1.2\r\nHost: h\r\n\r\n", 400},
    {"GET / http/1.1\r\nHost: h\r\n\r\n", 400},
    {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400},
    {"\x16\x03\x01\x02", 400},
    {"\n\r\n", 400},
    {"GET / HTTP/1.1\r\nHost: h\r\nExpect: 200-ok\r\n\r\n", 417},
};

TEST(RawRequest, WhatCanBeReadInTwoWaysIsRefused) {
  Counted counted;
  for (const Row& row : kRefused) {
    RawClient client(counted.server->port());
    client.say(std::string(row.bytes) + kSecond);
    const std::string said = client.hear();
    EXPECT_EQ(said.substr(0, 12), fmt::format("HTTP/1.1 {}", row.status)) << row.bytes;
    EXPECT_NE(said.find("Connection: close"), std::string::npos) << row.bytes;
    EXPECT_EQ(answers_in(said), 1U) << row.bytes << "\n-- was answered\n" << said;
    EXPECT_TRUE(client.closed()) << row.bytes;
  }
  EXPECT_TRUE(counted.paths().empty()) << counted.paths().front();
}

TEST(RawRequest, ANulIsRefusedWhereverItStands) {
  Counted counted;
  const std::string whole = "POST /p HTTP/1.1\r\nHost: h\r\nX: a\r\nContent-Length: 2\r\n\r\n";
  for (size_t at = 0; at < whole.size(); ++at) {
    std::string bytes = whole;
    bytes.insert(at, 1, '\0');
    EXPECT_TRUE(find_head_fault(bytes)) << at;
  }
  RawClient client(counted.server->port());
  client.say(std::string("GET / HTTP/1.1\r\nHost: h\r\nX: a\0b\r\n\r\n", 35));
  EXPECT_TRUE(client.hear().starts_with("HTTP/1.1 400"));
  EXPECT_TRUE(counted.paths().empty());
}

// Unusual, but it has one meaning: answered, and the next request after it too.
TEST(RawRequest, WhatHasOneMeaningIsServed) {
  Counted counted;
  const std::pair<const char*, int> rows[] = {
      {"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 003\r\n\r\nabc", 3},
      {"POST / HTTP/1.1\r\nHost:\r\ncontent-length:3\t\r\n\r\nabc", 3},
      {"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding:  CHUNKED \r\n\r\n3\r\nabc\r\n0\r\n\r\n", 3},
      {"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0003;a=b;c=\"d e\"\r\nabc\r\n0\r\n\r\n", 3},
      {"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nA\r\n0123456789\r\n0\r\nX-T: 1\r\n\r\n", 10},
      {"\r\nPOST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n", 0},
      {"GET http://h/a HTTP/1.1\r\nHost: H\r\n\r\n", 0},
      {"GET / HTTP/1.1\r\nHost: [::1]:80\r\nX: \xc3\xa9\tb\r\n\r\n", 0},
      {"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nExpect: 100-Continue\r\n\r\nab", 2},
  };
  for (const auto& [bytes, body] : rows) {
    RawClient client(counted.server->port());
    client.say(std::string(bytes) + kSecond);
    client.say_no_more();
    const std::string said = client.hear();
    EXPECT_NE(said.find(fmt::format("{{\"bytes\":{}}}", body)), std::string::npos) << bytes << "\n" << said;
    EXPECT_EQ(counted.paths().back(), "/second") << bytes;
  }
  RawClient old(counted.server->port());
  old.say("GET /old HTTP/1.0\r\n\r\n");
  EXPECT_TRUE(old.hear().starts_with("HTTP/1.1 200"));
  EXPECT_TRUE(old.closed());
}

// HTTP/1.0 knows no chunks, and its clients wait for the end of the connection unless they are told not to.
TEST(RawRequest, AClientOfOneZeroIsAnsweredInItsWay) {
  auto server = HttpServer::start({}, [](const HttpRequest& request, const std::shared_ptr<ResponseWriter>& writer) {
                  if (request.path == "/whole") return send_json(*writer, 200, "{}");
                  writer->start(200, {{"Content-Type", "text/event-stream"}});
                  writer->write("data: 1\n\n");
                  writer->write("data: [DONE]\n\n");
                  writer->finish();
                }).value();
  const auto ask = [&](const std::string& bytes, bool closes) {
    RawClient client(server->port());
    client.say(bytes);
    std::string said = client.hear({}, 1s);
    EXPECT_EQ(client.closed(), closes) << bytes;
    return said;
  };
  const auto has = [](const std::string& said, const char* text) { return said.find(text) != std::string::npos; };
  for (const char* keep : {"", "Connection: keep-alive\r\n", "Connection: Keep-Alive\r\n"}) {
    const std::string said = ask(fmt::format("GET /stream HTTP/1.0\r\n{}\r\n", keep), true);
    EXPECT_TRUE(said.ends_with("\r\n\r\ndata: 1\n\ndata: [DONE]\n\n")) << said;
    EXPECT_FALSE(has(said, "Transfer-Encoding") || has(said, "keep-alive")) << said;
  }
  const std::string closed = ask("GET /whole HTTP/1.0\r\n\r\n", true);
  EXPECT_TRUE(has(closed, "Connection: close") && has(closed, "Content-Length: 3")) << closed;
  const std::string one = "GET /whole HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
  const std::string kept = ask(one + one, false);
  EXPECT_EQ(answers_in(kept), 2U) << kept;
  EXPECT_TRUE(has(kept, "Connection: keep-alive") && has(kept, "Content-Length: 3")) << kept;
  const std::string head = ask("HEAD /stream HTTP/1.0\r\n\r\n", true);
  EXPECT_TRUE(head.ends_with("\r\n\r\n")) << head;
  EXPECT_TRUE(has(ask("GET /stream HTTP/1.1\r\nHost: h\r\n\r\n", false), "Transfer-Encoding: chunked"));
}

// Also where the request is no request.
TEST(RawRequest, EveryAnswerHasADateAndAnId) {
  Counted counted;
  std::set<std::string> ids;
  for (const char* bytes : {"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", "GET /\r\n\r\n",
                            "GET / HTTP/1.1\r\nHost: h\r\nX-Request-Id: mine\r\nConnection: close\r\n\r\n"}) {
    RawClient client(counted.server->port());
    client.say(bytes);
    const std::string said = client.hear();
    const size_t date = said.find("\r\nDate: "), id = said.find("\r\nx-request-id: ");
    ASSERT_TRUE(date != std::string::npos && id != std::string::npos) << said;
    EXPECT_EQ(said.substr(date + 33, 6), " GMT\r\n") << said;
    ids.insert(said.substr(id + 16, said.find("\r\n", id + 2) - id - 16));
  }
  EXPECT_EQ(ids.size(), 3U);
  EXPECT_EQ(ids.erase("mine"), 1U);
  // UUIDs of version 4, as clients of vLLM read them.
  for (const std::string& drawn : ids) {
    ASSERT_EQ(drawn.size(), 32U);
    EXPECT_EQ(drawn[12], '4') << drawn;
    EXPECT_NE(std::string_view("89ab").find(drawn[16]), std::string_view::npos) << drawn;
  }
  EXPECT_EQ(http_date(784111777), "Sun, 06 Nov 1994 08:49:37 GMT");
}

// The fields of a trailer are no headers of the request.
TEST(RawRequest, ATrailerAddsNoHeader) {
  std::string key = "?";
  auto server = HttpServer::start({}, [&](const HttpRequest& request, const std::shared_ptr<ResponseWriter>& writer) {
                  key = find_header(request.headers, "authorization");
                  send_json(*writer, 200, "{}");
                }).value();
  RawClient client(server->port());
  client.say("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nAuthorization: Bearer k\r\n\r\n");
  EXPECT_TRUE(client.hear("{}").starts_with("HTTP/1.1 200"));
  EXPECT_EQ(key, "");
}

TEST(RawRequest, FloodsOfHeadersAndOfChunkExtensionsAreRefused) {
  Counted counted;
  const auto refused = [&](const std::string& bytes) {
    RawClient client(counted.server->port());
    client.say(bytes);
    return client.hear().substr(9, 3);
  };
  std::string many = "GET / HTTP/1.1\r\nHost: h\r\n";
  for (size_t i = 1; i < kHeadFieldsMax; ++i) many += "a:\r\n";
  EXPECT_FALSE(find_head_fault(many + "\r\n"));
  EXPECT_EQ(refused(many + "a:\r\n\r\n"), "431");
  EXPECT_EQ(refused("GET / HTTP/1.1\r\nHost: h\r\nX: " + std::string(70'000, 'x') + "\r\n\r\n"), "431");
  EXPECT_EQ(refused("GET / HTTP/1.1\r\nHost: h\r\nX: " + std::string(70'000, 'x')), "431");  // without an end
  EXPECT_EQ(refused("GET /" + std::string(70'000, 'x')), "431");
  EXPECT_EQ(refused("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2;" + std::string(200'000, 'x')),
            "400");
  EXPECT_EQ(
      refused("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: " + std::string(200'000, 'x')),
      "400");
  EXPECT_TRUE(counted.paths().empty());
}

// Each timeout alone ends a connection on which too little happens; the others are far away.
TEST(RawRequest, WhoIsTooSlowIsLetGo) {
  const auto closes = [](HttpServerOptions options, const std::string& bytes) {
    Counted counted(options);
    RawClient client(counted.server->port());
    client.say(bytes);
    client.hear();
    return client.closed();
  };
  HttpServerOptions patient;
  patient.header_timeout = patient.body_timeout = patient.idle_timeout = 1h;
  HttpServerOptions header = patient, body = patient, idle = patient;
  header.header_timeout = body.body_timeout = idle.idle_timeout = 100ms;
  const std::string whole = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
  EXPECT_TRUE(closes(header, ""));
  EXPECT_TRUE(closes(header, "GET / HT"));
  EXPECT_TRUE(closes(header, whole + "GET / HT"));  // of a later request too
  EXPECT_TRUE(closes(body, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nabc"));
  EXPECT_TRUE(closes(body, "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nabc"));
  EXPECT_TRUE(closes(idle, whole));
  EXPECT_TRUE(closes(idle, whole + "\r\n\r\n"));  // line ends are no request
}

// A head sent byte by byte does not put off its end.
TEST(RawRequest, ADripDoesNotPutOffTheTimeout) {
  HttpServerOptions options;
  options.header_timeout = 300ms;
  options.idle_timeout = 1h;
  Counted counted(options);
  RawClient client(counted.server->port());
  const auto begin = std::chrono::steady_clock::now();
  bool taken = client.say("GET / HTTP/1.1\r\nHost: h\r\nX: ");
  while (taken && std::chrono::steady_clock::now() - begin < 20s) {
    taken = client.say("x");
    std::this_thread::sleep_for(20ms);
  }
  EXPECT_FALSE(taken);
}

// What its head alone decides is said before the body is sent, and a small body does not cost the connection.
TEST(RawRequest, TheHeadIsCheckedBeforeTheBodyIsRead) {
  HttpServerOptions options;
  options.check_head = [](const HttpRequest& head) -> std::optional<HttpRefusal> {
    if (find_header(head.headers, "authorization") == "Bearer k") return std::nullopt;
    return HttpRefusal{401, "no key", {{"x-request-id", "7"}}};
  };
  Counted counted(options);
  {
    RawClient client(counted.server->port());
    client.say("POST /large HTTP/1.1\r\nHost: h\r\nContent-Length: 10000000\r\n\r\n");  // and no body
    const std::string said = client.hear("}}");
    EXPECT_TRUE(said.starts_with("HTTP/1.1 401"));
    EXPECT_NE(said.find("x-request-id: 7"), std::string::npos);
  }
  for (const char* expecting : {"Content-Length: 5\r\nExpect: 100-continue", "Transfer-Encoding: chunked"}) {
    RawClient client(counted.server->port());
    client.say(fmt::format("POST /large HTTP/1.1\r\nHost: h\r\n{}\r\n\r\n", expecting));
    EXPECT_TRUE(client.hear("}}").starts_with("HTTP/1.1 401")) << expecting;
  }
  RawClient client(counted.server->port());
  client.say("POST /small HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc");
  EXPECT_TRUE(client.hear("}}").starts_with("HTTP/1.1 401"));
  client.say("POST /known HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer k\r\nContent-Length: 3\r\n\r\nabc");
  EXPECT_TRUE(client.hear("}").starts_with("HTTP/1.1 200"));
  EXPECT_EQ(counted.paths(), std::vector<std::string>{"/known"});
}

TEST(RawRequest, BodiesAreBoundedEachAndTogether) {
  HttpServerOptions options;
  options.body_bytes_max = 1 << 20;
  options.body_bytes_in_flight_max = 2 << 20;
  options.threads = 2;
  Counted counted(options);
  const int port = counted.server->port();
  const auto post = [&](size_t announced) {
    return fmt::format("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", announced);
  };
  {
    RawClient client(port);
    client.say(post((1 << 20) + 1));
    EXPECT_TRUE(client.hear("}}").starts_with("HTTP/1.1 413"));
    RawClient chunked(port);
    chunked.say("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n100001\r\n");
    EXPECT_TRUE(chunked.hear("}}").starts_with("HTTP/1.1 413"));
  }
  const std::string most((1 << 20) - 1, 'x');
  RawClient one(port), two(port);
  one.say(post(1 << 20) + most);  // never complete
  // While the bytes of both come in, both may be refused: neither knows that the other is about to let go.
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  two.say(post(1 << 20) + most);            // both do not fit into the seven eighths that are for large ones
  RawClient *held = &one, *refused = &two;  // whose bytes come last is open
  std::string said;
  for (int i = 0; i < 20 && said.empty(); ++i) {
    std::swap(held, refused);
    said = refused->hear("}}", std::chrono::seconds(1));
  }
  EXPECT_TRUE(said.starts_with("HTTP/1.1 503")) << said;
  EXPECT_NE(said.find("Retry-After: 1"), std::string::npos);
  RawClient small(port);
  small.say(post(100) + std::string(100, 'x'));
  EXPECT_TRUE(small.hear("}").starts_with("HTTP/1.1 200"));
  held->say("x");
  EXPECT_TRUE(held->hear("}").starts_with("HTTP/1.1 200"));
  RawClient after(port);  // what was held has come back
  after.say(post(1 << 20) + most + "x");
  EXPECT_TRUE(after.hear("}").starts_with("HTTP/1.1 200"));
}

// A handler that keeps a request keeps its share.
TEST(RawRequest, ABodyCountsAsLongAsItIsKept) {
  HttpServerOptions options;
  options.body_bytes_max = 600'000;
  options.body_bytes_in_flight_max = 1'200'000;
  std::vector<HttpRequest> kept;
  std::mutex mutex;
  auto server = HttpServer::start(options, [&](HttpRequest request, const std::shared_ptr<ResponseWriter>& writer) {
                  std::lock_guard lock(mutex);
                  kept.push_back(std::move(request));
                  send_json(*writer, 200, "{}");
                }).value();
  const std::string post = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 600000\r\n\r\n" + std::string(600'000, 'x');
  const auto status = [&] {
    RawClient client(server->port());
    client.say(post);
    return client.hear("}").substr(9, 3);
  };
  EXPECT_EQ(status(), "200");
  EXPECT_EQ(status(), "503");
  {
    std::lock_guard lock(mutex);
    kept.front().drop_body();
  }
  EXPECT_EQ(status(), "200");
}

// When all places are taken, the one that has waited longest goes, and the newcomer is served.
TEST(RawRequest, IdleConnectionsDoNotKeepNewOnesOut) {
  HttpServerOptions options;
  options.connections_max = 20;
  options.header_timeout = options.idle_timeout = options.body_timeout = 1h;
  Counted counted(options);
  const int port = counted.server->port();
  std::vector<std::unique_ptr<RawClient>> crowd;
  const char* manners[] = {"", "GET / HT", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nab"};
  for (int i = 0; i < 60; ++i) {
    crowd.push_back(std::make_unique<RawClient>(port));
    crowd.back()->say(manners[i % 3]);
  }
  RawClient client(port);
  client.say("GET /here HTTP/1.1\r\nHost: h\r\n\r\n");
  EXPECT_TRUE(client.hear("}").starts_with("HTTP/1.1 200"));
  EXPECT_EQ(crowd.front()->hear(), "");
  EXPECT_TRUE(crowd.front()->closed());
}

}  // namespace
}  // namespace baton::http
