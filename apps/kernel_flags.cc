#include "kernel_flags.h"

#include <fmt/format.h>

#include <vector>

namespace baton::apps {
namespace {

// Those of 0.4.6, 0.5.3, 0.5.8 and 0.5.23.
const std::vector<std::string> kAttention = {"baton",
                                             "triton",
                                             "torch_native",
                                             "flex_attention",
                                             "dsa",
                                             "nsa",
                                             "dsv4",
                                             "compressed",
                                             "cutlass_mla",
                                             "fa3",
                                             "fa4",
                                             "flashinfer",
                                             "flashmla",
                                             "trtllm_mla",
                                             "cutedsl_mla",
                                             "trtllm_mha",
                                             "tokenspeed_mla",
                                             "dual_chunk_flash_attn",
                                             "hpc_ops",
                                             "minicpm_flashattn",
                                             "minicpm_flashinfer",
                                             "aiter",
                                             "wave",
                                             "intel_amx",
                                             "ascend",
                                             "intel_xpu",
                                             "mlu"};
const std::vector<std::string> kSampling = {"baton", "flashinfer", "pytorch", "ascend"};

}  // namespace

void add_kernel_flags(CLI::App& app, KernelFlags& flags) {
  const char* attention = "Taken for the sake of launch lines: attention is computed by Baton's own kernels";
  app.add_option("--attention-backend", flags.attention, attention)->check(CLI::IsMember(kAttention));
  app.add_option("--prefill-attention-backend", flags.prefill_attention, attention)->check(CLI::IsMember(kAttention));
  app.add_option("--decode-attention-backend", flags.decode_attention, attention)->check(CLI::IsMember(kAttention));
  app.add_option("--sampling-backend", flags.sampling, "Likewise: tokens are drawn by Baton")
      ->check(CLI::IsMember(kSampling));
}

std::string describe_kernels(const KernelFlags& flags, const device::Home& home) {
  std::string text = home.kind == device::DeviceKind::kCpu
                         ? "kernels: Baton's own for the CPU, for every operation"
                         : fmt::format(
                               "kernels on {}: Baton's own for attention, experts, norms and KV (sm_90a), "
                               "cuBLASLt for linear layers of more than a few rows",
                               home.to_string());
  std::string asked;
  const auto answer = [&](const char* flag, const std::string& value) {
    if (!value.empty()) asked += fmt::format("{}--{} {}", asked.empty() ? "" : ", ", flag, value);
  };
  answer("attention-backend", flags.attention);
  answer("prefill-attention-backend", flags.prefill_attention);
  answer("decode-attention-backend", flags.decode_attention);
  answer("sampling-backend", flags.sampling);
  if (!asked.empty()) text += fmt::format("; used for {}", asked);
  return text;
}

}  // namespace baton::apps
