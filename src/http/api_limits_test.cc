// What a client may put into a body, and what that may cost.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>

#include "http/api_server.h"
#include "http/client.h"
#include "http/json.h"
#include "http/raw_client.h"
#include "http/test_support.h"

namespace baton::http {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;

std::string refusal(ApiKind kind, const std::string& body, int64_t context = 64,
                    engine::Role role = engine::Role::kUnified) {
  const auto model = byte_model(context);
  const auto parsed = parse_api_request(kind, body, *model, role);
  return parsed.ok() ? "taken" : parsed.error().message;
}

std::string list_of(const std::string& entry, size_t count) {
  std::string list;
  list.reserve((entry.size() + 1) * count);
  for (size_t i = 0; i < count; ++i) list += (i > 0 ? "," : "") + entry;
  return list;
}

TEST(ApiLimits, JsonIsBoundedInValuesAndDepth) {
  EXPECT_THAT(parse_object("{\"a\":[" + list_of("0", kJsonValuesMax) + "]}").error().message,
              HasSubstr("at most 2097152"));
  EXPECT_THAT(parse_object("{\"a\":[" + list_of("{}", kJsonValuesMax / 2) + "]}").error().message,
              HasSubstr("at most 2097152"));
  EXPECT_THAT(parse_object("{" + list_of("\"a\":0", kJsonValuesMax / 2) + "}").error().message,
              HasSubstr("at most 2097152"));
  EXPECT_TRUE(parse_object("{\"a\":[" + list_of("0", kJsonValuesMax / 2) + "]}").ok());
  // Commas and brackets within strings are no values, whatever is escaped before them.
  for (const char* text : {R"(,[{:)", R"(\",[{:)", R"(\\\",[{:)", R"(\u005c,[{:)"}) {
    std::string body = "{\"a\":\"";
    for (size_t i = 0; i < kJsonValuesMax / 2; ++i) body += text;
    EXPECT_TRUE(parse_object(body + "\"}").ok()) << text;
  }
  // A quote that ends a string ends it here too.
  EXPECT_FALSE(parse_object("{\"a\":\"\\\\\",\"b\":[" + list_of("0", kJsonValuesMax) + "]}").ok());
  const auto nested = [](size_t depth) { return "{\"a\":" + std::string(depth, '[') + std::string(depth, ']') + "}"; };
  EXPECT_TRUE(parse_object(nested(kJsonDepthMax - 2)).ok());
  EXPECT_FALSE(parse_object(nested(kJsonDepthMax)).ok());
  EXPECT_FALSE(parse_object(nested(1'000'000)).ok());
  EXPECT_FALSE(parse_object("{\"a\":" + std::string(1'000'000, '[')).ok());
  EXPECT_TRUE(parse_object("{\"a\":" + std::string(1'000'000, '9') + "}").ok());
  EXPECT_FALSE(parse_object("{\"a\":1e" + std::string(1'000'000, '9') + "x}").ok());
}

// One token is one byte here: 63 of them leave room for one more.
TEST(ApiLimits, WhatCannotFitTheContextIsRefusedAndWhatFitsIsNot) {
  const auto text = [](const std::string& s) { return "{\"text\":\"" + s + "\"}"; };
  EXPECT_EQ(refusal(ApiKind::kGenerate, text(std::string(63, 'a'))), "taken");
  EXPECT_THAT(refusal(ApiKind::kGenerate, text(std::string(64, 'a'))), HasSubstr("context length (64 tokens"));
  EXPECT_THAT(refusal(ApiKind::kGenerate, text(std::string(4'000'000, 'a'))), HasSubstr("context length (64 tokens"));
  // An added token stands for many bytes.
  std::string special;
  for (int i = 0; i < 63; ++i) special += "</s>";
  EXPECT_EQ(refusal(ApiKind::kGenerate, text(special)), "taken");
  EXPECT_THAT(refusal(ApiKind::kGenerate, text(special + "a")), HasSubstr("context length (64 tokens"));
  EXPECT_THAT(refusal(ApiKind::kGenerate, "{\"input_ids\":[" + list_of("1", 1'000'000) + "]}"),
              HasSubstr("context length (64 tokens"));
  EXPECT_THAT(refusal(ApiKind::kCompletion, "{\"prompt\":\"" + std::string(64, 'a') + "\"}"), HasSubstr("prompt: "));
  EXPECT_THAT(
      refusal(ApiKind::kChat, "{\"messages\":[{\"role\":\"user\",\"content\":\"" + std::string(99, 'a') + "\"}]}"),
      HasSubstr("messages: "));
}

TEST(ApiLimits, ListsAreBounded) {
  EXPECT_THAT(refusal(ApiKind::kGenerate, "{\"text\":[" + list_of("\"a\"", 100'000) + "]}"), HasSubstr("100000"));
  EXPECT_THAT(refusal(ApiKind::kCompletion, "{\"prompt\":[" + list_of("[1]", 100'000) + "]}"), HasSubstr("100000"));
  EXPECT_THAT(refusal(ApiKind::kCompletion, R"({"prompt":"a","stop":[)" + list_of("\"a\"", 65) + "]}"),
              HasSubstr("stop: 65"));
  EXPECT_THAT(refusal(ApiKind::kCompletion, R"({"prompt":"a","stop":")" + std::string(100'000, 'a') + "\"}"),
              HasSubstr("stop: 100000 bytes"));
  EXPECT_THAT(refusal(ApiKind::kCompletion, R"({"prompt":"a","n":129})"), HasSubstr("n: "));
  EXPECT_THAT(refusal(ApiKind::kGenerate, R"({"text":"a","cache_salt":")" + std::string(300, 's') + "\"}"),
              HasSubstr("cache_salt: 300"));
  EXPECT_THAT(refusal(ApiKind::kGenerate, R"({"text":"a","rid":")" + std::string(300, 's') + "\"}"),
              HasSubstr("rid: "));
  EXPECT_THAT(refusal(ApiKind::kGenerate, R"({"text":["a","b"],"rid":["x","x"]})"),
              HasSubstr("rid: Duplicate request ID"));
  EXPECT_THAT(refusal(ApiKind::kGenerate,
                      R"({"text":"a","bootstrap_room":1,"bootstrap_host":")" + std::string(300, 's') + "\"}", 64,
                      engine::Role::kDecode),
              HasSubstr("bootstrap_host: "));
  EXPECT_THAT(refusal(ApiKind::kGenerate, R"({"text":"a","sampling_params":[)" + list_of("{}", 100'000) + "]}"),
              HasSubstr("sampling_params: 100000"));
}

// Each sequence has its own copy of some fields: they are counted for all of them before the first copy is made.
TEST(ApiLimits, WhatSequencesHoldTogetherIsBounded) {
  std::string ids = list_of("65", 1'000'000);
  EXPECT_EQ(refusal(ApiKind::kCompletion, R"({"prompt":"a","n":2,"stop_token_ids":[)" + ids + "]}"), "taken");
  EXPECT_THAT(refusal(ApiKind::kCompletion, R"({"prompt":"a","n":128,"stop_token_ids":[)" + ids + "]}"),
              HasSubstr("n: "));
  EXPECT_THAT(refusal(ApiKind::kCompletion, R"({"prompt":[)" + ids + R"(],"n":128})", 1 << 24), HasSubstr("n: "));
  EXPECT_EQ(refusal(ApiKind::kCompletion, R"({"prompt":[)" + ids + R"(],"n":2})", 1 << 24), "taken");
  const std::string prompts = list_of("\"a\"", 4096);
  std::string stops = list_of("\"" + std::string(1000, 's') + "\"", 60);
  EXPECT_THAT(refusal(ApiKind::kCompletion, R"({"prompt":[)" + prompts + R"(],"stop":[)" + stops + "]}"),
              HasSubstr("n: "));
  EXPECT_THAT(
      refusal(ApiKind::kGenerate,
              R"({"input_ids":[)" + ids + R"(],"return_logprob":true,"logprob_start_len":0,"top_logprobs_num":1000})",
              1 << 24),
      HasSubstr("logprobs"));
  EXPECT_EQ(refusal(ApiKind::kGenerate, R"({"input_ids":[)" + ids + R"(],"return_logprob":true,"logprob_start_len":0})",
                    1 << 24),
            "taken");
}

struct Behind {
  Behind() {
    HttpServerOptions options;
    options.threads = 1;
    options.check_head = [this](const HttpRequest& head) { return api.check_head(head); };
    server = HttpServer::start(options, [this](HttpRequest request, std::shared_ptr<ResponseWriter> writer) {
               api.handle(std::move(request), std::move(writer));
             }).value();
    api.set_ready(engine, *model, metrics);
  }
  ~Behind() {
    server->stop();
    api.stop();
  }
  HttpCallRequest request(const char* target, std::string body = "") const {
    HttpCallRequest made;
    made.url = {"127.0.0.1", server->port(), ""};
    made.method = body.empty() ? "GET" : "POST";
    made.target = target;
    made.body = std::move(body);
    return made;
  }
  std::unique_ptr<ModelText> model = byte_model();
  PlayedEngine engine{engine::Role::kDecode};
  Metrics metrics{{"tiny", engine::Role::kDecode, true}};
  ApiServer api{{"", "1", "{}", true, 2}};
  std::unique_ptr<HttpServer> server;
  HttpClient client;
};

// What the head decides is said before the body is sent.
TEST(ApiLimits, TheHeadDecidesBeforeTheBody) {
  Behind behind;
  const auto answer = [&](const char* head) {
    RawClient client(behind.server->port());
    client.say(fmt::format("{}\r\nHost: h\r\nContent-Length: 10000000\r\n\r\n", head));
    return client.hear("}}").substr(9, 3);
  };
  EXPECT_EQ(answer("POST /nowhere HTTP/1.1"), "404");
  EXPECT_EQ(answer("DELETE /generate HTTP/1.1"), "405");
  EXPECT_EQ(answer("POST /generate HTTP/1.1\r\nOrigin: http://x\r\nContent-Type: text/plain"), "403");
  EXPECT_EQ(answer("POST /generate HTTP/1.1\r\nOrigin: http://x"), "403");
  behind.api.set_draining();
  EXPECT_EQ(answer("POST /generate HTTP/1.1"), "503");
}

// The one I/O thread answers while every thread that reads bodies is held up.
TEST(ApiLimits, BodiesAreReadOffTheIoThreads) {
  Behind behind;
  std::promise<void> release;
  const std::shared_future<void> released = release.get_future().share();
  std::promise<void> both;
  std::atomic<int> held{0};
  behind.engine.on_pair = [&] {
    if (++held == 2) both.set_value();
    released.wait();
  };
  std::vector<std::future<HttpReply>> paired;
  for (int i = 0; i < 2; ++i) {
    paired.push_back(std::async(std::launch::async, [&] {
      HttpClient client;
      return client.fetch(behind.request("/pair", R"({"bootstrap_host":"h","bootstrap_port":1})")).value();
    }));
  }
  ASSERT_EQ(both.get_future().wait_for(20s), std::future_status::ready);
  EXPECT_EQ(behind.client.fetch(behind.request("/health"))->status, 200);
  release.set_value();
  for (auto& reply : paired) EXPECT_EQ(reply.get().status, 200);
}

TEST(ApiLimits, TokensAndTextsOfOneCallAreBounded) {
  Behind behind;
  const auto ask = [&](const char* target, std::string body) {
    return behind.client.fetch(behind.request(target, std::move(body))).value();
  };
  const HttpReply text = ask("/tokenize", "{\"prompt\":\"" + std::string((1 << 20) + 1, 'a') + "\"}");
  EXPECT_EQ(text.status, 400);
  EXPECT_THAT(text.body, HasSubstr("more than 1048576 tokens"));
  EXPECT_EQ(ask("/tokenize", "{\"prompt\":\"" + std::string(100'000, 'a') + "\"}").status, 200);  // over the context
  EXPECT_EQ(ask("/detokenize", "{\"tokens\":[" + list_of("97", 1 << 20) + "]}").status, 200);
  const HttpReply ids = ask("/detokenize", "{\"tokens\":[" + list_of("97", (1 << 20) + 1) + "]}");
  EXPECT_EQ(ids.status, 400);
  EXPECT_THAT(ids.body, HasSubstr("1048577"));
}

}  // namespace
}  // namespace baton::http
