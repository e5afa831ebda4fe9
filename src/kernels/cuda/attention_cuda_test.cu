#include "kernels/backend.h"
#include "kernels/cuda/cuda_testing.h"

namespace baton::kernels::cuda {
namespace {

// Pages of two layers, of which the second is used, in random order, the rest poisoned; on the host for the reference
// and on the card.
template <class Kv>
class Pools {
 public:
  Pools(std::vector<PagedRows> rows, int page_tokens, int heads, int k_dim, int v_dim) : rows_(std::move(rows)) {
    constexpr auto kType = std::is_same_v<Kv, bf16>  ? tensor::DType::kBF16
                           : std::is_same_v<Kv, fp8> ? tensor::DType::kF8E4M3
                                                     : tensor::DType::kF32;
    const size_t layer = static_cast<size_t>(page_tokens) * (k_dim + v_dim) * sizeof(Kv);
    host_.layer_offset = layer;
    host_.head_stride = 2 * layer + 32;
    host_.page_stride = host_.head_stride * heads + 16;
    host_.v_offset = static_cast<size_t>(page_tokens) * k_dim * sizeof(Kv);
    host_.page_tokens = page_tokens;
    host_.k_dim = k_dim;
    host_.v_dim = v_dim;
    host_.dtype = kType;
    int64_t count = 0;
    for (PagedRows& s : rows_) {
      s.first_page = count;
      count += (s.begin + s.tokens + page_tokens - 1) / page_tokens;
      context_.push_back(s.begin + s.tokens);
    }
    pages_.resize(count + 3);
    std::iota(pages_.begin(), pages_.end(), 0U);
    Random random(entropy());
    for (size_t i = pages_.size(); i > 1; --i) std::swap(pages_[i - 1], pages_[random.below(i)]);
    bytes_.assign(pages_.size() * host_.page_stride, std::byte{0xff});
    host_.pool = bytes_.data();
    host_.pages = pages_.data();
    for (size_t s = 0; s < rows_.size(); ++s) {
      const auto k = random_values<Kv>(context_[s] * heads * k_dim), v = random_values<Kv>(context_[s] * heads * v_dim);
      const PagedRows whole{0, 0, context_[s], rows_[s].first_page};
      write_kv_ref(host_, {&whole, 1}, heads, k.data(), int64_t{heads} * k_dim, v_dim == 0 ? nullptr : v.data(),
                   int64_t{heads} * v_dim);
    }
    pool_card_ = std::make_unique<OnCard<std::byte>>(bytes_);
    pages_card_ = std::make_unique<OnCard<uint32_t>>(pages_);
    rows_card_ = std::make_unique<OnCard<PagedRows>>(rows_);
    card_ = host_;
    card_.pool = pool_card_->data();
    card_.pages = pages_card_->data();
  }

  [[nodiscard]] const PagedKv& host() const { return host_; }
  [[nodiscard]] const PagedKv& card() const { return card_; }
  [[nodiscard]] const std::vector<PagedRows>& rows() const { return rows_; }
  [[nodiscard]] CardSequences sequences() const {
    int64_t most = 0;
    for (const PagedRows& s : rows_) most = std::max(most, s.tokens);
    return {rows_card_->data(), static_cast<int>(rows_.size()), most};
  }
  [[nodiscard]] int64_t tokens() const {
    int64_t all = 0;
    for (const PagedRows& s : rows_) all += s.tokens;
    return all;
  }
  [[nodiscard]] const std::vector<int64_t>& context() const { return context_; }
  [[nodiscard]] std::vector<std::byte>& bytes() { return bytes_; }
  [[nodiscard]] std::vector<std::byte> card_bytes() const { return pool_card_->read(); }

 private:
  std::vector<PagedRows> rows_;
  std::vector<int64_t> context_;
  PagedKv host_, card_;
  std::vector<std::byte> bytes_;
  std::vector<uint32_t> pages_;
  std::unique_ptr<OnCard<std::byte>> pool_card_;
  std::unique_ptr<OnCard<uint32_t>> pages_card_;
  std::unique_ptr<OnCard<PagedRows>> rows_card_;
};

// Entries of one token each, or of several, with these begins.
std::vector<PagedRows> entries(const std::vector<std::pair<int64_t, int64_t>>& begin_and_tokens) {
  std::vector<PagedRows> rows;
  int64_t row = 0;
  for (const auto& [begin, tokens] : begin_and_tokens) {
    rows.push_back({row, begin, tokens, 0});
    row += tokens;
  }
  return rows;
}
std::vector<PagedRows> single_tokens(const std::vector<int64_t>& begins) {
  std::vector<std::pair<int64_t, int64_t>> all;
  for (const int64_t begin : begins) all.emplace_back(begin, 1);
  return entries(all);
}
const std::vector<int64_t> kBegins{0, 700, 63, 64, 65, 15, 1500, 31, 32};
const std::vector<std::pair<int64_t, int64_t>> kChunks{{0, 1}, {0, 200}, {130, 70}, {500, 1}, {64, 129}, {17, 64}};

TEST_F(OnACard, WrittenKvIsTheReferencesByteForByte) {
  for (const int page_tokens : {1, 16, 128}) {
    const auto write = [&]<class T, class Kv>(int heads, int k_dim, int v_dim) {
      Pools<Kv> pools(entries({{5, 40}, {0, 1}, {127, 130}}), page_tokens, heads, k_dim, v_dim);
      const int64_t k_stride = int64_t{heads} * k_dim + 8, v_stride = int64_t{heads} * v_dim + 16;
      const auto k = random_values<T>(pools.tokens() * k_stride), v = random_values<T>(pools.tokens() * v_stride);
      const OnCard<T> k_card(k), v_card(v);
      write_kv<T>(nullptr, pools.card(), pools.sequences(), heads, k_card.data(), k_stride,
                  v_dim == 0 ? nullptr : v_card.data(), v_stride);
      write_kv_ref(pools.host(), pools.rows(), heads, k.data(), k_stride, v.data(), v_stride);
      EXPECT_TRUE(pools.card_bytes() == pools.bytes()) << page_tokens << " " << heads;
    };
    write.operator()<bf16, bf16>(2, 128, 128);
    write.operator()<bf16, bf16>(1, 576, 0);
    write.operator()<bf16, bf16>(3, 20, 12);
    write.operator()<float, bf16>(2, 64, 64);
    write.operator()<float, float>(2, 64, 64);
    write.operator()<bf16, float>(1, 40, 0);
    write.operator()<bf16, fp8>(2, 128, 128);
    write.operator()<bf16, fp8>(1, 576, 0);
    write.operator()<float, fp8>(3, 20, 12);
  }
}

template <class T, class Kv>
void expect_gqa(bool decode, int page_tokens, const std::vector<int>& kv_head_of, int dim) {
  SCOPED_TRACE(testing::Message() << "decode " << decode << " page " << page_tokens << " heads " << kv_head_of.size()
                                  << " dim " << dim);
  QueryHeads heads{static_cast<int>(kv_head_of.size()), kv_head_of.back() + 1, 0, nullptr};
  for (int h = 0; h < heads.kv_heads; ++h)
    heads.group_max = std::max(heads.group_max, static_cast<int>(std::count(kv_head_of.begin(), kv_head_of.end(), h)));
  const Pools<Kv> pools(decode ? single_tokens(kBegins) : entries(kChunks), page_tokens, heads.kv_heads, dim, dim);
  const int64_t m = pools.tokens(), stride = int64_t{heads.count} * dim + 24;
  const auto q = random_values<T>(m * stride, 2);
  const float scale = 2 / std::sqrt(static_cast<float>(dim));
  std::vector<float> expected(m * heads.count * dim);
  gqa_attention_ref(q.data(), stride, pools.rows(), heads.count, kv_head_of.data(), pools.host(), scale,
                    expected.data());
  const OnCard<T> q_card(q), out(m * heads.count * dim);
  const OnCard<int> kv_head_card(kv_head_of);
  heads.kv_head_of = kv_head_card.data();
  if (decode) {
    const OnCard<int32_t> first_tile(pools.rows().size() + 1);
    const OnCard<std::byte> scratch(
        decode_scratch_bytes(static_cast<int>(pools.rows().size()), heads.kv_heads, heads.group_max, dim));
    plan_decode(nullptr, pools.sequences(), first_tile.data());
    gqa_decode<T>(nullptr, q_card.data(), stride, pools.sequences(), {first_tile.data()}, heads, pools.card(), scale,
                  scratch.data(), out.data());
    EXPECT_CLOSE(T, out.floats(), expected);
  } else {
    gqa_prefill<T>(nullptr, q_card.data(), stride, pools.sequences(), heads, pools.card(), scale, out.data());
    EXPECT_CLOSE(T, out.floats(), expected);
  }
}

TEST_F(OnACard, GqaIsTheReferences) {
  const std::vector<int> llama{0, 0, 0, 0, 1, 1, 1, 1}, uneven{0, 1, 1, 2}, many(20, 0);
  for (const bool decode : {true, false}) {
    for (const int page_tokens : {1, 7, 64, 128}) {
      expect_gqa<bf16, bf16>(decode, page_tokens, llama, 128);
      expect_gqa<bf16, bf16>(decode, page_tokens, uneven, 64);
    }
    expect_gqa<bf16, bf16>(decode, 16, many, 128);
    expect_gqa<bf16, bf16>(decode, 16, uneven, 48);
    expect_gqa<bf16, float>(decode, 16, llama, 64);
    expect_gqa<float, float>(decode, 16, uneven, 128);
    expect_gqa<float, bf16>(decode, 16, uneven, 32);
    for (const int page_tokens : {1, 7, 64}) {
      expect_gqa<bf16, fp8>(decode, page_tokens, llama, 128);
      expect_gqa<bf16, fp8>(decode, page_tokens, uneven, 64);
    }
    expect_gqa<bf16, fp8>(decode, 16, many, 128);
    expect_gqa<bf16, fp8>(decode, 16, uneven, 48);
    expect_gqa<float, fp8>(decode, 16, uneven, 32);
  }
}

template <class T, class Kv>
void expect_mla_decode(int page_tokens, int heads, int lora, int rope, const std::vector<int64_t>& begins = kBegins) {
  SCOPED_TRACE(testing::Message() << "page " << page_tokens << " heads " << heads << " lora " << lora);
  const Pools<Kv> pools(single_tokens(begins), page_tokens, 1, lora + rope, 0);
  const int64_t m = pools.tokens();
  const auto q = random_values<T>(m * heads * (lora + rope), 2);
  const float scale = 1 / std::sqrt(static_cast<float>(lora + rope));
  std::vector<float> expected(m * heads * lora);
  mla_attention_ref(q.data(), pools.rows(), heads, lora, pools.host(), scale, expected.data());
  const OnCard<T> q_card(q), out(m * heads * lora);
  const OnCard<int32_t> first_tile(pools.rows().size() + 1);
  const OnCard<std::byte> scratch(decode_scratch_bytes(static_cast<int>(pools.rows().size()), 1, heads, lora));
  plan_decode(nullptr, pools.sequences(), first_tile.data());
  mla_decode<T>(nullptr, q_card.data(), pools.sequences(), {first_tile.data()}, heads, lora, pools.card(), scale,
                scratch.data(), out.data());
  EXPECT_CLOSE(T, out.floats(), expected);
}

template <class Kv>
void expect_mla_decode_over() {
  for (const int page_tokens : {1, 7, 64}) expect_mla_decode<bf16, Kv>(page_tokens, 16, 512, 64);
  expect_mla_decode<bf16, Kv>(64, 5, 512, 64);
  expect_mla_decode<bf16, Kv>(16, 40, 512, 64);
  expect_mla_decode<bf16, Kv>(16, 16, 512, 64, {3000});
  expect_mla_decode<bf16, Kv>(16, 16, 512, 64, std::vector<int64_t>(400, 70));
  expect_mla_decode<bf16, Kv>(16, 4, 64, 16);
  expect_mla_decode<float, Kv>(16, 4, 64, 16);
}

TEST_F(OnACard, MlaDecodeIsTheReferences) {
  expect_mla_decode_over<bf16>();
  expect_mla_decode_over<fp8>();
  expect_mla_decode<float, float>(16, 4, 512, 64);
}

template <class T, class Kv>
void expect_mla_prefill(int page_tokens, int heads, int lora, int nope, int rope, int v_dim) {
  SCOPED_TRACE(testing::Message() << "page " << page_tokens << " lora " << lora);
  const Pools<Kv> pools(entries(kChunks), page_tokens, 1, lora + rope, 0);
  const int64_t m = pools.tokens();
  const int qk = nope + rope;
  const auto q = random_values<T>(m * heads * qk, 2), key = random_values<T>(heads * nope * lora, 0.1F),
             value = random_values<T>(heads * v_dim * lora, 0.1F);
  const float scale = 1 / std::sqrt(static_cast<float>(qk));
  std::vector<float> expected(m * heads * v_dim);
  mla_expanded_attention_ref(q.data(), pools.rows(), key.data(), value.data(), heads, nope, rope, v_dim, pools.host(),
                             scale, expected.data());
  std::vector<int32_t> context_first;
  int64_t total = 0;
  for (const int64_t context : pools.context()) {
    context_first.push_back(static_cast<int32_t>(total));
    total += context;
  }
  const OnCard<T> q_card(q), key_card(key), value_card(value), latents(total * (lora + rope)),
      keys(total * heads * nope), values(total * heads * v_dim), out(m * heads * v_dim);
  const OnCard<int32_t> first_card(context_first);
  Products products;
  mla_gather_latents<T>(nullptr, pools.card(), pools.sequences(), 1000, first_card.data(), latents.data());
  products.linear<T, T>(nullptr, key_card.data(), heads * nope, lora, latents.data(), lora + rope, total, keys.data(),
                        heads * nope);
  products.linear<T, T>(nullptr, value_card.data(), heads * v_dim, lora, latents.data(), lora + rope, total,
                        values.data(), heads * v_dim);
  const ExpandedKv<T> expanded{latents.data(), keys.data(), values.data(), first_card.data(), heads, lora,
                               nope,           rope,        v_dim};
  mla_prefill<T>(nullptr, q_card.data(), int64_t{heads} * (nope + rope), pools.sequences(), expanded, scale,
                 out.data());
  EXPECT_CLOSE(T, out.floats(), expected);
}

TEST_F(OnACard, MlaPrefillIsTheReferences) {
  expect_mla_prefill<bf16, bf16>(64, 3, 512, 128, 64, 128);
  expect_mla_prefill<bf16, bf16>(1, 3, 64, 128, 64, 128);
  expect_mla_prefill<bf16, bf16>(16, 2, 64, 32, 16, 24);
  expect_mla_prefill<float, float>(16, 2, 64, 128, 64, 128);
  expect_mla_prefill<float, bf16>(16, 2, 64, 32, 16, 24);
  expect_mla_prefill<bf16, fp8>(64, 3, 512, 128, 64, 128);
  expect_mla_prefill<bf16, fp8>(16, 2, 64, 32, 16, 24);
}

template <class T, class Kv>
void expect_latents(int page_tokens, int heads, int lora, int rope, RopePairs pairs) {
  SCOPED_TRACE(testing::Message() << heads << " heads, " << lora << " + " << rope);
  const int entry = lora + rope, gap = 8;
  Pools<Kv> pools({{0, 3, 1, 0}, {1, 0, 5, 0}, {6, 77, 1, 0}}, page_tokens, 1, entry, 0);
  const int64_t rows = pools.tokens(), stride = entry + gap, q_head = rope + gap, q_stride = heads * q_head;
  constexpr int64_t kAbsorbed = 4;
  const auto entries = random_values<T>(rows * stride), q = random_values<T>(rows * q_stride),
             norm = random_values<float>(lora), cos = random_values<float>(rows * rope / 2),
             sin = random_values<float>(rows * rope / 2);
  const OnCard<T> entries_card(entries), q_card(q), absorbed(kAbsorbed * heads * entry);
  const OnCard<float> norm_card(norm), cos_card(cos), sin_card(sin);
  write_latents<T>(
      nullptr, pools.card(), pools.sequences(), pairs,
      {entries_card.data(), stride, norm_card.data(), 1e-6F, lora, rope, heads, q_card.data(), q_stride, q_head,
       absorbed.data() + lora, kAbsorbed, int64_t{heads} * entry, entry, cos_card.data(), sin_card.data()});
  auto expected = entries, turned = q;
  rms_norm_ref(expected.data(), stride, norm.data(), 1e-6F, rows, lora, expected.data(), stride);
  const auto turn = pairs == RopePairs::kInterleaved ? rope_interleaved_ref : rope_half_ref;
  turn(expected.data() + lora, rows, stride, 1, stride, rope, cos.data(), sin.data());
  turn(turned.data(), rows, q_stride, heads, q_head, rope, cos.data(), sin.data());
  EXPECT_CLOSE(T, q_card.floats(), turned);
  const auto copies = absorbed.floats(), turns = q_card.floats();
  for (int64_t i = 0; i < kAbsorbed * heads * rope; ++i)
    ASSERT_EQ(copies[i / rope * entry + lora + i % rope], turns[i / rope * q_head + i % rope]);
  // What the pages of the new tokens hold.
  const auto bytes = pools.card_bytes();
  PagedKv kv = pools.host();
  kv.pool = const_cast<std::byte*>(bytes.data());
  for (const PagedRows& s : pools.rows()) {
    std::vector<float> stored(s.tokens * entry), wanted;
    read_kv_ref(s.own(kv), s.begin, s.tokens, 0, stored.data(), nullptr);
    for (int64_t i = 0; i < s.tokens * entry; ++i) wanted.push_back(expected[(s.row + i / entry) * stride + i % entry]);
    EXPECT_CLOSE(Kv, stored, wanted);
  }
}

TEST_F(OnACard, LatentsAreNormedTurnedAndStored) {
  expect_latents<bf16, bf16>(64, 16, 512, 64, RopePairs::kInterleaved);
  expect_latents<bf16, bf16>(1, 3, 24, 8, RopePairs::kHalves);
  expect_latents<float, float>(16, 2, 512, 64, RopePairs::kHalves);
  expect_latents<float, bf16>(16, 5, 40, 16, RopePairs::kInterleaved);
}

}  // namespace
}  // namespace baton::kernels::cuda
