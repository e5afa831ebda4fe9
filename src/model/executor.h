// Runs step plans on the ranks of one instance.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "device/memory.h"
#include "kernels/backend.h"
#include "kv/step_plan.h"
#include "layout/layout.h"
#include "model/model_config.h"
#include "model/routing_reference.h"
#include "model/step_batch.h"
#include "sampling/recipe.h"

namespace baton::model {

// What a step gave. Row r of segment s is answers[first_row[s] + r].
struct StepOutput {
  std::vector<size_t> first_row;             // of each segment of the plan
  std::vector<sampling::RowAnswer> answers;  // (sum of logits_rows); of rows of which nothing was wanted: unspecified
};
using Ticket = uint64_t;  // the number of a step, from 0

// Called by one thread, the engine's.
//
// Steps run one after the other in the order of submission (in a pipeline each stage takes them in that order), so the
// KV that a step wrote is there for the next one, and the tokens it drew as well (Segment::drawn_by), before anybody
// has collected it.
class Executor {
 public:
  virtual ~Executor() = default;
  // Steps that may be submitted and not collected.
  [[nodiscard]] virtual int steps_max() const = 0;
  // Stages of a pipeline that compute at the same time, each with processors of its own: so many steps should be under
  // way. At most steps_max().
  [[nodiscard]] virtual int stages_at_once() const = 0;
  // Begins the step as soon as those before it allow. What the arguments borrow is read before it returns. `wanted`: of
  // each segment's rows; shorter: nothing of the rest. A plan that breaks a precondition of step_plan.h is a bug.
  virtual Ticket submit(const kv::StepPlan& plan, std::span<const sampling::RowsWanted> wanted) = 0;
  // Waits for the oldest step that is not collected. Then every rank has finished it, and the KV it wrote is visible to
  // whoever the caller synchronises with. The output is the caller's to take apart, and stays until the next submit().
  // Errors are of the machine (a rank failed) and end the instance.
  virtual Result<StepOutput*> collect(Ticket ticket) = 0;
  // For how long rank 0's device was at work on steps so far; 0 if that is the processor. Any thread.
  [[nodiscard]] virtual int64_t busy_ns() const { return 0; }
};

// The logits of a step's rows, for who holds one model against another. Row r of segment s is at rows[s] + r, each
// `vocab` floats wide.
struct StepLogits {
  int vocab = 0;
  std::vector<size_t> rows;   // first row of each segment
  std::vector<float> logits;  // (sum of logits_rows, vocab)
  [[nodiscard]] const float* row(size_t segment, int r) const {
    return logits.data() + (rows[segment] + static_cast<size_t>(r)) * static_cast<size_t>(vocab);
  }
};

enum class LoadFormat : uint8_t { kAuto, kDummy };

struct ExecutorOptions {
  std::string model_path;  // a Hugging Face directory; with kDummy a config.json suffices
  LoadFormat load_format = LoadFormat::kAuto;
  kernels::Compute compute = kernels::Compute::kBF16;  // --dtype auto and bfloat16: kBF16; float32: kF32
  bool quantize_fp8 = false;  // --quantization fp8: weights pass through e4m3 with 128x128 block scales
  layout::Layout layout;
  device::Home first_device;  // of rank 0
  int device_step = 1;        // from one rank's card to the next one's; 0: all share one
  int page_tokens = 64;
  tensor::DType kv_dtype = tensor::DType::kBF16;
  uint64_t seed = 0;  // of dummy weights
  // (done, total) in bytes of weights, from loading threads, one at a time; may be empty.
  std::function<void(uint64_t, uint64_t)> progress;
  // Makes what a rank computes with; empty: the backend of its device.
  std::function<std::unique_ptr<kernels::Backend>()> backend;
  RoutingReference* routing = nullptr;  // verify_model.h; outlives the executor
  StepLogits* logits = nullptr;         // where every step leaves its logits too; steps come one at a time then
  MlaPath mla_path = MlaPath::kAuto;    // step_batch.h; tests hold the two paths against each other
  int64_t everywhere_bytes_max = 0;     // thread_comm.h; tests compute on the processor as cards do
};

// The device of world rank `rank`.
[[nodiscard]] device::Home home_of(const ExecutorOptions& options, int rank);

// Ranks are threads of this process. pools[r] is the page memory of world rank r, on its device:
// rank_page_shape(...).page_bytes() per page, pages of one DP group numbered alike on all its ranks. The memory
// outlives the executor.
Result<std::unique_ptr<Executor>> make_thread_executor(const ExecutorOptions& options, const ModelConfig& config,
                                                       const std::vector<device::Memory>& pools);

// One step by itself through an executor whose ExecutorOptions::logits is `logits`.
Status compute_logits(Executor& executor, const kv::StepPlan& plan, StepLogits& logits);

}  // namespace baton::model
