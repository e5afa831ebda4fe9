#include "model/weights.h"

#include <gtest/gtest.h>

#include <cstring>

#include "kernels/kernels.h"
#include "model/test_instance.h"
#include "tensor/checkpoint.h"

namespace baton::model {

using kernels::weight_bytes;
using kernels::WeightBytes;
using layout::Layout;

namespace {

ExecutorOptions options_for(const std::string& fixture, Layout layout) {
  ExecutorOptions o;
  o.model_path = fmt::format("{}/tests/fixtures/{}", BATON_SOURCE_DIR, fixture);
  o.page_tokens = 16;
  o.layout = layout;
  return o;
}

// What loading reads and then holds.
WeightBytes bytes_of(const ExecutorOptions& o) {
  const WeightBytes before = weight_bytes();
  const test::TestInstance instance(o, *load_model_config(o.model_path), 1);
  EXPECT_FALSE(instance.failure()) << instance.failure()->message;
  const WeightBytes now = weight_bytes();
  return {now.read - before.read, now.held - before.held};
}

// Elements of the matrices that a model multiplies by, all but the embedding.
uint64_t matrix_elements(const std::string& path) {
  const tensor::Checkpoint checkpoint = *tensor::Checkpoint::open(path);
  uint64_t total = 0;
  for (const std::string& name : checkpoint.names()) {
    const tensor::TensorView view = *checkpoint.tensor(name);
    if (view.shape.size() == 2 && name.find("embed_tokens") == std::string::npos)
      total += static_cast<uint64_t>(view.count());
  }
  return total;
}

TEST(Weights, EveryLayoutReadsEachByteOnceAndHoldsItOnce) {
  struct Case {
    const char* fixture;
    uint64_t keys;  // elements of MLA's keys, which are held in two forms and read for each
    Layout layout;
    uint64_t padding;  // held more than with one rank, as narrow shares are filled up to 16 columns
  };
  // llama3 has two KV heads: with TP8 four ranks have each of them. With DP every group has all of attention.
  constexpr uint64_t kLlamaVocab = 8 * (48 - 40) * 128 * 2, kYarnKeys = 3 * 4 * 32 * 64;
  constexpr uint64_t kYarnSharedExpert = 2 * 4 * 2 * (16 - 12) * 128 * 2;  // gate and up, in two layers
  const Case cases[] = {{"llama3", 0, {1, 1, 1, 1}, 0},
                        {"llama3", 0, {8, 1, 1, 1}, kLlamaVocab},
                        {"llama3", 0, {4, 4, 1, 1}, 0},
                        {"llama3", 0, {8, 2, 1, 1}, kLlamaVocab},
                        {"llama3", 0, {2, 2, 3, 1}, 0},
                        {"deepseek-v3-yarn", kYarnKeys, {1, 1, 1, 1}, 0},
                        {"deepseek-v3-yarn", kYarnKeys, {4, 4, 1, 4}, kYarnSharedExpert}};
  for (const Case& c : cases) {
    SCOPED_TRACE(fmt::format("{} {}", c.fixture, c.layout.to_string()));
    ExecutorOptions o = options_for(c.fixture, c.layout);
    const uint64_t elements = matrix_elements(o.model_path) + c.keys;
    const WeightBytes stored = bytes_of(o);
    EXPECT_EQ(stored.read, elements * 2);
    o.layout = {};
    EXPECT_EQ(stored.held, bytes_of(o).held + c.padding);
    o.layout = c.layout;
    o.load_format = LoadFormat::kDummy;
    const WeightBytes made_up = bytes_of(o);
    EXPECT_EQ(made_up.read, elements * 2);
    EXPECT_EQ(made_up.held, stored.held);
  }
}

TEST(Weights, QuantizedSlicesAreOneByteAnElementAndSharedToo) {
  ExecutorOptions o = options_for("llama3", {8, 1, 1, 1});
  const uint64_t elements = matrix_elements(o.model_path), lm_head = 320 * 128;
  o.quantize_fp8 = true;
  EXPECT_EQ(bytes_of(o).read, elements + lm_head);  // which is left in bfloat16
}

std::vector<float> read_all(const tensor::StoredMatrix& m) {
  std::vector<float> values(static_cast<size_t>(m.rows * m.cols));
  for (int64_t r = 0; r < m.rows; ++r) m.read(r, 0, m.cols, values.data() + r * m.cols);
  return values;
}

// What a device goes by that makes and quantizes values itself is what stored() does.
TEST(Weights, SlicesSayHowTheirValuesAreMade) {
  ExecutorOptions o = options_for("llama3", {});
  o.load_format = LoadFormat::kDummy;
  o.quantize_fp8 = true;
  const auto weights = *Weights::open(o, *load_model_config(o.model_path));
  const tensor::MatrixSlice slice = *weights->linear("w", 300, 400, {100, 290}, {140, 400});
  EXPECT_EQ(slice.dtype, tensor::DType::kF8E4M3);
  ASSERT_NE(slice.unquantized, nullptr);
  const tensor::MatrixSlice& whole = *slice.unquantized;
  EXPECT_EQ(whole.dtype, tensor::DType::kBF16);
  const tensor::StoredMatrix stored = whole.stored();
  const std::vector<float> due =
      read_all(weights->linear("w", 300, 400, {0, 300}, {0, 400})->stored().cut({100, 290}, {140, 400}));
  const auto quantized = tensor::quantize_fp8(stored, slice.block);
  EXPECT_EQ(read_all(quantized.cut(slice.rows_of_unquantized, slice.cols_of_unquantized)), due);
  EXPECT_EQ(read_all(slice.stored()), due);

  const tensor::UniformMatrix made = whole.uniform();
  ASSERT_EQ(static_cast<int64_t>(made.row_keys.size()), whole.rows());
  for (int64_t r = 0; r < whole.rows(); ++r) {
    std::vector<uint16_t> bits(static_cast<size_t>(whole.cols()));
    kernels::uniform_bf16(made.row_keys[static_cast<size_t>(r)], made.first_col, whole.cols(), made.scale, bits.data());
    EXPECT_EQ(std::memcmp(bits.data(), stored.data + r * stored.stride * 2, bits.size() * 2), 0) << r;
  }
}

TEST(Weights, ModelsOfOneProcessDoNotTakeEachOthers) {
  ExecutorOptions o = options_for("llama3", {2, 1, 1, 1});
  o.load_format = LoadFormat::kDummy;
  const ModelConfig config = *load_model_config(o.model_path);
  const auto logits = [&](uint64_t seed) {
    o.seed = seed;
    test::TestInstance instance(o, config, 2);
    return test::drive(instance, 1);
  };
  const std::vector<float> alone = logits(2);
  o.seed = 1;
  const test::TestInstance other(o, config, 2);
  EXPECT_EQ(logits(2), alone);
  EXPECT_NE(logits(1), alone);
}

TEST(Weights, ProgressCountsWhatIsReadWhateverTheLayout) {
  for (const Layout& layout : {Layout{1, 1, 1, 1}, Layout{4, 4, 1, 1}}) {
    ExecutorOptions o = options_for("llama3", layout);
    uint64_t last = 0, whole = 0, stuck = 0, before_the_end = 0;
    o.progress = [&](uint64_t done, uint64_t total) {
      before_the_end = last;
      stuck += done <= last ? 1 : 0;
      last = done;
      whole = total;
    };
    (void)bytes_of(o);
    EXPECT_EQ(last, whole);
    EXPECT_EQ(stuck, 0);
    EXPECT_EQ(before_the_end, whole - 1);
  }
}

}  // namespace
}  // namespace baton::model
