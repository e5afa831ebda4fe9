// Flags of SGLang's server that mean nothing here, and those that must not be ignored.
#include "serve_flags.h"

namespace baton::apps {
namespace {

// `names`, separated by blanks: "name" is a switch, "name=" has a value, "name=+" one or more, "name!" has --no-name
// too.
struct ForeignGroup {
  const char* why;
  const char* names;
};

// Every flag of the server_args.py of 0.4.6, 0.5.3, 0.5.8 and 0.5.23 that add_serve_flags() has not;
// tests/e2e/test_flags.py walks that list.
constexpr ForeignGroup kForeign[] = {
    {"speculative decoding is not done; the tokens are the same without it",
     "decoupled-spec-bind-endpoint= decoupled-spec-connect-endpoints=+ decoupled-spec-rank= decoupled-spec-role= "
     "dllm-algorithm-config= dllm-algorithm= dllm-fdfo! enable-beta-spec enable-draft-weights-cpu-backup "
     "enable-multi-layer-eagle spec-trace-dir= speculative-accept-threshold-acc= "
     "speculative-accept-threshold-single= speculative-adaptive speculative-adaptive-config= "
     "speculative-algorithm= speculative-attention-mode= speculative-dflash-block-size= "
     "speculative-domino-candidate-pool-size= speculative-draft-attention-backend= "
     "speculative-draft-kv-cache-dtype= speculative-draft-load-format= speculative-draft-model-path= "
     "speculative-draft-model-quantization= speculative-draft-model-revision= speculative-draft-model= "
     "speculative-draft-sink-size= speculative-draft-window-size= speculative-dsa-topk-backend= "
     "speculative-dspark-align-verify-tokens-to-graph-tier speculative-dspark-block-size= "
     "speculative-dspark-confidence-sts-path= speculative-dspark-sps-table-path= speculative-eagle-topk= "
     "speculative-enable-w4a4-mxfp4-megamoe! speculative-moe-a2a-backend= speculative-moe-runner-backend= "
     "speculative-ngram-branch-length= speculative-ngram-capacity= speculative-ngram-external-corpus-max-tokens= "
     "speculative-ngram-external-corpus-path= speculative-ngram-external-sam-budget= speculative-ngram-match-type= "
     "speculative-ngram-max-bfs-breadth= speculative-ngram-max-match-window-size= "
     "speculative-ngram-max-trie-depth= speculative-ngram-min-bfs-breadth= "
     "speculative-ngram-min-match-window-size= speculative-num-draft-tokens= speculative-num-steps= "
     "speculative-token-map= speculative-use-block-verification speculative-use-rejection-sampling uno-lora-path="},
    {"weights are the safetensors of --model-path as they are",
     "checkpoint-engine-wait-weights-before-ready custom-weight-loader=+ decrypted-config-file= "
     "decrypted-draft-config-file= delete-ckpt-after-loading download-dir= engine-info-bootstrap-port= "
     "model-checksum= model-config-parser= model-impl= model-loader-extra-config= modelexpress-config= "
     "modelopt-checkpoint-restore-path= modelopt-checkpoint-save-path= modelopt-export-path= modelopt-quant= "
     "quantization-param-path= quantize-and-serve remote-instance-weight-loader-backend= "
     "remote-instance-weight-loader-seed-instance-ip= remote-instance-weight-loader-seed-instance-service-port= "
     "remote-instance-weight-loader-send-weights-group-ports=+ "
     "remote-instance-weight-loader-start-seed-via-transfer-engine revision= rl-quant-profile= "
     "startup-weight-load-mode= weight-cache-mode= weight-cache-socket= weight-cache-timeout= "
     "weight-loader-disable-mmap weight-loader-drop-cache-after-load weight-loader-prefetch-checkpoints "
     "weight-loader-prefetch-num-threads="},
    {"no LoRA adapter is served; a request that names one is refused",
     "enable-lora enable-lora-overlap-loading experts-shared-outer-loras! lora-backend= lora-drain-wait-threshold= "
     "lora-eviction-policy= lora-paths=+ lora-strict-loading! lora-target-modules=+ lora-use-virtual-experts "
     "max-loaded-loras= max-lora-chunk-size= max-lora-rank= max-loras-per-batch="},
    {"models of text alone are served",
     "allowed-media-domains=+ asr-max-buffer-seconds= asr-max-concurrent-sessions= disable-fast-image-processor "
     "enable-adaptive-dispatch-to-encoder enable-broadcast-mm-inputs-process enable-encoder-swa-bounded-replay "
     "enable-mm-global-cache enable-multimodal enable-precise-embedding-interpolation enable-prefix-mm-cache "
     "encoder-bootstrap-port= encoder-register-urls=+ encoder-transfer-backend= encoder-urls=+ "
     "image-processor-backend= keep-mm-feature-on-device language-model-only language-only "
     "limit-mm-data-per-request= media-url-max-file-size-mb= mm-attention-backend= mm-enable-dp-encoder! "
     "mm-feature-transport= mm-global-cache-backend= mm-io-worker-num= mm-max-concurrent-calls= "
     "mm-per-request-timeout= mm-preprocess-cache-size-mb= mm-process-config= mm-processor-worker-num= "
     "trust-mm-content-hashes"},
    {"the answers here have no such setting",
     "completion-template= constrained-json-disable-any-whitespace "
     "constrained-json-max-whitespace-cnt= "
     "constrained-json-whitespace-pattern= default-chat-template-kwargs= disable-outlines-disk-cache enable-mis "
     "enable-response-store enable-return-aux-hidden-states enable-return-hidden-states enable-return-indexer-topk "
     "enable-return-routed-experts enable-streaming-session enable-watermark file-storage-path= "
     "hf-chat-template-name= multi-item-scoring-delimiter= preferred-sampling-params= "
     "return-aux-hidden-state-layer-ids=+ return-hidden-states-mode= return-input-ids return-output-ids "
     "sampling-defaults= sampling-mask-max-tokens= "
     "watermark-config="},
    {"no model here has such layers",
     "c128-page-size= disable-hybrid-swa-memory ds-channel-config-path= ds-heavy-channel-num= "
     "ds-heavy-channel-type= ds-heavy-token-num= ds-sparse-decode-threshold= dsa-decode-backend= "
     "dsa-paged-mqa-logits-backend= dsa-prefill-backend= dsa-topk-backend= dsa-triton-union= dsv4-attn-backend= "
     "dsv4-prefill-backend= enable-decoder-swa-bounded-replay! enable-deepseek-v4-fp4-indexer "
     "enable-double-sparsity enable-dsa-cache-layer-split enable-dsa-fused-indexer! enable-hisparse "
     "enable-int8-mamba-checkpoint enable-layernorm-sp enable-linear-replayssm enable-linear-replayssm-spec "
     "enable-mamba-cache-stochastic-rounding enable-megamoe-for-layernorm-sp enable-nsa-prefill-context-parallel "
     "enable-scattered-sconv hierarchical-sparse-attention-extra-config= hisparse-config= hybrid-kvcache-ratio= "
     "int8-mamba-ckpt-size= linear-attn-backend= linear-attn-decode-backend= linear-attn-prefill-backend= "
     "linear-attn-verify-backend= linear-replayssm-cache-len= mamba-backend= mamba-cache-philox-rounds= "
     "mamba-full-memory-ratio= mamba-max-states-per-path= mamba-radix-cache-strategy= mamba-scheduler-strategy= "
     "mamba-ssm-dtype= mamba-track-interval= max-mamba-cache-size= nsa-decode-backend= nsa-decode= "
     "nsa-prefill-backend= nsa-prefill-cp-mode= nsa-prefill= ple-offload-backend= ple-offload-dir= "
     "ple-offload-embedding! qsa-indexer-dtype= swa-full-tokens-ratio= swa-prefix-tails="},
    {"cached prefixes live in the KV pool alone, least recently used go first",
     "disable-chunked-prefix-cache disable-hicache-numa-detect enable-flexkv enable-hicache "
     "enable-hierarchical-cache enable-linker-mla-dedup enable-lmcache enable-page-major-kv-layout "
     "enable-session-radix-cache enable-unified-cache-external-linker enable-unified-memory flexkv-config-file= "
     "hicache-host-memory-fraction= hicache-host-memory-mode= hicache-io-backend= hicache-mem-layout= "
     "hicache-ratio= hicache-size= hicache-storage-backend-extra-config= hicache-storage-backend= "
     "hicache-storage-prefetch-policy= hicache-storage-prefetch-retry-max-attempts= "
     "hicache-storage-prefetch-retry-poll-interval= hicache-write-policy= lmcache-config-file= "
     "radix-cache-backend= radix-eviction-policy-config= radix-eviction-policy= "
     "unified-cache-external-linker-backend= unified-cache-external-linker-config="},
    {"experts are divided by --ep-size, and their ranks share memory",
     "deepep-config= deepep-dispatcher-output-dtype= deepep-mode= deepep-v2-mode= disable-shared-experts-fusion "
     "dwdp-size= elastic-ep-backend= elastic-ep-initial-size= elastic-ep-join-mode= elastic-ep-join-rank-offset= "
     "elastic-ep-scale-timeout= enable-deepep-moe enable-elastic-expert-backup enable-ep-moe enable-eplb "
     "enable-expert-distribution-metrics enable-paged-experts enable-shared-experts-attn-tp "
     "enable-w4a4-mxfp4-megamoe enable-waterfill enforce-shared-experts-fusion ep-dispatch-algorithm= "
     "ep-num-redundant-experts= eplb-algorithm= eplb-min-rebalancing-utilization-threshold= "
     "eplb-rebalance-layers-per-chunk= eplb-rebalance-num-iterations= expert-balancedness-report-mode= "
     "expert-distribution-recorder-buffer-size= expert-distribution-recorder-mode= flashinfer-a2a-dispatch-type= "
     "fuseep-mode= init-expert-location= kt-max-deferred-experts-per-token= kt-num-gpu-experts= max-ep-size= "
     "moe-a2a-backend= moe-dense-tp-size= n-share-experts-fusion= paged-experts-num-resident= "
     "shared-experts-tp-size="},
    {"the transports here use no InfiniBand device", "disaggregation-ib-device= mooncake-ib-device="},
    {"an instance is one process, with the layout of --tp-size, --dp-size, --pp-size and --ep-size",
     "attention-context-parallel-size= attn-cp-size= cp-strategy= dcp-comm-backend= dcp-replicate-q-proj! "
     "dcp-size= decode-context-parallel-size= disable-attn-tp-gather dist-init-addr= dist-timeout= "
     "enable-attn-tp-input-scattered enable-cp-decode-attn-tp enable-dense-mlp-attn-tp "
     "enable-dp-attention-local-control-broadcast enable-dp-lm-head enable-kv-cache-sharding enable-prefill-cp "
     "enable-tp-lm-head-all-to-all! gated-launch-port= gc-threshold=+ load-watch-interval= max-micro-batch-size= "
     "moe-data-parallel-size= moe-dp-size= nnodes= node-rank= pp-async-batch-depth= pp-max-micro-batch-size= "
     "prefill-round-robin-balance use-ray"},
    {"ranks share memory",
     "boundary-reduction= disable-aiter-allreduce-fusion-in-decode disable-aiter-allreduce-fusion-in-prefill "
     "disable-custom-all-reduce enable-aiter-allreduce-fusion enable-flashinfer-allreduce-fusion "
     "enable-fused-moe-sum-all-reduce enable-mscclpp enable-nccl-nvls enable-p2p-check enable-quant-communications "
     "enable-symm-mem enable-torch-symm-mem enforce-disable-flashinfer-allreduce-fusion "
     "flashinfer-allreduce-fusion-backend= nccl-init-addr= nccl-port= pre-warm-nccl"},
    {"it tunes another CUDA runtime than the one here",
     "context-bucket= cpu-offload-gb= cuda-graph-backend-decode= cuda-graph-backend-prefill= "
     "cuda-graph-bs-decode=+ cuda-graph-bs-prefill=+ cuda-graph-bs=+ cuda-graph-config= cuda-graph-max-bs-decode= "
     "cuda-graph-max-bs-prefill= cuda-graph-max-bs= cuda-graph-max-seq-len-prefill= "
     "cuda-graph-prefill-max-context= debug-cuda-graph disable-cuda-graph disable-cuda-graph-padding "
     "disable-decode-cuda-graph disable-prefill-cuda-graph enable-amd-monokernel enable-cudagraph-gc "
     "enable-layerwise-nvtx-marker enable-memory-saver enable-nvidia-megakernel enable-pdmux "
     "enable-piecewise-cuda-graph enable-profile-cuda-graph enable-single-batch-overlap enable-tf32-matmul! "
     "enable-torch-compile enable-torch-compile-debug-mode enable-two-batch-overlap enable-weights-cpu-backup "
     "kt-cpuinfer= kt-method= kt-threadpool-count= kt-weight-path= mlx-enable-sampling "
     "monokernel-backend numa-node=+ offload-group-size= offload-mode= offload-num-in-group= "
     "offload-prefetch-step= pdmux-config-path= piecewise-cuda-graph-compiler= piecewise-cuda-graph-max-tokens= "
     "piecewise-cuda-graph-tokens= sm-group-num= tbo-token-distribution-threshold= torch-compile-max-bs= "
     "torchao-config="},
    {"there is one implementation of each operation",
     "bf16-gemm-backend= disable-flashinfer-autotune "
     "disable-flashinfer-cutlass-moe-fp4-allgather enable-deterministic-inference enable-flashinfer-cutedsl-moe "
     "enable-flashinfer-cutlass-moe enable-flashinfer-mla enable-flashinfer-mxfp4-moe enable-flashinfer-trtllm-moe "
     "enable-flashmla enable-fp32-lm-head enable-fused-qk-norm-rope! enable-lean-attention "
     "enable-triton-kernel-moe flashinfer-autotune-skip-ops=+ flashinfer-mla-disable-ragged "
     "flashinfer-mxfp4-moe-precision= fp4-gemm-backend= fp8-gemm-backend= grammar-backend= moe-runner-backend= "
     "prefill-kv-cache-dequant-dtype= rl-on-policy-target= "
     "tokenizer-backend= triton-attention-num-kv-splits= triton-attention-reduce-in-fp32 "
     "triton-attention-split-tile-size="},
    {"requests go to the DP group with the least work", "load-balance-method="},
    {"no code of a model directory is ever run", "trust-remote-code"},
    {"metrics are always there, in fixed buckets",
     "bucket-e2e-request-latency=+ bucket-inter-token-latency=+ bucket-time-to-first-token=+ "
     "collect-tokens-histogram enable-forward-pass-metrics enable-metrics enable-metrics-for-all-schedulers "
     "enable-mfu-metrics export-metrics-to-file export-metrics-to-file-dir= extra-metric-labels= "
     "forward-pass-metrics-ipc-name= forward-pass-metrics-worker-id= generation-tokens-buckets=+ kv-events-config= "
     "load-publish-endpoint= load-snapshot-publish-interval= prompt-tokens-buckets=+ "
     "tokenizer-metrics-allowed-custom-labels=+ tokenizer-metrics-custom-labels-header="},
    {"steps are planned otherwise: see --schedule-policy, --chunked-prefill-size and --num-reserved-decode-tokens",
     "enable-dynamic-chunking enable-prefill-delayer min-free-slots-delay= num-continuous-decode-steps= "
     "prefill-decode-interval-min-bs= prefill-decode-interval= prefill-delayer-forward-passes-buckets=+ "
     "prefill-delayer-max-delay-ms= prefill-delayer-max-delay-passes= prefill-delayer-queue-min-ratio= "
     "prefill-delayer-token-usage-low-watermark= prefill-delayer-wait-seconds-buckets=+ prefill-max-requests= "
     "prefill-only-disable-kv-cache retraction-policy="},
    {"it is not logged, traced or dumped",
     "crash-dump-folder= crash-on-nan= custom-sigquit-handler= debug-tensor-dump-inject= "
     "debug-tensor-dump-input-file= debug-tensor-dump-layers=+ debug-tensor-dump-output-folder= "
     "enable-nan-detection enable-request-time-stats-logging enable-trace forward-hooks=+ "
     "gc-warning-threshold-secs= kv-canary-real-data= kv-canary-sweep-interval= kv-canary= log-level-http= "
     "log-requests-format= log-requests-target=+ msprobe-dump-config= oltp-traces-endpoint= otlp-service-name= "
     "otlp-traces-endpoint= show-time-cost soft-watchdog-timeout= trace-modules= "
     "uvicorn-access-log-exclude-prefixes=+"},
    {"nothing is polled", "disaggregation-decode-polling-interval= scheduler-recv-interval= sleep-on-idle"},
    {"every page that is handed over is checked", "disaggregation-enable-kv-checksum"},
    {"no request can bring code", "enable-custom-logit-processor"},
    {"the handoff has no such setting; see docs/OPERATING.md",
     "disaggregation-decode-allocation-policy= disaggregation-decode-dp= disaggregation-decode-enable-fake-auto "
     "disaggregation-decode-enable-offload-kvcache disaggregation-decode-extra-slots= "
     "disaggregation-decode-host-receive-threshold= disaggregation-decode-retraction-backup= "
     "disaggregation-decode-tp= disaggregation-prefill-pp= enable-pd-role-switch optimistic-prefill-attempts= "
     "pdlb-url="},
    {"it is seen from the model", "disaggregation-with-mla="},
    {"admission is by worst-case growth, see --num-reserved-decode-tokens", "schedule-conservativeness="},
    {"text is made by the threads of --http-threads and --text-threads",
     "batch-notify-size= detokenizer-worker-num= disable-tokenizer-batch-decode "
     "dynamic-batch-tokenizer-batch-size= dynamic-batch-tokenizer-batch-timeout= enable-dynamic-batch-tokenizer "
     "enable-http-worker-reuseport enable-tokenizer-batch-encode tokenizer-mode= tokenizer-worker-num="},
    {"the API is served over HTTP/1.1",
     "enable-http2 grpc-http-sidecar-port= grpc-port= grpc-response-timeout-secs= "
     "http2-initial-connection-window-size= http2-max-concurrent-streams= sidecar-args=+ sidecar= "
     "smg-http-sidecar-port="},
    {"nothing is compiled or captured that would need a warm-up", "skip-server-warmup warmups="},
    {"tool calls are not parsed, reasoning is not split off",
     "enable-strict-thinking reasoning-parser= strip-thinking-cache tool-call-parser= tool-server="},
    {"every token is sent as it comes", "stream-interval="},
    // vLLM's.
    {"there is one engine, and it decides so",
     "enforce-eager enable-prefix-caching enable-chunked-prefill no-enable-chunked-prefill max-seq-len-to-capture= "
     "compilation-config= distributed-executor-backend= swap-space= enable-sleep-mode enable-expert-parallel "
     "disable-frontend-multiprocessing api-server-count= async-scheduling no-async-scheduling"},
    {"it is not logged or counted",
     "disable-log-requests disable-log-stats enable-log-requests enable-log-outputs "
     "no-enable-log-requests uvicorn-log-level= disable-uvicorn-access-log enable-server-load-tracking max-log-len="},
    {"the answers here have no such setting",
     "enable-auto-tool-choice guided-decoding-backend= structured-outputs-config= generation-config= "
     "override-generation-config= response-role= "
     "chat-template-content-format= lora-modules=+ kv-transfer-config="},
};

// What somebody relies on who gives them: a server without them would be open, or serve something else.
constexpr ForeignGroup kRefused[] = {
    {"the API is served without TLS; put a proxy in front that has the certificate",
     "ssl-keyfile= ssl-certfile= ssl-ca-certs= ssl-keyfile-password= enable-ssl-refresh"},
    {"there is one key for all paths, --api-key", "admin-api-key="},
    {"embeddings are not served", "is-embedding"},
    {"the model is served as its config.json says", "json-model-override-args= hf-overrides="},
    {"the API is served over HTTP alone", "smg-grpc-mode grpc-mode"},
    {"models of text alone are served", "encoder-only"},
    {"flags are given on the command line alone", "config="},
};

}  // namespace

void add_foreign_flags(CLI::App& app, ForeignFlags& foreign) {
  for (const ForeignGroup& group : kForeign) foreign.accept_all(app, group.names, group.why);
  for (const ForeignGroup& group : kRefused) foreign.refuse_all(app, group.names, group.why);
}

}  // namespace baton::apps
