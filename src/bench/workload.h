// What a benchmark sends, and when.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"

namespace baton::bench {

struct BenchOptions {
  std::string host = "127.0.0.1";
  int port = 30000;
  std::string base_url;  // in place of host and port
  // sglang (/generate), sglang-oai and vllm (/v1/completions), sglang-oai-chat and vllm-chat (/v1/chat/completions).
  std::string backend = "sglang";
  std::string model, tokenizer;  // directories; without a tokenizer the server is asked for its vocabulary
  // random: ordinary tokens drawn at random; random-ids: consecutive ids from a random offset.
  std::string dataset = "random";
  int num_prompts = 1000;
  int input_len = 1024, output_len = 1024;
  double range_ratio = 0.0;  // lengths uniform in [ratio * len, len]
  double request_rate = 0;   // per second; 0: all at once (--request-rate inf)
  int max_concurrency = 0;   // 0: no limit
  uint32_t seed = 1;
  int warmup_requests = 1;
  bool flush_cache = false;
  bool stream = true;
  bool ignore_eos = true;
  bool send_ids = false;  // prompts as token ids; otherwise as text, where a tokenizer is at hand
  bool profile = false;   // POST /start_profile before, /stop_profile after
  bool progress = false;  // a line on standard error
  double temperature = 0, top_p = 1;
  std::string served_name;         // in requests, in place of `model`
  std::string extra_request_body;  // a JSON object whose members go into every request
  std::string output_file;         // JSON lines, appended; empty: none
  std::string api_key;
};

struct BenchPrompt {
  std::vector<int32_t> ids;
  std::string text;  // in place of the ids, unless empty
  int output_len = 0;
  double arrival_s = 0;  // after the start
};

// The vocabulary prompts are drawn from: ids below `vocab` that are not `special`.
struct BenchVocabulary {
  int vocab = 0;
  std::vector<int32_t> special;  // sorted
};

// Lengths, then offsets, then arrivals, in the order the Python benchmark draws them.
std::vector<BenchPrompt> make_workload(const BenchOptions& options, const BenchVocabulary& vocabulary);

}  // namespace baton::bench
