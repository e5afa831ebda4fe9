#include "kv_cache_dtype.h"

namespace baton::apps {

void add_kv_cache_dtype(CLI::App& app, std::string& value) {
  app.add_option("--kv-cache-dtype", value,
                 "auto (bfloat16, float32 with --dtype float32), bfloat16 or bf16, float32, fp8_e4m3 (scale 1)")
      ->check([](const std::string& name) {
        if (name == "fp8_e5m2") return std::string("fp8_e5m2 has two bits of mantissa; use fp8_e4m3, which has three");
        return CLI::IsMember({"auto", "bfloat16", "bf16", "float32", "fp8_e4m3"})(name);
      });
}

tensor::DType kv_cache_dtype(std::string_view value, bool float32) {
  if (value == "fp8_e4m3") return tensor::DType::kF8E4M3;
  return value == "float32" || (value == "auto" && float32) ? tensor::DType::kF32 : tensor::DType::kBF16;
}

}  // namespace baton::apps
