// No two calls of a router have one name at a time, and a call's own tries do not count as two.
#include <gmock/gmock.h>

#include <atomic>
#include <future>
#include <mutex>
#include <thread>

#include "router/running_router_test.h"

namespace baton::router {
namespace {

using ::testing::HasSubstr;

// Decode, which lets calls wait that say so, once they are tried again.
class Waiting {
 public:
  PlayedWorker::Play play() {
    return [this](const Exchange& x) {
      if (x.request.body.find("bad") != std::string::npos) return x.refuse(400, "bad");
      if (x.request.body.find("wait") == std::string::npos) return instance("d")(x);
      if (++tries_ == 1) return x.refuse(500, "once");
      std::lock_guard lock(mutex_);
      held_.push_back(x);
    };
  }
  [[nodiscard]] int tries() const { return tries_; }
  void answer() {
    std::lock_guard lock(mutex_);
    for (const Exchange& x : held_) x.reply("{}");
    held_.clear();
  }

 private:
  std::atomic<int> tries_{0};
  std::mutex mutex_;
  std::vector<Exchange> held_;
};

TEST(CallNames, ARunningCallsNameIsRefusedToOthers) {
  Waiting decode;
  RunningRouter running("", instance("p"), decode.play());
  auto first = std::async(std::launch::async, [&] {
    HttpClient client;
    HttpCallRequest request;
    request.url = {"127.0.0.1", running.router->port(), ""};
    request.method = "POST";
    request.target = "/generate";
    request.body = R"({"text":"wait","rid":"r"})";
    return client.fetch(std::move(request)).value().status;
  });
  for (int i = 0; i < 1000 && decode.tries() < 2; ++i) std::this_thread::sleep_for(10ms);
  ASSERT_EQ(decode.tries(), 2);  // its own second try was welcome
  for (const char* body : {R"({"text":"b","rid":"r"})", R"({"text":["b","c"],"rid":["q","r"]})"}) {
    const HttpReply twice = running.ask("POST", "/generate", body);
    EXPECT_EQ(twice.status, 400) << body;
    EXPECT_THAT(twice.body, HasSubstr("Duplicate request ID"));
  }
  EXPECT_EQ(running.ask("POST", "/v1/completions", R"({"prompt":"b","rid":"r"})").status, 400);
  EXPECT_EQ(running.ask("POST", "/generate", R"({"text":"b","rid":"other"})").status, 200);
  EXPECT_EQ(running.ask("POST", "/generate", R"({"text":"b"})").status, 200);
  decode.answer();
  EXPECT_EQ(first.get(), 200);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(running.ask("POST", "/generate", R"({"text":"b","rid":"r"})").status, 200);
}

TEST(CallNames, ACallThatFailedHasItsNameNoMore) {
  Waiting decode;
  RunningRouter running("", instance("p"), decode.play());
  for (int i = 0; i < 20; ++i) {
    EXPECT_THAT(running.ask("POST", "/generate", R"({"text":"bad","rid":"r"})").body, HasSubstr("bad"));
    EXPECT_EQ(running.ask("POST", "/v1/chat/completions", R"({"messages":[],"request_id":"r"})").status, 200);
  }
}

}  // namespace
}  // namespace baton::router
