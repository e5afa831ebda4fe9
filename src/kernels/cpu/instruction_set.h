// Which instructions the kernels use.
#pragma once

namespace baton::kernels {

// The processor has vdpbf16ps, and the environment does not ask to do without.
[[nodiscard]] bool has_bf16_product();
// The same, and it is the faster way, or a test or the environment asks for it.
[[nodiscard]] bool use_bf16_product();
void set_bf16_product_for_test(bool allowed);

}  // namespace baton::kernels
