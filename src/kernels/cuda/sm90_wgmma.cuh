// Hopper's warpgroup products: four warps multiply tiles that lie in shared memory.
#pragma once

#include "kernels/cuda/common.cuh"

namespace baton::kernels::cuda {

// A tile for wgmma has rows of 64 values of k, 128 bytes, of which the 16-byte chunk c of row r is at chunk c ^ r % 8
// (the 128-byte swizzle); eight rows are an atom of 1024 bytes, and tiles begin at multiples of that.
__device__ inline uint32_t swizzled(int row, int chunk) {
  return static_cast<uint32_t>(row * 128 + (chunk ^ row % 8) * 16);
}
// Descriptor of such a tile; 16 further values of k are 2 further in it.
__device__ inline uint64_t tile_descriptor(uint32_t address) {
  constexpr uint64_t kAtomStride = 1024 >> 4, kSwizzle128 = 1;
  return static_cast<uint64_t>((address & 0x3ffff) >> 4) | uint64_t{1} << 16 | kAtomStride << 32 | kSwizzle128 << 62;
}

// Descriptor of such a tile whose rows are the inner dimension of the product (V: rows are tokens), 64 columns a tile,
// tiles of further columns tile_bytes apart. 16 further rows are 128 further in it.
__device__ inline uint64_t rows_descriptor(uint32_t address, uint32_t tile_bytes) {
  constexpr uint64_t kAtomStride = 1024 >> 4, kSwizzle128 = 1;
  return static_cast<uint64_t>((address & 0x3ffff) >> 4) | static_cast<uint64_t>(tile_bytes >> 4) << 16 |
         kAtomStride << 32 | kSwizzle128 << 62;
}

// Two to the power of v, to 2^-22, without exp2f's care for denormal results.
__device__ inline float exp2_fast(float v) {
  asm("ex2.approx.ftz.f32 %0, %0;" : "+f"(v));
  return v;
}

__device__ inline void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits until at most kPending groups are under way.
template <int kPending>
__device__ inline void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
// After the wait for what sums up d: the compiler must not read it before.
template <int kSize>
__device__ inline void wgmma_done(float (&d)[kSize]) {
#pragma unroll
  for (int i = 0; i < kSize; ++i) asm volatile("" : "+f"(d[i])::"memory");
}
// What this thread wrote to shared memory is visible to wgmma after the next barrier.
__device__ inline void fence_for_wgmma() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// clang-format off
// The accumulators of a product in assembly: their names, %0 to %(n - 1), and their registers from d[i] on.
#define BATON_D_NAMES_4 "%0, %1, %2, %3"
#define BATON_D_NAMES_8 BATON_D_NAMES_4 ", %4, %5, %6, %7"
#define BATON_D_NAMES_16 BATON_D_NAMES_8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define BATON_D_NAMES_32 BATON_D_NAMES_16 \
  ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define BATON_D_NAMES_64 BATON_D_NAMES_32 \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47" \
  ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define BATON_D_NAMES_128 BATON_D_NAMES_64 \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79" \
  ", %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95" \
  ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111" \
  ", %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define BATON_D_4(i) "+f"(d[i]), "+f"(d[(i) + 1]), "+f"(d[(i) + 2]), "+f"(d[(i) + 3])
#define BATON_D_8(i) BATON_D_4(i), BATON_D_4((i) + 4)
#define BATON_D_16(i) BATON_D_8(i), BATON_D_8((i) + 8)
#define BATON_D_32(i) BATON_D_16(i), BATON_D_16((i) + 16)
#define BATON_D_64(i) BATON_D_32(i), BATON_D_32((i) + 32)
#define BATON_D_128(i) BATON_D_64(i), BATON_D_64((i) + 64)

// clang-format on

// d (64, 256) = a (64, 16) * b (256, 16)^T, or with `add` that much more. Warp w of the group has rows 16w .. 16w + 15
// of d; with g = lane / 4 and t = lane % 4, d[4j], d[4j + 1] are columns 8j + 2t, + 1 of row g, d[4j + 2], d[4j + 3] of
// row g + 8. The same with 128 columns below.
// clang-format off
__device__ inline void wgmma(float (&d)[128], uint64_t a, uint64_t b, bool add) {
  asm volatile(
      "{\n.reg .pred add;\nsetp.ne.b32 add, %130, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {"
      BATON_D_NAMES_128 "}, "
      "%128, %129, add, 1, 1, 0, 0;\n}\n"
      : BATON_D_128(0)
      : "l"(a), "l"(b), "r"(static_cast<int>(add)));
}
__device__ inline void wgmma(float (&d)[64], uint64_t a, uint64_t b, bool add) {
  asm volatile(
      "{\n.reg .pred add;\nsetp.ne.b32 add, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
      BATON_D_NAMES_64 "}, "
      "%64, %65, add, 1, 1, 0, 0;\n}\n"
      : BATON_D_64(0)
      : "l"(a), "l"(b), "r"(static_cast<int>(add)));
}
// d (64, 128) = a (64, 32) * b (128, 32)^T of fp8, or with `add` that much more: 32 values of k are 2 further in a
// tile_descriptor() too.
__device__ inline void wgmma_fp8(float (&d)[64], uint64_t a, uint64_t b, bool add) {
  asm volatile(
      "{\n.reg .pred add;\nsetp.ne.b32 add, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3 {"
      BATON_D_NAMES_64 "}, "
      "%64, %65, add, 1, 1;\n}\n"
      : BATON_D_64(0)
      : "l"(a), "l"(b), "r"(static_cast<int>(add)));
}
// d (64, n) += a (64, 16) * b (16, n), a in registers as mma_16816() has it, b by rows_descriptor().
__device__ inline void wgmma_rows(float (&d)[64], const uint32_t (&a)[4], uint64_t b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
      BATON_D_NAMES_64 "}, "
      "{%64, %65, %66, %67}, %68, 1, 1, 1, 1;"
      : BATON_D_64(0)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
__device__ inline void wgmma_rows(float (&d)[32], const uint32_t (&a)[4], uint64_t b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
      BATON_D_NAMES_32 "}, "
      "{%32, %33, %34, %35}, %36, 1, 1, 1, 1;"
      : BATON_D_32(0)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
// The same with few columns: d (64, 8, 16 or 32). kRows: a is (16, 64) in shared memory, by rows_descriptor().
template <bool kRows>
__device__ inline void wgmma_few(float (&d)[4], uint64_t a, uint64_t b, bool add) {
  asm volatile(
      "{\n.reg .pred add;\nsetp.ne.b32 add, %6, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {"
      BATON_D_NAMES_4 "}, "
      "%4, %5, add, 1, 1, %7, 0;\n}\n"
      : BATON_D_4(0)
      : "l"(a), "l"(b), "r"(static_cast<int>(add)), "n"(kRows ? 1 : 0));
}
template <bool kRows>
__device__ inline void wgmma_few(float (&d)[8], uint64_t a, uint64_t b, bool add) {
  asm volatile(
      "{\n.reg .pred add;\nsetp.ne.b32 add, %10, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {"
      BATON_D_NAMES_8 "}, "
      "%8, %9, add, 1, 1, %11, 0;\n}\n"
      : BATON_D_8(0)
      : "l"(a), "l"(b), "r"(static_cast<int>(add)), "n"(kRows ? 1 : 0));
}
template <bool kRows>
__device__ inline void wgmma_few(float (&d)[16], uint64_t a, uint64_t b, bool add) {
  asm volatile(
      "{\n.reg .pred add;\nsetp.ne.b32 add, %18, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {"
      BATON_D_NAMES_16 "}, "
      "%16, %17, add, 1, 1, %19, 0;\n}\n"
      : BATON_D_16(0)
      : "l"(a), "l"(b), "r"(static_cast<int>(add)), "n"(kRows ? 1 : 0));
}
#undef BATON_D_NAMES_4
#undef BATON_D_4
#undef BATON_D_NAMES_8
#undef BATON_D_8
#undef BATON_D_NAMES_16
#undef BATON_D_16
#undef BATON_D_NAMES_32
#undef BATON_D_32
#undef BATON_D_NAMES_64
#undef BATON_D_64
#undef BATON_D_NAMES_128
#undef BATON_D_128
// clang-format on

}  // namespace baton::kernels::cuda
