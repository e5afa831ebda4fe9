// Builds an instance from its options: pools, model, transport, handoff service, loop.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/ids.h"
#include "base/result.h"
#include "device/memory.h"
#include "engine/engine.h"
#include "engine/engine_loop.h"
#include "engine/pool_size.h"
#include "layout/plan.h"
#include "model/executor.h"

namespace baton::engine {

struct TransferOptions {
  std::string backend = "tcp";               // as make_transport(); of ranks on cards tcp or cuda_ipc
  std::string bind_address;                  // of the transport; empty: bootstrap_host for tcp
  std::string advertise_host;                // tcp: what peers are told, as in TransportOptions
  std::string bootstrap_host = "127.0.0.1";  // prefill: where the control port listens; numeric
  int bootstrap_port = 8998;                 // prefill; 0: any free one, see Engine::info()
  std::vector<std::string> prefill_peers;    // decode: whom it may meet without a key, as TrustedPeers::parse()
  std::string handoff_key;                   // shared with the instances to meet; empty: none
  Duration attempt_timeout = std::chrono::seconds(300);
  layout::WriterPolicy writer_policy = layout::WriterPolicy::kBalanced;
  layout::Fanout fanout = layout::Fanout::kDirect;
};

struct EngineOptions {
  Role role = Role::kUnified;
  model::ExecutorOptions executor;  // model, layout, page size, KV type
  PoolWish pool;
  std::optional<int64_t> context_length;  // --context-length; without it what config.json says
  bool allow_longer_context = false;      // beyond what config.json says, where positions were never trained
  std::vector<int32_t> eos_ids;           // of the tokenizer, besides the model's
  int max_running_requests = 256;
  int64_t chunked_prefill_size = 8192;  // -1: whole prompts
  int64_t max_prefill_tokens = 16384;   // a step's, whatever the chunk; at least the context with whole prompts
  bool mixed_chunk = false;
  QueueOptions queue;
  int decode_log_interval = 0;
  bool overlap = true;               // not --disable-overlap-schedule
  bool prefix_cache = true;          // not --disable-radix-cache
  bool decode_prefix_cache = true;   // --disaggregation-decode-enable-radix-cache
  int reserved_decode_tokens = 512;  // --num-reserved-decode-tokens
  size_t requests_max = 8192;
  TransferOptions transfer;  // not for unified
  Duration watchdog_timeout = std::chrono::seconds(300);
  EngineObserver* observer = nullptr;  // outlives the engine
  std::shared_ptr<const Clock> clock = std::make_shared<SteadyClock>();
};

// Errors: of the model (kNotFound, kCorrupt), of flags that do not fit each other or the machine (kInvalidArgument,
// kIncompatible, kResourceExhausted), of the network (kUnavailable). Returns when requests can be taken.
Result<std::unique_ptr<Engine>> make_engine(const EngineOptions& options);

// The same over a given executor, for tests and tools: `make_executor` gets the pools of all world ranks.
struct ModelFacts {
  layout::KvGeometry geometry;
  int vocab = 0;
  int64_t context = 0;
  std::vector<int32_t> eos_ids;
  scheduler::CostModel cost;
  ModelDigest digest;
  uint64_t weight_bytes = 0;
};
using ExecutorFactory =
    std::function<Result<std::unique_ptr<model::Executor>>(const std::vector<device::Memory>& pools)>;
Result<std::unique_ptr<Engine>> make_engine_over(const EngineOptions& options, const ModelFacts& facts,
                                                 const ExecutorFactory& make_executor);
// Pools as an executor on the processor takes them; checked: that is where they are.
[[nodiscard]] std::vector<std::span<std::byte>> host_bytes(const std::vector<device::Memory>& pools);

}  // namespace baton::engine
