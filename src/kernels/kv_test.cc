#include <gtest/gtest.h>

#include "kernels/cpu/context_blocks.h"
#include "kernels/kernel_testing.h"
#include "kernels/kernels.h"
#include "kernels/kv_testing.h"
#include "kernels/reference.h"

namespace baton::kernels {
namespace {

TEST(Kv, WritesTheSameBytesAsTheReferenceAndReadsThemBack) {
  for_each_target([] {
    for (const int page_tokens : {1, 3, 16, 64})
      for (const tensor::DType dtype : {tensor::DType::kBF16, tensor::DType::kF32, tensor::DType::kF8E4M3})
        for (const auto& [k_dim, v_dim] : {std::pair{32, 32}, {5, 3}, {48, 0}}) {
          const KvShape shape{page_tokens, 3, k_dim, v_dim, dtype};
          const int64_t begin = 5, m = 70, k_stride = 3 * k_dim + 2, v_stride = 3 * v_dim + 1;
          const auto k = random_floats(m * k_stride, 1), v = random_floats(m * v_stride, 2);
          TestPool expected(shape, begin + m), actual(shape, begin + m);
          write_kv_ref(expected.view(), one_sequence(begin, m), 3, k.data(), k_stride, v.data(), v_stride);
          write_kv(actual.view(), one_sequence(begin, m), 3, k.data(), k_stride, v_dim > 0 ? v.data() : nullptr,
                   v_stride);
          ASSERT_EQ(actual.bytes(), expected.bytes());

          std::vector<float> k_back(m * k_dim), v_back(m * v_dim), k_ref(m * k_dim), v_ref(m * v_dim);
          read_kv_ref(expected.view(), begin, m, 2, k_ref.data(), v_ref.data());
          read_kv(actual.view(), begin, m, 2, k_back.data(), v_dim > 0 ? v_back.data() : nullptr);
          ASSERT_EQ(k_back, k_ref);
          ASSERT_EQ(v_back, v_ref);
          if (dtype == tensor::DType::kF32) {
            ASSERT_EQ(k_back[0], k[2 * k_dim]);
          }
        }
  });
}

TEST(Kv, SequencesOfABatchGoToTheirOwnPages) {
  for_each_target([] {
    const KvShape shape{16, 3, 24, 8, tensor::DType::kBF16};
    const TestPool expected(shape, 6 * 16), actual(shape, 6 * 16);
    // Two sequences, whose rows lie the other way round than their pages.
    const std::vector<PagedRows> batch = {{5, 14, 20, 0}, {0, 0, 5, 3}};
    const auto k = random_floats(25 * 80, 1), v = random_floats(25 * 30, 2);
    write_kv_ref(expected.view(), batch, 3, k.data(), 80, v.data(), 30);
    write_kv(actual.view(), batch, 3, k.data(), 80, v.data(), 30);
    EXPECT_EQ(actual.bytes(), expected.bytes());
    std::vector<float> back(24 * 2);
    read_kv(batch[1].own(actual.view()), 3, 2, 1, back.data(), std::vector<float>(16).data());
    for (int i = 0; i < 48; ++i) EXPECT_NEAR(back[i], k[(3 + i / 24) * 80 + 24 + i % 24], 1e-2);
  });
}

TEST(Kv, RoundsToNearestEvenAndKeepsNan) {
  const float nan = std::nanf(""), inf = INFINITY;
  const std::vector<float> values = {1,
                                     1 + 0x1p-8f,
                                     1 + 0x3p-8f,
                                     1 + 0x1.8p-8f,
                                     -0.0f,
                                     3.4e38f,
                                     -inf,
                                     nan,
                                     std::bit_cast<float>(0x7fffffffu),
                                     std::bit_cast<float>(0xff800001u),
                                     1e-42f,
                                     0,
                                     0,
                                     0,
                                     0,
                                     0};
  for_each_target([&] {
    TestPool pool({16, 1, 16, 0, tensor::DType::kBF16}, 1);
    write_kv(pool.view(), one_sequence(0, 1), 1, values.data(), 16, nullptr, 0);
    std::vector<float> back(16);
    read_kv(pool.view(), 0, 1, 0, back.data(), nullptr);
    EXPECT_EQ(back[1], 1);
    EXPECT_EQ(back[2], 1 + 0x4p-8f);
    EXPECT_EQ(back[3], 1 + 0x2p-8f);
    EXPECT_TRUE(std::signbit(back[4]));
    EXPECT_EQ(back[5], inf);
    EXPECT_EQ(back[6], -inf);
    for (const int i : {7, 8, 9}) EXPECT_TRUE(std::isnan(back[i])) << i;
  });
}

// Every code there is, and floats on both sides of every rounding, among them ties, overflow and subnormals.
TEST(Kv, Float8RoundsAsTheReferenceAndEveryCodeComesBack) {
  std::vector<float> values = {448, 464, 465, 1e9F, INFINITY, NAN, 0x1p-9f, 0x1p-10f, 0x1.8p-10f, 1e-42f, 0};
  for (int code = 0; code < 256; ++code) {
    const float exact = tensor::to_float(tensor::F8E4M3{static_cast<uint8_t>(code)});
    const float next = tensor::to_float(tensor::F8E4M3{static_cast<uint8_t>(code == 255 ? 254 : code + 1)});
    const float tie = (exact + next) / 2;
    values.insert(values.end(), {exact, tie, std::nextafter(tie, exact), std::nextafter(tie, next)});
  }
  for (size_t i = 0, n = values.size(); i < n; ++i) values.push_back(-values[i]);
  const int count = static_cast<int>(values.size());
  const KvShape shape{1, 1, count, 0, tensor::DType::kF8E4M3};
  TestPool expected(shape, 1);
  write_kv_ref(expected.view(), one_sequence(0, 1), 1, values.data(), count, nullptr, 0);
  std::vector<float> back_ref(values.size());
  read_kv_ref(expected.view(), 0, 1, 0, back_ref.data(), nullptr);
  for_each_target([&] {
    TestPool actual(shape, 1);
    write_kv(actual.view(), one_sequence(0, 1), 1, values.data(), count, nullptr, 0);
    ASSERT_EQ(actual.bytes(), expected.bytes());
    std::vector<float> back(values.size());
    read_kv(actual.view(), 0, 1, 0, back.data(), nullptr);
    for (size_t i = 0; i < values.size(); ++i) {
      ASSERT_EQ(std::isnan(back[i]), std::isnan(values[i])) << values[i];
      if (std::isnan(values[i])) continue;
      ASSERT_EQ(back[i], back_ref[i]) << values[i];
      ASSERT_EQ(std::signbit(back[i]), std::signbit(values[i])) << values[i];
    }
  });
}

}  // namespace
}  // namespace baton::kernels
