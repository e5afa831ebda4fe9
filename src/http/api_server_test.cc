// The endpoints of an instance, without a socket: the compatibility list, keys, states of the server, small answers.
#include "http/api_server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <boost/json.hpp>
#include <map>

#include "base/log.h"
#include "http/test_support.h"
#include "text/utf8.h"

namespace baton::http {
namespace {

namespace json = boost::json;
using ::testing::HasSubstr;
using ::testing::IsSupersetOf;

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

struct Served {
  explicit Served(ApiServer::Options options = {"", "1.2.3", R"({"attention_backend":"fa3"})"},
                  engine::Role role = engine::Role::kUnified)
      : engine(role), server(std::move(options)) {
    server.set_ready(engine, *model, metrics);
  }
  KeptAnswer ask(const std::string& method, const std::string& path, std::string body = "", Headers headers = {},
                 std::string query = "") {
    KeptAnswer answer;
    HttpRequest request;
    request.method = method;
    request.path = path;
    request.body = std::move(body);
    request.headers = std::move(headers);
    request.query = std::move(query);
    server.handle(std::move(request), std::make_shared<KeepingWriter>(answer));
    if (answer.status == 0) engine.deliver(engine.requests.size() - 1, "x", finished(engine::FinishReason::kLength));
    return answer;
  }
  std::unique_ptr<ModelText> model = byte_model();
  PlayedEngine engine;
  Metrics metrics{{"tiny", engine::Role::kUnified, true}};
  ApiServer server;
};

// A body that the endpoint takes.
std::string body_for(const std::string& path) {
  if (path == "/generate") return R"({"text":"a"})";
  if (path == "/v1/completions") return R"({"prompt":"a"})";
  if (path == "/invocations") return R"({"prompt":"a"})";
  if (path == "/v1/chat/completions") return R"({"messages":[{"role":"user","content":"a"}]})";
  if (path.ends_with("/tokenize")) return R"({"prompt":"a"})";
  if (path.ends_with("/detokenize")) return R"({"tokens":[97]})";
  if (path == "/update_weight_version") return R"({"new_version":"v2"})";
  if (path == "/abort_request") return R"({"rid":"r"})";
  return "{}";
}

TEST(ApiServer, EveryRowOfTheCompatibilityListIsServed) {
  Served served;
  std::vector<std::string> expected;
  for (const Row& row : kRows) {
    if (row.where == kRouter) continue;
    const bool with_id = row.path.ends_with("/{id}");
    if (row.tier != 'C') expected.push_back(row.method + " " + (with_id ? "/v1/models/*" : row.path));
    const KeptAnswer answer = served.ask(row.method, with_id ? "/v1/models/tiny" : row.path, body_for(row.path));
    EXPECT_EQ(answer.status, row.tier == 'C' ? 501 : 200) << row.method << " " << row.path << ": " << answer.body;
    if (row.tier == 'C') {
      const json::value refused = json::parse(answer.body);
      EXPECT_EQ(refused.at_pointer("/error/code"), 501) << row.path;
      EXPECT_EQ(find_header(answer.headers, "x-should-retry"), "false");
    }
  }
  EXPECT_THAT(ApiServer::routes(), IsSupersetOf(expected));
}

TEST(ApiServer, UnknownPathsAndMethods) {
  Served served;
  EXPECT_EQ(served.ask("GET", "/v1/modelz").status, 404);
  EXPECT_EQ(json::parse(served.ask("GET", "/v1/modelz").body).at_pointer("/error/code"), 404);
  EXPECT_TRUE(text::is_valid_utf8(served.ask("GET", "/v1/\xFF").body));
  EXPECT_EQ(served.ask("GET", "/generate").status, 405);
  EXPECT_EQ(served.ask("HEAD", "/health").status, 200);
  EXPECT_EQ(served.ask("HEAD", "/tokenize").status, 405);
  const KeptAnswer unknown = served.ask("GET", "/v1/models/gpt");
  EXPECT_EQ(unknown.status, 404);
  EXPECT_EQ(json::parse(unknown.body).at_pointer("/error/code"), "model_not_found");
}

TEST(ApiServer, TheKeyProtectsAllButHealthVersionAndMetrics) {
  Served served({"secret", "1", "{}"});
  const std::vector<std::string> open = {
      "/health", "/ping", "/liveness", "/readiness", "/metrics", "/prometheus/metrics", "/version"};
  for (const std::string& route : ApiServer::routes()) {
    const size_t space = route.find(' ');
    const std::string method = route.substr(0, space), path = route.substr(space + 1);
    const bool is_open = std::count(open.begin(), open.end(), path) > 0;
    for (const Headers& headers :
         {Headers{}, Headers{{"Authorization", "Bearer wrong!"}}, Headers{{"Authorization", "secret"}}}) {
      EXPECT_EQ(served.ask(method, path, "{}", headers).status == 401, !is_open) << route;
    }
    EXPECT_NE(served.ask(method, path, "{}", {{"authorization", "Bearer secret"}}).status, 401) << route;
  }
}

TEST(ApiServer, EchoesTheRequestId) {
  Served served({"key", "1", "{}"});
  const Headers id = {{"X-Request-Id", "abc"}};
  for (const char* path : {"/health", "/metrics", "/nowhere", "/generate"})
    EXPECT_EQ(find_header(served.ask("GET", path, "", id).headers, "x-request-id"), "abc") << path;
}

// As vLLM, for load balancers that speak ORCA.
TEST(ApiServer, AnswersSayTheLoadWhereItIsAskedFor) {
  Served served;
  const auto load = [&](const char* path, const char* format) {
    const KeptAnswer answer = served.ask("POST", path, body_for(path), {{"Endpoint-Load-Metrics-Format", format}});
    EXPECT_EQ(answer.status, 200) << path;
    return std::string(find_header(answer.headers, "endpoint-load-metrics"));
  };
  for (const char* path : {"/v1/completions", "/v1/chat/completions"}) {
    const std::string text = load(path, "TEXT"), whole = load(path, "json");
    EXPECT_EQ(text, "TEXT named_metrics.kv_cache_usage_perc=0, named_metrics.num_requests_waiting=0");
    ASSERT_TRUE(whole.starts_with("JSON ")) << whole;
    EXPECT_EQ(json::parse(whole.substr(5)).at("named_metrics").as_object().size(), 2U);
    EXPECT_EQ(load(path, "BIN"), "");
  }
}

TEST(ApiServer, SaysWhatItIsDoing) {
  const auto model = byte_model();
  PlayedEngine engine;
  Metrics metrics({"tiny", engine::Role::kUnified, true});
  ApiServer server({"", "1", "{}"});
  const auto ask = [&](const char* method, const char* path, const char* body = "") {
    KeptAnswer answer;
    HttpRequest request;
    request.method = method;
    request.path = path;
    request.body = body;
    server.handle(std::move(request), std::make_shared<KeepingWriter>(answer));
    return answer;
  };
  server.set_progress({"loading weights", 5, 10});
  EXPECT_EQ(ask("GET", "/health").status, 503);
  EXPECT_EQ(json::parse(ask("GET", "/readiness").body),
            (json::object{{"status", "loading"}, {"phase", "loading weights"}, {"done", 5}, {"total", 10}}));
  EXPECT_THAT(ask("POST", "/generate", R"({"text":"a"})").body, HasSubstr("loading weights, 5 of 10 bytes"));
  EXPECT_EQ(ask("GET", "/version").status, 200);
  EXPECT_EQ(ask("POST", "/v1/embeddings").status, 501);
  server.set_ready(engine, *model, metrics);
  EXPECT_EQ(ask("GET", "/health").status, 200);
  server.set_draining();
  for (const char* path : {"/health", "/readiness", "/health_generate"})
    EXPECT_EQ(ask("GET", path).status, 503) << path;
  for (const char* path : {"/generate", "/v1/completions", "/v1/chat/completions", "/pair"}) {
    const KeptAnswer refused = ask("POST", path, R"({"text":"a"})");
    EXPECT_EQ(refused.status, 503) << path;
    EXPECT_EQ(find_header(refused.headers, "Retry-After"), "1") << path;
  }
  for (const char* path : {"/liveness", "/metrics", "/get_load", "/get_server_info"})
    EXPECT_EQ(ask("GET", path).status, 200) << path;
  EXPECT_EQ(ask("POST", "/abort_request", R"({"abort_all":true})").status, 200);  // an operator who cannot wait
}

TEST(ApiServer, InfoHasWhatClientsRead) {
  Served served;
  for (const char* path : {"/get_server_info", "/server_info", "/get_model_info", "/model_info"}) {
    const json::object info = json::parse(served.ask("GET", path).body).as_object();
    for (const char* field : {"model_path", "tokenizer_path", "is_generation", "served_model_name", "model_type",
                              "architectures", "dp_size", "version"})
      EXPECT_TRUE(info.contains(field)) << path << " " << field;
  }
  const json::value info = json::parse(served.ask("GET", "/get_server_info").body);
  EXPECT_TRUE(info.at_pointer("/internal_states/0").is_object());
  for (const char* field : {"weight", "kvcache", "graph", "token_capacity"})
    EXPECT_TRUE(info.at_pointer("/internal_states/0/memory_usage").as_object().contains(field)) << field;
  for (const char* field : {"load_weight", "kv_cache_allocation", "e2e"})
    EXPECT_TRUE(info.at_pointer("/startup_time").as_object().contains(field)) << field;
  EXPECT_EQ(info.at_pointer("/attention_backend"), "fa3");
  const json::value card = json::parse(served.ask("GET", "/v1/models/tiny").body);
  for (const char* field : {"id", "object", "created", "owned_by", "root", "max_model_len"})
    EXPECT_TRUE(card.as_object().contains(field)) << field;
}

// A trainer names its weights; answers and infos say the name that is valid now.
TEST(ApiServer, WeightsHaveAName) {
  Served served;
  const auto says = [&](const char* method, const char* path, const char* body, const char* pointer) {
    return json::parse(served.ask(method, path, body).body).at_pointer(pointer);
  };
  const auto expect = [&](const json::value& name) {
    EXPECT_EQ(says("GET", "/weight_version", "", "/weight_version"), name);
    EXPECT_EQ(says("GET", "/get_model_info", "", "/weight_version"), name);
    EXPECT_EQ(says("GET", "/get_server_info", "", "/weight_version"), name);
    EXPECT_EQ(says("POST", "/generate", R"({"text":"a"})", "/meta_info/weight_version"), name);
    EXPECT_EQ(says("POST", "/v1/completions", R"({"prompt":"a"})", "/metadata/weight_version"), name);
  };
  expect("default");
  EXPECT_EQ(
      says("POST", "/update_weight_version", R"({"new_version":"v \"2\"","abort_all_requests":true})", "/success"),
      true);
  EXPECT_EQ(served.engine.aborted_names, std::vector<std::string>{"*"});
  expect("v \"2\"");
  for (const std::string& bad :
       {std::string("{}"), std::string(R"({"new_version":1})"), R"({"new_version":")" + std::string(257, 'x') + "\"}"})
    EXPECT_EQ(served.ask("POST", "/update_weight_version", bad).status, 400) << bad;
}

// One entry a DP group, which add up to what is under way.
TEST(ApiServer, TheLoadOfEachDpRank) {
  Served served;
  served.engine.stats_.pages = {{5, 1, 1, 0, 1, 3}, {8, 0, 0, 0, 0, 1}};
  served.engine.stats_.running = 4;
  served.engine.stats_.waiting = 3;
  const json::value loads = json::parse(served.ask("GET", "/get_load").body);
  ASSERT_EQ(loads.as_array().size(), 2U);
  for (const auto& [pointer, value] : std::map<std::string, int>{{"/0/num_reqs", 5},
                                                                 {"/0/num_running_reqs", 3},
                                                                 {"/0/num_waiting_reqs", 2},
                                                                 {"/0/num_tokens", 32},
                                                                 {"/1/dp_rank", 1},
                                                                 {"/1/num_reqs", 2},
                                                                 {"/1/num_tokens", 0}})
    EXPECT_EQ(loads.at_pointer(pointer), value) << pointer;
  served.engine.stats_.pages[1].waiting = 2;  // for this group alone; the third may go to any
  const json::value bound = json::parse(served.ask("GET", "/get_load").body);
  EXPECT_EQ(bound.at_pointer("/0/num_waiting_reqs"), 1);
  EXPECT_EQ(bound.at_pointer("/1/num_waiting_reqs"), 2);
  EXPECT_EQ(bound.at_pointer("/1/num_reqs"), 3);
  served.engine.stats_.pages[1].waiting = 0;
  const json::value all = json::parse(served.ask("GET", "/v1/loads").body);
  EXPECT_EQ(all.at_pointer("/loads"), loads);
  EXPECT_EQ(all.at_pointer("/aggregate/total_reqs"), 7);
  EXPECT_EQ(json::parse(served.ask("GET", "/load").body).at_pointer("/server_load"), 7);
}

TEST(ApiServer, CacheAndAborts) {
  Served served;
  EXPECT_EQ(served.ask("POST", "/flush_cache").status, 200);
  KeptAnswer generating;
  HttpRequest request;
  request.method = "POST";
  request.path = "/generate";
  request.body = R"({"text":"a","rid":"r"})";
  served.server.handle(std::move(request), std::make_shared<KeepingWriter>(generating));
  EXPECT_EQ(served.ask("POST", "/flush_cache").status, 400);
  const KeptAnswer twice = served.ask("POST", "/generate", R"({"text":"b","rid":"r"})");
  EXPECT_EQ(twice.status, 400);
  EXPECT_THAT(twice.body, HasSubstr("Duplicate request ID detected: r"));
  EXPECT_EQ(json::parse(served.ask("POST", "/abort_request", R"({"rid":"r"})").body),
            json::parse(R"({"success":true})"));
  const KeptAnswer unknown = served.ask("POST", "/abort_request", R"({"rid":"q"})");
  EXPECT_EQ(unknown.status, 200);
  EXPECT_EQ(json::parse(unknown.body).at_pointer("/success"), false);
  EXPECT_EQ(served.ask("POST", "/abort_request", R"({"abort_all":true,"rid":null})").status, 200);
  EXPECT_EQ(served.ask("POST", "/abort_request", "{}").status, 400);
  EXPECT_EQ(served.engine.aborted_names, (std::vector<std::string>{"r", "q", "*"}));
  served.engine.deliver(0, "x", finished(engine::FinishReason::kAbort, error(ErrorCode::kCancelled, "aborted")));
  EXPECT_EQ(json::parse(generating.body).at_pointer("/meta_info/finish_reason/type"), "abort");
}

TEST(ApiServer, AnInvocationIsWhatItsBodySays) {
  Served served;
  const auto kind_of = [&](const char* body) {
    return json::parse(served.ask("POST", "/invocations", body).body).at_pointer("/object");
  };
  EXPECT_EQ(kind_of(R"({"prompt":"a"})"), "text_completion");
  EXPECT_EQ(kind_of(R"({"messages":[{"role":"user","content":"a"}]})"), "chat.completion");
  EXPECT_EQ(kind_of(R"({"messages":null,"prompt":"a"})"), "text_completion");
  const KeptAnswer neither = served.ask("POST", "/invocations", R"({"text":"a"})");
  EXPECT_EQ(neither.status, 400);
  EXPECT_THAT(neither.body, HasSubstr("Cannot find suitable handler"));
  served.server.set_draining();
  EXPECT_EQ(served.ask("POST", "/invocations", R"({"prompt":"a"})").status, 503);
}

TEST(ApiServer, PausesByTheNamesOfVllm) {
  using engine::PauseMode;
  struct Case {
    const char* query;
    PauseMode mode;
    bool flushes;
  };
  for (const Case& c : {Case{"", PauseMode::kAbort, true},
                        {"mode=abort&clear_cache=false", PauseMode::kAbort, false},
                        {"mode=wait", PauseMode::kWait, true},
                        {"mode=wait&clear_cache=0", PauseMode::kWait, false},
                        {"wait_for_inflight_requests=True", PauseMode::kWait, true},
                        {"mode=keep", PauseMode::kInPlace, false},
                        {"mode=keep&clear_cache=1", PauseMode::kInPlace, false}}) {
    Served served;
    EXPECT_EQ(json::parse(served.ask("GET", "/is_paused").body), json::parse(R"({"is_paused":false})"));
    EXPECT_EQ(json::parse(served.ask("POST", "/pause", "", {}, c.query).body), json::parse(R"({"status":"paused"})"))
        << c.query;
    EXPECT_EQ(served.engine.pauses, std::vector{c.mode}) << c.query;
    EXPECT_EQ(served.engine.flushes, c.flushes) << c.query;
    EXPECT_EQ(json::parse(served.ask("GET", "/is_paused").body), json::parse(R"({"is_paused":true})"));
    EXPECT_EQ(json::parse(served.ask("POST", "/resume").body), json::parse(R"({"status":"resumed"})"));
    EXPECT_EQ(json::parse(served.ask("GET", "/is_paused").body), json::parse(R"({"is_paused":false})"));
  }
  Served served;
  for (const char* bad : {"mode=retract", "clear_cache=maybe", "wait_for_inflight_requests=2"})
    EXPECT_EQ(served.ask("POST", "/pause", "", {}, bad).status, 400) << bad;
  EXPECT_FALSE(served.engine.paused());
}

TEST(ApiServer, HealthGenerateIsAWarmUpInAPd) {
  Served served({"", "1", "{}"}, engine::Role::kDecode);
  KeptAnswer answer;
  HttpRequest request;
  request.method = "GET";
  request.path = "/health_generate";
  served.server.handle(std::move(request), std::make_shared<KeepingWriter>(answer));
  ASSERT_EQ(served.engine.requests.size(), 1U);
  EXPECT_TRUE(served.engine.requests[0].disaggregation->fake);
  served.engine.deliver(0, "x", finished(engine::FinishReason::kLength));
  EXPECT_EQ(answer.status, 200);
}

TEST(ApiServer, AProfileCountsWhatWasDoneMeanwhile) {
  Served served;
  EXPECT_EQ(served.ask("POST", "/stop_profile").status, 400);
  served.engine.stats_.steps_total = 10;
  EXPECT_EQ(served.ask("POST", "/start_profile").status, 200);
  EXPECT_EQ(served.ask("POST", "/start_profile").status, 400);
  served.engine.stats_.steps_total = 17;
  const json::value profile = json::parse(served.ask("POST", "/stop_profile").body);
  EXPECT_EQ(profile.at_pointer("/steps"), 7);
  EXPECT_EQ(profile.at_pointer("/prompt_tokens"), 0);
}

TEST(ApiServer, LoggingIsConfiguredWhileItRuns) {
  Served served;
  EXPECT_EQ(served.ask("POST", "/configure_logging", R"({"log_level":"loud"})").status, 400);
  EXPECT_EQ(served.ask("POST", "/configure_logging", R"({"log_requests":1})").status, 400);
  EXPECT_EQ(
      served.ask("POST", "/configure_logging", R"({"log_level":"error","log_requests":true,"log_requests_level":2})")
          .status,
      200);
  EXPECT_FALSE(log_enabled(LogLevel::kWarning));
  EXPECT_EQ(served.ask("POST", "/configure_logging", R"({"log_level":"info"})").status, 200);
  EXPECT_TRUE(log_enabled(LogLevel::kInfo));
  testing::internal::CaptureStderr();
  log_init(LogLevel::kInfo, "");  // to standard error
  (void)served.ask("POST", "/generate", R"({"text":"abc"})");
  EXPECT_TRUE(log_flush());
  EXPECT_THAT(testing::internal::GetCapturedStderr(), HasSubstr("3 prompt tokens"));
}

TEST(ApiServer, OnlyAPairThatShowsTheKeySaysWhomDecodeTrusts) {
  const std::string body = R"({"bootstrap_host":"10.0.0.5","bootstrap_port":8998})";
  Served open({"", "1.2.3", "{}"}, engine::Role::kDecode);
  EXPECT_EQ(open.ask("POST", "/pair", body).status, 200);
  EXPECT_FALSE(open.engine.paired_as_told);
  Served keyed({"secret", "1.2.3", "{}"}, engine::Role::kDecode);
  EXPECT_EQ(keyed.ask("POST", "/pair", body).status, 401);
  EXPECT_FALSE(keyed.engine.paired_as_told);
  EXPECT_EQ(keyed.ask("POST", "/pair", body, {{"Authorization", "Bearer secret"}}).status, 200);
  EXPECT_TRUE(keyed.engine.paired_as_told);
}

}  // namespace
}  // namespace baton::http
