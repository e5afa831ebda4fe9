// Runs step plans on the ranks of one instance.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "kernels/kernels.h"
#include "kv/step_plan.h"
#include "layout/layout.h"
#include "model/model_config.h"
#include "model/routing_reference.h"
#include "model/step_batch.h"

namespace baton::model {

// Called by one thread, the engine's. run() returns when every rank has finished the step, so KV it wrote is visible to
// whoever the caller synchronises with.
class Executor {
 public:
  virtual ~Executor() = default;
  // A plan that breaks a precondition of step_plan.h is a bug. Errors are of the machine (a rank failed) and end the
  // instance.
  virtual Result<kv::StepResult> run(const kv::StepPlan& plan) = 0;
};

enum class LoadFormat : uint8_t { kAuto, kDummy };

struct ExecutorOptions {
  std::string model_path;  // a Hugging Face directory; with kDummy a config.json suffices
  LoadFormat load_format = LoadFormat::kAuto;
  kernels::Compute compute = kernels::Compute::kBF16;  // --dtype auto and bfloat16: kBF16; float32: kF32
  bool quantize_fp8 = false;  // --quantization fp8: weights pass through e4m3 with 128x128 block scales
  layout::Layout layout;
  int page_tokens = 64;
  tensor::DType kv_dtype = tensor::DType::kBF16;
  uint64_t seed = 0;  // of dummy weights
  // (done, total) in bytes of weights, from loading threads, one at a time; may be empty.
  std::function<void(uint64_t, uint64_t)> progress;
  RoutingReference* routing = nullptr;  // verify_model.h; outlives the executor
  MlaPath mla_path = MlaPath::kAuto;    // step_batch.h; tests hold the two paths against each other
};

// Ranks are threads of this process. pools[r] is the page memory of world rank r: rank_page_shape(...).page_bytes() per
// page, pages of one DP group numbered alike on all its ranks. The memory outlives the executor.
Result<std::unique_ptr<Executor>> make_thread_executor(const ExecutorOptions& options, const ModelConfig& config,
                                                       std::vector<std::span<std::byte>> pools);

}  // namespace baton::model
