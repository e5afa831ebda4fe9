#include "tensor/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>

namespace baton::tensor {
namespace {

using ::testing::HasSubstr;

std::vector<std::byte> file_of(const std::string& header, size_t data_bytes, int64_t length = -1) {
  const uint64_t n = length >= 0 ? static_cast<uint64_t>(length) : header.size();
  std::vector<std::byte> file(8 + header.size() + data_bytes);
  std::memcpy(file.data(), &n, 8);
  std::memcpy(file.data() + 8, header.data(), header.size());
  return file;
}

const std::string kGood =
    R"({"__metadata__":{"format":"pt"},"b":{"dtype":"BF16","shape":[2,3],"data_offsets":[4,16]},)"
    R"("a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"none":{"dtype":"I64","shape":[0,5],"data_offsets":[16,16]}})";

TEST(Safetensors, ReadsASoundHeader) {
  const auto file = file_of(kGood, 16);
  const auto header = parse_safetensors_header(file, "f");
  ASSERT_TRUE(header.ok()) << header.error().message;
  ASSERT_EQ(header->size(), 3U);
  const SafetensorsEntry& b = header->at("b");
  EXPECT_EQ(b.dtype, "BF16");
  EXPECT_EQ(b.shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(b.begin, 8 + kGood.size() + 4);
  EXPECT_EQ(b.end, file.size());
}

std::string tensor(const std::string& fields) { return R"({"t":{)" + fields + "}}"; }

TEST(Safetensors, RefusesCorruptHeaders) {
  const std::string ok4 = R"("dtype":"F32","shape":[1],"data_offsets":[0,4])";
  ASSERT_TRUE(parse_safetensors_header(file_of(tensor(ok4), 4), "f").ok());
  struct Case {
    std::string header;
    size_t data;
    const char* says;
  };
  const Case cases[] = {
      {"", 0, "JSON"},
      {"[]", 0, "JSON"},
      {"{", 0, "JSON"},
      {"{}x", 0, "JSON"},
      {"{'a':1}", 0, "JSON"},
      {R"({"a\)", 0, "JSON"},
      {std::string(2000, '['), 0, "JSON"},
      {"{}", 1, "end at byte"},
      {R"({"t":1})", 0, "not an object"},
      {R"({"__metadata__":{},"__metadata__":{}})", 0, "__metadata__"},
      {R"({"__metadata__":3})", 0, "__metadata__"},
      {tensor(R"("dtype":"F32","shape":[1])"), 4, "missing"},
      {tensor(R"("dtype":"F32","data_offsets":[0,4])"), 4, "missing"},
      {tensor(ok4 + R"(,"dtype":"F32")"), 4, "twice"},
      {tensor(ok4 + R"(,"extra":1)"), 4, "unknown field"},
      {R"({"t":{)" + ok4 + R"(},"t":{)" + ok4 + "}}", 4, "twice"},
      {tensor(R"("dtype":7,"shape":[1],"data_offsets":[0,4])"), 4, "dtype"},
      {tensor(R"("dtype":"F32","shape":1,"data_offsets":[0,4])"), 4, "shape"},
      {tensor(R"("dtype":"F32","shape":[-1],"data_offsets":[0,4])"), 4, "dimension"},
      {tensor(R"("dtype":"F32","shape":[1.0],"data_offsets":[0,4])"), 4, "dimension"},
      {tensor(R"("dtype":"F32","shape":["1"],"data_offsets":[0,4])"), 4, "dimension"},
      {tensor(R"("dtype":"F32","shape":[18446744073709551616],"data_offsets":[0,4])"), 4, ""},
      {tensor(R"("dtype":"F32","shape":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1],"data_offsets":[0,4])"), 4, "dimensions"},
      {tensor(R"("dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4])"), 4, "2^63"},
      {tensor(R"("dtype":"F32","shape":[4611686018427387905],"data_offsets":[0,4])"), 4, "do not make"},
      {tensor(R"("dtype":"F32","shape":[2],"data_offsets":[0,4])"), 4, "do not make"},
      {tensor(R"("dtype":"F32","shape":[1],"data_offsets":[0])"), 4, "pair"},
      {tensor(R"("dtype":"F32","shape":[1],"data_offsets":[0,4,4])"), 4, "pair"},
      {tensor(R"("dtype":"F32","shape":[1],"data_offsets":[0,-4])"), 4, "whole"},
      {tensor(R"("dtype":"F32","shape":[1],"data_offsets":[4,0])"), 4, "not inside"},
      {tensor(R"("dtype":"F32","shape":[1],"data_offsets":[0,4])"), 3, "not inside"},
      {tensor(R"("dtype":"F32","shape":[1],"data_offsets":[18446744073709551612,18446744073709551615])"), 4,
       "not inside"},
      {tensor(R"("dtype":"F32","shape":[1],"data_offsets":[4,8])"), 8, "gap"},
      {tensor(R"("dtype":"F32","shape":[1],"data_offsets":[0,4])"), 8, "end at byte"},
      {R"({"t":{)" + ok4 + R"(},"u":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}})", 6, "overlap"},
      {R"({"t":{)" + ok4 + R"(},"u":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 4, "overlap"},
  };
  for (const Case& c : cases) {
    const auto header = parse_safetensors_header(file_of(c.header, c.data), "some/file");
    ASSERT_FALSE(header.ok()) << c.header;
    EXPECT_EQ(header.error().code, ErrorCode::kCorrupt);
    EXPECT_THAT(header.error().message, HasSubstr("some/file"));
    EXPECT_THAT(header.error().message, HasSubstr(c.says)) << c.header;
    EXPECT_EQ(header.error().message.find('\n'), std::string::npos);
  }
}

TEST(Safetensors, RefusesAbsurdHeaderLengths) {
  for (const int64_t length : {int64_t{3}, int64_t{1} << 20, int64_t{100'000'001}, INT64_MAX}) {
    auto file = file_of("{}", 0, length);
    EXPECT_FALSE(parse_safetensors_header(file, "f").ok()) << length;
  }
  auto file = file_of("{}", 0);
  std::memset(file.data(), 0xff, 8);
  EXPECT_FALSE(parse_safetensors_header(file, "f").ok());
}

TEST(Safetensors, RefusesEveryTruncation) {
  const auto file = file_of(kGood, 16);
  for (size_t n = 0; n < file.size(); ++n)
    EXPECT_FALSE(parse_safetensors_header(std::span(file).first(n), "f").ok()) << n;
}

// Whatever a few wrong bytes do, a header that is accepted stays inside the file.
TEST(Safetensors, AcceptedHeadersStayInsideTheFile) {
  EXPECT_TRUE(rc::check("changed bytes", [](const std::vector<std::pair<uint16_t, uint8_t>>& changes) {
    auto file = file_of(kGood, 16);
    for (const auto& [at, value] : changes) file[at % file.size()] = static_cast<std::byte>(value);
    const auto header = parse_safetensors_header(file, "f");
    if (!header.ok()) return;
    for (const auto& [name, entry] : *header) {
      RC_ASSERT(entry.begin <= entry.end);
      RC_ASSERT(entry.end <= file.size());
      RC_ASSERT(entry.begin >= 8U);
    }
  }));
}

TEST(Safetensors, AnUnknownTypeMattersOnlyWhenItIsAskedFor) {
  const std::string path = fmt::format("{}/unknown_type_{}.safetensors", testing::TempDir(), getpid());
  const auto bytes = file_of(
      R"({"x":{"dtype":"F4","shape":[8],"data_offsets":[0,4]},"y":{"dtype":"I32","shape":[1],"data_offsets":[4,8]},)"
      R"("z":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}})",
      12);
  FILE* out = std::fopen(path.c_str(), "wb");
  ASSERT_NE(out, nullptr);
  ASSERT_EQ(std::fwrite(bytes.data(), 1, bytes.size(), out), bytes.size());
  std::fclose(out);
  const auto file = SafetensorsFile::open(path);
  ASSERT_TRUE(file.ok()) << file.error().message;
  EXPECT_TRUE(file->tensor("z").ok());
  for (const char* name : {"x", "y"}) {
    const auto view = file->tensor(name);
    ASSERT_FALSE(view.ok());
    EXPECT_EQ(view.error().code, ErrorCode::kInvalidArgument);
  }
  EXPECT_EQ(file->tensor("w").error().code, ErrorCode::kNotFound);
  std::remove(path.c_str());
}

TEST(Safetensors, FilesThatAreNotThereOrNoFiles) {
  EXPECT_EQ(SafetensorsFile::open("/nowhere/model.safetensors").error().code, ErrorCode::kNotFound);
  EXPECT_EQ(SafetensorsFile::open(testing::TempDir()).error().code, ErrorCode::kCorrupt);
}

}  // namespace
}  // namespace baton::tensor
