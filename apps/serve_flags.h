// The flags of `baton serve`: SGLang's launch flags, those with a meaning here and those without.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "command_line.h"
#include "device_flags.h"
#include "http/server.h"
#include "kernel_flags.h"
#include "layout/layout.h"

namespace baton::apps {

struct ServeFlags {
  std::string model_path, tokenizer_path, served_model_name, chat_template;
  bool skip_tokenizer_init = false;
  bool strict_model_names = false, allow_auto_truncate = false, trust_request_chat_template = false,
       report_cached_tokens = false, tokens_as_ids = false, usage_in_streams = false, usage_in_every_event = false;
  bool incremental_streaming = false;
  std::optional<int> max_logprobs;
  std::string host = "127.0.0.1";
  int port = 30000;
  int http_threads = 2, text_threads = 2;
  size_t max_body_bytes = http::HttpServerOptions().body_bytes_max;
  std::string allowed_origins, weight_version = "default";
  std::string root_path, api_key, log_level = "info", log_name, metrics_compat = "sglang,vllm";
  int report_fd = -1;
  bool log_requests = false;
  int log_requests_level = 2, decode_log_interval = 0;

  layout::Layout layout;
  bool enable_dp_attention = false;
  DeviceFlags device;
  KernelFlags kernels;
  std::string dtype = "auto", kv_cache_dtype = "auto", quantization, load_format = "auto";
  int64_t context_length = 0;  // 0: the model's
  bool allow_longer_context = false;
  uint64_t random_seed = 0;

  int page_size = 64;
  int64_t max_total_tokens = 0;  // 0: by memory
  double mem_fraction_static = 0;
  int max_running_requests = 256;
  int64_t chunked_prefill_size = 8192, max_prefill_tokens = 16384;
  std::string schedule_policy = "fair";
  bool enable_priority_scheduling = false, low_priority_values_first = false, abort_on_priority_when_disabled = false,
       disable_priority_preemption = false;
  std::optional<int> default_priority, max_queued_requests;
  int preemption_threshold = 10;
  bool enable_mixed_chunk = false, disable_radix_cache = false, disable_overlap_schedule = false;
  int num_reserved_decode_tokens = 512;
  double watchdog_timeout_s = 300, drain_timeout_s = 30;

  std::string disaggregation_mode = "null", transfer_backend = "auto", writer_policy = "balanced", fanout = "direct";
  std::string disaggregation_host, advertise_host;
  int bootstrap_port = 8998;
  std::vector<std::string> prefill_peers;
  std::string handoff_key_file;
  bool decode_radix_cache = true;
  ForeignFlags foreign;
};

void add_serve_flags(CLI::App& app, ServeFlags& flags);
// Those of other servers.
void add_foreign_flags(CLI::App& app, ForeignFlags& foreign);

}  // namespace baton::apps
