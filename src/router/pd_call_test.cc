// One request on its two legs, between real servers on loopback.
#include "router/pd_call.h"

#include <gmock/gmock.h>

#include <atomic>
#include <boost/json.hpp>
#include <future>
#include <map>
#include <set>
#include <thread>

#include "http/json.h"
#include "router/test_support.h"

namespace baton::router {

using engine::Role;
using http::Exchange;
using http::find_header;
using http::HttpReply;

namespace {

namespace json = boost::json;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;
using namespace std::chrono_literals;
using Play = PlayedWorker::Play;
using Event = RouterMetrics::Event;

const Play kHandsOver = [](const Exchange& x) {
  x.reply(R"({"text":"","meta_info":{"finish_reason":{"type":"length","length":0}}})");
};
const Play kSilent = [](const Exchange&) {};
Play answers(std::string body) {
  return [body = std::move(body)](const Exchange& x) { x.reply(body); };
}
Play refuses(int status, const std::string& message) {
  return [=](const Exchange& x) { x.refuse(status, message); };
}
// Event by event; without the end, the stream stays open.
Play streams(std::vector<std::string> pieces, bool ends = true) {
  return [pieces = std::move(pieces), ends](const Exchange& x) {
    x.writer->start(200, {{"Content-Type", "text/event-stream"}, {"Cache-Control", "no-cache"}});
    for (const std::string& piece : pieces) x.writer->write(piece);
    if (ends) x.writer->finish();
  };
}

// A router of one pair without its server's other parts.
struct Pair {
  Pair(Play prefill_play, Play decode_play) : prefill(std::move(prefill_play)), decode(std::move(decode_play)) {
    EXPECT_TRUE(registry.add({Role::kPrefill, prefill.url(), 4321}).ok());
    EXPECT_TRUE(registry.add({Role::kDecode, decode.url(), 0}).ok());
    registry.set_health(prefill.url(), true, "");
    registry.set_health(decode.url(), true, "");
    front =
        http::HttpServer::start({}, [this](http::HttpRequest request, std::shared_ptr<http::ResponseWriter> writer) {
          start_pd_call({registry, calls, *legs, clock, metrics, names, request_timeout},
                        Exchange(std::move(request), std::move(writer)));
        }).value();
  }
  ~Pair() {
    front->stop();
    legs.reset();
  }
  http::HttpCallRequest request(std::string body, std::string path = "/generate") const {
    http::HttpCallRequest made;
    made.url = {"127.0.0.1", front->port(), ""};
    made.method = "POST";
    made.target = std::move(path);
    made.headers = {{"X-Request-Id", "q7"}, {"Authorization", "Bearer k"}, {"Cookie", "secret"}};
    made.body = std::move(body);
    return made;
  }
  HttpReply ask(std::string body, std::string path = "/generate") {
    auto reply = client.fetch(request(std::move(body), std::move(path)));
    EXPECT_TRUE(reply.ok()) << (reply.ok() ? "" : reply.error().message);
    return reply.ok() ? std::move(*reply) : HttpReply{};
  }
  // Every request is accounted for: nothing stays outstanding.
  void expect_idle() {
    const auto busy = [&] {
      for (const WorkerView& view : registry.view()) {
        if (view.outstanding != 0) return true;
      }
      return false;
    };
    for (int i = 0; i < 1000 && busy(); ++i) std::this_thread::sleep_for(5ms);
    EXPECT_FALSE(busy());
  }

  // What the router's probe does once a worker has been silent for too long.
  void lose(Role role) {
    const WorkerView view = registry.view()[role == Role::kPrefill ? 0 : 1];
    registry.set_health(view.address.url, false, "silent");
    calls.lose(view.id, error(ErrorCode::kDeadlineExceeded, "nothing was heard for 10 s"));
  }

  Duration request_timeout{};
  OpenCalls calls;
  WorkerRegistry registry{{}, PairPolicy(PlacementPolicy::kLeastLoaded, PlacementPolicy::kLeastLoaded, 1)};
  SteadyClock clock;
  RouterMetrics metrics;
  http::LiveNames names;
  PlayedWorker prefill, decode;
  std::unique_ptr<http::HttpServer> front;
  std::unique_ptr<http::HttpClient> legs = std::make_unique<http::HttpClient>();
  http::HttpClient client;
};

TEST(PdCall, DecodeSaysItsLoadToWhoAsksForIt) {
  Pair pair(kHandsOver, [](const Exchange& x) {
    const std::string format(find_header(x.request.headers, "endpoint-load-metrics-format"));
    x.writer->send(200, {{"Content-Type", "application/json"}, {"endpoint-load-metrics", format + " of decode"}}, "{}");
  });
  http::HttpCallRequest asks = pair.request(R"({"text":"a"})");
  asks.headers.emplace_back("Endpoint-Load-Metrics-Format", "JSON");
  const auto reply = pair.client.fetch(std::move(asks));
  ASSERT_TRUE(reply.ok());
  EXPECT_EQ(find_header(reply->headers, "endpoint-load-metrics"), "JSON of decode");
  pair.expect_idle();
}

TEST(PdCall, BothLegsGetTheSameBodyAndDecodeAnswers) {
  Pair pair(kHandsOver, answers(R"({"text":"hello"})"));
  const HttpReply reply = pair.ask(R"({"text":"a","x":null,"bootstrap_host":"evil"})");
  EXPECT_EQ(reply.status, 200);
  EXPECT_EQ(json::parse(reply.body), json::parse(R"({"text":"hello"})"));
  EXPECT_EQ(find_header(reply.headers, "x-request-id"), "q7");
  EXPECT_THAT(std::string(find_header(reply.headers, "x-baton-verdict")),
              AllOf(StartsWith("disaggregated; prefill=127.0.0.1:"), HasSubstr("tries=1")));
  ASSERT_TRUE(pair.prefill.wait_asked(1) && pair.decode.wait_asked(1));
  const http::HttpRequest p = pair.prefill.asked()[0], d = pair.decode.asked()[0];
  EXPECT_EQ(p.body, d.body);
  const json::object body = json::parse(p.body).as_object();
  EXPECT_EQ(body.at("bootstrap_host"), "127.0.0.1");
  EXPECT_EQ(body.at("bootstrap_port"), 4321);
  EXPECT_GT(body.at("bootstrap_room").as_int64(), 0);
  for (const http::HttpRequest& leg : {p, d}) {
    EXPECT_EQ(leg.path, "/generate");
    EXPECT_EQ(find_header(leg.headers, "authorization"), "Bearer k");
    EXPECT_EQ(find_header(leg.headers, "x-request-id"), "q7");
    EXPECT_EQ(find_header(leg.headers, "cookie"), "");
  }
  pair.expect_idle();
}

TEST(PdCall, ALargeBodyArrivesWhole) {
  Pair pair(kHandsOver, answers("{}"));
  const std::string text(12 << 20, 'x');
  EXPECT_EQ(pair.ask("{\"text\":\"" + text + "\"}").status, 200);
  ASSERT_TRUE(pair.prefill.wait_asked(1) && pair.decode.wait_asked(1));
  EXPECT_EQ(pair.prefill.asked()[0].body, pair.decode.asked()[0].body);
  EXPECT_EQ(json::parse(pair.decode.asked()[0].body).at("text").as_string(), std::string_view(text));
  pair.expect_idle();
}

// Neither an answer nor an event of a stream may fill the router's memory.
TEST(PdCall, AnAnswerWithoutEndIsCutOff) {
  const auto endless = [](const char* type) {
    return [type](const Exchange& x) {
      x.writer->start(200, {{"Content-Type", type}});
      for (int i = 0; i < 70 && !x.writer->client_left(); ++i) x.writer->write(std::string(1 << 20, 'x'));
    };
  };
  for (const bool stream : {false, true}) {
    Pair pair(kHandsOver, endless(stream ? "text/event-stream" : "application/json"));
    const HttpReply reply = pair.ask(fmt::format(R"({{"text":"a","stream":{}}})", stream));
    EXPECT_EQ(reply.status, stream ? 200 : 502);
    EXPECT_THAT(reply.body, HasSubstr(stream ? "over 16777216 bytes" : "over 67108864 bytes"));
    EXPECT_EQ(reply.body.ends_with("data: [DONE]\n\n"), stream);
    pair.expect_idle();
  }
}

TEST(PdCall, DecodesEventsArriveAsTheyAre) {
  const std::vector<std::string> events = {"data: {\"a\":1}\n\n", "data: {\"a\":2}\n\n", "data: [DONE]\n\n"};
  Pair pair(kHandsOver, streams(events));
  const HttpReply reply = pair.ask(R"({"text":"a","stream":true})");
  EXPECT_EQ(reply.status, 200);
  EXPECT_EQ(find_header(reply.headers, "content-type"), "text/event-stream");
  EXPECT_EQ(find_header(reply.headers, "cache-control"), "no-cache");
  EXPECT_EQ(reply.body, events[0] + events[1] + events[2]);
  pair.expect_idle();
}

// S7: a prefill error before the first token is a status, also of a stream, with the words and hints of the instance.
TEST(PdCall, AnErrorOfPrefillBeforeTheFirstTokenIsARealStatus) {
  for (const char* stream : {"true", "false"}) {
    std::promise<PlayedWorker*> other;
    Pair pair(
        [&](const Exchange& x) {  // not before decode has the request, so that there is a leg to tell
          EXPECT_TRUE(other.get_future().get()->wait_asked(1));
          x.refuse(400, "top_p: 7 is not in (0, 1]");
        },
        kSilent);
    other.set_value(&pair.decode);
    const HttpReply reply = pair.ask(fmt::format(R"({{"text":"a","stream":{}}})", stream));
    EXPECT_EQ(reply.status, 400);
    EXPECT_EQ(json::parse(reply.body).at_pointer("/error/param"), "top_p");
    EXPECT_EQ(find_header(reply.headers, "x-should-retry"), "false");
    EXPECT_THAT(std::string(find_header(reply.headers, "x-baton-verdict")), StartsWith("failed; leg=prefill; tries=1"));
    EXPECT_TRUE(pair.decode.wait_left(1));  // the other leg is told
    pair.expect_idle();
    EXPECT_EQ(pair.registry.view()[0].failures, 0U);  // the client's fault
    EXPECT_EQ(pair.metrics.counted(RouterMetrics::Event::kPrefillError), 0U);
  }
}

TEST(PdCall, ATransientErrorIsTriedAgainWithANewRoomAndThenShown) {
  Pair pair(refuses(503, "shutting down"), kSilent);
  const HttpReply reply = pair.ask(R"({"text":"a"})");
  EXPECT_EQ(reply.status, 503);
  EXPECT_EQ(find_header(reply.headers, "retry-after"), "1");
  EXPECT_EQ(pair.metrics.counted(Event::kRetry), 2U);
  std::set<int64_t> rooms;
  for (const http::HttpRequest& asked : pair.prefill.asked())
    rooms.insert(json::parse(asked.body).at("bootstrap_room").as_int64());
  EXPECT_EQ(rooms.size(), 3U);
  pair.expect_idle();
}

// A decode instance whose KV did not come answers 503 or 504; that says nothing against it.
TEST(PdCall, OnlyWhatBreaksCountsAgainstAnInstance) {
  for (const auto& [status, failures] : std::map<int, uint64_t>{{503, 0}, {504, 0}, {500, 3}, {502, 3}}) {
    Pair pair(kSilent, refuses(status, "the KV did not arrive"));
    EXPECT_EQ(pair.ask(R"({"text":"a"})").status, status);
    EXPECT_EQ(pair.registry.view()[0].failures, 0U) << status;
    EXPECT_EQ(pair.registry.view()[1].failures, failures) << status;
    EXPECT_EQ(pair.registry.view()[1].breaker_open, failures != 0) << status;
    pair.expect_idle();
  }
}

// The least loaded prefill would be the dead one every time.
TEST(PdCall, ARetryGoesToAnotherInstanceWhereThereIsOne) {
  Pair pair(kHandsOver, answers(R"({"text":"ok"})"));
  PlayedWorker dead(kSilent);
  dead.break_off();
  ASSERT_TRUE(pair.registry.add({Role::kPrefill, dead.url(), 1}).ok());
  pair.registry.set_health(dead.url(), true, "");
  // On the first, so that the dead one is the idle one.
  const auto busy = pair.registry.begin_request(pair.clock.now());
  ASSERT_EQ(busy->prefill.url.port, pair.prefill.url().port);
  const HttpReply reply = pair.ask(R"({"text":"a"})");
  EXPECT_EQ(reply.status, 200) << reply.body;
  EXPECT_THAT(std::string(find_header(reply.headers, "x-baton-verdict")), HasSubstr("tries=2"));
  pair.registry.end_request(*busy, WorkerRegistry::Blame::kNobody, pair.clock.now());
  pair.expect_idle();
}

// What the client is told is what went wrong, not that nobody is left to try.
TEST(PdCall, WithNobodyLeftToTryTheLastErrorIsShown) {
  std::atomic<Pair*> whole{nullptr};
  Pair pair(kSilent, [&](const Exchange& x) {
    whole.load()->registry.set_health(whole.load()->decode.url(), false, "burning");
    x.refuse(500, "the disk is on fire");
  });
  whole = &pair;
  const HttpReply reply = pair.ask(R"({"text":"a"})");
  EXPECT_EQ(reply.status, 500);
  EXPECT_THAT(reply.body, HasSubstr("the disk is on fire"));
  EXPECT_THAT(std::string(find_header(reply.headers, "x-baton-verdict")), StartsWith("failed; leg=decode; tries=1"));
  pair.expect_idle();
}

TEST(PdCall, ARetryThatWorksIsAllTheClientSees) {
  std::atomic<int> times{0};
  Pair pair(kHandsOver,
            [&](const Exchange& x) { times++ == 0 ? x.refuse(500, "KV is lost") : x.reply(R"({"text":"ok"})"); });
  const HttpReply reply = pair.ask(R"({"text":"a"})");
  EXPECT_EQ(reply.status, 200);
  EXPECT_THAT(std::string(find_header(reply.headers, "x-baton-verdict")), HasSubstr("tries=2"));
  pair.expect_idle();
}

TEST(PdCall, AnInstanceThatIsGoneIsA502) {
  Pair pair(kHandsOver, kSilent);
  pair.decode.break_off();
  const HttpReply reply = pair.ask(R"({"text":"a","stream":true})");
  EXPECT_EQ(reply.status, 502);
  EXPECT_THAT(reply.body, HasSubstr("decode instance cannot be reached"));
  pair.expect_idle();
}

// The stream breaks within an event: the part of it is dropped, an error event says what happened, then [DONE].
TEST(PdCall, ADecodeStreamThatBreaksOffEndsWithAnErrorEvent) {
  Pair pair(kHandsOver, streams({"data: {\"text\":\"one\"}\n\n", "data: {\"text\":\"one tw"}, false));
  std::string seen;
  std::promise<void> begun, ended;
  std::atomic<bool> first{true};
  http::HttpCallHandlers handlers;
  handlers.on_data = [&](std::string_view bytes) {
    seen += bytes;
    if (first.exchange(false)) begun.set_value();
  };
  handlers.on_end = [&](const Status& status) {
    EXPECT_TRUE(status.ok());  // a complete HTTP message
    ended.set_value();
  };
  pair.client.start(pair.request(R"({"text":"a","stream":true})"), std::move(handlers));
  begun.get_future().wait();
  pair.decode.break_off();
  ASSERT_EQ(ended.get_future().wait_for(10s), std::future_status::ready);
  ASSERT_THAT(seen, StartsWith("data: {\"text\":\"one\"}\n\ndata: {\"error\":"));
  ASSERT_TRUE(seen.ends_with("\n\ndata: [DONE]\n\n")) << seen;
  const size_t at = seen.find("data: {\"error\"") + 6;
  EXPECT_EQ(json::parse(seen.substr(at, seen.find("\n\n", at) - at)).at_pointer("/error/code"), 502);
  EXPECT_EQ(pair.metrics.counted(Event::kStreamError), 1U);
  EXPECT_EQ(pair.registry.view()[1].failures, 1U);
  pair.expect_idle();
}

// A worker that accepts and never answers, or stops within its answer, before the client has seen anything.
TEST(PdCall, AWorkerThatIsLostBeforeTheFirstByteIsA504AtOnce) {
  const Play half = [](const Exchange& x) {
    x.writer->start(200, {{"Content-Type", "application/json"}});
    x.writer->write(R"({"text":"hal)");
  };
  for (const Role lost : {Role::kPrefill, Role::kDecode}) {
    for (const Play& play : {kSilent, half}) {
      if (lost == Role::kPrefill) {
        Pair pair(play, kSilent);
        std::thread losing([&] {
          EXPECT_TRUE(pair.prefill.wait_asked(1) && pair.decode.wait_asked(1));
          pair.lose(lost);
        });
        const HttpReply reply = pair.ask(R"({"text":"a","stream":true})");
        losing.join();
        EXPECT_EQ(reply.status, 504);
        EXPECT_THAT(reply.body, HasSubstr("prefill instance cannot be reached or broke off: nothing was heard"));
        EXPECT_TRUE(pair.decode.wait_left(1));
        pair.expect_idle();
      } else {
        Pair pair(kHandsOver, play);
        std::thread losing([&] {
          EXPECT_TRUE(pair.prefill.wait_asked(1) && pair.decode.wait_asked(1));
          pair.lose(lost);
        });
        const HttpReply reply = pair.ask(R"({"text":"a"})");
        losing.join();
        EXPECT_EQ(reply.status, 504);
        EXPECT_THAT(reply.body, HasSubstr("decode instance cannot be reached or broke off: nothing was heard"));
        EXPECT_EQ(find_header(reply.headers, "x-baton-verdict"), "failed; leg=decode; tries=1");
        EXPECT_EQ(pair.registry.view()[1].failures, 0U);
        pair.expect_idle();
      }
    }
  }
}

TEST(PdCall, AWorkerThatIsLostIsReplacedWhereThereIsAnother) {
  Pair pair(kHandsOver, kSilent);
  PlayedWorker other(answers(R"({"text":"ok"})"));
  ASSERT_TRUE(pair.registry.add({Role::kDecode, other.url(), 0}).ok());
  std::thread losing([&] {
    EXPECT_TRUE(pair.decode.wait_asked(1));
    pair.registry.set_health(other.url(), true, "");
    pair.lose(Role::kDecode);
  });
  const HttpReply reply = pair.ask(R"({"text":"a"})");
  losing.join();
  EXPECT_EQ(reply.status, 200) << reply.body;
  EXPECT_THAT(std::string(find_header(reply.headers, "x-baton-verdict")), HasSubstr("tries=2"));
  std::set<int64_t> rooms;
  for (PlayedWorker* worker : {&pair.decode, &other})
    rooms.insert(json::parse(worker->asked().at(0).body).at("bootstrap_room").as_int64());
  EXPECT_EQ(rooms.size(), 2U);
  pair.expect_idle();
}

// The worker stops after the first event, or within the second: what is whole was passed on, then it is said.
TEST(PdCall, AStreamWhoseWorkerIsLostEndsWithAnErrorEventAndDone) {
  for (const std::string part : {"", "data: {\"text\":\"one tw"}) {
    Pair pair(kHandsOver, streams({"data: {\"text\":\"one\"}\n\n" + part}, false));
    std::atomic<bool> first{true};
    std::string seen;
    std::promise<void> ended;
    http::HttpCallHandlers handlers;
    handlers.on_data = [&](std::string_view bytes) {
      seen += bytes;
      if (first.exchange(false)) pair.lose(Role::kDecode);
    };
    handlers.on_end = [&](const Status& status) {
      EXPECT_TRUE(status.ok());
      ended.set_value();
    };
    pair.client.start(pair.request(R"({"text":"a","stream":true})"), std::move(handlers));
    ASSERT_EQ(ended.get_future().wait_for(10s), std::future_status::ready);
    ASSERT_THAT(seen, StartsWith("data: {\"text\":\"one\"}\n\ndata: {\"error\":"));
    EXPECT_THAT(seen, HasSubstr("\"code\":504"));
    EXPECT_TRUE(seen.ends_with("\n\ndata: [DONE]\n\n")) << seen;
    EXPECT_EQ(pair.metrics.counted(Event::kStreamError), 1U);
    pair.expect_idle();
  }
}

// Decode has all it needs of prefill once it speaks, and once prefill has handed over.
TEST(PdCall, APrefillThatIsLostAfterItsWorkEndsNothing) {
  for (const bool streaming : {false, true}) {
    std::promise<void> lost;
    const auto after = lost.get_future().share();
    const Play late = [streaming, after](const Exchange& x) {
      if (streaming) {
        x.writer->start(200, {{"Content-Type", "text/event-stream"}});
        x.writer->write("data: {}\n\n");
      }
      std::thread([writer = x.writer, streaming, after] {
        after.wait();
        if (!streaming) return writer->send(200, {{"Content-Type", "application/json"}}, "{\"text\":\"ok\"}");
        writer->write("data: [DONE]\n\n");
        writer->finish();
      }).detach();
    };
    Pair pair(streaming ? kSilent : kHandsOver, late);
    std::atomic<bool> unseen{true};
    std::string seen;
    std::promise<Status> ended;
    std::promise<void> begun;
    http::HttpCallHandlers handlers;
    handlers.on_data = [&](std::string_view bytes) {
      seen += bytes;
      if (unseen.exchange(false)) begun.set_value();
    };
    handlers.on_end = [&](const Status& status) { ended.set_value(status); };
    pair.client.start(pair.request(fmt::format(R"({{"text":"a","stream":{}}})", streaming)), std::move(handlers));
    ASSERT_TRUE(pair.prefill.wait_asked(1) && pair.decode.wait_asked(1));
    if (streaming) {
      ASSERT_EQ(begun.get_future().wait_for(10s), std::future_status::ready);
    } else {  // until prefill's answer has come through: a later one from there has, on the same thread
      for (int i = 0; i < 2000 && !pair.prefill.all_sent(); ++i) std::this_thread::sleep_for(5ms);
      http::HttpCallRequest later;
      later.url = pair.prefill.url();
      ASSERT_TRUE(pair.legs->fetch(std::move(later)).ok());
    }
    pair.lose(Role::kPrefill);
    lost.set_value();
    auto end = ended.get_future();
    ASSERT_EQ(end.wait_for(10s), std::future_status::ready);
    EXPECT_TRUE(end.get().ok());
    EXPECT_THAT(seen, streaming ? HasSubstr("[DONE]") : HasSubstr("ok")) << streaming;
    EXPECT_EQ(seen.find("error"), std::string::npos) << seen;
    pair.expect_idle();
  }
}

TEST(PdCall, ACallThatTakesTooLongEnds) {
  for (const bool streaming : {false, true}) {
    Pair pair(kHandsOver, streaming ? streams({"data: {}\n\n"}, false) : kSilent);
    pair.request_timeout = 50ms;
    std::atomic<bool> over{false};
    std::thread time([&] {
      while (!over) {
        pair.calls.expire(pair.clock.now());
        std::this_thread::sleep_for(5ms);
      }
    });
    const HttpReply reply = pair.ask(fmt::format(R"({{"text":"a","stream":{}}})", streaming));
    over = true;
    time.join();
    EXPECT_EQ(reply.status, streaming ? 200 : 504);
    EXPECT_THAT(reply.body, HasSubstr("--request-timeout"));
    EXPECT_EQ(reply.body.ends_with("data: [DONE]\n\n"), streaming) << reply.body;
    EXPECT_TRUE(pair.decode.wait_left(1));
    pair.expect_idle();
  }
}

TEST(PdCall, AClientThatLeavesAbortsBothLegs) {
  for (const bool streaming : {false, true}) {
    Pair pair(kSilent, streaming ? streams({"data: {}\n\n"}, false) : kSilent);
    std::promise<void> begun;
    http::HttpCallHandlers handlers;
    std::atomic<bool> first{true};
    handlers.on_data = [&](std::string_view) {
      if (first.exchange(false)) begun.set_value();
    };
    auto call =
        pair.client.start(pair.request(fmt::format(R"({{"text":"a","stream":{}}})", streaming)), std::move(handlers));
    ASSERT_TRUE(pair.prefill.wait_asked(1) && pair.decode.wait_asked(1));
    if (streaming) begun.get_future().wait();
    call->cancel();
    EXPECT_TRUE(pair.prefill.wait_left(1)) << streaming;
    EXPECT_TRUE(pair.decode.wait_left(1)) << streaming;
    pair.expect_idle();
    EXPECT_EQ(pair.metrics.counted(Event::kClientLeft), 1U);
  }
}

TEST(PdCall, APrefillLegThatIsStillAnsweringIsLetBe) {
  Pair pair(kSilent, answers(R"({"text":"done"})"));
  EXPECT_EQ(pair.ask(R"({"text":"a"})").status, 200);
  pair.expect_idle();
  EXPECT_EQ(pair.prefill.left(), 0);
  pair.calls.expire(pair.clock.now() + 29s);
  EXPECT_EQ(pair.prefill.left(), 0);
  pair.calls.expire(pair.clock.now() + 31s);  // not for ever
  EXPECT_TRUE(pair.prefill.wait_left(1));
}

// Decode knows all of it, and does not wait for the other leg's answer.
TEST(PdCall, DecodesLogprobsAreTheAnswers) {
  const std::string decode = R"({"text":"x","meta_info":{"input_token_logprobs":[[null,1,null]]}})";
  for (const auto& prefill : {answers(R"({"meta_info":{"input_token_logprobs":[[null,1,null]]}})"), kSilent}) {
    Pair pair(prefill, answers(decode));
    EXPECT_EQ(pair.ask(R"({"text":"a","return_logprob":true})").body, decode + "\n");
    pair.expect_idle();
  }
}

TEST(PdCall, WhatCannotBeServedIsRefusedAtOnce) {
  Pair pair(kSilent, kSilent);
  const HttpReply no_json = pair.ask("{");
  EXPECT_EQ(no_json.status, 400);
  EXPECT_EQ(find_header(no_json.headers, "x-request-id"), "q7");
  std::string many = "[\"a\"";
  for (int i = 0; i < 5000; ++i) many += ",\"a\"";
  EXPECT_EQ(pair.ask("{\"text\":" + many + "]}").status, 400);
  pair.registry.set_health(pair.decode.url(), false, "down");
  const HttpReply down = pair.ask(R"({"text":"a"})");
  EXPECT_EQ(down.status, 503);
  EXPECT_EQ(find_header(down.headers, "retry-after"), "1");
  for (const HttpReply* reply : {&no_json, &down})
    EXPECT_THAT(std::string(find_header(reply->headers, "x-baton-verdict")), StartsWith("refused"));
  EXPECT_TRUE(pair.prefill.asked().empty() && pair.decode.asked().empty());
}

}  // namespace
}  // namespace baton::router
