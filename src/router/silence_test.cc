// Workers that fall silent, and calls that take too long.
#include <gmock/gmock.h>

#include <atomic>
#include <future>
#include <mutex>
#include <thread>

#include "router/running_router_test.h"

namespace baton::router {
namespace {

using ::testing::HasSubstr;

// As SIGSTOP does it: connections are accepted, nothing is read, nothing is said, and nothing breaks.
struct Stopping {
  explicit Stopping(const std::string& name, Duration silence = 300ms) : play(instance(name)) {
    worker = std::make_unique<PlayedWorker>([this](const Exchange& x) {
      if (!stopped) play(x);
    });
    options.health_interval = 20ms;
    options.health_timeout = silence;
  }
  PlayedWorker::Play play;
  std::atomic<bool> stopped{false};
  std::unique_ptr<PlayedWorker> worker;
  RouterOptions options;
};

TEST(Router, AWorkerThatFallsSilentEndsWhatWaitsForIt) {
  Stopping decode("d");
  PlayedWorker prefill(instance("p"));
  decode.options.workers = {{Role::kPrefill, prefill.url(), 8998}, {Role::kDecode, decode.worker->url(), 0}};
  auto router = Router::start(decode.options).value();
  ASSERT_TRUE(router->wait_ready(10s).ok());
  decode.stopped = true;
  const auto ask = [&](const char* method, const char* target) {
    HttpCallRequest request;
    request.url = {"127.0.0.1", router->port(), ""};
    request.method = method;
    request.target = target;
    request.body = R"({"text":"x"})";
    request.idle_timeout = 20s;
    HttpClient client;
    auto reply = client.fetch(request);
    EXPECT_TRUE(reply.ok()) << "it hangs";
    return reply ? *reply : HttpReply{};
  };
  const HttpReply reply = ask("POST", "/generate");
  EXPECT_EQ(reply.status, 504) << reply.body;
  EXPECT_THAT(reply.body, HasSubstr("nothing was heard from"));
  EXPECT_EQ(ask("GET", "/health").status, 503);
  const HttpReply refused = ask("POST", "/generate");
  EXPECT_EQ(refused.status, 503);
  EXPECT_THAT(refused.body, HasSubstr("nothing was heard from it for"));
  EXPECT_EQ(http::find_header(refused.headers, "retry-after"), "1");
  decode.stopped = false;  // probes that were asked meanwhile go on unanswered until their time is up
  EXPECT_TRUE(router->wait_ready(10s).ok());
  EXPECT_EQ(ask("POST", "/generate").status, 200);
}

// Questions to one worker or to all end too, not after a minute.
TEST(Router, QuestionsToASilentWorkerEnd) {
  for (const char* target : {"/get_server_info", "/v1/models", "/get_load", "/engine_metrics", "/metrics"}) {
    std::atomic<bool> asked{false};
    Stopping decode("d");
    decode.play = [&, play = decode.play](const Exchange& x) {
      const std::string& path = x.request.path;
      const bool of_probe = path == "/health" || path == "/pair" || path == "/get_model_info";
      if (!of_probe) decode.stopped = asked = true;
      if (!decode.stopped) play(x);
    };
    PlayedWorker prefill(instance("p"));
    decode.options.workers = {{Role::kPrefill, prefill.url(), 8998}, {Role::kDecode, decode.worker->url(), 0}};
    auto router = Router::start(decode.options).value();
    ASSERT_TRUE(router->wait_ready(10s).ok());
    HttpClient client;
    HttpCallRequest request;
    request.url = {"127.0.0.1", router->port(), ""};
    request.target = target;
    request.idle_timeout = 20s;
    const auto reply = client.fetch(request);
    EXPECT_TRUE(reply.ok()) << target;
    EXPECT_TRUE(asked) << target;
  }
}

// Late with its probe, but its tokens come: busy, not gone.
TEST(Router, AWorkerThatStreamsIsNotLostThoughItsProbeIsLate) {
  std::atomic<bool> streaming{false}, over{false};
  std::thread tokens;
  PlayedWorker prefill(instance("p"));
  PlayedWorker decode([&](const Exchange& x) {
    if (x.request.path == "/health" && streaming) return;
    if (x.request.path != "/generate") return instance("d")(x);
    streaming = true;
    x.writer->start(200, {{"Content-Type", "text/event-stream"}});
    tokens = std::thread([writer = x.writer, &over] {
      for (int i = 0; i < 40 && !over; ++i) {
        writer->write("data: {}\n\n");
        std::this_thread::sleep_for(50ms);
      }
      writer->write("data: [DONE]\n\n");
      writer->finish();
    });
  });
  RouterOptions options;
  options.workers = {{Role::kPrefill, prefill.url(), 8998}, {Role::kDecode, decode.url(), 0}};
  options.health_interval = 20ms;
  options.health_timeout = 1s;
  auto router = Router::start(options).value();
  ASSERT_TRUE(router->wait_ready(10s).ok());
  HttpClient client;
  HttpCallRequest request;
  request.url = {"127.0.0.1", router->port(), ""};
  request.method = "POST";
  request.target = "/generate";
  request.body = R"({"text":"x","stream":true})";
  const auto reply = client.fetch(request);
  over = true;
  tokens.join();
  ASSERT_TRUE(reply.ok());
  EXPECT_EQ(reply->body.find("error"), std::string::npos) << reply->body;
}

// The time of a call that makes progress is up too.
TEST(Router, ACallHasATimeLimit) {
  Stopping decode("d", 60s);
  decode.options.request_timeout = 200ms;
  decode.play = [play = decode.play](const Exchange& x) {
    if (x.request.path != "/generate") play(x);
  };
  PlayedWorker prefill(instance("p"));
  decode.options.workers = {{Role::kPrefill, prefill.url(), 8998}, {Role::kDecode, decode.worker->url(), 0}};
  auto router = Router::start(decode.options).value();
  ASSERT_TRUE(router->wait_ready(10s).ok());
  HttpClient client;
  HttpCallRequest request;
  request.url = {"127.0.0.1", router->port(), ""};
  request.method = "POST";
  request.target = "/generate";
  request.body = R"({"text":"x"})";
  const auto reply = client.fetch(request);
  ASSERT_TRUE(reply.ok());
  EXPECT_EQ(reply->status, 504);
  EXPECT_THAT(reply->body, HasSubstr("--request-timeout"));
}

}  // namespace
}  // namespace baton::router
