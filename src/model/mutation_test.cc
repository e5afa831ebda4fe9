// Damaged config.json, generation_config.json and safetensors: they are refused with a message, or the model that they
// describe loads and computes. A check that fails ends the program.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/model_config.h"
#include "model/sharding.h"
#include "model/test_instance.h"
#include "model/weights.h"
#include "text/json_mutator.h"

namespace baton::model {
namespace {

constexpr const char* kFixtures[] = {"deepseek-v2-lite", "deepseek-v3-fp8", "deepseek-v3-yarn",
                                     "llama3",           "qwen2",           "qwen3-moe"};

// What none of them has.
constexpr const char* kMoreFields = R"({
  "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
  "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}, "original_max_position_embeddings": 32,
  "quantization_config": {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"targets": ["Linear"],
    "weights": {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [32, 32]}}}}})";

std::string read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
}

// What an engine asks of a config before it allocates anything, in layouts that the model can have.
void ask(const ModelConfig& config) {
  for (const int32_t id : config.eos_ids) EXPECT_TRUE(id >= 0 && id < config.vocab);
  EXPECT_LE(parameter_count(config), kParametersMax);
  const layout::KvGeometry geometry = config.kv_geometry(tensor::DType::kF32);
  for (const layout::Layout layout :
       {layout::Layout{1, 1, 1, 1}, layout::Layout{4, 2, 1, 2}, layout::Layout{6, 1, 2, 3}}) {
    if (!check_model_layout(config, layout)) continue;
    for (int rank = 0; rank < layout.world(); ++rank) {
      const RankShare share = rank_share(config, layout, rank);
      EXPECT_GE(share.query_heads.size(), 1);
      EXPECT_GT(layout::rank_page_shape(layout, rank, geometry, 128).page_bytes(), 0U);
    }
  }
}

// Loads the model and computes a few tokens.
void compute(const ModelConfig& config, const std::string& directory) {
  if (parameter_count(config) > 20'000'000 || config.vocab > 100'000) return;
  const layout::KvGeometry geometry = config.kv_geometry(tensor::DType::kF32);
  if (geometry.token_bytes() > 1 << 20) return;
  ExecutorOptions options;
  options.model_path = directory;
  options.compute = kernels::Compute::kF32;
  options.kv_dtype = tensor::DType::kF32;
  options.page_tokens = 16;
  if (check_model_layout(config, {2, 1, 1, 1})) options.layout = {2, 1, 1, 1};
  std::vector<std::vector<std::byte>> memory;
  std::vector<device::Memory> pools;
  for (int r = 0; r < options.layout.world(); ++r) {
    memory.emplace_back(layout::rank_page_shape(options.layout, r, geometry, 16).page_bytes() * 2);
  }
  for (auto& m : memory) pools.push_back(device::Memory::of(m));
  StepLogits logits;
  options.logits = &logits;
  auto executor = make_thread_executor(options, config, pools);
  if (!executor) {
    EXPECT_FALSE(executor.error().message.empty());
    return;
  }
  std::vector<int32_t> tokens;
  for (int32_t i = 0; i < std::min<int64_t>(8, config.max_position); ++i) tokens.push_back(i % config.vocab);
  const std::vector<uint32_t> pages = {1};
  EXPECT_TRUE(compute_logits(**executor, kv::StepPlan{{{SequenceId(1), 0, 0, tokens, pages, -1, 1}}}, logits).ok());
}

TEST(Mutations, DamagedConfigs) {
  const std::string root = std::string(BATON_SOURCE_DIR) + "/tests/fixtures/";
  int loaded = 0;
  for (uint64_t seed = 0; seed < 1200; ++seed) {
    const std::string fixture = root + kFixtures[seed % std::size(kFixtures)];
    text::test::JsonMutator mutator(seed);
    std::string what;
    const TempDir dir;
    const bool generation = mutator.below(5) == 0;
    boost::json::value config_json = boost::json::parse(read(fixture + "/config.json"));
    if (seed % 3 == 0) {
      const boost::json::value more = boost::json::parse(kMoreFields);
      for (const auto& [key, value] : more.as_object()) config_json.as_object()[key] = value;
    }
    const std::string config = boost::json::serialize(config_json);
    const std::string generation_config = read(fixture + "/generation_config.json");
    dir.write("config.json", generation ? config : mutator.mutate(config_json, &what));
    dir.write("generation_config.json",
              generation ? mutator.mutate(boost::json::parse(generation_config), &what) : generation_config);
    SCOPED_TRACE(fmt::format("seed {}, {}:{}", seed, fixture, what));
    const auto result = load_model_config(dir.path());
    if (!result) {
      EXPECT_THAT(result.error().message, testing::HasSubstr("config.json"));
      EXPECT_LT(result.error().message.size(), 1000U);
      continue;
    }
    ++loaded;
    ask(*result);
    std::filesystem::create_symlink(fixture + "/model.safetensors", dir.path() + "/model.safetensors");
    if (seed % 4 == 0) compute(*result, dir.path());
  }
  EXPECT_GT(loaded, 300);
}

TEST(Mutations, DamagedSafetensors) {
  const std::string root = std::string(BATON_SOURCE_DIR) + "/tests/fixtures/";
  int loaded = 0;
  for (uint64_t seed = 0; seed < 120; ++seed) {
    const std::string fixture = root + kFixtures[seed % std::size(kFixtures)];
    text::test::JsonMutator mutator(seed);
    std::string what;
    const TempDir dir;
    const auto config = load_model_config(fixture);
    ASSERT_TRUE(config.ok());
    std::string file = read(fixture + "/model.safetensors");
    uint64_t length = 0;
    std::memcpy(&length, file.data(), sizeof length);
    std::string header = mutator.mutate(boost::json::parse(file.substr(8, length)), &what);
    if (mutator.below(4) == 0) {
      length = mutator.below(2) == 0 ? mutator.below(file.size()) : UINT64_MAX - mutator.below(16);
      what += fmt::format(" header length {}", length);
    } else {
      file = file.substr(0, 8) + header + file.substr(8 + length);
      length = header.size();
    }
    std::memcpy(file.data(), &length, sizeof length);
    // Whatever the weights are, not numbers too: the model computes or says no.
    if (mutator.below(4) == 0) std::fill(file.end() - static_cast<std::ptrdiff_t>(file.size() / 2), file.end(), '\xff');
    std::ofstream(dir.path() + "/model.safetensors", std::ios::binary) << file;
    SCOPED_TRACE(fmt::format("seed {}, {}:{}", seed, fixture, what));
    ++loaded;
    compute(*config, dir.path());
  }
  EXPECT_EQ(loaded, 120);
}

}  // namespace
}  // namespace baton::model
