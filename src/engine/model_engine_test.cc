// Engines over real models: the bundled ones, whose greedy text a reference implementation wrote down.
#include <gtest/gtest.h>

#include <string>

#include "base/random.h"
#include "engine/make_engine.h"
#include "engine/test_rig.h"
#include "model/golden.h"

namespace baton::engine {

using layout::Layout;

namespace {

std::string model_path(const std::string& name) { return std::string(BATON_SOURCE_DIR) + "/models/" + name; }

EngineOptions options_for(const std::string& model, Role role, Layout layout) {
  EngineOptions options;
  options.role = role;
  options.executor.model_path = model_path(model);
  options.executor.compute = kernels::Compute::kF32;
  options.executor.kv_dtype = tensor::DType::kF32;
  options.executor.layout = layout;
  options.executor.page_tokens = 8;
  options.pool.max_total_tokens = 2048 * layout.dp;
  options.chunked_prefill_size = 400;
  options.transfer.backend = "shm";
  options.transfer.bootstrap_port = 0;
  return options;
}

std::unique_ptr<Engine> make(const EngineOptions& options) {
  auto engine = make_engine(options);
  EXPECT_TRUE(engine.ok()) << (engine.ok() ? "" : engine.error().message);
  return engine.ok() ? std::move(engine).value() : nullptr;
}

struct Case {
  const char* name;
  const char* model;
  Layout prefill;
  std::optional<Layout> decode;  // none: unified
};

class ModelEngine : public testing::TestWithParam<Case> {};

TEST_P(ModelEngine, GreedyTextIsTheReferences) {
  const Case c = GetParam();
  auto prefill = make(options_for(c.model, c.decode ? Role::kPrefill : Role::kUnified, c.prefill));
  ASSERT_NE(prefill, nullptr);
  std::unique_ptr<Engine> decode;
  if (c.decode) {
    decode = make(options_for(c.model, Role::kDecode, *c.decode));
    ASSERT_NE(decode, nullptr);
  }
  auto golden = model::read_golden(model_path(c.model) + "/golden.json", prefill->info().vocab);
  ASSERT_TRUE(golden.ok());
  // One prompt of two chunks is enough here; the executor's own tests hold the longer ones.
  std::erase_if(*golden, [](const model::GoldenCase& wanted) { return wanted.prompt_ids.size() > 600; });
  ASSERT_GE(golden->size(), 5u);
  std::vector<Client> prefill_clients(golden->size()), decode_clients(golden->size());
  for (size_t i = 0; i < golden->size(); ++i) {
    const model::GoldenCase& wanted = (*golden)[i];
    Request request = request_of(std::to_string(i), wanted.prompt_ids, static_cast<int>(wanted.greedy_ids.size()));
    request.sampling.ignore_eos = true;
    if (decode) {
      request.disaggregation = Disaggregation{"127.0.0.1", prefill->info().bootstrap_port, draw_attempt(), false};
      ASSERT_TRUE(decode->submit(request, decode_clients[i].sink()).ok());
    }
    ASSERT_TRUE(prefill->submit(request, prefill_clients[i].sink()).ok());
  }
  for (size_t i = 0; i < golden->size(); ++i) {
    Client& client = decode ? decode_clients[i] : prefill_clients[i];
    ASSERT_TRUE(client.wait()) << i;
    ASSERT_NE(client.finish().reason, FinishReason::kAbort) << client.finish().error->message;
    EXPECT_EQ(client.text(), (*golden)[i].greedy_ids) << i;
  }
  EXPECT_TRUE(eventually(*prefill, is_idle));
  EXPECT_TRUE(!decode || eventually(*decode, is_idle));
}

INSTANTIATE_TEST_SUITE_P(All, ModelEngine,
                         testing::Values(Case{"gqa", "tiny-gqa", {1, 1, 1, 1}, {}},
                                         Case{"gqa_tp2", "tiny-gqa", {2, 1, 1, 1}, {}},
                                         Case{"mla_dp2", "tiny-mla", {2, 2, 1, 1}, {}},
                                         Case{"gqa_tp2_to_tp1", "tiny-gqa", {2, 1, 1, 1}, Layout{1, 1, 1, 1}},
                                         Case{"gqa_pp2_to_tp2", "tiny-gqa", {1, 1, 2, 1}, Layout{2, 1, 1, 1}},
                                         Case{"mla_tp2_to_tp2dp2", "tiny-mla", {2, 1, 1, 1}, Layout{2, 2, 1, 1}}),
                         [](const auto& test) { return test.param.name; });

TEST(MakeEngine, WrongOptionsNameTheFlagAndTheNumbers) {
  struct Wrong {
    const char* names;
    std::function<void(EngineOptions&)> set;
  };
  const Wrong table[] = {
      {"--max-running-requests", [](EngineOptions& o) { o.max_running_requests = 0; }},
      {"--chunked-prefill-size", [](EngineOptions& o) { o.chunked_prefill_size = 0; }},
      {"--num-reserved-decode-tokens", [](EngineOptions& o) { o.reserved_decode_tokens = -1; }},
      {"--context-length", [](EngineOptions& o) { o.context_length = 1; }},
      {"--allow-longer-context", [](EngineOptions& o) { o.context_length = 1 << 30; }},
      {"--max-total-tokens", [](EngineOptions& o) { o.pool.max_total_tokens = 7; }},
      {"--mem-fraction-static",
       [](EngineOptions& o) {
         o.pool = {{}, 1.5};
       }},
      {"cuda_ipc does not move pages of cpu: use shm or tcp",
       [](EngineOptions& o) {
         o.role = Role::kDecode;
         o.transfer.backend = "cuda_ipc";
       }},
      {"no-such-model", [](EngineOptions& o) { o.executor.model_path = "/no-such-model"; }},
  };
  for (const Wrong& wrong : table) {
    EngineOptions options = options_for("tiny-gqa", Role::kUnified, {1, 1, 1, 1});
    wrong.set(options);
    const auto engine = make_engine(options);
    ASSERT_FALSE(engine.ok()) << wrong.names;
    EXPECT_NE(engine.error().message.find(wrong.names), std::string::npos) << engine.error().message;
  }
}

TEST(PagesPerGroup, Sizes) {
  const layout::KvGeometry geometry{2, 2, 8, 8, 2};  // 128 bytes a token
  const Layout one{1, 1, 1, 1}, replicas{4, 1, 1, 1}, groups{2, 2, 1, 1};
  struct Size {
    Layout layout;
    PoolWish wish;
    uint64_t available;
    int pages;  // 0: an error
    uint64_t weights = 0;
  };
  const Size table[] = {
      {one, {1000, {}}, 1 << 20, 100},    // rounded down to whole pages of 10
      {groups, {1000, {}}, 1 << 20, 50},  // shared by the groups
      {one, {1000, {}}, 127999, 0},       // one byte short
      {one, {1000, {}}, 128000, 100},
      {replicas, {1000, {}}, 128000, 0},  // 2 heads on 4 ranks: everything is there twice
      {replicas, {1000, {}}, 256000, 100},
      {one, {{}, 0.5}, 128000, 50},
      {one, {{}, {}}, 1 << 20, 204},             // a quarter of the memory
      {one, {{}, {}}, uint64_t{1} << 40, 6554},  // 65536 tokens
      {one, {{}, {}}, 1000, 0},
      {one, {{}, 0.0}, 1 << 20, 0},
      {one, {9, {}}, 1 << 20, 0},
      {one, {1000, {}}, 228000, 100, 100000},  // beside the weights
      {one, {1000, {}}, 227999, 0, 100000},
      {one, {{}, 0.5}, 256000, 50, 64000},  // of a half that has the weights in it
      {one, {{}, 0.5}, 128000, 0, 64000},
      {one, {{}, {}}, 1 << 20, 24, (1 << 20) - 31000},
  };
  for (const Size& size : table) {
    const auto pages = pages_per_group(size.layout, geometry, 10, size.wish, size.available, size.weights);
    EXPECT_EQ(pages.ok() ? *pages : 0, size.pages) << (pages.ok() ? "" : pages.error().message);
  }
}

}  // namespace
}  // namespace baton::engine
