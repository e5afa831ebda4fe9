// Highway takes the best target that the processor has. The environment can ask for less, so that any machine tests and
// measures what another one would run: BATON_INSTRUCTION_SET names the most that is used, in every program.
#include "kernels/cpu/instruction_set.h"

#include <hwy/targets.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string_view>

namespace baton::kernels {
namespace {

struct Level {
  std::string_view name;
  int64_t target;
  bool bf16_product;
};

constexpr Level kLevels[] = {{"portable", HWY_SCALAR | HWY_EMU128, false},
                             {"sse4", HWY_SSE4, false},
                             {"avx2", HWY_AVX2, false},
                             {"avx512", HWY_AVX3, false},
                             {"avx512_bf16", HWY_AVX3, true}};

struct Bf16Product {
  bool possible, faster;
};

// Zen 4 and later take a cycle for the instruction, as long as for one of float32 that does half the work. Sapphire
// Rapids takes two, in which it does four of those.
Bf16Product bf16_product_of_processor() {
#if defined(__x86_64__)
  const bool possible =
      __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
  return {possible, possible && !__builtin_cpu_is("intel")};
#else
  return {false, false};
#endif
}

// Runs before main, as a dispatch may happen at any time after.
Bf16Product limited_by_environment() {
  const Bf16Product product = bf16_product_of_processor();
  const char* asked = std::getenv("BATON_INSTRUCTION_SET");
  if (asked == nullptr || *asked == '\0') return product;
  for (const Level& level : kLevels) {
    if (level.name != asked) continue;
    // A smaller bit of Highway's is a better target, so the bits below a target's lowest are all that is more.
    hwy::DisableTargets((level.target & -level.target) - 1);
    return {product.possible && level.bf16_product, product.possible && level.bf16_product};
  }
  std::fprintf(stderr,
               "BATON_INSTRUCTION_SET is \"%s\"; it names the most that is used: portable, sse4, avx2, avx512 or "
               "avx512_bf16\n",
               asked);
  std::_Exit(2);
}

const Bf16Product bf16_product = limited_by_environment();
std::atomic<bool> bf16_product_used{bf16_product.faster};

}  // namespace

bool has_bf16_product() { return bf16_product.possible; }
bool use_bf16_product() { return bf16_product_used.load(std::memory_order_relaxed); }
void set_bf16_product_for_test(bool allowed) { bf16_product_used.store(allowed, std::memory_order_relaxed); }

}  // namespace baton::kernels
