// Prefill and decode of a model's shape with made-up weights, through the executor:
//
//   model_bench --model DIR [--device cuda] [--tp N] [--dp N] [--ep N] [--pp N] [--context N] [--batches 1,32,128]
//     [--steps N] [--quantization fp8] [--kv-cache-dtype fp8_e4m3] [--load-format auto]
//     [--layers N] [--temperature T] [--top-p P]
//
// A prompt of `context` tokens by itself, then decode of so many sequences of that context, the next step submitted
// while one is under way, as the engine does it. Beside each time what the fewest bytes of a step are: weights that the
// step reads (of routed experts as many as uniform choice would take) and the KV; and the share of the time in which a
// card had no step to do.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <memory>

#include "base/random.h"
#include "device/memory.h"
#include "model/executor.h"
#include "model/weights.h"

namespace baton::model {
namespace {

struct Flags {
  std::string model, device = "cpu", quantization, kv_dtype = "bfloat16", load_format = "dummy";
  int64_t context = 4096, chunk = 4096;
  std::vector<int> batches{1, 32, 128};
  int steps = 40, prompts = 5, page_tokens = 64, device_step = 1, layers = 0;
  double temperature = 0, top_p = 1;
  layout::Layout layout;
};

double seconds_since(std::chrono::steady_clock::time_point begun) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
}
double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<int64_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

// Weights of 2 bytes (of 1 where they are quantized) that a step with `rows` tokens reads, in bytes.
double weight_bytes(const ModelConfig& c, int64_t rows, double linear_bytes) {
  const auto hidden = static_cast<double>(c.hidden);
  const double ends = 2 * hidden * c.vocab;
  double shared = 0, routed = 0;
  for (int layer = 0; layer < c.layers; ++layer) {
    if (!c.layer_is_moe[static_cast<size_t>(layer)]) {
      shared += 3 * hidden * c.ffn;
      continue;
    }
    shared += 3 * hidden * c.moe.expert_ffn * c.moe.shared_experts;
    const double untouched =
        std::pow(1.0 - static_cast<double>(c.moe.experts_per_token) / c.moe.experts, static_cast<double>(rows));
    routed += 3 * hidden * c.moe.expert_ffn * c.moe.experts * (1 - untouched);
  }
  const double all_routed = [&] {
    double n = 0;
    for (int layer = 0; layer < c.layers; ++layer)
      if (c.layer_is_moe[static_cast<size_t>(layer)]) n += 3 * hidden * c.moe.expert_ffn * c.moe.experts;
    return n;
  }();
  const double attention = static_cast<double>(parameter_count(c)) - ends / 2 - shared - all_routed;
  return ends + (attention + shared + routed) * linear_bytes;
}

class Bench {
 public:
  static Result<std::unique_ptr<Bench>> make(const Flags& flags) {
    std::unique_ptr<Bench> bench(new Bench(flags));
    BATON_TRY(bench->start());
    return bench;
  }

  void run() {
    std::printf("%s %s on %s: loaded in %.1f s, %.1f GB of weights a step of many rows\n", config_.model_type.c_str(),
                flags_.layout.to_string().c_str(), options_.first_device.to_string().c_str(), load_s_,
                weight_bytes(config_, 1 << 20, linear_bytes()) / 1e9);
    std::vector<double> prefill;
    for (int i = 0; i < flags_.prompts; ++i) prefill.push_back(fill(0));
    std::printf("prefill of %ld tokens: %.2f ms\n", flags_.context, 1e3 * median(prefill));
    for (size_t s = 1; s < pages_.size(); ++s) fill(static_cast<int>(s));
    for (const int batch : flags_.batches) {
      double idle = 0;
      const double step = decode(batch, &idle);
      const double kv = static_cast<double>(batch) * static_cast<double>(flags_.context) * entry_bytes_;
      const double bytes = weight_bytes(config_, batch, linear_bytes()) + kv;
      std::printf("decode batch %d at %ld: %.3f ms a step, %.2f GB, %.0f GB/s, %.1f %% idle\n", batch, flags_.context,
                  1e3 * step, bytes / 1e9, bytes / step / 1e9, 100 * idle);
    }
  }

 private:
  explicit Bench(const Flags& flags) : flags_(flags) {}

  [[nodiscard]] double linear_bytes() const { return options_.quantize_fp8 ? 1 : 2; }

  Status start() {
    options_.model_path = flags_.model;
    options_.load_format = flags_.load_format == "dummy" ? LoadFormat::kDummy : LoadFormat::kAuto;
    options_.page_tokens = flags_.page_tokens;
    options_.quantize_fp8 = flags_.quantization == "fp8";
    if (flags_.kv_dtype == "fp8_e4m3") options_.kv_dtype = tensor::DType::kF8E4M3;
    if (flags_.device == "cuda") options_.first_device.kind = device::DeviceKind::kCuda;
    options_.layout = flags_.layout;
    options_.device_step = flags_.device_step;
    BATON_TRY(layout::check_layout(flags_.layout));
    BATON_ASSIGN(config_, load_model_config(flags_.model));
    if (flags_.layers > 0) config_.layers = std::min(config_.layers, flags_.layers);
    const layout::KvGeometry geometry = config_.kv_geometry(options_.kv_dtype);
    const int64_t tokens = flags_.context + flags_.steps + 8;
    const int64_t per_sequence = (tokens + flags_.page_tokens - 1) / flags_.page_tokens;
    entry_bytes_ = static_cast<double>(layout::rank_page_shape({}, 0, geometry, flags_.page_tokens).page_bytes()) /
                   flags_.page_tokens;
    const int sequences = *std::max_element(flags_.batches.begin(), flags_.batches.end());
    uint32_t next = 0;
    for (int s = 0; s < sequences; ++s) {
      auto& pages = pages_.emplace_back();
      for (int64_t p = 0; p < per_sequence; ++p) pages.push_back(next++);
    }
    std::vector<device::Memory> pools;
    for (int r = 0; r < options_.layout.world(); ++r) {
      const uint64_t bytes = layout::rank_page_shape(options_.layout, r, geometry, flags_.page_tokens).page_bytes();
      BATON_ASSIGN(device::Buffer pool, device::Buffer::allocate(home_of(options_, r), bytes * next));
      pools.push_back(pool.memory());
      pools_.push_back(std::move(pool));
    }
    const auto begun = std::chrono::steady_clock::now();
    BATON_ASSIGN(executor_, make_thread_executor(options_, config_, pools));
    load_s_ = seconds_since(begun);
    recipe_->params.temperature = flags_.temperature;
    recipe_->params.top_p = flags_.top_p;
    return {};
  }

  // The whole prompt of sequence s, of random tokens.
  double fill(int s) {
    std::vector<int32_t> tokens(static_cast<size_t>(flags_.context));
    for (int32_t& t : tokens) t = static_cast<int32_t>(random_.next() % static_cast<uint64_t>(config_.vocab));
    const auto begun = std::chrono::steady_clock::now();
    for (int64_t done = 0; done < flags_.context; done += flags_.chunk) {
      const int64_t n = std::min(flags_.chunk, flags_.context - done);
      const auto part = std::span<const int32_t>(tokens).subspan(static_cast<size_t>(done), static_cast<size_t>(n));
      submit({segment(s, done, part, -1)});
      collect();
    }
    return seconds_since(begun);
  }

  // idle: the share of the time in which the device had no step.
  double decode(int batch, double* idle) {
    std::vector<double> times;
    int64_t busy = 0;
    auto settled = std::chrono::steady_clock::now();
    std::vector<int32_t> tokens(static_cast<size_t>(batch), 1);
    auto last = std::chrono::steady_clock::now();
    for (int i = 0; i < flags_.steps; ++i) {
      std::vector<kv::Segment> segments;
      for (int s = 0; s < batch; ++s)
        segments.push_back(
            segment(s, flags_.context + i, std::span(tokens).subspan(static_cast<size_t>(s), 1), i == 0 ? -1 : s));
      submit(std::move(segments));
      if (i == 0) continue;
      collect();
      times.push_back(seconds_since(last));
      last = std::chrono::steady_clock::now();
      if (i != flags_.steps / 4) continue;
      busy = executor_->busy_ns();
      settled = last;
    }
    *idle = 1 - static_cast<double>(executor_->busy_ns() - busy) * 1e-9 / seconds_since(settled);
    collect();
    times.erase(times.begin(), times.begin() + static_cast<int64_t>(times.size() / 4));
    return median(times);
  }

  [[nodiscard]] kv::Segment segment(int s, int64_t begin, std::span<const int32_t> tokens, int drawn_by) const {
    return {SequenceId(static_cast<uint64_t>(s) + 1),
            s % flags_.layout.dp,
            begin,
            tokens,
            pages_[static_cast<size_t>(s)],
            drawn_by,
            1};
  }
  void submit(std::vector<kv::Segment> segments) {
    std::vector<sampling::RowsWanted> wanted;
    for (size_t s = 0; s < segments.size(); ++s) wanted.push_back({recipe_, 0, true, {}});
    (void)executor_->submit({std::move(segments)}, wanted);
  }
  void collect() {
    const auto output = executor_->collect(collected_++);
    BATON_CHECK(output.ok(), "{}", output.error().message);
    for (const sampling::RowAnswer& answer : (*output)->answers)
      BATON_CHECK(!answer.error, "{}", answer.error->message);
  }

  Flags flags_;
  ExecutorOptions options_;
  ModelConfig config_;
  double entry_bytes_ = 0, load_s_ = 0;  // entry_bytes_: of a token's KV
  std::vector<std::vector<uint32_t>> pages_;
  std::vector<device::Buffer> pools_;  // of every rank
  std::unique_ptr<Executor> executor_;
  Ticket collected_ = 0;
  std::shared_ptr<sampling::Recipe> recipe_ = std::make_shared<sampling::Recipe>();
  Random random_{7};
};

int bench_main(int argc, char** argv) {
  Flags flags;
  CLI::App app("Prefill and decode of a model's shape");
  app.add_option("--model", flags.model)->required();
  app.add_option("--device", flags.device)->check(CLI::IsMember({"cpu", "cuda"}));
  app.add_option("--quantization", flags.quantization)->check(CLI::IsMember({"fp8"}));
  app.add_option("--load-format", flags.load_format)->check(CLI::IsMember({"auto", "dummy"}));
  app.add_option("--kv-cache-dtype", flags.kv_dtype)->check(CLI::IsMember({"bfloat16", "fp8_e4m3"}));
  app.add_option("--tp", flags.layout.tp);
  app.add_option("--dp", flags.layout.dp);
  app.add_option("--pp", flags.layout.pp);
  app.add_option("--ep", flags.layout.ep);
  app.add_option("--gpu-id-step", flags.device_step);
  app.add_option("--context", flags.context);
  app.add_option("--chunk", flags.chunk);
  app.add_option("--batches", flags.batches)->delimiter(',');
  app.add_option("--steps", flags.steps)->check(CLI::Range(8, 1 << 20));
  app.add_option("--prompts", flags.prompts)->check(CLI::Range(1, 1000));
  app.add_option("--page-size", flags.page_tokens);
  app.add_option("--temperature", flags.temperature);
  app.add_option("--top-p", flags.top_p);
  app.add_option("--layers", flags.layers, "The first so many alone")->check(CLI::Range(1, 1000));
  CLI11_PARSE(app, argc, argv);
  auto bench = Bench::make(flags);
  if (!bench) {
    std::fprintf(stderr, "%s\n", bench.error().message.c_str());
    return 1;
  }
  (*bench)->run();
  return 0;
}

}  // namespace
}  // namespace baton::model

int main(int argc, char** argv) { return baton::model::bench_main(argc, argv); }
