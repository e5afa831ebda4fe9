#include "tensor/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "tensor/matrix_slice.h"

namespace baton::tensor {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

// A model directory that is removed again.
class Checkpoints : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = fs::path(testing::TempDir()) /
           fmt::format("checkpoint_{}_{}", testing::UnitTest::GetInstance()->current_test_info()->name(), getpid());
    fs::remove_all(dir_);
    fs::create_directories(dir_);
  }
  void TearDown() override { fs::remove_all(dir_); }

  void write(const std::string& name, const std::string& content) {
    std::ofstream(dir_ / name, std::ios::binary) << content;
  }

  // One float32 tensor of one value per name.
  void write_tensors(const std::string& file, const std::vector<std::string>& names, float value = 1) {
    std::string header = "{", data;
    for (const std::string& name : names) {
      header += fmt::format(R"({}"{}":{{"dtype":"F32","shape":[1],"data_offsets":[{},{}]}})",
                            header.size() > 1 ? "," : "", name, data.size(), data.size() + 4);
      data.append(reinterpret_cast<const char*>(&value), 4);
    }
    header += "}";
    const uint64_t length = header.size();
    write(file, std::string(reinterpret_cast<const char*>(&length), 8) + header + data);
  }

  Result<Checkpoint> open() { return Checkpoint::open(dir_.string()); }

  fs::path dir_;
};

TEST_F(Checkpoints, ShardsByIndexAndLooseFilesAreTheSameModel) {
  write_tensors("one.safetensors", {"a", "b"});
  write_tensors("two.safetensors", {"c"});
  const auto loose = open();
  ASSERT_TRUE(loose.ok()) << loose.error().message;
  EXPECT_EQ(loose->names(), (std::vector<std::string>{"a", "b", "c"}));
  EXPECT_EQ(loose->total_bytes(), 12U);

  write("model.safetensors.index.json",
        R"({"metadata":{},"weight_map":{"c":"two.safetensors","a":"one.safetensors","b":"one.safetensors"}})");
  const auto indexed = open();
  ASSERT_TRUE(indexed.ok()) << indexed.error().message;
  EXPECT_TRUE(indexed->has("c"));
  EXPECT_FALSE(indexed->has("d"));
  EXPECT_EQ(indexed->digest(), loose->digest());

  write_tensors("model.safetensors", {"a", "b", "c"});
  const auto single = open();
  ASSERT_TRUE(single.ok());
  EXPECT_EQ(single->digest(), loose->digest());
}

TEST_F(Checkpoints, DigestTellsModelsApart) {
  write_tensors("model.safetensors", {"a", "b"});
  const ModelDigest digest = open()->digest();
  EXPECT_EQ(open()->digest(), digest);
  write_tensors("model.safetensors", {"a", "b"}, 2);
  EXPECT_NE(open()->digest(), digest);
  write_tensors("model.safetensors", {"a", "x"});
  EXPECT_NE(open()->digest(), digest);
  EXPECT_EQ(digest.to_string().size(), 32U);
}

TEST_F(Checkpoints, RefusesWhatIsNotSound) {
  const char* kIndex = "model.safetensors.index.json";
  EXPECT_THAT(open().error().message, HasSubstr("no *.safetensors"));
  EXPECT_EQ(Checkpoint::open("/nowhere").error().code, ErrorCode::kNotFound);

  write_tensors("one.safetensors", {"a"});
  struct Case {
    std::string index;
    ErrorCode code;
    const char* says;
  };
  const Case cases[] = {
      {"", ErrorCode::kCorrupt, "0 bytes"},
      {"{}", ErrorCode::kCorrupt, "weight_map"},
      {R"({"weight_map":[]})", ErrorCode::kCorrupt, "weight_map"},
      {R"({"weight_map":{"a":1}})", ErrorCode::kCorrupt, "same directory"},
      {R"({"weight_map":{"a":"../one.safetensors"}})", ErrorCode::kCorrupt, "same directory"},
      {R"({"weight_map":{"a":"/etc/passwd"}})", ErrorCode::kCorrupt, "same directory"},
      {R"({"weight_map":{"a":".."}})", ErrorCode::kCorrupt, "same directory"},
      {R"({"weight_map":{"a":""}})", ErrorCode::kCorrupt, "same directory"},
      {R"({"weight_map":{"a":"one.safetensors\u0000.x"}})", ErrorCode::kCorrupt, "same directory"},
      {R"({"weight_map":{"a":"one.safetensors","a":"one.safetensors"}})", ErrorCode::kCorrupt, "twice"},
      {R"({"weight_map":{"b":"one.safetensors"}})", ErrorCode::kCorrupt, "lacks it"},
      {R"({"weight_map":{"a":"gone.safetensors"}})", ErrorCode::kNotFound, "gone.safetensors"},
  };
  for (const Case& c : cases) {
    write(kIndex, c.index);
    const auto checkpoint = open();
    ASSERT_FALSE(checkpoint.ok()) << c.index;
    EXPECT_EQ(checkpoint.error().code, c.code) << c.index;
    EXPECT_THAT(checkpoint.error().message, HasSubstr(c.says));
  }

  fs::remove(dir_ / kIndex);
  write_tensors("two.safetensors", {"b", "a"});
  EXPECT_THAT(open().error().message, HasSubstr("tensor 'a' is in"));
}

TEST(Fixtures, EveryTensorOfEveryBundledModelReads) {
  int models = 0;
  for (const char* root : {"/tests/fixtures", "/models"})
    for (const auto& entry : fs::directory_iterator(std::string(BATON_SOURCE_DIR) + root)) {
      if (!fs::exists(entry.path() / "config.json")) continue;
      SCOPED_TRACE(entry.path().string());
      const auto checkpoint = Checkpoint::open(entry.path().string());
      ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
      EXPECT_TRUE(checkpoint->has("model.embed_tokens.weight"));
      uint64_t bytes = 0;
      for (const std::string& name : checkpoint->names()) {
        const auto view = checkpoint->tensor(name);
        ASSERT_TRUE(view.ok()) << view.error().message;
        bytes += view->bytes();
        const TensorView matrix{view->data, view->dtype, {view->shape[0], view->count() / view->shape[0]}};
        const auto scale = checkpoint->tensor(name + "_scale_inv");
        const auto m = stored_matrix(matrix, scale.ok() ? &scale.value() : nullptr);
        ASSERT_TRUE(m.ok()) << name << ": " << m.error().message;
        std::vector<float> row(static_cast<size_t>(m->cols));
        for (int64_t r = 0; r < m->rows; ++r) {
          m->read(r, 0, m->cols, row.data());
          for (const float v : row) ASSERT_TRUE(std::isfinite(v)) << name;
        }
      }
      EXPECT_EQ(bytes, checkpoint->total_bytes());
      ++models;
    }
  EXPECT_GE(models, 8);
}

}  // namespace
}  // namespace baton::tensor
