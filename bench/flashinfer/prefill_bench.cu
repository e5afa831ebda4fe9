// FlashInfer's prefill kernel for Hopper alone.
#include <flashinfer/attention/hopper/default_params.cuh>
#include <flashinfer/attention/hopper/prefill_sm90.cuh>
#include <flashinfer/attention/hopper/variants.cuh>

#include "measure.cuh"

namespace baton::bench {
namespace {

template <int kQkDim, int kVDim>
void prefill(const std::string& name, int heads, int kv_heads) {
  using T = cutlass::bfloat16_t;
  const auto as = [](bf16* data) { return reinterpret_cast<T*>(data); };
  const size_t tokens = kContext;
  bf16 *q = random_on_card(tokens * heads * kQkDim), *k = random_on_card(tokens * kv_heads * kQkDim);
  bf16 *v = random_on_card(tokens * kv_heads * kVDim), *o = on_card<bf16>(tokens * heads * kVDim);
  flashinfer::SinglePrefillParams<T, T, T> p{};
  p.q_ptr = as(q);
  p.k_ptr = as(k);
  p.v_ptr = as(v);
  p.o_ptr = as(o);
  p.additional_params.sm_scale = 0.07F;
  p.q_stride_n = heads * kQkDim;
  p.k_stride_n = kv_heads * kQkDim;
  p.v_stride_n = kv_heads * kVDim;
  p.o_stride_n = heads * kVDim;
  p.q_stride_h = p.k_stride_h = kQkDim;
  p.v_stride_h = p.o_stride_h = kVDim;
  p.qo_len = p.kv_len = kContext;
  p.num_qo_heads = heads;
  p.num_kv_heads = kv_heads;
  p.group_size = heads / kv_heads;
  p.window_left = -1;
  p.causal = true;
  report(name, [&] {
    return flashinfer::SinglePrefillWithKVCacheDispatched<kQkDim, kVDim, flashinfer::MaskMode::kCausal, false,
                                                          flashinfer::StandardAttention>(p, stream);
  });
  // A token in the middle, the last head.
  constexpr int kToken = 1000;
  const std::vector<float> keys = from_card(k, tokens * kv_heads * kQkDim);
  const std::vector<float> values = from_card(v, tokens * kv_heads * kVDim);
  const size_t row = static_cast<size_t>(kToken) * heads + heads - 1;
  expect_row(name, from_card(o + row * kVDim, kVDim), from_card(q + row * kQkDim, kQkDim), kToken + 1, 0.07F,
             [&](int t) {
               const size_t at = static_cast<size_t>(t) * kv_heads + kv_heads - 1;
               return std::pair(&keys[at * kQkDim], &values[at * kVDim]);
             });
  for (bf16* data : {q, k, v, o}) check(cudaFree(data), "memory");
}

}  // namespace
}  // namespace baton::bench

int main() {
  using namespace baton::bench;
  check(cudaStreamCreate(&stream), "stream");
  prefill<128, 128>("gqa_prefill 32/8 4096 page=64", 32, 8);
  prefill<192, 128>("mla_prefill heads=16 4096", 16, 16);
  return 0;
}
