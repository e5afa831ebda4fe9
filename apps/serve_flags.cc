#include "serve_flags.h"

#include <limits>

namespace baton::apps {
namespace {

constexpr int64_t kTokensMax = int64_t{1} << 40;  // far beyond any machine, far below an overflow

void add_foreign(CLI::App& app, ForeignFlags& foreign) {
  const struct {
    const char* names;
    bool value;
    const char* why;
  } kForeign[] = {
      {"--trust-remote-code", false, "no code of a model directory is ever run"},
      {"--attention-backend", true, "there is one attention implementation for each device"},
      {"--decode-attention-backend", true, "there is one attention implementation for each device"},
      {"--prefill-attention-backend", true, "there is one attention implementation for each device"},
      {"--sampling-backend", true, "there is one sampler"},
      {"--flashinfer-mla-disable-ragged", false, "there is one attention implementation for each device"},
      {"--disaggregation-with-mla", true, "it is seen from the model"},
      {"--disaggregation-ib-device", true, "the transports here use no InfiniBand device"},
      {"--base-gpu-id", true, "this build computes on the CPU"},
      {"--device", true, "this build computes on the CPU"},
      {"--nnodes", true, "an instance is one process"},
      {"--node-rank", true, "an instance is one process"},
      {"--dist-init-addr,--nccl-init-addr", true, "an instance is one process"},
      {"--cuda-graph-max-bs", true, "this build computes on the CPU"},
      {"--disable-cuda-graph", false, "this build computes on the CPU"},
      {"--moe-a2a-backend", true, "ranks share memory"},
      {"--moe-dense-tp-size", true, "dense layers use the whole TP group"},
      {"--schedule-conservativeness", true, "admission is by worst-case growth, see --num-reserved-decode-tokens"},
      {"--schedule-policy", true, "requests are served first come, first served"},
      {"--stream-interval", true, "every token is sent as it comes"},
      {"--disable-overlap-schedule", false, "there is no overlap to disable"},
      {"--enable-metrics", false, "metrics are always there"},
      {"--load-balance-method", true, "requests go to the DP group with the least work"},
      {"--disaggregation-decode-polling-interval", true, "nothing is polled"},
      {"--tool-call-parser", true, "tool calls are not parsed"},
      {"--reasoning-parser", true, "reasoning is not split off"},
  };
  for (const auto& flag : kForeign) foreign.accept(app, flag.names, flag.value, flag.why);
}

}  // namespace

void add_serve_flags(CLI::App& app, ServeFlags& f) {
  const auto ranks = number_from(1, layout::kWorldMax);
  app.add_option("--model-path,--model", f.model_path, "Hugging Face directory with safetensors")->required();
  app.add_option("--tokenizer-path", f.tokenizer_path, "Directory of tokenizer.json, if not the model's");
  app.add_option("--served-model-name", f.served_model_name, "Name that clients use");
  app.add_option("--chat-template", f.chat_template, "File with a Jinja template, in place of the model's own");
  app.add_flag("--skip-tokenizer-init", f.skip_tokenizer_init, "Serve token ids only");
  app.add_option("--host", f.host, "Address to listen on (loopback unless told otherwise)");
  app.add_option("--port", f.port, "Port to listen on; 0: any free one")->transform(number_from(0, 65535));
  app.add_option("--http-threads", f.http_threads, "Threads that serve HTTP")->transform(number_from(1, 64));
  app.add_option("--text-threads", f.text_threads, "Threads that read JSON, render templates and tokenize")
      ->transform(number_from(2, 64));
  app.add_option("--max-body-bytes", f.max_body_bytes, "Of a request's body; more gets 413")
      ->transform(number_from(1 << 10, 1 << 30));
  app.add_option("--api-key", f.api_key, "Key that clients must send as a Bearer token");
  app.add_option("--log-level", f.log_level, "debug, info, warning or error");
  app.add_option("--log-name", f.log_name, "A name in every log line");
  app.add_option("--metrics-compat", f.metrics_compat, "sglang or sglang,vllm")
      ->check(CLI::IsMember({"sglang", "sglang,vllm"}).description(""));
  app.add_option("--report-fd", f.report_fd, "For `baton up`")->group("");

  app.add_option("--tp-size,--tp,--tensor-parallel-size", f.layout.tp, "Ranks of a pipeline stage")->transform(ranks);
  app.add_option("--dp-size,--dp,--data-parallel-size", f.layout.dp, "Attention groups (DP attention)")
      ->transform(ranks);
  app.add_option("--pp-size,--pp,--pipeline-parallel-size", f.layout.pp, "Pipeline stages")->transform(ranks);
  app.add_option("--ep-size,--ep,--expert-parallel-size", f.layout.ep, "Parts that experts are cut into")
      ->transform(ranks);
  app.add_flag("--enable-dp-attention", f.enable_dp_attention, "Implied by --dp-size over 1");
  app.add_option("--dtype", f.dtype, "auto and bfloat16: bf16 products, float32 sums; float32: float32 throughout")
      ->check(CLI::IsMember({"auto", "bfloat16", "float32", "float"}));
  app.add_option("--kv-cache-dtype", f.kv_cache_dtype,
                 "auto (bfloat16, float32 with --dtype float32), bfloat16, float32")
      ->check(CLI::IsMember({"auto", "bfloat16", "float32"}));
  app.add_option("--quantization", f.quantization, "fp8: weights pass through e4m3 with 128x128 block scales")
      ->check(CLI::IsMember({"fp8"}));
  app.add_option("--load-format", f.load_format, "auto, safetensors, or dummy: random weights from a config.json alone")
      ->check(CLI::IsMember({"auto", "safetensors", "dummy"}));
  app.add_option("--context-length", f.context_length, "Prompt and new tokens together; at most the model's")
      ->transform(number_from<int64_t>(2, kTokensMax));
  // SGLang asks for its variable; whoever has set it for SGLang means the same here.
  app.add_flag("--allow-longer-context", f.allow_longer_context, "Take a --context-length beyond the model's")
      ->envname("SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN");
  app.add_option("--random-seed", f.random_seed, "Of dummy weights")
      ->transform(number_from(uint64_t{0}, std::numeric_limits<uint64_t>::max()));

  app.add_option("--page-size", f.page_size, "Tokens of a KV page")->transform(number_from(1, 128));
  app.add_option("--max-total-tokens", f.max_total_tokens, "KV tokens of an instance, all DP groups together")
      ->transform(number_from<int64_t>(1, kTokensMax));
  app.add_option("--mem-fraction-static", f.mem_fraction_static, "Share of the free memory for weights and KV")
      ->transform(number_from(0.01, 0.99));
  app.add_option("--max-running-requests", f.max_running_requests, "Sequences with pages at a time")
      ->transform(number_from(1, 1 << 20));
  app.add_option("--chunked-prefill-size", f.chunked_prefill_size, "Prompt tokens of a step; -1: no limit")
      ->transform(number_from<int64_t>(-1, kTokensMax));
  app.add_flag("--enable-mixed-chunk", f.enable_mixed_chunk, "Prompt chunks and running sequences share steps");
  app.add_flag("--disable-radix-cache", f.disable_radix_cache, "No prefix reuse");
  app.add_option("--num-reserved-decode-tokens", f.num_reserved_decode_tokens,
                 "Growth reserved for each sequence at admission")
      ->transform(number_from(0, 1 << 30));
  app.add_option("--watchdog-timeout", f.watchdog_timeout_s, "Seconds without progress after which /readiness fails")
      ->transform(number_from(0.001, 1e9));
  add_drain_timeout(app, f.drain_timeout_s);

  app.add_option("--disaggregation-mode", f.disaggregation_mode, "null, prefill or decode")
      ->check(CLI::IsMember({"null", "prefill", "decode"}));
  app.add_option("--disaggregation-transfer-backend", f.transfer_backend,
                 "auto (shm), shm: one host, tcp: any; mooncake and nixl are taken for tcp with a warning")
      ->check(CLI::IsMember({"auto", "shm", "tcp", "mooncake", "nixl"}));
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
  add_foreign(app, f.foreign);
}

}  // namespace baton::apps
