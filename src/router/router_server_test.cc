// The router's own endpoints, with two played instances behind it.
#include "router/router_server.h"

#include <gmock/gmock.h>

#include <boost/json.hpp>
#include <set>

#include "router/test_support.h"

namespace baton {
namespace {

namespace json = boost::json;
using ::testing::HasSubstr;
using namespace std::chrono_literals;

enum Where { kInstance, kRouter, kBoth };
struct Row {
  char tier;
  std::string method, path;
  Where where;
};
const Row kRows[] = {
#define ENDPOINT(tier, method, path, where) {tier, method, path, where},
#include "http/compatibility.inc"
};

// Says 200 to everything, with what an instance would say where the router reads it.
PlayedWorker::Play instance(std::string name) {
  return [name = std::move(name)](const Exchange& x) {
    const std::string& path = x.request.path;
    if (path == "/metrics") return x.reply_text(kPrometheusText, "up{who=\"" + name + "\"} 1\n");
    if (path == "/get_load") return x.reply(R"([{"dp_rank":0,"num_reqs":3}])");
    if (path == "/v1/loads") return x.reply(R"({"loads":[{"dp_rank":0,"num_reqs":3}]})");
    x.reply(R"({"name":")" + name + R"(","model_path":"/m","dp_size":2,"internal_states":[{"dp_rank":0}]})");
  };
}

struct Running {
  explicit Running(std::string key = "") : prefill(instance("p")), decode(instance("d")) {
    RouterOptions options;
    options.workers = {{Role::kPrefill, prefill.url(), 8998}, {Role::kDecode, decode.url(), 0}};
    options.health_interval = 20ms;
    options.api_key = std::move(key);
    options.version = "1.2.3";
    router = Router::start(std::move(options)).value();
    const Status ready = router->wait_ready(10s);
    EXPECT_TRUE(ready.ok()) << (ready.ok() ? "" : ready.error().message);
  }
  HttpReply ask(std::string method, std::string target, std::string body = "", Headers headers = {}) {
    HttpCallRequest request;
    request.url = {"127.0.0.1", router->port(), ""};
    request.method = std::move(method);
    request.target = std::move(target);
    request.body = std::move(body);
    request.headers = std::move(headers);
    auto reply = client.fetch(std::move(request));
    EXPECT_TRUE(reply.ok()) << (reply.ok() ? "" : reply.error().message);
    return reply.ok() ? std::move(*reply) : HttpReply{};
  }
  PlayedWorker prefill, decode;
  std::unique_ptr<Router> router;
  HttpClient client;
};

TEST(Router, EveryRowOfTheCompatibilityListIsServed) {
  Running running;
  for (const Row& row : kRows) {
    if (row.where == kInstance || row.path == "/workers" || row.path == "/register") continue;
    const std::string path = row.path.ends_with("/{id}") ? "/v1/models/m" : row.path;
    const HttpReply reply = running.ask(row.method, path, "{}");
    EXPECT_EQ(reply.status, row.tier == 'C' ? 501 : 200) << row.method << " " << row.path << ": " << reply.body;
    if (row.tier != 'C') continue;
    EXPECT_EQ(json::parse(reply.body).at_pointer("/error/code"), 501) << row.path;
  }
}

TEST(Router, WorkersJoinAndLeave) {
  Running running;
  PlayedWorker third(instance("third"));
  const std::string url = "http://" + third.url().authority();
  const json::value before = json::parse(running.ask("GET", "/workers").body);
  EXPECT_EQ(before.at_pointer("/prefill").as_array().size(), 1U);
  EXPECT_EQ(before.at_pointer("/decode/0/is_healthy"), true);
  EXPECT_EQ(running.ask("POST", "/workers", R"({"url":")" + url + R"(","worker_type":"prefill","bootstrap_port":9000})")
                .status,
            200);
  EXPECT_EQ(json::parse(running.ask("GET", "/workers").body).at_pointer("/prefill/1/bootstrap_port"), 9000);
  // It is known already.
  EXPECT_EQ(running.ask("POST", "/register", R"({"registry_url":")" + url + R"(","mode":"decode"})").status, 400);
  EXPECT_EQ(running.ask("DELETE", "/workers?url=" + url).status, 200);
  EXPECT_EQ(running.ask("DELETE", "/workers?url=" + url).status, 404);
  EXPECT_EQ(running.ask("POST", "/register", R"({"registry_url":")" + url + R"(","mode":"decode"})").status, 200);
  for (const char* bad : {R"({"url":"h:1","mode":"both"})", R"({"url":"https://h","mode":"decode"})",
                          R"({"mode":"decode"})", R"({"url":"h:1","mode":"decode","bootstrap_port":0})"})
    EXPECT_EQ(running.ask("POST", "/workers", bad).status, 400) << bad;
}

TEST(Router, InfoOfAllInstances) {
  Running running;
  const json::value info = json::parse(running.ask("GET", "/get_server_info").body);
  EXPECT_EQ(info.at_pointer("/prefill/0/name"), "p");
  EXPECT_EQ(info.at_pointer("/decode/0/name"), "d");
  EXPECT_EQ(info.at_pointer("/internal_states").as_array().size(), 1U);  // decode's
  EXPECT_EQ(info.at_pointer("/model_path"), "/m");
  EXPECT_EQ(info.at_pointer("/dp_size"), 2);
  EXPECT_EQ(info.at_pointer("/version"), "1.2.3");
  const json::value loads = json::parse(running.ask("GET", "/get_load").body);
  ASSERT_EQ(loads.as_array().size(), 2U);
  EXPECT_EQ(loads.at_pointer("/1/url"), json::value("http://" + running.decode.url().authority()));
  EXPECT_EQ(json::parse(running.ask("GET", "/v1/loads").body).at_pointer("/loads"), loads);
  const HttpReply metrics = running.ask("GET", "/engine_metrics");
  EXPECT_THAT(metrics.body, HasSubstr("up{who=\"p\"} 1\n"));
  EXPECT_THAT(metrics.body, HasSubstr("up{who=\"d\"} 1\n"));
}

TEST(Router, ItsOwnMetrics) {
  Running running;
  EXPECT_THAT(
      running.ask("GET", "/metrics").body,
      AllOf(HasSubstr("baton_router_worker_healthy{role=\"decode\""), HasSubstr("baton_router_requests_total 0\n"),
            HasSubstr("baton_ttft_part_seconds_count{part=\"router\"} 0\n")));
  EXPECT_EQ(running.ask("POST", "/generate", R"({"text": "x"})").status, 200);
  EXPECT_THAT(running.ask("GET", "/metrics").body,
              AllOf(HasSubstr("baton_router_requests_total 1\n"), HasSubstr("baton_router_retries_total 0\n"),
                    HasSubstr("baton_ttft_part_seconds_count{part=\"router\"} 1\n")));
}

// A decoded path must not become more than a path on its way to a worker.
TEST(Router, PathsAreEncodedForWorkers) {
  Running running;
  EXPECT_EQ(running.ask("GET", "/v1/models/a%20HTTP/1.1%0d%0aX-Evil:%201%0d%0a").status, 200);
  const HttpRequest asked = running.decode.asked().back();
  EXPECT_EQ(asked.path, "/v1/models/a HTTP/1.1\r\nX-Evil: 1\r\n");
  EXPECT_EQ(find_header(asked.headers, "x-evil"), "");
}

TEST(Router, WorkersThatMeetAreShownTheKey) {
  Running running("secret");
  size_t meetings = 0;
  for (const HttpRequest& asked : running.decode.asked()) {
    if (asked.path != "/pair") continue;
    ++meetings;
    EXPECT_EQ(find_header(asked.headers, "authorization"), "Bearer secret");
  }
  EXPECT_GE(meetings, 1U);
}

TEST(Router, TheKeyProtectsAllButHealthVersionAndMetrics) {
  Running running("secret");
  for (const std::string& route : Router::routes()) {
    const size_t space = route.find(' ');
    const std::string method = route.substr(0, space);
    std::string path = route.substr(space + 1);
    const std::set<std::string> open = {"/health",  "/ping",           "/liveness", "/readiness",
                                        "/metrics", "/engine_metrics", "/version"};
    if (path.ends_with('*')) path.back() = 'm';
    const HttpReply refused = running.ask(method, path, "{}", {{"X-Request-Id", "q"}});
    EXPECT_EQ(refused.status == 401, !open.contains(path)) << route;
    EXPECT_EQ(find_header(refused.headers, "x-request-id"), "q") << route;
  }
  EXPECT_EQ(running.ask("GET", "/workers", "", {{"Authorization", "Bearer secret"}}).status, 200);
  // Towards the workers the router shows its own key.
  bool paired = false;
  for (const HttpRequest& asked : running.decode.asked()) {
    if (asked.path != "/pair") continue;
    paired = true;
    EXPECT_EQ(find_header(asked.headers, "authorization"), "Bearer secret");
    EXPECT_EQ(json::parse(asked.body), json::parse(R"({"bootstrap_host":"127.0.0.1","bootstrap_port":8998})"));
  }
  EXPECT_TRUE(paired);
}

TEST(Router, SaysWhyNothingCanBeServed) {
  PlayedWorker prefill(instance("p"));
  PlayedWorker decode([](const Exchange& x) {
    x.request.path == "/pair" ? x.refuse(409, "model digest 3f here, 9a there") : x.reply("{}");
  });
  RouterOptions options;
  options.workers = {{Role::kPrefill, prefill.url(), 8998}, {Role::kDecode, decode.url(), 0}};
  options.health_interval = 20ms;
  auto router = Router::start(options).value();
  const Status ready = router->wait_ready(1s);
  ASSERT_FALSE(ready.ok());
  EXPECT_EQ(ready.error().code, ErrorCode::kDeadlineExceeded);
  EXPECT_THAT(ready.error().message, HasSubstr("model digest 3f here, 9a there"));
  HttpClient client;
  HttpCallRequest request;
  request.url = {"127.0.0.1", router->port(), ""};
  request.target = "/health";
  EXPECT_EQ(client.fetch(request)->status, 503);
}

}  // namespace
}  // namespace baton
