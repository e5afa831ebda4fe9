// The router's own endpoints, with two played instances behind it.
#include <gmock/gmock.h>

#include <atomic>
#include <boost/json.hpp>
#include <future>
#include <mutex>
#include <set>
#include <thread>

#include "http/exposition_check.h"
#include "http/raw_client.h"
#include "router/running_router_test.h"

namespace baton::router {

namespace {

namespace json = boost::json;
using ::testing::HasSubstr;

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

TEST(Router, EveryRowOfTheCompatibilityListIsServed) {
  RunningRouter running;
  for (const Row& row : kRows) {
    if (row.where == kInstance || row.path.starts_with("/workers") || row.path.ends_with("_worker") ||
        row.path == "/register")
      continue;
    const std::string path = row.path.ends_with("/{id}") ? "/v1/models/m" : row.path;
    const HttpReply reply = running.ask(row.method, path, path == "/invocations" ? R"({"prompt":"a"})" : "{}");
    EXPECT_EQ(reply.status, row.tier == 'C' ? 501 : 200) << row.method << " " << row.path << ": " << reply.body;
    if (row.tier != 'C') continue;
    EXPECT_EQ(json::parse(reply.body).at_pointer("/error/code"), 501) << row.path;
  }
}

// What the head decides is said before the body is sent.
TEST(Router, TheHeadDecidesBeforeTheBody) {
  RunningRouter running("secret");
  const auto answer = [&](const char* head) {
    http::RawClient client(running.router->port());
    client.say(fmt::format("{}\r\nHost: h\r\nContent-Length: 10000000\r\n\r\n", head));
    return client.hear("}}").substr(9, 3);
  };
  EXPECT_EQ(answer("POST /generate HTTP/1.1"), "401");
  EXPECT_EQ(answer("POST /nowhere HTTP/1.1"), "404");
  EXPECT_EQ(answer("POST /generate HTTP/1.1\r\nAuthorization: Bearer secret\r\nOrigin: http://x"), "403");
}

// Control and data may have a network of their own, which the URL of prefill does not name.
TEST(Router, DecodeIsToldWhereItMeetsPrefill) {
  RunningRouter running;
  const std::string url = "http://" + running.prefill.url().authority();
  EXPECT_EQ(running.ask("DELETE", "/workers?url=" + url).status, 202);
  const std::string worker = R"({"url":")" + url + R"(","worker_type":"prefill","bootstrap_host":)";
  EXPECT_EQ(running.ask("POST", "/workers", worker + "7}").status, 400);
  EXPECT_EQ(running.ask("POST", "/workers", worker + R"("10.1.2.3","bootstrap_port":9000})").status, 202);
  ASSERT_TRUE(running.router->wait_ready(10s).ok());
  EXPECT_EQ(running.ask("POST", "/generate", R"({"text":"x"})").status, 200);
  EXPECT_EQ(json::parse(last_asked(running.decode, "/pair").body),
            json::parse(R"({"bootstrap_host":"10.1.2.3","bootstrap_port":9000})"));
  for (PlayedWorker* leg : {&running.prefill, &running.decode}) {
    const json::value body = json::parse(last_asked(*leg, "/generate").body);
    EXPECT_EQ(body.at_pointer("/bootstrap_host"), "10.1.2.3");
    EXPECT_EQ(body.at_pointer("/bootstrap_port"), 9000);
  }
}

// Both legs are sent what the body is, with one room for each of its prompts.
TEST(Router, AnInvocationIsWhatItsBodySays) {
  RunningRouter running;
  EXPECT_EQ(running.ask("POST", "/invocations", R"({"prompt":["a","b"]})").status, 200);
  EXPECT_EQ(running.ask("POST", "/invocations", R"({"messages":[],"prompt":"x"})").status, 200);
  for (PlayedWorker* leg : {&running.prefill, &running.decode}) {
    EXPECT_EQ(json::parse(last_asked(*leg, "/v1/completions").body).at_pointer("/bootstrap_room").as_array().size(),
              2U);
    EXPECT_EQ(json::parse(last_asked(*leg, "/v1/chat/completions").body).at_pointer("/prompt"), "x");
  }
  const HttpReply neither = running.ask("POST", "/invocations", R"({"text":"a","prompt":null})");
  EXPECT_EQ(neither.status, 400);
  EXPECT_THAT(neither.body, HasSubstr("Cannot find suitable handler"));
}

TEST(Router, PausesAllByTheNamesOfVllm) {
  RunningRouter running;
  running.ask("POST", "/pause?mode=wait&clear_cache=false");
  for (PlayedWorker* worker : {&running.prefill, &running.decode})
    EXPECT_EQ(last_asked(*worker, "/pause").query, "mode=wait&clear_cache=false");
  const auto is_paused = [&] { return json::parse(running.ask("GET", "/is_paused").body).at_pointer("/is_paused"); };
  EXPECT_EQ(is_paused(), false);
  // One that was paused by itself holds every request up.
  PlayedWorker paused([](const Exchange& x) { x.reply(R"({"is_paused":true})"); });
  running.ask("POST", "/workers", R"({"url":")" + paused.url().authority() + R"(","worker_type":"decode"})");
  for (int tries = 0; tries < 500 && is_paused() == false; ++tries) std::this_thread::sleep_for(10ms);
  EXPECT_EQ(is_paused(), true);
}

TEST(Router, WorkersJoinAndLeave) {
  RunningRouter running;
  PlayedWorker third(instance("third"));
  const std::string url = "http://" + third.url().authority();
  const json::value before = json::parse(running.ask("GET", "/workers").body);
  EXPECT_EQ(before.at_pointer("/workers").as_array().size(), 2U);
  EXPECT_EQ(before.at_pointer("/total"), 2);
  EXPECT_EQ(before.at_pointer("/stats/prefill_count"), 1);
  EXPECT_EQ(before.at_pointer("/stats/decode_count"), 1);
  EXPECT_EQ(before.at_pointer("/workers/1/is_healthy"), true);
  for (const char* field : {"id", "url", "model_id", "priority", "cost", "worker_type", "is_healthy", "load",
                            "connection_mode", "runtime_type", "bootstrap_port", "metadata"})
    EXPECT_TRUE(before.at_pointer("/workers/0").as_object().contains(field)) << field;
  const HttpReply added =
      running.ask("POST", "/workers", R"({"url":")" + url + R"(","worker_type":"prefill","bootstrap_port":9000})");
  EXPECT_EQ(added.status, 202);
  const std::string place(http::find_header(added.headers, "location"));
  EXPECT_EQ(place, "/workers/" + std::string(json::parse(added.body).at_pointer("/worker_id").as_string()));
  const json::value shown = json::parse(running.ask("GET", place).body);
  EXPECT_EQ(shown.at_pointer("/bootstrap_port"), 9000);
  EXPECT_EQ(shown.at_pointer("/worker_type"), "prefill");
  EXPECT_EQ(shown.at_pointer("/url"), json::value(url));
  EXPECT_EQ(json::parse(running.ask("GET", "/workers").body).at_pointer("/workers/1/id"), shown.at_pointer("/id"));
  // It is known already.
  EXPECT_EQ(running.ask("POST", "/register", R"({"registry_url":")" + url + R"(","mode":"decode"})").status, 400);
  EXPECT_EQ(running.ask("DELETE", place).status, 202);
  for (const std::string& gone : {place, "/workers?url=" + url, std::string("/workers/nobody")})
    EXPECT_EQ(running.ask("DELETE", gone).status, 404) << gone;
  EXPECT_EQ(running.ask("GET", place).status, 404);
  EXPECT_EQ(running.ask("POST", "/register", R"({"registry_url":")" + url + R"(","mode":"decode"})").status, 202);
  // By its URL, as older versions of sglang-router had it.
  EXPECT_EQ(running.ask("GET", "/workers/http%3A%2F%2F" + third.url().authority()).status, 200);
  EXPECT_EQ(running.ask("DELETE", "/workers?url=" + url).status, 202);
  for (const char* bad : {R"({"url":"h:1","mode":"both"})", R"({"url":"https://h","mode":"decode"})",
                          R"({"mode":"decode"})", R"({"url":"h:1","mode":"decode","bootstrap_port":0})", R"([])"})
    EXPECT_EQ(running.ask("POST", "/workers", bad).status, 400) << bad;
}

TEST(Router, AWorkerIsAskedForTheTypeThatIsNotSaid) {
  RunningRouter running("secret");
  std::mutex mutex;
  std::string info;
  PlayedWorker third([&](const Exchange& x) {
    std::lock_guard lock(mutex);
    x.reply(x.request.path == "/server_info" ? info : "{}");
  });
  const auto say = [&](const char* text) {
    std::lock_guard lock(mutex);
    info = text;
  };
  const http::Headers key{{"X-Api-Key", "secret"}};
  const std::string body = R"({"url":")" + third.url().authority() + "\"}";
  say(R"({"disaggregation_mode":"null"})");
  const HttpReply refused = running.ask("POST", "/workers", body, key);
  EXPECT_EQ(refused.status, 400);
  EXPECT_THAT(refused.body, HasSubstr("neither a prefill nor a decode instance"));
  say("what?");
  EXPECT_EQ(running.ask("POST", "/workers", body, key).status, 502);
  say(R"({"disaggregation_mode":"prefill","disaggregation_bootstrap_port":9123})");
  const HttpReply added = running.ask("POST", "/workers", body, key);
  ASSERT_EQ(added.status, 202) << added.body;
  const json::value shown =
      json::parse(running.ask("GET", std::string(http::find_header(added.headers, "location")), "", key).body);
  EXPECT_EQ(shown.at_pointer("/worker_type"), "prefill");
  EXPECT_EQ(shown.at_pointer("/bootstrap_port"), 9123);
  for (const http::HttpRequest& asked : third.asked()) {
    if (asked.path != "/server_info") continue;
    EXPECT_EQ(http::find_header(asked.headers, "authorization"), "Bearer secret");
  }
}

TEST(Router, WithoutWorkersItIsWellAndNotReady) {
  auto router = Router::start({}).value();
  const auto status = [&](const char* method, const char* path) {
    HttpCallRequest request;
    request.url = {"127.0.0.1", router->port(), ""};
    request.method = method;
    request.target = path;
    request.body = R"({"text":"x"})";
    return HttpClient().fetch(request)->status;
  };
  for (const char* path : {"/health", "/liveness", "/ping", "/workers", "/metrics"})
    EXPECT_EQ(status("GET", path), 200) << path;
  EXPECT_EQ(status("GET", "/readiness"), 503);
  EXPECT_EQ(status("POST", "/generate"), 503);
}

// A HEAD has the length of what GET gets and nothing behind it.
TEST(Router, AHeadIsAnsweredLikeAGet) {
  RunningRouter running;
  for (const char* path : {"/v1/models", "/get_model_info", "/get_server_info", "/health", "/workers", "/version",
                           "/nowhere", "/generate", "/v1/embeddings"}) {
    const HttpReply get = running.ask("GET", path);
    http::RawClient client(running.router->port());
    client.say(fmt::format("HEAD {} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", path));
    const std::string said = client.hear();
    EXPECT_TRUE(said.starts_with(fmt::format("HTTP/1.1 {} ", get.status))) << said;
    EXPECT_THAT(said, HasSubstr(fmt::format("\r\nContent-Length: {}\r\n", get.body.size())));
    EXPECT_TRUE(said.ends_with("\r\n\r\n")) << said;
  }
}

TEST(Router, WorkersThatAgreeAnswerAsOne) {
  RunningRouter running;
  const json::value said = json::parse(running.ask("POST", "/update_weight_version", R"({"new_version":"2"})").body);
  EXPECT_FALSE(said.as_object().contains("workers"));
  EXPECT_TRUE(said.as_object().contains("name")) << "what one of them said";
  for (PlayedWorker* worker : {&running.prefill, &running.decode})
    EXPECT_EQ(last_asked(*worker, "/update_weight_version").body, R"({"new_version":"2"})");
}

// A drawn id, too: what a worker logs is found by what the client was told.
TEST(Router, WorkersAreToldTheRequestId) {
  RunningRouter running;
  const HttpReply reply = running.ask("POST", "/generate", R"({"text":"x"})");
  const std::string id(http::find_header(reply.headers, "x-request-id"));
  EXPECT_EQ(id.size(), 32U);
  EXPECT_EQ(http::find_header(last_asked(running.decode, "/generate").headers, "x-request-id"), id);
}

TEST(Router, InfoOfAllInstances) {
  RunningRouter running;
  const json::value info = json::parse(running.ask("GET", "/get_server_info").body);
  EXPECT_EQ(info.at_pointer("/prefill/0/name"), "p");
  EXPECT_EQ(info.at_pointer("/decode/0/name"), "d");
  EXPECT_EQ(info.at_pointer("/internal_states").as_array().size(), 1U);  // decode's
  EXPECT_EQ(info.at_pointer("/model_path"), "/m");
  EXPECT_EQ(info.at_pointer("/dp_size"), 2);
  EXPECT_EQ(info.at_pointer("/page_size"), 16);  // prefill's: its prefixes are those that answers count
  EXPECT_EQ(info.at_pointer("/version"), "1.2.3");
  const json::value loads = json::parse(running.ask("GET", "/get_load").body);
  ASSERT_EQ(loads.as_array().size(), 2U);
  EXPECT_EQ(loads.at_pointer("/1/url"), json::value("http://" + running.decode.url().authority()));
  const HttpReply metrics = running.ask("GET", "/engine_metrics");
  for (const auto& [name, worker] : {std::pair{"p", &running.prefill}, {"d", &running.decode}}) {
    EXPECT_THAT(metrics.body, HasSubstr(fmt::format("sglang:num_running_reqs{{engine_type=\"{}\",worker=\"{}\"}} 2\n",
                                                    name, worker->url().authority())));
  }
  EXPECT_EQ(http::exposition_faults(metrics.body), "");
}

TEST(Router, ItsOwnMetrics) {
  RunningRouter running;
  const std::string page = running.ask("GET", "/metrics").body;
  EXPECT_EQ(http::exposition_faults(page), "");
  EXPECT_THAT(page, AllOf(HasSubstr("sglang:num_running_reqs{engine_type=\"d\"} 2\n"),
                          HasSubstr("vllm:prompt_tokens_total{engine=\"0\",engine_type=\"decode\"} 3\n")));
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
  RunningRouter running;
  EXPECT_EQ(running.ask("GET", "/v1/models/a%20HTTP/1.1%0d%0aX-Evil:%201%0d%0a").status, 200);
  const http::HttpRequest asked = last_asked(running.decode, "/v1/models/a HTTP/1.1\r\nX-Evil: 1\r\n");
  EXPECT_EQ(asked.path, "/v1/models/a HTTP/1.1\r\nX-Evil: 1\r\n");
  EXPECT_EQ(http::find_header(asked.headers, "x-evil"), "");
}

TEST(Router, WorkersThatMeetAreShownTheKey) {
  RunningRouter running("secret");
  size_t meetings = 0;
  for (const http::HttpRequest& asked : running.decode.asked()) {
    if (asked.path != "/pair") continue;
    ++meetings;
    EXPECT_EQ(http::find_header(asked.headers, "authorization"), "Bearer secret");
  }
  EXPECT_GE(meetings, 1U);
}

TEST(Router, TheKeyProtectsAllButHealthVersionAndMetrics) {
  RunningRouter running("secret");
  for (const std::string& route : Router::routes()) {
    const size_t space = route.find(' ');
    const std::string method = route.substr(0, space);
    std::string path = route.substr(space + 1);
    const std::set<std::string> open = {"/health",  "/ping",           "/liveness", "/readiness",
                                        "/metrics", "/engine_metrics", "/version"};
    if (path.ends_with('*')) path.back() = 'm';
    const HttpReply refused = running.ask(method, path, "{}", {{"X-Request-Id", "q"}});
    EXPECT_EQ(refused.status == 401, !open.contains(path)) << route;
    EXPECT_EQ(http::find_header(refused.headers, "x-request-id"), "q") << route;
  }
  EXPECT_EQ(running.ask("GET", "/workers", "", {{"Authorization", "Bearer secret"}}).status, 200);
  // Towards the workers the router shows its own key.
  bool paired = false;
  for (const http::HttpRequest& asked : running.decode.asked()) {
    if (asked.path != "/pair") continue;
    paired = true;
    EXPECT_EQ(http::find_header(asked.headers, "authorization"), "Bearer secret");
    EXPECT_EQ(json::parse(asked.body), json::parse(R"({"bootstrap_host":"127.0.0.1","bootstrap_port":8998})"));
  }
  EXPECT_TRUE(paired);
}

// Prefill has let go of a request that decode still runs: one that knows it is enough. None: no success.
TEST(Router, AnAbortThatReachesNobodyDoesNotSaySuccess) {
  for (const bool known : {false, true}) {
    PlayedWorker prefill([](const Exchange& x) { x.reply(R"({"success":false})"); });
    PlayedWorker decode(
        [known](const Exchange& x) { x.reply(known ? R"({"success":true})" : R"({"success":false})"); });
    RouterOptions options;
    options.workers = {{Role::kPrefill, prefill.url(), 8998}, {Role::kDecode, decode.url(), 0}};
    options.health_interval = 20ms;
    auto router = Router::start(options).value();
    ASSERT_TRUE(router->wait_ready(10s).ok());
    HttpClient client;
    HttpCallRequest request;
    request.url = {"127.0.0.1", router->port(), ""};
    request.method = "POST";
    request.target = "/abort_request";
    request.body = R"({"rid":"r"})";
    const HttpReply reply = client.fetch(request).value();
    EXPECT_EQ(reply.status, 200);
    EXPECT_EQ(json::parse(reply.body).at_pointer("/success"), known);
  }
}

// What has begun goes on, new work is sent elsewhere, and what is left is ended with an error when time is up.
TEST(Router, DrainsAndThenCutsOff) {
  std::promise<void> begun;
  PlayedWorker prefill(instance("p"));
  PlayedWorker decode([&](const Exchange& x) {
    if (x.request.path != "/generate") return instance("d")(x);
    x.writer->start(200, {{"Content-Type", "text/event-stream"}});
    x.writer->write("data: {}\n\n");
    begun.set_value();
  });
  RouterOptions options;
  options.workers = {{Role::kPrefill, prefill.url(), 8998}, {Role::kDecode, decode.url(), 0}};
  options.health_interval = 20ms;
  auto router = Router::start(options).value();
  ASSERT_TRUE(router->wait_ready(10s).ok());
  HttpClient client;
  const auto to = [&](const char* method, const char* target) {
    HttpCallRequest request;
    request.url = {"127.0.0.1", router->port(), ""};
    request.method = method;
    request.target = target;
    request.body = R"({"text":"x","stream":true})";
    return request;
  };
  std::string seen;
  std::promise<void> ended;
  http::HttpCallHandlers handlers;
  handlers.on_data = [&](std::string_view bytes) { seen += bytes; };
  handlers.on_end = [&](const Status&) { ended.set_value(); };
  client.start(to("POST", "/generate"), std::move(handlers));
  begun.get_future().wait();
  router->drain();
  HttpClient other;
  for (const char* path : {"/health", "/readiness"}) EXPECT_EQ(other.fetch(to("GET", path))->status, 503) << path;
  EXPECT_EQ(other.fetch(to("GET", "/liveness"))->status, 200);
  const HttpReply refused = other.fetch(to("POST", "/generate")).value();
  EXPECT_EQ(refused.status, 503);
  EXPECT_EQ(http::find_header(refused.headers, "retry-after"), "1");
  for (int i = 0; i < 2000 && router->in_flight() > 1; ++i)
    std::this_thread::sleep_for(5ms);  // of the answers just got
  EXPECT_EQ(router->in_flight(), 1U);
  router->end_calls();
  ASSERT_EQ(ended.get_future().wait_for(10s), std::future_status::ready);
  EXPECT_THAT(seen, HasSubstr("\"code\":503"));
  EXPECT_TRUE(seen.ends_with("data: [DONE]\n\n")) << seen;
  for (int i = 0; i < 2000 && router->in_flight() > 0; ++i) std::this_thread::sleep_for(5ms);
  EXPECT_EQ(router->in_flight(), 0U);
}

// Decode has answered, prefill still does: that leg goes with the router, before what it stands on.
TEST(Router, EndsWithLegsThatAreLetBe) {
  PlayedWorker prefill([](const Exchange& x) {
    if (x.request.path != "/generate") x.reply("{}");
  });
  PlayedWorker decode(instance("d"));
  RouterOptions options;
  options.workers = {{Role::kPrefill, prefill.url(), 8998}, {Role::kDecode, decode.url(), 0}};
  options.health_interval = 20ms;
  auto router = Router::start(options).value();
  ASSERT_TRUE(router->wait_ready(10s).ok());
  HttpClient client;
  for (int i = 0; i < 10; ++i) {
    HttpCallRequest request;
    request.url = {"127.0.0.1", router->port(), ""};
    request.method = "POST";
    request.target = "/generate";
    request.body = R"({"text":"x"})";
    EXPECT_EQ(client.fetch(request)->status, 200);
  }
  EXPECT_EQ(prefill.left(), 0);
  router.reset();
  EXPECT_TRUE(prefill.wait_left(10));
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
}  // namespace baton::router
