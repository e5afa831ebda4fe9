// The weight of a token, as the sampler of the processor and kernels of other devices compute it: bit for bit the same,
// so that a seed draws the same token wherever it is drawn.
#pragma once

#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define BATON_ON_BOTH __host__ __device__
#else
#define BATON_ON_BOTH
#endif

namespace baton::sampling {

// The weight of the best token, 2^39. A vocabulary of 2^24 sums up to 2^63 at the most.
inline constexpr int kUnitBits = 39;

// Each rounded by itself, never two in one: this header's users are compiled with -ffp-contract=off.
BATON_ON_BOTH inline float times(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}
BATON_ON_BOTH inline float plus(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fadd_rn(a, b);
#else
  return a + b;
#endif
}

// exp(x) * 2^39 to within 2e-7 of itself or a half, for x <= 0 or -infinity. The series is that of Cephes' expf.
BATON_ON_BOTH inline uint64_t exp_units(float x) {
  if (!(x > -28.0F)) return 0;
  // x = n ln 2 + r with |r| <= ln 2 / 2; n is rounded by the addition of 1.5 * 2^23, and n * 0.693359375 is exact.
  const float shifted = plus(times(x, 1.44269504F), 12582912.0F);
  const float n = plus(shifted, -12582912.0F);
  const float r = plus(plus(x, times(n, -0.693359375F)), times(n, 2.12194440e-4F));
  float p = plus(times(r, 1.9875691500e-4F), 1.3981999507e-3F);
  p = plus(times(p, r), 8.3334519073e-3F);
  p = plus(times(p, r), 4.1665795894e-2F);
  p = plus(times(p, r), 1.6666665459e-1F);
  p = plus(times(p, r), 5.0000001201e-1F);
  p = plus(plus(times(p, times(r, r)), r), 1.0F);
  uint32_t bits = 0;
#ifdef __CUDA_ARCH__
  bits = __float_as_uint(p);
#else
  std::memcpy(&bits, &p, sizeof(bits));
#endif
  const uint64_t mantissa = (bits & 0x7fffffU) | 0x800000U;
  const int shift = static_cast<int>(n) + static_cast<int>(bits >> 23) - 127 + kUnitBits - 23;
  if (shift >= 0) return mantissa << shift;
  return (mantissa + (uint64_t{1} << (-shift - 1))) >> -shift;
}

// Of a token whose logit is x, where `best` is the best one's. A barred token's is -infinity, and it stays out at any
// temperature: infinity times an inverse of 0 is no number.
BATON_ON_BOTH inline uint64_t weight_of(float x, float best, float inverse_temperature) {
  return x == -__builtin_huge_valf() ? 0 : exp_units(times(plus(x, -best), inverse_temperature));
}

}  // namespace baton::sampling
