// FlashInfer's decode kernels alone; its headers are used as its own bindings use them. Those of prefill are of the
// same names, so that they have a program of their own.
#include <flashinfer/attention/decode.cuh>
#include <flashinfer/attention/default_decode_params.cuh>
#include <flashinfer/attention/mla_hopper.cuh>
#include <flashinfer/attention/mla_params.cuh>
#include <flashinfer/attention/scheduler.cuh>
#include <flashinfer/attention/variants.cuh>
#include <random>

#include "measure.cuh"

namespace baton::bench {
namespace {

constexpr int kPage = 64, kPagesEach = kContext / kPage;

struct Workspace {
  size_t bytes = size_t{256} << 20;
  void* floats = on_card<char>(bytes);
  void* ints = on_card<char>(bytes);
  void* pinned = nullptr;
  Workspace() { check(cudaMallocHost(&pinned, bytes), "pinned memory"); }
  template <class T>
  [[nodiscard]] T* in_ints(int64_t offset) const {
    return reinterpret_cast<T*>(static_cast<char*>(ints) + offset);
  }
  template <class T>
  [[nodiscard]] T* in_floats(int64_t offset) const {
    return reinterpret_cast<T*>(static_cast<char*>(floats) + offset);
  }
};

// Pages in random order: of sequence s the numbers from s * kPagesEach on.
std::vector<int32_t> shuffled_pages(int batch) {
  std::vector<int32_t> pages(static_cast<size_t>(batch) * kPagesEach);
  std::iota(pages.begin(), pages.end(), 0);
  std::shuffle(pages.begin(), pages.end(), std::mt19937(7));
  return pages;
}
std::vector<int32_t> steps(int count, int by) {
  std::vector<int32_t> at(static_cast<size_t>(count) + 1);
  for (size_t i = 0; i < at.size(); ++i) at[i] = static_cast<int32_t>(i) * by;
  return at;
}

void mla_decode(const Workspace& space, int batch) {
  constexpr int kHeads = 16, kLatent = 512, kRope = 64;
  const std::string name = "mla_decode heads=16 b=" + std::to_string(batch);
  const auto pages = shuffled_pages(batch);
  std::vector<int32_t> q_at = steps(batch, 1), kv_at = steps(batch, kPagesEach);
  std::vector<int32_t> lengths(static_cast<size_t>(batch), kContext);
  flashinfer::MLAPlanInfo plan;
  check(flashinfer::MLAPlan(space.floats, space.bytes, space.ints, space.pinned, space.bytes, plan, q_at.data(),
                            kv_at.data(), lengths.data(), batch, kHeads, kLatent, false, stream),
        "MLAPlan");
  flashinfer::MLAParams<bf16, bf16, bf16, int32_t> p{};
  const size_t tokens = static_cast<size_t>(batch) * kContext, rows = static_cast<size_t>(batch) * kHeads;
  p.q_nope = random_on_card(rows * kLatent);
  p.q_pe = random_on_card(rows * kRope);
  p.ckv = random_on_card(tokens * (kLatent + kRope));  // one entry of 576 a token, as ours
  p.kpe = p.ckv + kLatent;
  p.final_o = on_card<bf16>(rows * kLatent);
  p.final_lse = nullptr;
  p.partial_o = space.in_floats<bf16>(plan.partial_o_offset);
  p.partial_lse = space.in_floats<float>(plan.partial_lse_offset);
  p.q_indptr = space.in_ints<int32_t>(plan.q_indptr_offset);
  p.kv_indptr = space.in_ints<int32_t>(plan.kv_indptr_offset);
  p.partial_indptr = space.in_ints<int32_t>(plan.partial_indptr_offset);
  p.merge_packed_offset_start = space.in_ints<int32_t>(plan.merge_packed_offset_start_offset);
  p.merge_packed_offset_end = space.in_ints<int32_t>(plan.merge_packed_offset_end_offset);
  p.merge_partial_packed_offset_start = space.in_ints<int32_t>(plan.merge_partial_packed_offset_start_offset);
  p.merge_partial_packed_offset_end = space.in_ints<int32_t>(plan.merge_partial_packed_offset_end_offset);
  p.merge_partial_stride = space.in_ints<int32_t>(plan.merge_partial_stride_offset);
  p.kv_indices = on_card(pages);
  p.q_len = space.in_ints<int32_t>(plan.q_len_offset);
  p.kv_len = space.in_ints<int32_t>(plan.kv_len_offset);
  p.q_start = space.in_ints<int32_t>(plan.q_start_offset);
  p.kv_start = space.in_ints<int32_t>(plan.kv_start_offset);
  p.kv_end = space.in_ints<int32_t>(plan.kv_end_offset);
  p.work_indptr = space.in_ints<int32_t>(plan.work_indptr_offset);
  p.block_size = flashinfer::uint_fastdiv(kPage);
  p.num_heads = flashinfer::uint_fastdiv(kHeads);
  p.q_nope_stride_n = kHeads * kLatent;
  p.q_nope_stride_h = kLatent;
  p.q_pe_stride_n = kHeads * kRope;
  p.q_pe_stride_h = kRope;
  p.ckv_stride_n = p.kpe_stride_n = kLatent + kRope;
  p.ckv_stride_page = p.kpe_stride_page = kPage * (kLatent + kRope);
  p.o_stride_n = kHeads * kLatent;
  p.o_stride_h = kLatent;
  p.sm_scale = 0.07F;
  report(name, [&] {
    return flashinfer::mla::BatchMLAPageAttentionHopper<flashinfer::MaskMode::kNone, kLatent, kRope>(
        p, plan.num_blks_x, plan.num_blks_y, stream);
  });
  const size_t last = rows - 1, first_page = static_cast<size_t>(batch - 1) * kPagesEach;
  std::vector<float> q = from_card(p.q_nope + last * kLatent, kLatent);
  const std::vector<float> rope = from_card(p.q_pe + last * kRope, kRope);
  q.insert(q.end(), rope.begin(), rope.end());
  const std::vector<float> entries = from_card(p.ckv, tokens * (kLatent + kRope));
  expect_row(name, from_card(p.final_o + last * kLatent, kLatent), q, kContext, p.sm_scale, [&](int t) {
    const size_t page = static_cast<size_t>(pages[first_page + static_cast<size_t>(t) / kPage]);
    const float* entry = &entries[(page * kPage + static_cast<size_t>(t) % kPage) * (kLatent + kRope)];
    return std::pair(entry, entry);
  });
  for (bf16* data : {p.q_nope, p.q_pe, p.ckv, p.final_o}) check(cudaFree(data), "memory");
}

void gqa_decode(const Workspace& space, int batch) {
  using Params = flashinfer::BatchDecodeParams<bf16, bf16, bf16, int32_t>;
  using Variant = flashinfer::DefaultAttention<false, false, false, false>;
  constexpr uint32_t kHeads = 32, kKvHeads = 8, kDim = 128;
  const std::string name = "gqa_decode 32/8 b=" + std::to_string(batch) + " page=64";
  const auto pages = shuffled_pages(batch);
  std::vector<int32_t> kv_at = steps(batch, kPagesEach);
  const size_t entries = static_cast<size_t>(batch) * kContext * kKvHeads * kDim;
  bf16* q = random_on_card(static_cast<size_t>(batch) * kHeads * kDim);
  bf16* o = on_card<bf16>(static_cast<size_t>(batch) * kHeads * kDim);
  bf16 *k = random_on_card(entries), *v = random_on_card(entries);
  const flashinfer::paged_kv_t<bf16, int32_t> kv(kKvHeads, kPage, kDim, static_cast<uint32_t>(batch),
                                                 flashinfer::QKVLayout::kHND, k, v, on_card(pages), on_card(kv_at),
                                                 on_card(std::vector<int32_t>(static_cast<size_t>(batch), kPage)));
  Params p(q, nullptr, kv, o, nullptr, nullptr, kHeads, kHeads * kDim, kDim, -1, 0.0F, 0.09F, 1.0F, 1e4F);
  flashinfer::DecodePlanInfo plan;
  const auto estimate = flashinfer::BatchDecodeWithPagedKVCacheWorkEstimationDispatched<
      kHeads / kKvHeads, kDim, flashinfer::PosEncodingMode::kNone, Variant, Params>;
  const cudaError_t planned = flashinfer::DecodePlan<kDim, flashinfer::PosEncodingMode::kNone, Variant, Params>(
      space.floats, space.bytes, space.ints, space.pinned, space.bytes, plan, kv_at.data(),
      static_cast<uint32_t>(batch), kHeads, kPage, false, stream, estimate);
  check(planned, "DecodePlan");
  p.request_indices = space.in_ints<int32_t>(plan.request_indices_offset);
  p.kv_tile_indices = space.in_ints<int32_t>(plan.kv_tile_indices_offset);
  p.o_indptr = space.in_ints<int32_t>(plan.o_indptr_offset);
  p.kv_chunk_size_ptr = space.in_ints<int32_t>(plan.kv_chunk_size_ptr_offset);
  p.padded_batch_size = static_cast<uint32_t>(plan.padded_batch_size);
  bf16* tmp_v = plan.split_kv ? space.in_floats<bf16>(plan.v_offset) : nullptr;
  float* tmp_s = plan.split_kv ? space.in_floats<float>(plan.s_offset) : nullptr;
  report(name, [&] {
    return flashinfer::BatchDecodeWithPagedKVCacheDispatched<kDim, flashinfer::PosEncodingMode::kNone, Variant>(
        p, tmp_v, tmp_s, false, stream);
  });
  // The last sequence's last head.
  const size_t last = static_cast<size_t>(batch) * kHeads - 1, first_page = static_cast<size_t>(batch - 1) * kPagesEach;
  const std::vector<float> keys = from_card(k, entries), values = from_card(v, entries);
  expect_row(name, from_card(o + last * kDim, kDim), from_card(q + last * kDim, kDim), kContext, 0.09F, [&](int t) {
    const size_t page = static_cast<size_t>(pages[first_page + static_cast<size_t>(t) / kPage]);
    const size_t at = ((page * kKvHeads + kKvHeads - 1) * kPage + static_cast<size_t>(t) % kPage) * kDim;
    return std::pair(&keys[at], &values[at]);
  });
  for (bf16* data : {q, o, k, v}) check(cudaFree(data), "memory");
}

}  // namespace
}  // namespace baton::bench

int main() {
  using namespace baton::bench;
  check(cudaStreamCreate(&stream), "stream");
  const Workspace space;
  for (const int batch : {1, 32, 128}) mla_decode(space, batch);
  for (const int batch : {1, 32}) gqa_decode(space, batch);
  return 0;
}
