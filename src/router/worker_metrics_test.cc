#include "router/worker_metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "http/exposition_check.h"

namespace baton::router {
namespace {

using engine::Role;
using ::testing::HasSubstr;
using ::testing::Not;

// Of a worker that has had `n` requests.
std::string page(int n) {
  return fmt::format(
      "# HELP sglang:num_running_reqs Running\n# TYPE sglang:num_running_reqs gauge\n"
      "sglang:num_running_reqs{{model_name=\"a \\\"b\\\"\"}} {0}\n"
      "# HELP sglang:context_len Length\n# TYPE sglang:context_len gauge\nsglang:context_len 64\n"
      "# HELP sglang:token_usage Share\n# TYPE sglang:token_usage gauge\nsglang:token_usage 0.{0}\n"
      "# HELP vllm:e2e_request_latency_seconds Latency\n# TYPE vllm:e2e_request_latency_seconds histogram\n"
      "vllm:e2e_request_latency_seconds_bucket{{engine=\"0\",le=\"1\"}} 1\n"
      "vllm:e2e_request_latency_seconds_bucket{{engine=\"0\",le=\"+Inf\"}} {0}\n"
      "vllm:e2e_request_latency_seconds_sum{{engine=\"0\"}} 2.5\n"
      "vllm:e2e_request_latency_seconds_count{{engine=\"0\"}} {0}\n"
      "# HELP baton_steps_total Steps\n# TYPE baton_steps_total counter\nbaton_steps_total 7\n",
      n);
}

const std::vector<WorkerPage> kPages = {{"a:1", Role::kPrefill, page(2)},
                                        {"b:1", Role::kDecode, page(4)},
                                        {"c:1", Role::kDecode, page(6)},
                                        {"d:1", Role::kDecode, "no metrics here"}};

TEST(WorkerMetrics, EachFamilyOnceAndEachSampleWithItsWorker) {
  const std::string text = http::render_exposition(labelled_metrics(kPages));
  EXPECT_EQ(http::exposition_faults(text), "");
  for (const char* line : {"sglang:num_running_reqs{model_name=\"a \\\"b\\\"\",worker=\"a:1\"} 2\n",
                           "vllm:e2e_request_latency_seconds_bucket{engine=\"0\",le=\"1\",worker=\"c:1\"} 1\n",
                           "baton_steps_total{worker=\"b:1\"} 7\n"})
    EXPECT_THAT(text, HasSubstr(line));
  EXPECT_THAT(text, Not(HasSubstr("d:1")));
}

TEST(WorkerMetrics, CountsAreAddedAndSharesAveragedForEachRole) {
  const std::string text = http::render_exposition(summed_metrics(kPages));
  EXPECT_EQ(http::exposition_faults(text), "");
  for (const char* line :
       {"sglang:num_running_reqs{engine_type=\"prefill\",model_name=\"a \\\"b\\\"\"} 2\n",
        "sglang:num_running_reqs{engine_type=\"decode\",model_name=\"a \\\"b\\\"\"} 10\n",
        "sglang:token_usage{engine_type=\"decode\"} 0.5\n", "sglang:context_len{engine_type=\"decode\"} 64\n",
        "vllm:e2e_request_latency_seconds_bucket{engine=\"0\",engine_type=\"decode\",le=\"+Inf\"} 10\n",
        "vllm:e2e_request_latency_seconds_sum{engine=\"0\",engine_type=\"decode\"} 5\n"})
    EXPECT_THAT(text, HasSubstr(line));
  EXPECT_THAT(text, Not(HasSubstr("baton_")));
}

TEST(WorkerMetrics, WhoIsLateCountsAsItLastDid) {
  const auto reply = [](int port, int status, const std::string& body) {
    WorkerReply made;
    made.worker.url = {"h", port, ""};
    made.status = status;
    made.body = body;
    return made;
  };
  LastPages last;
  EXPECT_EQ(last.update({reply(1, 200, "a 1\n"), reply(2, 504, "")}).size(), 1U);
  const auto late = last.update({reply(1, 504, ""), reply(2, 200, "b 1\n")});
  ASSERT_EQ(late.size(), 2U);
  EXPECT_EQ(late[0].text, "a 1\n");
  EXPECT_EQ(last.update({reply(2, 200, "b 2\n")}).size(), 1U);  // the first is no worker any more
  EXPECT_EQ(last.update({reply(1, 504, ""), reply(2, 200, "b 2\n")}).size(), 1U);
}

}  // namespace
}  // namespace baton::router
