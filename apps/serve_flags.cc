#include "serve_flags.h"

#include <limits>

#include "kv_cache_dtype.h"

namespace baton::apps {
namespace {

constexpr int64_t kTokensMax = int64_t{1} << 40;  // far beyond any machine, far below an overflow

void add_queue_flags(CLI::App& app, ServeFlags& f) {
  app.add_option("--schedule-policy", f.schedule_policy,
                 "fair: short prompts share steps with long ones, what fits passes what does not, both bounded; fcfs: "
                 "one after another; lpm, lof, shortest-prefill-first, hrrn, random: as SGLang's, nobody starves")
      ->check(CLI::IsMember(
          {"fair", "fcfs", "lpm", "lof", "shortest-prefill-first", "hrrn", "random", "dfs-weight", "routing-key"}));
  app.add_flag("--enable-priority-scheduling", f.enable_priority_scheduling,
               "Requests with a higher \"priority\" go first");
  app.add_flag("--schedule-low-priority-values-first", f.low_priority_values_first,
               "With priorities: the lower value goes first");
  app.add_option("--default-priority-value", f.default_priority, "Of requests that state none; without it they go last")
      ->transform(number_from(-999'999'999, 999'999'999));
  app.add_flag("--abort-on-priority-when-disabled", f.abort_on_priority_when_disabled,
               "Without priorities: refuse requests that state one (503)");
  app.add_flag("--disable-priority-preemption", f.disable_priority_preemption,
               "With priorities: what runs is not retracted for what finds no room");
  app.add_option("--priority-scheduling-preemption-threshold", f.preemption_threshold,
                 "How much lower the priority of what is retracted must be")
      ->transform(number_from(0, std::numeric_limits<int>::max()));
  app.add_option("--max-queued-requests", f.max_queued_requests,
                 "Requests that may wait in an undivided instance; more get 503")
      ->transform(number_from(0, 1 << 30));
  // vLLM's.
  app.add_option_function<std::string>(
         "--scheduling-policy",
         [&f](const std::string& policy) {
           if (policy == "fcfs") f.schedule_policy = policy;
           f.enable_priority_scheduling = f.low_priority_values_first = policy == "priority";
         },
         "fcfs, or priority: --enable-priority-scheduling --schedule-low-priority-values-first")
      ->check(CLI::IsMember({"fcfs", "priority"}));
}

void add_log_flags(CLI::App& app, ServeFlags& f) {
  app.add_option("--log-level", f.log_level, "debug, info, warning or error");
  app.add_option("--log-name", f.log_name, "A name in every log line");
  app.add_flag("--log-requests", f.log_requests, "A line for each generation call");
  app.add_option("--log-requests-level", f.log_requests_level,
                 "0: its name and sizes; 1 and more: also its sampling parameters; texts are never logged")
      ->transform(number_from(0, 3));
  app.add_option("--decode-log-interval", f.decode_log_interval,
                 "A line after so many steps that generate; without it none")
      ->transform(number_from(1, 1 << 30));
}

}  // namespace

void add_serve_flags(CLI::App& app, ServeFlags& f) {
  const auto ranks = number_from(1, layout::kWorldMax);
  app.add_option("--model-path,--model", f.model_path, "Hugging Face directory with safetensors")->required();
  app.add_option("--tokenizer-path,--tokenizer", f.tokenizer_path, "Directory of tokenizer.json, if not the model's");
  app.add_option("--served-model-name", f.served_model_name, "Name that clients use");
  app.add_option("--chat-template", f.chat_template, "File with a Jinja template, in place of the model's own");
  app.add_flag("--strict-model-names", f.strict_model_names,
               "404 for a request whose model has another name (any is served)");
  app.add_flag("--enable-cache-report,--enable-prompt-tokens-details", f.report_cached_tokens,
               "Usage says how many of a prompt's tokens were found in the cache (prompt_tokens_details)");
  app.add_flag("--stream-response-default-include-usage", f.usage_in_streams,
               "Streams of the OpenAI endpoints end with usage, also where stream_options do not ask for it");
  app.add_flag("--enable-force-include-usage", f.usage_in_every_event,
               "Every event of such a stream has usage, whatever stream_options say");
  app.add_flag("--return-tokens-as-token-ids", f.tokens_as_ids,
               "Logprobs name a token token_id:ID, unless the request's return_tokens_as_token_ids is false");
  app.add_flag("--allow-auto-truncate", f.allow_auto_truncate,
               "Cut prompts and new tokens that are over the context (they are 400)");
  app.add_option("--max-logprobs", f.max_logprobs,
                 "Logprobs a token that completions and chats may ask for; more is 400 (1000, 20 of prompt_logprobs)")
      ->transform(number_from(-1, std::numeric_limits<int>::max()));
  app.add_flag("--trust-request-chat-template", f.trust_request_chat_template,
               "A request may bring its own chat template");
  app.add_flag("--incremental-streaming-output,--stream-output", f.incremental_streaming,
               "An event of a streamed /generate has what is new of text and output_ids, not all");
  app.add_flag("--skip-tokenizer-init", f.skip_tokenizer_init, "Serve token ids only");
  app.add_option("--host", f.host, "Address to listen on (loopback unless told otherwise)");
  app.add_option("--port", f.port, "Port to listen on; 0: any free one")->transform(number_from(0, 65535));
  app.add_option("--http-threads", f.http_threads, "Threads that serve HTTP")->transform(number_from(1, 64));
  app.add_option("--text-threads", f.text_threads, "Threads that read JSON, render templates and tokenize")
      ->transform(number_from(2, 64));
  app.add_option("--max-body-bytes", f.max_body_bytes, "Of a request's body; more gets 413")
      ->transform(number_from(1 << 10, 1 << 30));
  app.add_option("--api-key", f.api_key, "Key that clients must send as a Bearer token");
  app.add_option("--root-path,--fastapi-root-path", f.root_path,
                 "What a proxy in front leaves before each path, as /llm");
  add_allowed_origins(app, f.allowed_origins);
  app.add_option("--weight-version", f.weight_version, "Name of the weights, which answers and infos say");
  add_log_flags(app, f);
  app.add_option("--metrics-compat", f.metrics_compat, "sglang or sglang,vllm")
      ->check(CLI::IsMember({"sglang", "sglang,vllm"}).description(""));
  app.add_option("--report-fd", f.report_fd, "For `baton up`")->group("");

  app.add_option("--tp-size,--tp,--tensor-parallel-size", f.layout.tp, "Ranks of a pipeline stage")->transform(ranks);
  app.add_option("--dp-size,--dp,--data-parallel-size,--attn-dp-size,--attention-data-parallel-size", f.layout.dp,
                 "Attention groups (DP attention)")
      ->transform(ranks);
  app.add_option("--pp-size,--pp,--pipeline-parallel-size", f.layout.pp, "Pipeline stages")->transform(ranks);
  app.add_option("--ep-size,--ep,--expert-parallel-size", f.layout.ep, "Parts that experts are cut into")
      ->transform(ranks);
  app.add_flag("--enable-dp-attention", f.enable_dp_attention, "Implied by --dp-size over 1");
  add_device_flags(app, f.device);
  add_kernel_flags(app, f.kernels);
  app.add_option("--dtype", f.dtype, "auto and bfloat16: bf16 products, float32 sums; float32: float32 throughout")
      ->check(CLI::IsMember({"auto", "bfloat16", "float32", "float"}));
  add_kv_cache_dtype(app, f.kv_cache_dtype);
  app.add_option("--quantization", f.quantization, "fp8: weights pass through e4m3 with 128x128 block scales")
      ->check(CLI::IsMember({"fp8"}));
  app.add_option("--load-format", f.load_format, "auto, safetensors, or dummy: random weights from a config.json alone")
      ->check(CLI::IsMember({"auto", "safetensors", "dummy"}));
  app.add_option("--context-length,--max-model-len", f.context_length,
                 "Prompt and new tokens together; at most the model's")
      ->transform(number_from<int64_t>(2, kTokensMax));
  // SGLang asks for its variable; whoever has set it for SGLang means the same here.
  app.add_flag("--allow-longer-context", f.allow_longer_context, "Take a --context-length beyond the model's")
      ->envname("SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN");
  app.add_option("--random-seed,--seed", f.random_seed, "Of dummy weights")
      ->transform(number_from(uint64_t{0}, std::numeric_limits<uint64_t>::max()));

  app.add_option("--page-size,--block-size", f.page_size, "Tokens of a KV page")->transform(number_from(1, 128));
  app.add_option("--max-total-tokens", f.max_total_tokens, "KV tokens of an instance, all DP groups together")
      ->transform(number_from<int64_t>(1, kTokensMax))
      ->transform(human_number());
  app.add_option("--mem-fraction-static,--gpu-memory-utilization", f.mem_fraction_static,
                 "Share of the free memory for weights and KV")
      ->transform(number_from(0.01, 0.99));
  app.add_option("--max-running-requests,--max-num-seqs", f.max_running_requests, "Sequences with pages at a time")
      ->transform(number_from(1, 1 << 20));
  app.add_option("--chunked-prefill-size,--max-num-batched-tokens", f.chunked_prefill_size,
                 "Prompt tokens of a step; -1: no limit")
      ->transform(number_from<int64_t>(-1, kTokensMax));
  app.add_option("--max-prefill-tokens", f.max_prefill_tokens,
                 "Prompt tokens of a step, whatever --chunked-prefill-size; with -1 there at least the context")
      ->transform(number_from<int64_t>(1, kTokensMax))
      ->transform(human_number());
  add_queue_flags(app, f);
  app.add_flag("--disable-overlap-schedule", f.disable_overlap_schedule,
               "Plan a step when the one before it is over, not while it runs");
  app.add_flag("--enable-mixed-chunk", f.enable_mixed_chunk, "Prompt chunks and running sequences share steps");
  app.add_flag("--disable-radix-cache,--no-enable-prefix-caching", f.disable_radix_cache, "No prefix reuse");
  app.add_option("--num-reserved-decode-tokens", f.num_reserved_decode_tokens,
                 "Growth reserved for each sequence at admission")
      ->transform(number_from(0, 1 << 30))
      ->envname("SGLANG_CLIP_MAX_NEW_TOKENS_ESTIMATION");  // how much of it SGLang counts there
  app.add_option("--watchdog-timeout", f.watchdog_timeout_s, "Seconds without progress after which /readiness fails")
      ->transform(number_from(0.001, 1e9));
  add_drain_timeout(app, f.drain_timeout_s);

  app.add_option("--disaggregation-mode", f.disaggregation_mode, "null, prefill or decode")
      ->check(CLI::IsMember({"null", "prefill", "decode"}));
  app.add_option(
         "--disaggregation-transfer-backend", f.transfer_backend,
         "auto (shm; on GPUs cuda_ipc), shm and cuda_ipc: one host, tcp: any; mooncake and nixl are taken for tcp "
         "with a warning")
      ->check(CLI::IsMember({"auto", "shm", "cuda_ipc", "tcp", "mooncake", "nixl"}));
  app.add_option("--disaggregation-host", f.disaggregation_host,
                 "Address where peers are met and KV arrives, if not --host");
  app.add_option("--advertise-host", f.advertise_host,
                 "Address that peers are told to send KV to, if not the one above; for 0.0.0.0 and :: the default "
                 "route's unless given");
  app.add_option("--disaggregation-bootstrap-port", f.bootstrap_port,
                 "Prefill: port where decode instances meet it; 0: any free one")
      ->transform(number_from(0, 65535));
  app.add_option("--disaggregation-prefill-peers", f.prefill_peers,
                 "Decode: prefill instances that it may meet, as HOST or HOST:PORT; those of this machine always")
      ->delimiter(',');
  app.add_option("--handoff-key-file", f.handoff_key_file,
                 "Prefill and decode: only instances with the same key (a file of at least 32 bytes) may pair");
  app.add_flag("--disaggregation-decode-enable-radix-cache", f.decode_radix_cache,
               "Decode: reuse prefixes, and have only the rest sent (the default; =false: have all sent)");
  app.add_option("--writer-policy", f.writer_policy,
                 "Which replica sends: balanced, random or first; alike on both sides");
  app.add_option(
      "--fanout", f.fanout,
      "Replicas on decode: direct (each is sent to) or local (each byte once, then copied); alike on both sides");
  add_foreign_flags(app, f.foreign);
}

}  // namespace baton::apps
