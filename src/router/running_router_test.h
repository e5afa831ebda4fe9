// A router with two played instances behind it.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "router/router_server.h"
#include "router/test_support.h"

namespace baton::router {

using engine::Role;
using http::Exchange;
using http::HttpCallRequest;
using http::HttpClient;
using http::HttpReply;
using namespace std::chrono_literals;

// Says 200 to everything, with what an instance would say where the router reads it.
inline PlayedWorker::Play instance(std::string name) {
  return [name = std::move(name)](const Exchange& x) {
    const std::string& path = x.request.path;
    if (path == "/metrics") {
      return x.reply_text(http::kPrometheusText,
                          "# HELP sglang:num_running_reqs Running\n# TYPE sglang:num_running_reqs gauge\n"
                          "sglang:num_running_reqs{engine_type=\"" +
                              name +
                              "\"} 2\n"
                              "# HELP vllm:prompt_tokens_total Tokens\n# TYPE vllm:prompt_tokens_total counter\n"
                              "vllm:prompt_tokens_total{engine=\"0\"} 3\n");
    }
    if (path == "/get_load") return x.reply(R"([{"dp_rank":0,"num_reqs":3}])");
    if (path == "/v1/loads") {
      return x.reply(R"({"loads":[{"dp_rank":0,"num_reqs":3,"num_total_reqs":3,"num_running_reqs":2,)"
                     R"("num_waiting_reqs":1,"num_tokens":40},{"dp_rank":1,"num_total_reqs":1,"num_running_reqs":1,)"
                     R"("num_waiting_reqs":0,"num_tokens":2}]})");
    }
    x.reply(R"({"name":")" + name + R"(","model_path":"/m","dp_size":2,"page_size":)" + (name == "p" ? "16" : "32") +
            R"(,"internal_states":[{"dp_rank":0}]})");
  };
}

struct RunningRouter {
  explicit RunningRouter(std::string key = "", PlayedWorker::Play prefill_play = instance("p"),
                         PlayedWorker::Play decode_play = instance("d"))
      : prefill(std::move(prefill_play)), decode(std::move(decode_play)) {
    RouterOptions options;
    options.workers = {{Role::kPrefill, prefill.url(), 8998}, {Role::kDecode, decode.url(), 0}};
    options.health_interval = 20ms;
    options.api_key = std::move(key);
    options.version = "1.2.3";
    router = Router::start(std::move(options)).value();
    const Status ready = router->wait_ready(10s);
    EXPECT_TRUE(ready.ok()) << (ready.ok() ? "" : ready.error().message);
  }
  HttpReply ask(std::string method, std::string target, std::string body = "", http::Headers headers = {}) {
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

// Probes come in between.
inline http::HttpRequest last_asked(PlayedWorker& worker, std::string_view path) {
  http::HttpRequest last;
  for (http::HttpRequest& request : worker.asked()) {
    if (request.path == path) last = std::move(request);
  }
  return last;
}

}  // namespace baton::router
