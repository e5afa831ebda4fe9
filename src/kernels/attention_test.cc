#include <gtest/gtest.h>

#include <limits>
#include <thread>

#include "kernels/cpu/context_blocks.h"
#include "kernels/kernel_testing.h"
#include "kernels/kernels.h"
#include "kernels/kv_testing.h"
#include "kernels/reference.h"

namespace baton::kernels {

using tensor::DType;

namespace {

// Outputs are averages of values in [-1, 1). float32 differs from double by rounding; kBF16 rounds queries and
// probabilities to 8 bits.
double tolerance(Compute compute) { return compute == Compute::kF32 ? 1e-5 : 2e-2; }

constexpr Compute kComputes[] = {Compute::kF32, Compute::kBF16};

void fill(const TestPool& pool, const KvShape& shape, int64_t tokens) {
  const auto k = random_floats(tokens * shape.heads * shape.k_dim, 11),
             v = random_floats(tokens * shape.heads * shape.v_dim, 12);
  write_kv(pool.view(), one_sequence(0, tokens), shape.heads, k.data(), int64_t{shape.heads} * shape.k_dim, v.data(),
           int64_t{shape.heads} * shape.v_dim);
}

struct GqaCase {
  int page_tokens;
  DType dtype;
  int k_dim, v_dim;
  std::vector<int> kv_head_of;
  int64_t begin, m;
};

void expect_gqa(const GqaCase& c) {
  const KvShape shape{c.page_tokens, 3, c.k_dim, c.v_dim, c.dtype};
  const TestPool pool(shape, c.begin + c.m);
  fill(pool, shape, c.begin + c.m);
  const int heads = static_cast<int>(c.kv_head_of.size());
  const int64_t stride = heads * c.k_dim + 3;
  auto q = random_floats(c.m * stride, 13);
  for (float& x : q) x *= 4;  // scores far enough apart that the running maximum moves
  std::vector<float> expected(c.m * heads * c.v_dim), actual(expected.size());
  gqa_attention_ref(q.data(), stride, one_sequence(c.begin, c.m), heads, c.kv_head_of.data(), pool.view(), 0.3f,
                    expected.data());
  for (const Compute compute : kComputes) {
    SCOPED_TRACE(fmt::format("page {} {} k {} v {} heads {} begin {} m {} {}", c.page_tokens,
                             tensor::dtype_name(c.dtype), c.k_dim, c.v_dim, heads, c.begin, c.m,
                             compute == Compute::kF32 ? "f32" : "bf16"));
    gqa_attention(q.data(), stride, one_sequence(c.begin, c.m), heads, c.kv_head_of.data(), pool.view(), 0.3f, compute,
                  actual.data());
    expect_close(actual, expected, tolerance(compute) * (c.k_dim > 100 ? 2 : 1));
  }
}

TEST(GqaAttention, EqualsReferenceOnEveryTarget) {
  const std::vector<int> one = {2}, mha = {0, 1, 2}, pairs = {0, 0, 1, 1}, mixed = {1, 0, 1, 2, 1, 1, 1, 0},
                         wide(20, 1);
  for_each_target([&] {
    for (const int page_tokens : {1, 3, 16, 64, 128})
      for (const DType dtype : {DType::kBF16, DType::kF32, DType::kF8E4M3}) {
        expect_gqa({page_tokens, dtype, 32, 32, pairs, 0, 1});
        expect_gqa({page_tokens, dtype, 32, 32, mixed, 69, 1});
        expect_gqa({page_tokens, dtype, 24, 20, mha, 37, 2});
        expect_gqa({page_tokens, dtype, 48, 16, wide, 130, 5});
        expect_gqa({page_tokens, dtype, 7, 5, one, 3, 17});
        expect_gqa({page_tokens, dtype, 64, 64, mixed, 5, 64});
      }
    expect_gqa({16, DType::kBF16, 128, 128, pairs, 127, 3});
    expect_gqa({64, DType::kBF16, 32, 32, mha, 0, 300});
    expect_gqa({64, DType::kBF16, 96, 80, one, 255, 1});
    expect_gqa({64, DType::kBF16, 32, 32, one, 10, 0});
  });
}

TEST(MlaAttention, EqualsReferenceOnEveryTarget) {
  struct Case {
    int page_tokens, heads, lora, rope;
    DType dtype;
    int64_t begin, m;
  };
  const Case cases[] = {{64, 16, 64, 16, DType::kBF16, 200, 1},  {64, 2, 64, 16, DType::kBF16, 200, 1},
                        {1, 4, 32, 16, DType::kF32, 9, 1},       {3, 4, 40, 12, DType::kBF16, 31, 4},
                        {128, 5, 50, 7, DType::kF32, 0, 17},     {16, 70, 64, 16, DType::kBF16, 64, 2},
                        {64, 16, 512, 64, DType::kBF16, 70, 1},  {16, 3, 64, 16, DType::kF32, 1, 100},
                        {64, 2, 64, 16, DType::kF8E4M3, 200, 1}, {3, 4, 40, 12, DType::kF8E4M3, 31, 4},
                        {64, 16, 512, 64, DType::kF8E4M3, 70, 1}};
  for_each_target([&] {
    for (const Case& c : cases) {
      const KvShape shape{c.page_tokens, 1, c.lora + c.rope, 0, c.dtype};
      const TestPool pool(shape, c.begin + c.m);
      fill(pool, shape, c.begin + c.m);
      auto q = random_floats(c.m * c.heads * shape.k_dim, 14);
      std::vector<float> expected(c.m * c.heads * c.lora), actual(expected.size());
      mla_attention_ref(q.data(), one_sequence(c.begin, c.m), c.heads, c.lora, pool.view(), 0.5f, expected.data());
      for (const Compute compute : kComputes) {
        SCOPED_TRACE(fmt::format("page {} heads {} lora {} rope {} begin {} m {} {}", c.page_tokens, c.heads, c.lora,
                                 c.rope, c.begin, c.m, compute == Compute::kF32 ? "f32" : "bf16"));
        mla_attention(q.data(), one_sequence(c.begin, c.m), c.heads, c.lora, pool.view(), 0.5f, compute, actual.data());
        expect_close(actual, expected, tolerance(compute) * (c.lora > 100 ? 2 : 1));
      }
    }
  });
}

// Context in several blocks, the last ones partly or wholly in the future of some queries.
TEST(AttentionBlock, EqualsReferenceOverAStreamOfBlocks) {
  struct Case {
    int heads, qk_dim, v_dim;
    int64_t begin, m, block;
  };
  const Case cases[] = {{2, 48, 32, 0, 1, 16}, {3, 24, 24, 100, 5, 37},    {1, 32, 16, 50, 130, 64},
                        {2, 7, 5, 3, 17, 8},   {2, 192, 128, 65, 70, 100}, {1, 16, 20, 0, 300, 1000}};
  for_each_target([&] {
    for (const Case& c : cases) {
      const int64_t tokens = c.begin + c.m, rows = c.m * c.heads;
      auto q = random_floats(rows * c.qk_dim, 15);
      for (float& x : q) x *= 3;
      const auto k = random_floats(tokens * c.heads * c.qk_dim, 16), v = random_floats(tokens * c.heads * c.v_dim, 17);
      const auto run = [&](const auto& block_fn, std::vector<float>& acc, std::vector<float>& top,
                           std::vector<float>& sum) {
        acc.assign(rows * c.v_dim, 0);
        top.assign(rows, -std::numeric_limits<float>::infinity());
        sum.assign(rows, 0);
        for (int64_t at = 0; at < tokens; at += c.block)
          block_fn(std::min(c.block, tokens - at), at, k.data() + at * c.heads * c.qk_dim,
                   v.data() + at * c.heads * c.v_dim);
      };
      std::vector<float> acc, top, sum, expected, top_ref, sum_ref;
      run(
          [&](int64_t n, int64_t at, const float* kb, const float* vb) {
            attention_block_ref(q.data(), c.begin, c.m, c.heads, c.qk_dim, c.v_dim, kb, vb, at, n, 0.2f,
                                expected.data(), top_ref.data(), sum_ref.data());
          },
          expected, top_ref, sum_ref);
      attention_finish_ref(c.m, c.heads, c.v_dim, expected.data(), sum_ref.data());
      for (const Compute compute : kComputes) {
        SCOPED_TRACE(fmt::format("heads {} qk {} v {} begin {} m {} block {} {}", c.heads, c.qk_dim, c.v_dim, c.begin,
                                 c.m, c.block, compute == Compute::kF32 ? "f32" : "bf16"));
        run(
            [&](int64_t n, int64_t at, const float* kb, const float* vb) {
              attention_block(q.data(), c.begin, c.m, c.heads, c.qk_dim, c.v_dim, kb, vb, at, n, 0.2f, compute,
                              acc.data(), top.data(), sum.data());
            },
            acc, top, sum);
        if (compute == Compute::kF32) {
          expect_close(top, top_ref, 1e-5);
          expect_close(sum, sum_ref, 2e-5);
        }
        attention_finish(c.m, c.heads, c.v_dim, acc.data(), sum.data());
        expect_close(acc, expected, tolerance(compute) * (c.qk_dim > 100 ? 2 : 1));
      }
    }
  });
}

// A prompt may be cut into chunks anywhere: with tiles of rows, the bits are the same.
TEST(GqaAttention, ChunksGiveTheSameBits) {
  const KvShape shape{16, 1, 32, 32, DType::kBF16};
  const int64_t m = 200;
  const std::vector<int> heads(2, 0);
  const TestPool pool(shape, m);
  fill(pool, shape, m);
  const auto q = random_floats(m * 64, 18);
  for (const Compute compute : kComputes) {
    std::vector<float> whole(m * 64), cut(m * 64);
    gqa_attention(q.data(), 64, one_sequence(0, m), 2, heads.data(), pool.view(), 0.2f, compute, whole.data());
    for (int64_t at = 0, n = 2; at < m; at += n, n = std::min<int64_t>(n + 7, m - at))
      gqa_attention(q.data() + at * 64, 64, one_sequence(at, n), 2, heads.data(), pool.view(), 0.2f, compute,
                    cut.data() + at * 64);
    EXPECT_EQ(whole, cut);
  }
}

// Sequences of a batch, one after another in rows and in the block table; some decode, some prefill.
struct Batch {
  explicit Batch(int page_tokens) {
    const std::pair<int64_t, int64_t> begin_and_tokens[] = {{70, 1}, {0, 90}, {0, 1}, {129, 3}, {64, 1}, {500, 1}};
    for (const auto& [begin, tokens] : begin_and_tokens) {
      sequences.push_back({rows, begin, tokens, pages});
      rows += tokens;
      pages += (begin + tokens + page_tokens - 1) / page_tokens;
    }
  }
  std::vector<PagedRows> sequences;
  int64_t rows = 0, pages = 0;
};

TEST(GqaAttention, ABatchEqualsTheReferenceAndItsSequencesAlone) {
  const Batch batch(16);
  const KvShape shape{16, 2, 32, 32, DType::kBF16};
  const TestPool pool(shape, batch.pages * 16);
  fill(pool, shape, batch.pages * 16);
  const std::vector<int> heads = {0, 0, 0, 1, 1, 1};
  const int64_t width = 6 * 32, stride = width + 5;
  const auto q = random_floats(batch.rows * stride, 20);
  std::vector<float> expected(batch.rows * width);
  gqa_attention_ref(q.data(), stride, batch.sequences, 6, heads.data(), pool.view(), 0.2f, expected.data());
  for (const Compute compute : kComputes)
    for (const int threads : {1, 3}) {
      std::vector<float> together(expected.size()), alone(expected.size());
      set_gemm_threads(threads);
      gqa_attention(q.data(), stride, batch.sequences, 6, heads.data(), pool.view(), 0.2f, compute, together.data());
      set_gemm_threads(1);
      for (const PagedRows& s : batch.sequences)
        gqa_attention(q.data(), stride, {&s, 1}, 6, heads.data(), pool.view(), 0.2f, compute, alone.data());
      EXPECT_EQ(together, alone);
      expect_close(together, expected, tolerance(compute));
    }
}

TEST(MlaAttention, ABatchEqualsTheReferenceAndItsSequencesAlone) {
  const Batch batch(16);
  const KvShape shape{16, 1, 48 + 16, 0, DType::kBF16};
  const TestPool pool(shape, batch.pages * 16);
  fill(pool, shape, batch.pages * 16);
  const auto q = random_floats(batch.rows * 5 * 64, 21);
  std::vector<float> expected(batch.rows * 5 * 48);
  mla_attention_ref(q.data(), batch.sequences, 5, 48, pool.view(), 0.2f, expected.data());
  for (const Compute compute : kComputes)
    for (const int threads : {1, 3}) {
      std::vector<float> together(expected.size()), alone(expected.size());
      set_gemm_threads(threads);
      mla_attention(q.data(), batch.sequences, 5, 48, pool.view(), 0.2f, compute, together.data());
      set_gemm_threads(1);
      for (const PagedRows& s : batch.sequences)
        mla_attention(q.data(), {&s, 1}, 5, 48, pool.view(), 0.2f, compute, alone.data());
      EXPECT_EQ(together, alone);
      expect_close(together, expected, tolerance(compute));
    }
}

TEST(MlaExpandedAttention, ABatchEqualsTheReference) {
  const Batch batch(16);
  constexpr int kHeads = 3, kNope = 24, kRope = 8, kV = 20, kLora = 40;
  const KvShape shape{16, 1, kLora + kRope, 0, DType::kBF16};
  const TestPool pool(shape, batch.pages * 16);
  fill(pool, shape, batch.pages * 16);
  const auto q = random_floats(batch.rows * kHeads * (kNope + kRope), 22);
  const auto key = random_floats(kHeads * kNope * kLora, 23), value = random_floats(kHeads * kV * kLora, 24);
  std::vector<float> expected(batch.rows * kHeads * kV), actual(expected.size());
  mla_expanded_attention_ref(q.data(), batch.sequences, key.data(), value.data(), kHeads, kNope, kRope, kV, pool.view(),
                             0.1f, expected.data());
  for_each_target([&] {
    for (const Compute compute : kComputes) {
      const Linear key_up(tensor::slice_of(key, kHeads * kNope, kLora), compute);
      const Linear value_up(tensor::slice_of(value, kHeads * kV, kLora), compute);
      const ExpansionLayers up{&key_up, &value_up, kHeads, kNope, kRope, kV};
      mla_expanded_attention(q.data(), batch.sequences, up, pool.view(), 0.1f, compute, actual.data());
      expect_close(actual, expected, tolerance(compute) * 2);
    }
  });
}

TEST(CopyColumns, LeavesTheRestAlone) {
  const float x[] = {1, 2, 3, 4, 5, 6};
  float y[] = {0, 0, 0, 0, 0, 0, 0, 0};
  copy_columns(x, 3, 2, 2, y + 1, 4);
  const float expected[] = {0, 1, 2, 0, 0, 4, 5, 0};
  for (int i = 0; i < 8; ++i) EXPECT_EQ(y[i], expected[i]) << i;
}

TEST(GqaAttention, ManyThreadsAtOnce) {
  const KvShape shape{64, 2, 32, 32, DType::kBF16};
  const int64_t begin = 100, m = 40;
  const std::vector<int> heads = {0, 0, 1, 1};
  const TestPool pool(shape, begin + m);
  fill(pool, shape, begin + m);
  const auto q = random_floats(m * 128, 19);
  std::vector<std::vector<float>> results(8, std::vector<float>(m * 128));
  std::vector<std::thread> threads;
  threads.reserve(results.size());
  for (auto& out : results)
    threads.emplace_back([&] {
      for (int i = 0; i < 10; ++i)
        gqa_attention(q.data(), 128, one_sequence(begin, m), 4, heads.data(), pool.view(), 0.2f, Compute::kF32,
                      out.data());
    });
  for (std::thread& thread : threads) thread.join();
  for (const auto& out : results) EXPECT_EQ(out, results[0]);
  std::vector<float> expected(m * 128);
  gqa_attention_ref(q.data(), 128, one_sequence(begin, m), 4, heads.data(), pool.view(), 0.2f, expected.data());
  expect_close(results[0], expected, 1e-5);
}

}  // namespace
}  // namespace baton::kernels
