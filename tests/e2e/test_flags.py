"""The launch flags of other servers: what has a meaning is done, the rest is taken with one line of warning.

sglang_flags.txt lists every flag of SGLang's server_args.py (0.4.6, 0.5.3, 0.5.8, 0.5.23): `name` is a switch, `name=`
has a value, `name=+` one or more, `name!` is a switch that has --no-name too.
"""
import json
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import BATON, MODELS, call, get_json, metric, wait_until

LIST = (Path(__file__).parent / "sglang_flags.txt").read_text().split()
FLAGS = {re.sub(r"[=+!]+$", "", word): re.search(r"[=+!]*$", word).group() for word in LIST}

# Those with a meaning here, and a value that is right.
MEANT = {
    "model-path": "DIR", "model": "DIR", "tokenizer-path": "DIR", "served-model-name": "m", "chat-template": "FILE", "skip-tokenizer-init": None, "host": "127.0.0.1", "port": "0", "api-key": "k",
    "log-level": "info", "tp-size": "1", "tensor-parallel-size": "1", "dp-size": "1", "data-parallel-size": "1", "attn-dp-size": "1", "attention-data-parallel-size": "1", "pp-size": "1",
    "pipeline-parallel-size": "1", "ep-size": "1", "ep": "1", "expert-parallel-size": "1", "enable-dp-attention": None, "dtype": "auto", "kv-cache-dtype": "auto", "quantization": "fp8",
    "load-format": "auto", "context-length": "100", "random-seed": "1", "page-size": "16", "max-total-tokens": "1Ki", "mem-fraction-static": "0.5", "max-running-requests": "8",
    "chunked-prefill-size": "-1", "enable-cache-report": None, "enable-mixed-chunk": None, "disable-radix-cache": None, "disable-overlap-schedule": None, "num-reserved-decode-tokens": "8", "watchdog-timeout": "30", "disaggregation-mode": "null",
    "disaggregation-transfer-backend": "mooncake", "disaggregation-bootstrap-port": "8998", "disaggregation-decode-enable-radix-cache": None, "max-queued-requests": "3",
    "max-prefill-tokens": "25.6k", "schedule-policy": "lpm", "enable-priority-scheduling": None, "disable-priority-preemption": None, "default-priority-value": "-1",
    "abort-on-priority-when-disabled": None, "schedule-low-priority-values-first": None, "priority-scheduling-preemption-threshold": "5", "log-requests": None, "log-requests-level": "3",
    "decode-log-interval": "40", "incremental-streaming-output": None, "stream-output": None, "stream-response-default-include-usage": None, "fastapi-root-path": "/llm",
    "device": "cpu", "base-gpu-id": "0", "gpu-id-step": "1", "attention-backend": "fa3", "prefill-attention-backend": "flashinfer", "decode-attention-backend": "flashmla", "sampling-backend": "pytorch",
}
# Either, while they are on the way from one to the other.
BETWEEN = {"weight-version", "allow-auto-truncate", "trust-request-chat-template"}
REFUSED = {"ssl-keyfile", "ssl-certfile", "ssl-ca-certs", "ssl-keyfile-password", "enable-ssl-refresh", "admin-api-key", "is-embedding", "json-model-override-args", "smg-grpc-mode", "grpc-mode",
           "encoder-only", "config"}
EXIT_USAGE, EXIT_CONFIGURATION, EXIT_MODEL = 2, 3, 4
NO_MODEL = ["--model-path", "/nonexistent", "--port", "0"]


def serve(*arguments):
    made = subprocess.run([BATON, "serve", *arguments], capture_output=True, text=True, timeout=60)
    return made.returncode, made.stderr


def given(name, kind):
    if "=" not in kind:
        return [f"--{name}"]
    return [f"--{name}", "1", "2"] if "+" in kind else [f"--{name}", "1"]


def test_every_flag_without_meaning_gets_one_line():
    foreign = {name: kind for name, kind in FLAGS.items() if name not in MEANT and name not in BETWEEN and name not in REFUSED}
    assert len(foreign) > 500
    arguments = [word for name, kind in foreign.items() for word in given(name, kind)]
    code, said = serve(*NO_MODEL, *arguments)
    assert code == EXIT_MODEL, said[-2000:]
    lines = re.findall(r"(--[\w-]+) has no meaning here: \S", said)
    assert sorted(lines) == sorted(f"--{name}" for name in foreign)


def test_flags_with_a_meaning_are_taken():
    for name, value in MEANT.items():
        if name in ("model-path", "model", "port"):
            continue
        code, said = serve(*NO_MODEL, f"--{name}", *([] if value is None else [value]))
        assert code == EXIT_MODEL and "has no meaning" not in said, (name, said)


def test_kernels_asked_for_by_name_are_answered_with_those_that_serve(start):
    instance = start("serve", "--model-path", MODELS["gqa"], "--device", "cpu", "--attention-backend", "fa3", "--sampling-backend", "pytorch")
    said = Path(instance.log.name).read_text()
    assert re.search(r"kernels: Baton's own for the CPU.*; used for --attention-backend fa3, --sampling-backend pytorch\n", said)
    code, said = serve(*NO_MODEL, "--decode-attention-backend", "fa9")
    assert code == EXIT_USAGE and "--decode-attention-backend" in said and "flashmla" in said


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_must_not_be_ignored_is_refused(name):
    code, said = serve(*NO_MODEL, *given(name, FLAGS[name]))
    assert code == EXIT_CONFIGURATION and f"--{name} cannot be had here" in said


def test_flags_may_be_shortened_as_argparse_has_it():
    code, said = serve("--model-pa", "/nonexistent", "--port", "0", "--context-len=50", "--max-runn", "4", "--trust-rem")
    assert code == EXIT_MODEL and "--trust-remote-code has no meaning here" in said
    code, said = serve(*NO_MODEL, "--max-to")
    assert code == EXIT_USAGE, "its value is missing, so it was understood"
    code, said = serve(*NO_MODEL, "--disaggregation", "1")
    assert code == EXIT_USAGE and "--disaggregation may be --disaggregation-mode" in said
    code, said = serve(*NO_MODEL, "--context-lenght", "1")
    assert code == EXIT_USAGE and "did you mean --context-length" in said


def test_a_cluster_takes_what_an_instance_takes(cluster):
    made = subprocess.run([BATON, "up", *NO_MODEL, "--unified", "tp=1", "--ssl-keyfile", "k"], capture_output=True, text=True, timeout=60)
    assert made.returncode == EXIT_CONFIGURATION and "--ssl-keyfile cannot be had here" in made.stderr
    foreign = ["--enable-metrics", "--enable-cache-report", "--trust-remote-code", "--cuda-graph-max-bs", "8", "--attention-backend", "triton"]
    unified = cluster("--model-path", str(MODELS["gqa"]), "--unified", "tp=1", *foreign, "--max-num-seqs", "3", "--page-size=16", "--context-len", "100", "--default-priority-value", "2")
    info = get_json(unified.url + "/get_server_info")
    assert (info["max_running_requests"], info["page_size"], info["max_req_input_len"]) == (3, 16, 99)


@pytest.mark.parametrize("flag", ["--stream-response-default-include-usage", "--enable-force-include-usage"])
def test_streams_have_usage_that_nobody_asked_for(cluster, flag):
    served = cluster("--model-path", str(MODELS["gqa"]), "--prefill", "tp=1", "--decode", "tp=1", flag, "--return-tokens-as-token-ids", "--root-path", "/llm")
    ask = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4, "stream": True, "logprobs": True}
    events = [json.loads(line[6:]) for line in call(served.url + "/llm/v1/chat/completions", ask)[1].splitlines() if line.startswith("data: {")]
    assert events[-1]["choices"] == [] and events[-1]["usage"]["completion_tokens"] > 0
    assert {bool(event.get("usage")) for event in events[:-1]} == {flag == "--enable-force-include-usage"}
    tokens = [entry["token"] for event in events for choice in event["choices"] for entry in (choice["logprobs"] or {"content": []})["content"]]
    assert tokens and all(token.startswith("token_id:") for token in tokens)


def test_growth_is_reserved_as_sglang_s_variable_says(start, monkeypatch):
    monkeypatch.setenv("SGLANG_CLIP_MAX_NEW_TOKENS_ESTIMATION", "256")
    instance = start("serve", "--model-path", MODELS["gqa"])
    assert get_json(instance.url + "/get_server_info")["num_reserved_decode_tokens"] == 256


def test_the_queue_is_bounded_and_the_log_says_what_was_asked(start):
    instance = start("serve", "--model-path", MODELS["gqa"], "--max-total-tokens", 4096, "--max-queued-requests", 1, "--log-requests", "--log-requests-level", 1, "--decode-log-interval", 5)
    assert get_json(instance.url + "/get_server_info")["max_queued_requests"] == 1
    body = {"text": "a", "sampling_params": {"max_new_tokens": 10, "ignore_eos": True}}
    assert get_json(instance.url + "/pause_generation", {"mode": "in_place"})["status"] == "ok"
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(call, instance.url + "/generate", body)
        wait_until(lambda: metric(instance.url, "sglang:num_queue_reqs") == 1)
        status, text, _ = call(instance.url + "/generate", {**body, "rid": "one-too-many"})
        assert status == 503 and "The request queue is full." in text
        assert get_json(instance.url + "/continue_generation", {})["status"] == "ok"
        assert waiting.result()[0] == 200
    said = Path(instance.log.name).read_text()
    assert re.search(r"/generate one-too-many: 1 sequences.*temperature 1", said)
    assert re.search(r"Decode batch. #running-req: 1, #token: \d+, token usage: [\d.]+, gen throughput \(token/s\): [\d.]+, #queue-req: 0", said)


@pytest.mark.parametrize("mode", ["abort", "retract", "in_place"])
def test_generation_is_paused_and_goes_on(start, mode):
    instance = start("serve", "--model-path", MODELS["gqa"], "--max-total-tokens", 4096)
    body = {"text": "The", "sampling_params": {"max_new_tokens": 1500, "ignore_eos": True, "temperature": 0}}
    whole = get_json(instance.url + "/generate", body)["text"]
    with ThreadPoolExecutor() as pool:
        running = pool.submit(call, instance.url + "/generate", body)
        wait_until(lambda: metric(instance.url, "sglang:num_running_reqs") == 1)
        assert get_json(instance.url + "/pause_generation", {"mode": mode})["message"] == "Generation paused successfully."
        assert call(instance.url + "/flush_cache", {})[0] == (400 if mode == "in_place" else 200)
        assert running.done() is False or mode == "abort"
        assert get_json(instance.url + "/continue_generation", {})["message"] == "Generation continued successfully."
        status, text, _ = running.result()
    assert status == 200 and (mode == "abort") == ('"abort"' in text)
    if mode != "abort":
        assert json.loads(text)["text"] == whole
    assert call(instance.url + "/pause_generation", {"mode": "now"})[0] == 400


@pytest.mark.parametrize("mode", ["retract", "in_place"])
def test_a_pair_is_paused_through_its_router(cluster, mode):
    cluster = cluster("--model-path", str(MODELS["gqa"]), "--prefill", "tp=1", "--decode", "tp=1", "--max-total-tokens", "4096")
    body = {"text": "The", "sampling_params": {"max_new_tokens": 200, "ignore_eos": True, "temperature": 0}}
    whole = get_json(cluster.url + "/generate", body)["text"]
    decode = cluster.instances("decode")[0]
    with ThreadPoolExecutor() as pool:
        running = pool.submit(call, cluster.url + "/generate", body)
        wait_until(lambda: metric(decode, "sglang:num_running_reqs") == 1)
        assert get_json(cluster.url + "/pause_generation", {"mode": mode})["success"]
        waiting = pool.submit(call, cluster.url + "/generate", body)
        assert get_json(cluster.url + "/continue_generation", {})["success"]
        for answer in (running, waiting):
            status, text, _ = answer.result()
            assert status == 200 and json.loads(text)["text"] == whole


def test_a_pair_is_paused_by_the_names_of_vllm(cluster):
    cluster = cluster("--model-path", str(MODELS["gqa"]), "--prefill", "tp=1", "--decode", "tp=1", "--max-total-tokens", "4096")
    body = {"text": "The", "sampling_params": {"max_new_tokens": 200, "ignore_eos": True, "temperature": 0}}
    whole = get_json(cluster.url + "/generate", body)["text"]
    decode = cluster.instances("decode")[0]
    for mode in ("wait", "keep", "abort"):
        with ThreadPoolExecutor() as pool:
            running = pool.submit(call, cluster.url + "/generate", body)
            wait_until(lambda: metric(decode, "sglang:num_running_reqs") == 1)
            assert get_json(f"{cluster.url}/pause?mode={mode}", {}) == {"status": "paused"}
            assert get_json(cluster.url + "/is_paused") == {"is_paused": True}
            if mode == "wait":
                assert json.loads(running.result()[1])["text"] == whole
            waiting = pool.submit(call, cluster.url + "/generate", body)
            assert get_json(cluster.url + "/resume", {}) == {"status": "resumed"}
            assert get_json(cluster.url + "/is_paused") == {"is_paused": False}
            assert json.loads(waiting.result()[1])["text"] == whole
            assert mode == "abort" or json.loads(running.result()[1])["text"] == whole
    assert call(cluster.url + "/pause?mode=retract", {})[0] == 400
