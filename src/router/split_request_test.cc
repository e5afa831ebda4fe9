// Rooms for every sequence of a body, and prefill's logprobs in front of decode's.
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
  bool batch, stream, merge;
};

TEST(SplitRequest, CountsTheSequencesOfEveryForm) {
  const Body cases[] = {
      {"/generate", R"({"text":"a"})", 1, false, false, false},
      {"/generate", R"({"text":["a"]})", 1, true, false, false},
      {"/generate", R"({"text":null,"input_ids":[1,2,3],"stream":true})", 1, false, true, false},
      {"/generate", R"({"input_ids":[[1],[2,3],[4]],"stream":null})", 3, true, false, false},
      {"/generate", R"({"text":["a","b"],"sampling_params":{"n":3}})", 6, true, false, false},
      {"/generate", R"({"text":["a","b"],"sampling_params":[{"n":2},{"n":2}]})", 4, true, false, false},
      {"/generate", R"({"text":"a","sampling_params":{"n":2.0}})", 2, true, false, false},
      {"/generate", R"({"text":"a","sampling_params":{"n":0}})", 1, false, false, false},
      {"/generate", R"({"text":"a","return_logprob":true})", 1, false, false, true},
      {"/generate", R"({"text":["a"],"return_logprob":[true]})", 1, true, false, true},
      {"/generate", R"({"text":"a","return_logprob":null})", 1, false, false, false},
      {"/v1/completions", R"({"prompt":"a","n":4})", 4, true, false, false},
      {"/v1/completions", R"({"prompt":["a","b"],"echo":true,"logprobs":0})", 2, true, false, true},
      {"/v1/completions", R"({"prompt":[7,8],"echo":true})", 1, false, false, false},
      {"/v1/completions", R"({"prompt":[[7],[8]],"logprobs":2})", 2, true, false, false},
      {"/v1/completions", R"({"prompt":[]})", 1, false, false, false},
      {"/v1/chat/completions", R"({"messages":[{},{}],"n":2,"stream":true,"logprobs":true})", 2, true, true, false},
  };
  for (const Body& c : cases) {
    const RequestTraits traits = inspect_request(c.path, object(c.body));
    EXPECT_EQ(traits.sequences, c.sequences) << c.body;
    EXPECT_EQ(traits.batch, c.batch) << c.body;
    EXPECT_EQ(traits.stream, c.stream) << c.body;
    EXPECT_EQ(traits.merge_logprobs, c.merge) << c.body;
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

std::string merge(const char* path, std::string_view prefill, std::string_view decode) {
  return LogprobMerger(path, prefill).merge(decode);
}

TEST(LogprobMerger, GenerateWholeAndBatch) {
  const char* prefill =
      R"({"meta_info":{"id":"p","input_token_logprobs":[[null,1,null],[-1,2,null]],"input_top_logprobs":[null,[]]}})";
  const char* decode =
      R"({"text":"x","meta_info":{"id":"d","input_token_logprobs":[],"output_token_logprobs":[[-2,3,null]]}})";
  EXPECT_EQ(
      object(merge("/generate", prefill, decode)),
      object(
          R"({"text":"x","meta_info":{"id":"d","input_token_logprobs":[[null,1,null],[-1,2,null]],"output_token_logprobs":[[-2,3,null]],"input_top_logprobs":[null,[]]}})"));
  const std::string batch =
      merge("/generate", R"([{"meta_info":{"input_token_logprobs":[1]}},{"meta_info":{"input_token_logprobs":[2]}}])",
            R"([{"meta_info":{}},{"meta_info":{"input_token_logprobs":[3]}}])");
  EXPECT_EQ(
      json::parse(batch),
      json::parse(R"([{"meta_info":{"input_token_logprobs":[1]}},{"meta_info":{"input_token_logprobs":[2,3]}}])"));
}

TEST(LogprobMerger, StreamsOfABatchFindTheirOwnPrompt) {
  LogprobMerger merger("/generate",
                       "data: {\"index\":1,\"meta_info\":{\"input_token_logprobs\":[\"b\"]}}\n\n"
                       "data: {\"index\":0,\"meta_info\":{\"input_token_logprobs\":[\"a\"]}}\n\ndata: [DONE]\n\n");
  for (int repeat = 0; repeat < 2; ++repeat) {  // events are cumulative: every one has the prompt's part
    EXPECT_EQ(object(merger.merge(R"({"index":0,"meta_info":{}})")),
              object(R"({"index":0,"meta_info":{"input_token_logprobs":["a"]}})"));
    EXPECT_EQ(object(merger.merge(R"({"index":1,"meta_info":{}})")),
              object(R"({"index":1,"meta_info":{"input_token_logprobs":["b"]}})"));
  }
}

TEST(LogprobMerger, CompletionsGetThePromptsPartOnce) {
  LogprobMerger merger(
      "/v1/completions",
      R"({"choices":[{"index":1,"logprobs":{"tokens":["b"],"token_logprobs":[null],"top_logprobs":[null],"text_offset":[0]}},)"
      R"({"index":0,"logprobs":{"tokens":["a"],"token_logprobs":[null],"top_logprobs":[null],"text_offset":[0]}}]})");
  const char* event =
      R"({"choices":[{"index":0,"logprobs":{"tokens":["x"],"token_logprobs":[-1],"top_logprobs":[{}],"text_offset":[1]}}]})";
  EXPECT_EQ(
      object(merger.merge(event)),
      object(
          R"({"choices":[{"index":0,"logprobs":{"tokens":["a","x"],"token_logprobs":[null,-1],"top_logprobs":[null,{}],"text_offset":[0,1]}}]})"));
  EXPECT_EQ(object(merger.merge(event)), object(event));
  EXPECT_EQ(object(merger.merge(R"({"choices":[{"index":1,"logprobs":{"tokens":[]}}]})"))
                .at("choices")
                .at(0)
                .at("logprobs")
                .at("tokens"),
            json::array({"b"}));
  EXPECT_EQ(object(merger.merge(R"({"choices":[],"usage":{}})")), object(R"({"choices":[],"usage":{}})"));
}

TEST(LogprobMerger, OddAnswersAreGivenBackAsTheyAre) {
  const char* good = R"({"choices":[{"index":0,"logprobs":{"tokens":["a"],"text_offset":[null]}}]})";
  for (const char* prefill :
       {"", "not json", "null", "[]", "{}", R"({"choices":7})", R"({"choices":[7,{"logprobs":null},{"logprobs":[]}]})",
        "data: {\"choices\":\n\ndata: [DONE]\n\n", R"({"choices":[{"logprobs":{"tokens":"a","text_offset":"b"}}]})"})
    EXPECT_EQ(object(merge("/v1/completions", prefill, good)), object(good)) << prefill;
  for (const char* decode :
       {"not json", "null", "7", "[1]", R"({"choices":[null,7,{"index":"x"}]})", R"({"error":{"message":"m"}})"})
    EXPECT_EQ(merge("/v1/completions", good, decode), decode);
}

}  // namespace
}  // namespace baton::router
