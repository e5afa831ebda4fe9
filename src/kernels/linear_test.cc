#include <gtest/gtest.h>

#include <thread>

#include "kernels/kernel_testing.h"
#include "kernels/kernels.h"
#include "kernels/reference.h"

namespace baton::kernels {
namespace {

struct Shape {
  int64_t m, n, k;
};

// Error of a sum of k products in float32 against one in double, with values in [-1, 1).
double tolerance(int64_t k) { return 2e-6 * std::sqrt(static_cast<double>(k)); }

void expect_equals_reference(const Shape& s, Compute compute, int64_t x_gap, int64_t y_gap) {
  SCOPED_TRACE(fmt::format("m {} n {} k {} {}", s.m, s.n, s.k, compute == Compute::kF32 ? "f32" : "bf16"));
  const auto weight = random_floats(s.n * s.k, 1), x = random_floats(s.m * (s.k + x_gap), 2);
  std::vector<float> expected(static_cast<size_t>(s.m * (s.n + y_gap)), -7), actual = expected;
  linear_ref(weight.data(), s.n, s.k, compute, x.data(), s.k + x_gap, s.m, expected.data(), s.n + y_gap);
  Linear(tensor::slice_of(weight, s.n, s.k), compute).apply(x.data(), s.k + x_gap, s.m, actual.data(), s.n + y_gap);
  expect_close(actual, expected, tolerance(s.k));  // the gaps of y too: they must stay -7
}

TEST(Linear, EqualsReferenceOnEveryTarget) {
  const Shape shapes[] = {{1, 1, 1},     {2, 3, 5},      {0, 16, 16},   {1, 64, 64},   {3, 17, 33},  {4, 63, 127},
                          {5, 65, 128},  {6, 128, 96},   {7, 130, 31},  {8, 48, 512},  {9, 80, 513}, {13, 100, 1025},
                          {17, 192, 96}, {64, 320, 128}, {97, 70, 200}, {300, 34, 67}, {193, 1, 100}};
  for_each_target([&] {
    for (const Shape& s : shapes)
      for (const Compute compute : {Compute::kF32, Compute::kBF16})
        expect_equals_reference(s, compute, s.n % 3, s.k % 4);
  });
}

TEST(Linear, RowsDoNotDependOnTheBatch) {
  const int64_t n = 200, k = 777, m = 23;
  const auto weight = random_floats(n * k, 3), x = random_floats(m * k, 4);
  for_each_target([&] {
    for (const Compute compute : {Compute::kF32, Compute::kBF16}) {
      const Linear linear(tensor::slice_of(weight, n, k), compute);
      std::vector<float> together(m * n), alone(m * n);
      linear.apply(x.data(), m, together.data());
      for (int64_t r = 0; r < m; ++r) linear.apply(x.data() + r * k, 1, alone.data() + r * n);
      EXPECT_EQ(together, alone);
    }
  });
}

TEST(LinearHeads, EveryHeadHasItsWeight) {
  constexpr int64_t kHeads = 3, kN = 20, kK = 24, kM = 5, kX = kHeads * 30 + 1, kY = kHeads * 28 + 2;
  const auto w = random_floats(kHeads * kN * kK, 1), x = random_floats(kM * kX, 2);
  std::vector<Linear> weights;
  std::vector<float> expected(kM * kY, -1), actual = expected;
  for (int64_t h = 0; h < kHeads; ++h) {
    const auto own = std::span(w).subspan(h * kN * kK, kN * kK);
    weights.emplace_back(tensor::slice_of(own, kN, kK), Compute::kF32);
    linear_ref(own.data(), kN, kK, Compute::kF32, x.data() + h * 30, kX, kM, expected.data() + h * 28, kY);
  }
  linear_heads(weights, x.data(), kX, 30, kM, actual.data(), kY, 28);
  expect_close(actual, expected, 1e-5);
}

TEST(Linear, ManyThreadsApplyAtOnceEachWithHelpers) {
  const int64_t n = 1000, k = 700, m = 50;
  const auto weight = random_floats(n * k, 5), x = random_floats(m * k, 6);
  const Linear linear(tensor::slice_of(weight, n, k), Compute::kBF16);
  std::vector<float> expected(m * n);
  linear.apply(x.data(), m, expected.data());
  std::vector<std::vector<float>> results(6, std::vector<float>(m * n));
  std::vector<std::thread> threads;
  for (size_t t = 0; t < results.size(); ++t)
    threads.emplace_back([&, t] {
      set_gemm_threads(static_cast<int>(t % 3) + 1);
      for (int i = 0; i < 5; ++i) linear.apply(x.data(), m, results[t].data());
    });
  for (std::thread& thread : threads) thread.join();
  for (const auto& result : results) EXPECT_EQ(result, expected);
}

TEST(Linear, MovesAndIsEmptyByDefault) {
  Linear a;
  EXPECT_TRUE(a.empty());
  const float w[] = {2, 3};
  a = Linear(tensor::slice_of(w, 1, 2), Compute::kF32);
  const Linear b = std::move(a);
  const float x[] = {10, 1};
  float y = 0;
  b.apply(x, 1, &y);
  EXPECT_EQ(y, 23);
  EXPECT_EQ(b.n(), 1);
  EXPECT_EQ(b.k(), 2);
}

}  // namespace
}  // namespace baton::kernels
