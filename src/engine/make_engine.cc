#include "engine/make_engine.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <set>
#include <utility>

#include "base/log.h"
#include "base/random.h"
#include "device/stream.h"
#include "engine/cost_of_model.h"
#include "engine/decode_role.h"
#include "engine/model_digest.h"
#include "engine/prefill_role.h"
#include "engine/unified_role.h"
#include "model/model_config.h"
#include "model/weights.h"
#include "transport/make_transport.h"

namespace baton::engine {
namespace {

// Logits of prompt positions held at once, in floats: 256 MiB.
constexpr int64_t kLogitsMax = int64_t{64} << 20;

// Of cuda_ipc. A post is one kernel or few, whose start and end cost as much as some megabytes of a link.
constexpr int kCardCopyThreads = 4;
constexpr uint64_t kCardPostBytes = uint64_t{32} << 20;
constexpr size_t kCardPostBlocks = 2400;
// Of pages on cards.
constexpr uint64_t kCardSliceBytes = uint64_t{256} << 20;  // summed in 0.1 to 0.2 ms

// What an engine stands on. Outlives its loop.
struct Foundations {
  std::vector<device::Buffer> memory;               // of the pools that the transport does not own
  std::unique_ptr<transport::Transport> transport;  // null for unified
  std::vector<handoff::Pool> pools;                 // one a world rank
};

// The pages of a rank, registered with the transport if there is one.
Result<handoff::Pool> make_pool(Foundations& foundations, device::Home home, const layout::PageShape& shape,
                                uint64_t bytes) {
  transport::Transport* transport = foundations.transport.get();
  if (transport != nullptr && transport->caps().owns_memory) {
    BATON_ASSIGN(const transport::Transport::Region region, transport->allocate(bytes));
    return handoff::Pool{region.id, region.memory, shape};
  }
  BATON_ASSIGN(device::Buffer buffer, device::Buffer::allocate(home, bytes));
  const device::Memory memory = buffer.memory();
  foundations.memory.push_back(std::move(buffer));
  if (transport != nullptr) {
    BATON_ASSIGN(const transport::RegionId region, transport->register_memory(memory));
    return handoff::Pool{region, memory, shape};
  }
  // Pages that the system has yet to find would be looked for in the first requests.
  const std::unique_ptr<device::Stream> stream = device::make_stream(memory.home);
  const layout::Run all{0, bytes};
  stream->zero(memory, std::span(&all, 1));
  stream->record()->wait();
  return handoff::Pool{transport::RegionId(), memory, shape};
}

bool on_card(const EngineOptions& options) { return options.executor.first_device.kind != device::DeviceKind::kCpu; }

Status check_options(const EngineOptions& options) {
  BATON_TRY(layout::check_layout(options.executor.layout));
  const std::string& backend = options.transfer.backend;
  if (options.role != Role::kUnified && backend != "tcp" && on_card(options) != (backend == "cuda_ipc")) {
    return error(ErrorCode::kIncompatible,
                 "--disaggregation-transfer-backend {} does not move pages of {}: use {}, or --device {}", backend,
                 options.executor.first_device.to_string(), on_card(options) ? "cuda_ipc or tcp" : "shm or tcp",
                 on_card(options) ? "cpu" : "cuda");
  }
  if (options.max_running_requests < 1) {
    return error(ErrorCode::kInvalidArgument, "--max-running-requests is {}; it must be at least 1",
                 options.max_running_requests);
  }
  if (options.chunked_prefill_size < 1 && options.chunked_prefill_size != -1) {
    return error(ErrorCode::kInvalidArgument,
                 "--chunked-prefill-size is {}; it must be at least 1, or -1 for whole prompts",
                 options.chunked_prefill_size);
  }
  if (options.reserved_decode_tokens < 0) {
    return error(ErrorCode::kInvalidArgument, "--num-reserved-decode-tokens is {}; it must be at least 0",
                 options.reserved_decode_tokens);
  }
  if (options.context_length && *options.context_length < 2) {
    return error(ErrorCode::kInvalidArgument, "--context-length is {}; it must be at least 2", *options.context_length);
  }
  return {};
}

uint64_t weight_bytes(const model::ExecutorOptions& options, const model::ModelConfig& config) {
  // A checkpoint's embeddings stay in its file, unless a card reads them; made-up ones are made in bfloat16.
  const bool on_card = options.first_device.kind != device::DeviceKind::kCpu;
  const uint64_t table = options.load_format == model::LoadFormat::kDummy || on_card
                             ? static_cast<uint64_t>(config.vocab) * static_cast<uint64_t>(config.hidden) * 2
                             : 0;
  const uint64_t parameters = model::parameter_count(config);
  if (options.compute == kernels::Compute::kF32) return parameters * 4 + table;
  // A card keeps float8 as it is; all but the output layer is that, or next to nothing.
  const bool fp8 = options.quantize_fp8 || (config.fp8_weights && options.load_format == model::LoadFormat::kAuto);
  if (!on_card || !fp8) return parameters * 2 + table;
  return parameters + static_cast<uint64_t>(config.vocab) * static_cast<uint64_t>(config.hidden) + table;
}

// Of all devices that ranks compute on.
uint64_t available_memory(const model::ExecutorOptions& options) {
  std::set<device::Home> homes;
  for (int r = 0; r < options.layout.world(); ++r) homes.insert(model::home_of(options, r));
  uint64_t bytes = 0;
  for (const device::Home& home : homes) bytes += device::available_memory(home);
  return bytes;
}

// Before anything is allocated: a config.json can state any size, and with made-up weights nothing else contradicts it.
Status check_weights_fit(const model::ExecutorOptions& options, const model::ModelConfig& config) {
  const uint64_t parameters = model::parameter_count(config);
  const uint64_t bytes = weight_bytes(options, config);
  const uint64_t available = available_memory(options);
  if (bytes <= available) return {};
  constexpr double kGiB = 1024.0 * 1024 * 1024;
  return error(ErrorCode::kResourceExhausted,
               "{}/config.json: a model of {} parameters needs {:.1f} GiB for its weights; {:.1f} GiB are available",
               options.model_path, parameters, static_cast<double>(bytes) / kGiB,
               static_cast<double>(available) / kGiB);
}

Result<std::shared_ptr<Foundations>> lay_foundations(const EngineOptions& options, const ModelFacts& facts, int pages,
                                                     Incarnation incarnation) {
  auto foundations = std::make_shared<Foundations>();
  const layout::Layout& layout = options.executor.layout;
  if (options.role != Role::kUnified) {
    const TransferOptions& transfer = options.transfer;
    transport::TransportOptions transport;
    transport.bind_address = transfer.bind_address;
    if (transport.bind_address.empty() && transfer.backend == "tcp") transport.bind_address = transfer.bootstrap_host;
    transport.advertise_host = transfer.advertise_host;
    transport.incarnation = incarnation;
    // Each waits for its card at the end of a piece, while the others' pieces run.
    if (transfer.backend == "cuda_ipc") transport.copy_threads = kCardCopyThreads;
    BATON_ASSIGN(foundations->transport, transport::make_transport(transfer.backend, transport));
  }
  for (int r = 0; r < layout.world(); ++r) {
    const layout::PageShape shape = layout::rank_page_shape(layout, r, facts.geometry, options.executor.page_tokens);
    const uint64_t bytes = shape.page_bytes() * static_cast<uint64_t>(pages);
    BATON_ASSIGN(const handoff::Pool pool, make_pool(*foundations, model::home_of(options.executor, r), shape, bytes));
    foundations->pools.push_back(pool);
  }
  return foundations;
}

wire::Manifest manifest_of(const EngineOptions& options, const ModelFacts& facts, int pages, Incarnation incarnation) {
  wire::Manifest self;
  self.incarnation = incarnation;
  self.model_digest = facts.digest;
  self.geometry = facts.geometry;
  self.kv_dtype = tensor::dtype_name(options.executor.kv_dtype);
  self.layout = options.executor.layout;
  self.page_tokens = options.executor.page_tokens;
  self.pages_per_group = pages;
  self.writer_policy = options.transfer.writer_policy;
  self.fanout = options.transfer.fanout;
  return self;
}

EngineLoopOptions loop_options(const EngineOptions& options, const ModelFacts& facts, int pages) {
  const layout::Layout& layout = options.executor.layout;
  EngineLoopOptions loop;
  loop.info.role = options.role;
  loop.info.layout = layout;
  loop.info.page_tokens = options.executor.page_tokens;
  loop.info.pages_per_group = pages;
  const int64_t group_tokens = int64_t{pages} * options.executor.page_tokens;
  loop.info.max_model_len = std::min(options.context_length.value_or(facts.context), group_tokens);
  loop.info.max_total_tokens = group_tokens * layout.dp;
  loop.info.max_running_requests = options.max_running_requests;
  loop.info.vocab = facts.vocab;
  loop.info.kv_dtype = tensor::dtype_name(options.executor.kv_dtype);
  if (options.role != Role::kUnified) loop.info.transfer_backend = options.transfer.backend;
  loop.scheduler.dp = layout.dp;
  loop.scheduler.pages_per_group = pages;
  loop.scheduler.page_tokens = options.executor.page_tokens;
  loop.scheduler.max_running_requests = options.max_running_requests;
  loop.scheduler.chunked_prefill_size = options.chunked_prefill_size == -1
                                            ? std::max(options.max_prefill_tokens, loop.info.max_model_len)
                                            : std::min(options.chunked_prefill_size, options.max_prefill_tokens);
  loop.scheduler.mixed_chunk = options.mixed_chunk;
  loop.scheduler.prefix_cache = options.prefix_cache && (options.role != Role::kDecode || options.decode_prefix_cache);
  loop.scheduler.reserved_decode_tokens = options.reserved_decode_tokens;
  loop.scheduler.logits_rows_max = std::max<int64_t>(1, kLogitsMax / facts.vocab);
  loop.scheduler.cost = facts.cost;
  loop.queue = options.queue;
  loop.decode_log_interval = options.decode_log_interval;
  loop.overlap = options.overlap;
  loop.eos_ids = facts.eos_ids;
  loop.requests_max = options.requests_max;
  loop.watchdog_timeout = options.watchdog_timeout;
  loop.clock = options.clock;
  loop.observer = options.observer;
  return loop;
}

RoleFactory role_factory(const EngineOptions& options, const wire::Manifest& self, Foundations& foundations) {
  return [&](EngineCore& core, std::function<void()> wake) -> Result<std::unique_ptr<RolePart>> {
    const TransferOptions& transfer = options.transfer;
    switch (options.role) {
      case Role::kUnified:
        return std::unique_ptr<RolePart>(std::make_unique<UnifiedRole>(core));
      case Role::kPrefill: {
        handoff::PrefillHandoffOptions handoff;
        handoff.host = transfer.bootstrap_host;
        handoff.port = static_cast<uint16_t>(transfer.bootstrap_port);
        handoff.key = transfer.handoff_key;
        if (transfer.backend == "cuda_ipc") {
          handoff.post_bytes_max = kCardPostBytes;
          handoff.post_blocks_max = kCardPostBlocks;
        }
        if (on_card(options)) handoff.work_slice_bytes = kCardSliceBytes;
        return PrefillRole::start(core, std::move(wake), std::move(handoff), self, *foundations.transport,
                                  foundations.pools, transfer.attempt_timeout);
      }
      case Role::kDecode: {
        handoff::DecodeHandoffOptions handoff;
        handoff.key = transfer.handoff_key;
        if (on_card(options)) handoff.verify_slice_bytes = kCardSliceBytes;
        BATON_ASSIGN(handoff.trusted, handoff::TrustedPeers::parse(transfer.prefill_peers));
        return DecodeRole::start(core, std::move(wake), std::move(handoff), self, *foundations.transport,
                                 foundations.pools, transfer.attempt_timeout);
      }
    }
    return error(ErrorCode::kInvalidArgument, "role {} is unknown", static_cast<int>(options.role));
  };
}

}  // namespace

std::vector<std::span<std::byte>> host_bytes(const std::vector<device::Memory>& pools) {
  std::vector<std::span<std::byte>> bytes;
  bytes.reserve(pools.size());
  for (const device::Memory& pool : pools) bytes.push_back(pool.host());
  return bytes;
}

Result<std::unique_ptr<Engine>> make_engine_over(const EngineOptions& options, const ModelFacts& facts,
                                                 const ExecutorFactory& make_executor) {
  BATON_TRY(check_options(options));
  if (options.transfer.bootstrap_port < 0 || options.transfer.bootstrap_port > 65535) {
    return error(ErrorCode::kInvalidArgument, "--disaggregation-bootstrap-port is {}; it must be in [0, 65535]",
                 options.transfer.bootstrap_port);
  }
  BATON_ASSIGN(const int pages, pages_per_group(options.executor.layout, facts.geometry, options.executor.page_tokens,
                                                options.pool, available_memory(options.executor), facts.weight_bytes));
  const Incarnation incarnation = draw_incarnation();
  const auto begun = std::chrono::steady_clock::now();
  const auto seconds = [](auto from, auto to) { return std::chrono::duration<double>(to - from).count(); };
  BATON_ASSIGN(const std::shared_ptr<Foundations> foundations, lay_foundations(options, facts, pages, incarnation));
  std::vector<device::Memory> pools;
  uint64_t kv_bytes = 0;
  for (const handoff::Pool& pool : foundations->pools) {
    pools.push_back(pool.memory);
    kv_bytes += pool.memory.size;
  }
  const auto allocated = std::chrono::steady_clock::now();
  BATON_ASSIGN(std::unique_ptr<model::Executor> executor, make_executor(pools));
  EngineLoopOptions loop = loop_options(options, facts, pages);
  const auto loaded = std::chrono::steady_clock::now();
  loop.info.weight_bytes = facts.weight_bytes;
  loop.info.kv_bytes = kv_bytes;
  loop.info.kv_allocation_s = seconds(begun, allocated);
  loop.info.load_weight_s = seconds(allocated, loaded);
  loop.info.startup_s = seconds(begun, loaded);
  if (options.context_length && *options.context_length > loop.info.max_model_len) {
    log_warning(
        "--context-length {}: a DP group's pool holds {} tokens and so the context too; raise --max-total-tokens",
        *options.context_length, loop.info.max_model_len);
  }
  loop.foundations = foundations;
  const wire::Manifest self = manifest_of(options, facts, pages, incarnation);
  BATON_ASSIGN(std::unique_ptr<EngineLoop> engine,
               EngineLoop::start(std::move(loop), std::move(executor), role_factory(options, self, *foundations)));
  return std::unique_ptr<Engine>(std::move(engine));
}

Result<std::unique_ptr<Engine>> make_engine(const EngineOptions& options) {
  BATON_ASSIGN(model::ModelConfig config, model::load_model_config(options.executor.model_path));
  BATON_TRY(layout::check_layout(options.executor.layout));
  BATON_TRY(model::check_model_layout(config, options.executor.layout));
  BATON_TRY(check_weights_fit(options.executor, config));
  if (options.context_length && *options.context_length > config.max_position) {
    if (!options.allow_longer_context) {
      return error(ErrorCode::kIncompatible,
                   "--context-length {} is beyond the {} positions that the model was made for; lower it, or say "
                   "--allow-longer-context to serve poorer answers there",
                   *options.context_length, config.max_position);
    }
    log_warning(
        "--context-length {} is beyond the {} positions that the model was made for; its answers may be poor there",
        *options.context_length, config.max_position);
    config.max_position = *options.context_length;  // the executor computes no position beyond it
  }
  config.add_eos_ids(options.eos_ids);
  ModelFacts facts{config.kv_geometry(options.executor.kv_dtype),
                   config.vocab,
                   config.max_position,
                   config.eos_ids,
                   cost_of_model(config),
                   {},
                   weight_bytes(options.executor, config)};
  if (options.role != Role::kUnified) {
    BATON_ASSIGN(facts.digest, digest_of_model(options.executor));
  }
  return make_engine_over(options, facts, [&](const std::vector<device::Memory>& pools) {
    return model::make_thread_executor(options.executor, config, pools);
  });
}

}  // namespace baton::engine
