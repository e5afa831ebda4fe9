// Rooms for every sequence of a body.
#include "router/split_request.h"

#include <gtest/gtest.h>

namespace baton::router {
namespace {
namespace json = boost::json;

json::object object(std::string_view text) { return json::parse(text).as_object(); }

struct Body {
  const char* path;
  const char* body;
  size_t sequences;
  bool batch, stream;
};

TEST(SplitRequest, CountsTheSequencesOfEveryForm) {
  const Body cases[] = {
      {"/generate", R"({"text":"a"})", 1, false, false},
      {"/generate", R"({"text":["a"]})", 1, true, false},
      {"/generate", R"({"text":null,"input_ids":[1,2,3],"stream":true})", 1, false, true},
      {"/generate", R"({"input_ids":[[1],[2,3],[4]],"stream":null})", 3, true, false},
      {"/generate", R"({"text":["a","b"],"sampling_params":{"n":3}})", 6, true, false},
      {"/generate", R"({"text":["a","b"],"sampling_params":[{"n":2},{"n":2}]})", 4, true, false},
      {"/generate", R"({"text":"a","sampling_params":{"n":2.0}})", 2, true, false},
      {"/generate", R"({"text":"a","sampling_params":{"n":0}})", 1, false, false},
      {"/generate", R"({"text":"a","return_logprob":true})", 1, false, false},
      {"/generate", R"({"text":["a"],"return_logprob":[true]})", 1, true, false},
      {"/generate", R"({"text":"a","return_logprob":null})", 1, false, false},
      {"/v1/completions", R"({"prompt":"a","n":4})", 4, true, false},
      {"/v1/completions", R"({"prompt":["a","b"],"echo":true,"logprobs":0})", 2, true, false},
      {"/v1/completions", R"({"prompt":[7,8],"echo":true})", 1, false, false},
      {"/v1/completions", R"({"prompt":[[7],[8]],"logprobs":2})", 2, true, false},
      {"/v1/completions", R"({"prompt":[]})", 1, false, false},
      {"/v1/chat/completions", R"({"messages":[{},{}],"n":2,"stream":true,"logprobs":true})", 2, true, true},
  };
  for (const Body& c : cases) {
    const RequestTraits traits = inspect_request(c.path, object(c.body));
    EXPECT_EQ(traits.sequences, c.sequences) << c.body;
    EXPECT_EQ(traits.batch, c.batch) << c.body;
    EXPECT_EQ(traits.stream, c.stream) << c.body;
  }
}

TEST(SplitRequest, TheMeetingPointIsTheRouters) {
  const auto paired = [](const char* body, const RequestTraits& traits, const char* host, int port,
                         const std::vector<AttemptId>& rooms) {
    const std::string common = common_body(object(body));
    return object(common + pair_body_end(common, traits, host, port, rooms));
  };
  EXPECT_EQ(paired(R"({"text":"a","bootstrap_host":"evil","bootstrap_room":1})", {}, "10.0.0.1", 8998, {AttemptId(42)}),
            object(R"({"text":"a","bootstrap_host":"10.0.0.1","bootstrap_port":8998,"bootstrap_room":42})"));
  EXPECT_EQ(paired(R"({"bootstrap_port":1})", {}, "h", 2, {AttemptId(3)}),
            object(R"({"bootstrap_host":"h","bootstrap_port":2,"bootstrap_room":3})"));
  RequestTraits batch;
  batch.sequences = 2;
  batch.batch = true;
  EXPECT_EQ(
      paired(R"({"text":["a","b"]})", batch, "h", 1, {AttemptId(4), AttemptId(9223372036854775807U)}),
      object(
          R"({"text":["a","b"],"bootstrap_host":["h","h"],"bootstrap_port":[1,1],"bootstrap_room":[4,9223372036854775807]})"));
}

}  // namespace
}  // namespace baton::router
