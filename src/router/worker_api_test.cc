// The list of workers by sglang-router's names, and what workers say of their load.
#include <gmock/gmock.h>

#include <boost/json.hpp>
#include <thread>

#include "router/running_router_test.h"

namespace baton::router {
namespace {

namespace json = boost::json;
using ::testing::HasSubstr;

std::string url_of(const PlayedWorker& worker) { return "http://" + worker.url().authority(); }

TEST(WorkerApi, SaysWhatAWorkerServes) {
  RunningRouter running;
  const auto model = [&] { return json::parse(running.ask("GET", "/workers").body).at_pointer("/workers/0/model_id"); };
  for (int i = 0; i < 500 && model() == "unknown"; ++i) std::this_thread::sleep_for(10ms);
  EXPECT_EQ(model(), "/m");
}

TEST(WorkerApi, TraitsAreGivenAndChanged) {
  RunningRouter running;
  PlayedWorker third(instance("third"));
  const HttpReply added =
      running.ask("POST", "/workers",
                  R"({"url":")" + url_of(third) + R"(","worker_type":"decode","priority":7,"labels":{"a":"b"}})");
  ASSERT_EQ(added.status, 202);
  const std::string place(http::find_header(added.headers, "location"));
  const auto shown = [&] { return json::parse(running.ask("GET", place).body); };
  EXPECT_EQ(shown().at_pointer("/priority"), 7);
  EXPECT_EQ(shown().at_pointer("/cost").to_number<double>(), 1);
  EXPECT_EQ(shown().at_pointer("/metadata/a"), "b");
  const HttpReply changed = running.ask("PUT", place, R"({"priority":75,"cost":2.5,"health_check_timeout_secs":null})");
  EXPECT_EQ(changed.status, 202);
  EXPECT_EQ("/workers/" + std::string(json::parse(changed.body).at_pointer("/worker_id").as_string()), place);
  EXPECT_EQ(shown().at_pointer("/priority"), 75);
  EXPECT_EQ(shown().at_pointer("/cost"), 2.5);
  EXPECT_EQ(shown().at_pointer("/metadata/a"), "b");
  EXPECT_EQ(running.ask("PUT", place, R"({"labels":{}})").status, 202);
  EXPECT_EQ(shown().at_pointer("/metadata"), json::object());
  for (const char* bad : {R"({"priority":-1})", R"({"cost":"a"})", R"({"labels":{"a":1}})", R"({"labels":[]})",
                          R"({"health_check_timeout_secs":5})", R"({"api_key":"k"})", "[]"})
    EXPECT_EQ(running.ask("PUT", place, bad).status, 400) << bad;
  EXPECT_EQ(shown().at_pointer("/priority"), 75);
  EXPECT_EQ(running.ask("PUT", "/workers/nobody", "{}").status, 404);
}

TEST(WorkerApi, WorkersJoinAndLeaveByTheFirstNames) {
  RunningRouter running;
  PlayedWorker third([](const Exchange& x) { x.reply(R"({"disaggregation_mode":"decode"})"); });
  const auto urls = [&] {
    return json::parse(running.ask("GET", "/list_workers").body).at_pointer("/urls").as_array();
  };
  EXPECT_EQ(urls(), (json::array{url_of(running.prefill), url_of(running.decode)}));
  const std::string query = "?url=http%3A%2F%2F" + third.url().authority();
  const HttpReply added = running.ask("POST", "/add_worker" + query);
  EXPECT_EQ(added.status, 200);
  EXPECT_EQ(added.body, "Successfully added worker: " + url_of(third));
  EXPECT_EQ(urls().size(), 3U);
  EXPECT_EQ(running.ask("POST", "/add_worker" + query).status, 400);
  EXPECT_EQ(running.ask("POST", "/add_worker").status, 400);
  EXPECT_EQ(running.ask("POST", "/remove_worker" + query).body, "Successfully removed worker: " + url_of(third));
  EXPECT_EQ(urls().size(), 2U);
  EXPECT_EQ(running.ask("POST", "/remove_worker" + query).status, 404);
}

TEST(WorkerApi, LoadsOfAllWorkers) {
  RunningRouter running;
  const json::value all = json::parse(running.ask("GET", "/v1/loads").body);
  EXPECT_EQ(all.at_pointer("/loads").as_array().size(), 4U);
  EXPECT_EQ(all.at_pointer("/dp_rank_count"), 4);
  EXPECT_EQ(all.at_pointer("/version"), "1.2.3");
  EXPECT_THAT(std::string(all.at_pointer("/timestamp").as_string()), ::testing::EndsWith("Z"));
  EXPECT_EQ(all.at_pointer("/aggregate/total_running_reqs"), 6);
  EXPECT_EQ(all.at_pointer("/aggregate/total_waiting_reqs"), 2);
  EXPECT_EQ(all.at_pointer("/aggregate/total_reqs"), 8);
  PlayedWorker dumb([](const Exchange& x) { x.refuse(500, "no"); });
  ASSERT_EQ(running.ask("POST", "/workers", R"({"url":")" + url_of(dumb) + R"(","worker_type":"decode"})").status, 202);
  const json::value of_workers = json::parse(running.ask("GET", "/get_loads").body);
  EXPECT_EQ(of_workers,
            (json::value{{"workers", json::array{json::object{{"worker", url_of(running.prefill)}, {"load", 42}},
                                                 json::object{{"worker", url_of(running.decode)}, {"load", 42}},
                                                 json::object{{"worker", url_of(dumb)}, {"load", -1}}}}}));
}

}  // namespace
}  // namespace baton::router
