#include "http/cors.h"

#include <gtest/gtest.h>

#include "http/api_error.h"
#include "http/raw_client.h"
#include "http/routes.h"
#include "http/server.h"

namespace baton::http {
namespace {

const std::vector<Route<int>> kRoutes = {{"POST", "/generate", 1}, {"GET", "/flush_cache", 2, false, true}};

TEST(Cors, OriginsAreReadAsVllmAndAsCommandLinesHaveThem) {
  const std::pair<const char*, Origins> good[] = {
      {"", {}},
      {"*", {"*"}},
      {R"(["*"])", {"*"}},
      {"https://a.example, http://b:8080", {"https://a.example", "http://b:8080"}},
      {R"(["https://a.example", "http://b:8080"])", {"https://a.example", "http://b:8080"}},
  };
  for (const auto& [text, origins] : good) EXPECT_EQ(parse_origins(text).value(), origins) << text;
  for (const char* bad : {"a.example", "https://", "https://a/", "https://a,b", "https://*.example", "://a"})
    EXPECT_FALSE(parse_origins(bad).ok()) << bad;
}

// The server as a whole: what a browser asks first, what it sends then, and what it is shown.
struct Shared {
  explicit Shared(const Origins& origins) {
    HttpServerOptions options;
    options.allowed_origins = origins;
    const Access access{"", true, origins};
    options.check_head = [access](const HttpRequest& head) { return admit(kRoutes, head, access).refusal; };
    server = HttpServer::start(options, [](const HttpRequest&, const std::shared_ptr<ResponseWriter>& writer) {
               send_json(*writer, 200, "{}");
             }).value();
  }
  ~Shared() { server->stop(); }
  std::string ask(const std::string& head) const {
    RawClient client(server->port());
    client.say(head + "\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    return client.hear();
  }
  std::unique_ptr<HttpServer> server;
};

constexpr const char* kPreflight =
    "OPTIONS /generate HTTP/1.1\r\nAccess-Control-Request-Method: POST\r\n"
    "Access-Control-Request-Headers: authorization,content-type\r\nOrigin: ";
constexpr const char* kPost = "POST /generate HTTP/1.1\r\nContent-Length: 0\r\nContent-Type: text/plain\r\nOrigin: ";

bool has(const std::string& said, const char* text) { return said.find(text) != std::string::npos; }

TEST(Cors, NoPageIsLetInByDefault) {
  const Shared shared({});
  const std::string asked = shared.ask(std::string(kPreflight) + "https://ui.example");
  EXPECT_TRUE(asked.starts_with("HTTP/1.1 405")) << asked;
  EXPECT_TRUE(has(asked, "\r\nAllow: POST\r\n")) << asked;
  const std::string sent = shared.ask(std::string(kPost) + "https://ui.example");
  EXPECT_TRUE(sent.starts_with("HTTP/1.1 403")) << sent;
  for (const std::string& said : {asked, sent}) EXPECT_FALSE(has(said, "Access-Control")) << said;
}

TEST(Cors, AnAllowedPageMayDoWhatAnyClientMay) {
  for (const Origins& origins : {Origins{"https://ui.example"}, Origins{"*"}}) {
    const Shared shared(origins);
    const std::string asked = shared.ask(std::string(kPreflight) + "https://ui.example");
    EXPECT_TRUE(asked.starts_with("HTTP/1.1 204")) << asked;
    for (const char* header :
         {"\r\nAccess-Control-Allow-Origin: https://ui.example\r\n",
          "\r\nAccess-Control-Allow-Methods: GET, HEAD, POST",
          "\r\nAccess-Control-Allow-Headers: authorization,content-type\r\n", "\r\nVary: Origin\r\n"})
      EXPECT_TRUE(has(asked, header)) << header << asked;
    EXPECT_FALSE(has(asked, "Content-Length")) << asked;
    const std::string sent = shared.ask(std::string(kPost) + "https://ui.example");
    EXPECT_TRUE(sent.starts_with("HTTP/1.1 200")) << sent;
    EXPECT_TRUE(has(sent, "\r\nAccess-Control-Allow-Origin: https://ui.example\r\n")) << sent;
    // A page is shown what was wrong, too.
    const std::string lost = shared.ask("GET /nowhere HTTP/1.1\r\nOrigin: https://ui.example");
    EXPECT_TRUE(lost.starts_with("HTTP/1.1 404") && has(lost, "\r\nAccess-Control-Allow-Origin: ")) << lost;
  }
  const Shared shared({"https://ui.example"});
  EXPECT_TRUE(shared.ask(std::string(kPost) + "https://evil.example").starts_with("HTTP/1.1 403"));
  EXPECT_TRUE(shared.ask(std::string(kPost) + "null").starts_with("HTTP/1.1 403"));
  EXPECT_FALSE(has(shared.ask(std::string(kPreflight) + "https://ui.example.evil"), "Access-Control"));
}

}  // namespace
}  // namespace baton::http
