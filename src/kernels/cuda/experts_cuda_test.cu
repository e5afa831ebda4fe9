#include <bit>

#include "kernels/cuda/cuda_testing.h"

namespace baton::kernels::cuda {
namespace {

Routing routing_of(int experts, int each, int groups, int kept, Routing::Score score, Routing::TopK topk) {
  Routing r;
  r.experts = experts;
  r.experts_per_token = each;
  r.groups = groups;
  r.groups_kept = kept;
  r.score = score;
  r.topk = topk;
  return r;
}

TEST_F(OnACard, RouteIsTheReferences) {
  using enum Routing::Score;
  using enum Routing::TopK;
  std::vector<Routing> cases{routing_of(64, 6, 1, 1, kSoftmax, kGreedy),
                             routing_of(160, 6, 8, 3, kSoftmax, kGroupLimited),
                             routing_of(256, 8, 8, 4, kSigmoid, kNoauxTc), routing_of(20, 3, 5, 2, kSigmoid, kNoauxTc),
                             routing_of(7, 7, 1, 1, kSoftmax, kGreedy)};
  cases[1].routed_scale = 16;
  cases[2].routed_scale = 2.5;
  cases[2].normalize = true;
  cases[3].normalize = true;
  cases[3].routed_scale = 3;
  cases[3].scale_normalized = false;
  for (const Routing& routing : cases) {
    SCOPED_TRACE(routing.experts);
    constexpr int64_t kRows = 37;
    const auto logits = random_values<float>(kRows * routing.experts, 3), bias = random_values<float>(routing.experts);
    const bool biased = routing.topk == kNoauxTc;
    const size_t choices = kRows * routing.experts_per_token;
    const OnCard<float> logits_card(logits), bias_card(bias), weight(choices);
    const OnCard<int32_t> expert(choices);
    std::vector<int32_t> expected(choices);
    std::vector<float> expected_weight(choices);
    route_ref(routing, logits.data(), biased ? bias.data() : nullptr, kRows, expected.data(), expected_weight.data());
    route(nullptr, routing, logits_card.data(), biased ? bias_card.data() : nullptr, kRows, expert.data(),
          weight.data());
    EXPECT_EQ(expert.read(), expected);
    EXPECT_CLOSE(float, weight.floats(), expected_weight);
  }
}

template <class T>
class ExpertsOnCard : public OnACardAs<T> {};
TYPED_TEST_SUITE(ExpertsOnCard, Elements);

// (rows, choices). `crowd` of the rows choose expert `first` first, all alike.
std::vector<int32_t> random_choices(int64_t rows, int experts, int choices, int first = 0, int64_t crowd = 0) {
  static Random random(entropy());
  std::vector<int32_t> expert;
  for (int64_t r = 0; r < rows; ++r) {
    std::vector<int32_t> numbers(experts);
    std::iota(numbers.begin(), numbers.end(), 0);
    for (int i = 0; i < choices; ++i) {
      const int from = r < crowd && i == 0 ? first : i + static_cast<int>(random.below(experts - i));
      std::swap(numbers[i], numbers[from]);
      expert.push_back(numbers[i]);
    }
  }
  return expert;
}

template <class T, class W = T>
void expect_experts(int64_t rows, int experts_all, int first, int local, int choices, int64_t hidden, int64_t width,
                    bool add, int64_t crowd, bool rounds_rows = false) {
  SCOPED_TRACE(testing::Message() << rows << " rows of " << hidden << ", width " << width);
  const std::vector<int32_t> expert = random_choices(rows, experts_all, choices, first, crowd);
  const auto weight = random_values<float>(rows * choices);
  const float scale = 2 / std::sqrt(static_cast<float>(hidden));
  const auto x = random_values<T>(rows * hidden), y = random_values<T>(rows * hidden, 0.1F);
  std::vector<float> gate_up, down;
  std::vector<W> up_values, down_values;
  Fp8Stack up_stack, down_stack;
  if constexpr (std::is_same_v<W, fp8>) {
    // Where the gate ends within a block of 128 rows, fewer have a scale in common.
    up_stack = random_fp8(local, 2 * width, hidden, scale, std::min(7, std::countr_zero(static_cast<uint64_t>(width))));
    down_stack = random_fp8(local, hidden, width, scale);
    gate_up = up_stack.floats;
    down = down_stack.floats;
    up_values = up_stack.values;
    down_values = down_stack.values;
  } else {
    gate_up = random_values<T>(local * 2 * width * hidden, scale);
    down = random_values<T>(local * hidden * width, scale);
    for (const float v : gate_up) up_values.push_back(rounded<W>(v));
    for (const float v : down) down_values.push_back(rounded<W>(v));
  }
  std::vector<float> expected = add ? y : std::vector<float>(rows * hidden);
  experts_ref(x.data(), rows, hidden, expert.data(), weight.data(), choices, first, local, width, gate_up.data(),
              down.data(), expected.data());

  const OnCard<T> x_card(x), activated(rows * choices * width), out(rows * choices * hidden), y_poisoned(rows * hidden),
      y_sum(y);
  const OnCard<W> gate_up_card(up_values), down_card(down_values);
  const OnCard<int32_t> expert_card(expert), offset(local + 1), pair_of(rows * choices), slot_of(rows * choices);
  const OnCard<float> weight_card(weight), up_scales(up_stack.scales), down_scales(down_stack.scales);
  ExpertBank<T, W> bank;
  if constexpr (std::is_same_v<W, fp8>) {
    bank.gate_up = {up_stack.layout, gate_up_card.data(), up_scales.data()};
    bank.down = {down_stack.layout, down_card.data(), down_scales.data()};
  } else {
    bank.gate_up = gate_up_card.data();
    bank.down = down_card.data();
  }
  bank.experts = experts_all;
  bank.first = first;
  bank.local = local;
  bank.hidden = hidden;
  bank.width = width;
  const ExpertSlots slots{offset.data(), pair_of.data(), slot_of.data()};
  size_t fp8_bytes = 0;
  if constexpr (std::is_same_v<W, fp8>)
    if (rounds_rows) fp8_bytes = expert_fp8_bytes(rows, choices, bank);
  const OnCard<uint8_t> in_fp8(fp8_bytes);
  const OnCard<T>& answer = add ? y_sum : y_poisoned;
  experts<T, W>(nullptr, x_card.data(), rows, expert_card.data(), weight_card.data(), choices, slots, bank,
                activated.data(), out.data(), add, answer.data(), in_fp8.size() > 0 ? in_fp8.data() : nullptr);
  // Where x and activations are rounded to fp8, by as much as that.
  if (in_fp8.size() > 0) {
    EXPECT_LE(error_of(answer.floats(), expected), 0.06);
  } else {
    EXPECT_CLOSE(T, answer.floats(), expected);
  }
}

TYPED_TEST(ExpertsOnCard, AreTheReferences) {
  using T = TypeParam;
  expect_experts<T>(1, 8, 0, 8, 3, 256, 192, false, 0);
  expect_experts<T>(5, 8, 0, 8, 2, 136, 72, true, 5);
  expect_experts<T>(20, 8, 2, 4, 3, 256, 192, false, 0);
  expect_experts<T>(60, 8, 0, 8, 2, 64, 1408, true, 60);
  // Two slots an expert on average, with all of them in use or one with many.
  expect_experts<T>(8, 8, 0, 8, 2, 256, 192, false, 8);
  expect_experts<T>(20, 20, 0, 20, 2, 136, 72, true, 20);
}

TEST_F(OnACard, ExpertsOfFp8WeightsAreTheReferences) {
  expect_experts<bf16, fp8>(1, 8, 0, 8, 3, 256, 192, false, 0);
  expect_experts<bf16, fp8>(5, 8, 2, 4, 2, 144, 80, true, 5);
  expect_experts<bf16, fp8>(60, 8, 0, 8, 2, 64, 1408, true, 60);
  expect_experts<bf16, fp8>(7, 8, 0, 8, 2, 136, 40, false, 0);
}

// Enough rows an expert for the grouped products, some experts with none, odd sizes, another rank's experts.
TYPED_TEST(ExpertsOnCard, OfManyRowsAreTheReferences) {
  using T = TypeParam;
  expect_experts<T>(200, 8, 0, 8, 3, 256, 192, true, 0);
  expect_experts<T>(300, 6, 0, 6, 2, 64, 64, false, 300);
  expect_experts<T>(150, 4, 1, 2, 2, 328, 136, false, 0);
}

TEST_F(OnACard, ManyRowsOfExpertsInFp8AreNearTheReferences) {
  expect_experts<bf16, fp8>(400, 8, 0, 8, 3, 256, 192, true, 0, true);
  expect_experts<bf16, fp8>(600, 6, 0, 6, 2, 64, 64, false, 600, true);
  expect_experts<bf16, fp8>(300, 4, 1, 2, 2, 328, 136, false, 0, true);
}

// A gated FFN of x added to y.
void add_ffn(const std::vector<float>& x, int64_t rows, int64_t hidden, int64_t width,
             const std::vector<float>& gate_up, const std::vector<float>& down, std::vector<float>& y) {
  std::vector<float> up(rows * 2 * width), activated(rows * width), out(rows * hidden);
  linear_ref(gate_up.data(), 2 * width, hidden, Compute::kF32, x.data(), hidden, rows, up.data(), 2 * width);
  silu_mul_ref(up.data(), rows, width, activated.data());
  linear_ref(down.data(), hidden, width, Compute::kF32, activated.data(), width, rows, out.data(), hidden);
  for (size_t i = 0; i < y.size(); ++i) y[i] += out[i];
}

void expect_few_rows_moe(int64_t rows, int experts_all, int first, int local, int choices, int64_t hidden,
                         int64_t width, int64_t shared_width) {
  SCOPED_TRACE(testing::Message() << rows << " rows of " << hidden << ", widths " << width << ", " << shared_width);
  const std::vector<int32_t> expert = random_choices(rows, experts_all, choices);
  const float scale = 2 / std::sqrt(static_cast<float>(hidden));
  const auto x = random_values<bf16>(rows * hidden), weight = random_values<float>(rows * choices),
             gate_up = random_values<bf16>(local * 2 * width * hidden, scale),
             down = random_values<bf16>(local * hidden * width, scale),
             shared_up = random_values<bf16>(2 * shared_width * hidden, scale),
             shared_down = random_values<bf16>(hidden * shared_width, scale);
  std::vector<float> expected(rows * hidden);
  add_ffn(x, rows, hidden, shared_width, shared_up, shared_down, expected);
  experts_ref(x.data(), rows, hidden, expert.data(), weight.data(), choices, first, local, width, gate_up.data(),
              down.data(), expected.data());
  const OnCard<bf16> x_card(x), up_card(gate_up), down_card(down), shared_up_card(shared_up),
      shared_down_card(shared_down), activated(rows * choices * width), shared_activated(rows * shared_width),
      y(rows * hidden);
  const OnCard<float> weight_card(weight);
  const OnCard<int32_t> expert_card(expert);
  const ExpertBank<bf16> bank{up_card.data(), down_card.data(), experts_all, first, local, hidden, width};
  ASSERT_TRUE(few_rows_moe(nullptr, x_card.data(), rows, expert_card.data(), weight_card.data(), choices,
                           {shared_up_card.data(), shared_down_card.data(), shared_width}, bank, activated.data(),
                           shared_activated.data(), y.data()));
  EXPECT_CLOSE(bf16, y.floats(), expected);
}

TEST_F(OnACard, FewRowsOfAWholeMoeAreTheReferences) {
  expect_few_rows_moe(1, 64, 0, 64, 6, 2048, 1408, 2816);
  expect_few_rows_moe(5, 8, 0, 8, 6, 256, 192, 192);
  expect_few_rows_moe(4, 16, 4, 8, 8, 136, 72, 200);
  expect_few_rows_moe(8, 4, 0, 4, 4, 328, 64, 24);
  expect_few_rows_moe(1, 8, 6, 2, 2, 128, 64, 1000);
}

TEST_F(OnACard, RouteBehindTheNormIsTheReferences) {
  using enum Routing::Score;
  using enum Routing::TopK;
  std::vector<Routing> cases{routing_of(64, 6, 1, 1, kSoftmax, kGreedy), routing_of(256, 8, 8, 4, kSigmoid, kNoauxTc),
                             routing_of(7, 3, 1, 1, kSoftmax, kGreedy)};
  for (const Routing& routing : cases) {
    for (const int64_t n : {2048, 7168, 40}) {
      SCOPED_TRACE(testing::Message() << routing.experts << " experts, " << n);
      constexpr int64_t kRows = 13;
      const auto delta = random_values<bf16>(kRows * n), residual = random_values<bf16>(kRows * n),
                 norm = random_values<float>(n), bias = random_values<float>(routing.experts),
                 gate = random_values<bf16>(routing.experts * n, 4 / std::sqrt(static_cast<float>(n)));
      const bool biased = routing.topk == kNoauxTc;
      const size_t choices = kRows * routing.experts_per_token;
      const OnCard<bf16> delta_card(delta), residual_card(residual), same(residual), y(kRows * n), y_plain(kRows * n),
          gate_card(gate);
      const OnCard<float> norm_card(norm), bias_card(bias), logits(kRows * routing.experts), weight(choices);
      const OnCard<int32_t> expert(choices);
      ASSERT_TRUE(add_norm_route(nullptr, delta_card.data(), residual_card.data(), norm_card.data(), 1e-5F, kRows, n,
                                 y.data(), gate_card.data(), routing, biased ? bias_card.data() : nullptr,
                                 logits.data(), expert.data(), weight.data()));
      add_rms_norm<bf16>(nullptr, delta_card.data(), same.data(), norm_card.data(), 1e-5F, kRows, n, y_plain.data());
      EXPECT_EQ(residual_card.floats(), same.floats());
      EXPECT_CLOSE(bf16, y.floats(), y_plain.floats());
      // Each step by what the one before it gave.
      std::vector<float> expected(kRows * routing.experts), expected_weight(choices);
      linear_ref(gate.data(), routing.experts, n, Compute::kF32, y.floats().data(), n, kRows, expected.data(),
                 routing.experts);
      EXPECT_CLOSE(float, logits.floats(), expected);
      std::vector<int32_t> expected_expert(choices);
      route_ref(routing, logits.floats().data(), biased ? bias.data() : nullptr, kRows, expected_expert.data(),
                expected_weight.data());
      EXPECT_EQ(expert.read(), expected_expert);
      EXPECT_CLOSE(float, weight.floats(), expected_weight);
    }
  }
}

}  // namespace
}  // namespace baton::kernels::cuda
