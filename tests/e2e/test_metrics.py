"""What /metrics says after requests: vLLM's counts of them, and the router's sums."""
import re
import shutil
import subprocess

import pytest
from conftest import MODELS, call, get_json, metric, wait_until

PROMPT = list(range(5, 15))


def complete(url, tokens):
    body = {"model": "default", "prompt": PROMPT, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    assert get_json(url + "/v1/completions", {**body, "model": get_json(url + "/v1/models")["data"][0]["id"]})["usage"]["completion_tokens"] == tokens


def faults(text):
    """What Prometheus refuses, or takes for two samples of one series."""
    found, seen = [], set()
    for line in text.splitlines():
        key = " ".join(line.split(" ")[:3]) if line.startswith("#") else line.rsplit(" ", 1)[0]
        if key in seen:
            found.append(key)
        seen.add(key)
    if shutil.which("promtool"):
        checked = subprocess.run(["promtool", "check", "metrics"], input=text, text=True, capture_output=True)
        if checked.returncode not in (0, 3):  # 3: names that it would have chosen otherwise
            found.append(checked.stderr)
    return found


def test_vllms_counts_of_requests(start):
    server = start("serve", "--model-path", MODELS["gqa"], "--tp-size", "2")
    requests, tokens = 4, 6
    for _ in range(requests):
        complete(server.url, tokens)
    expected = {
        "time_to_first_token_seconds_count": requests,
        "inter_token_latency_seconds_count": requests * (tokens - 1),
        "e2e_request_latency_seconds_count": requests,
        "request_queue_time_seconds_count": requests,
        "request_inference_time_seconds_count": requests,
        "request_prefill_time_seconds_count": requests,
        "request_decode_time_seconds_count": requests,
        "request_num_preemptions_count": requests,
        "request_prompt_tokens_sum": requests * len(PROMPT),
        "request_generation_tokens_sum": requests * tokens,
        "request_max_num_generation_tokens_sum": requests * tokens,
        "request_params_n_count": requests,
        "request_params_max_tokens_sum": requests * tokens,
        "iteration_tokens_total_sum": requests * (len(PROMPT) + tokens),
        "iteration_tokens_total_count": requests * tokens,
        "prompt_tokens_total": requests * len(PROMPT),
        "generation_tokens_total": requests * tokens,
        "request_success_total": requests,
        "num_requests_running": 0,
        "kv_cache_usage_perc": 0,
    }
    # What the engine counts is published with the end of its step, just behind the answer.
    wait_until(lambda: metric(server.url, "vllm:generation_tokens_total") == requests * tokens and metric(server.url, "vllm:num_requests_running") == 0)
    assert {name: metric(server.url, "vllm:" + name) for name in expected} == expected
    page = call(server.url + "/metrics")[1]
    assert not faults(page)
    assert re.search(r'^vllm:cache_config_info\{.*block_size="64".*\} 1$', page, re.M)
    for name in ("weight_memory_usage_gb", "kv_cache_memory_usage_gb", "startup_time_seconds", "kv_available_tokens", "per_stage_req_latency_seconds_count"):
        assert metric(server.url, "sglang:" + name) > 0, name


def test_a_router_has_the_sums_of_its_workers(pair):
    prefill, decode, router = pair("gqa", decodes=2)
    for _ in range(3):
        complete(router.url, 5)
    wait_until(lambda: sum(metric(d.url, "vllm:generation_tokens_total") for d in decode) == 15)
    workers = [prefill.url, *[d.url for d in decode]]
    for name in ("sglang:generation_tokens_total", "sglang:num_running_reqs", "vllm:request_success_total", "vllm:e2e_request_latency_seconds_count",
                 "sglang:max_total_num_tokens", "vllm:num_requests_waiting"):
        assert metric(router.url, name) == sum(metric(url, name) for url in workers), name
    decoded = re.search(r'^vllm:generation_tokens_total\{.*engine_type="decode".*\} (\S+)$', call(router.url + "/metrics")[1], re.M)
    assert float(decoded.group(1)) == 15
    for path in ("/metrics", "/engine_metrics"):
        assert not faults(call(router.url + path)[1]), path
    for url in workers:
        assert f'worker="{url[7:]}"' in call(router.url + "/engine_metrics")[1]


@pytest.mark.skipif(not shutil.which("ab"), reason="apache2-utils")
def test_a_client_of_http_1_0(pair):
    _, decode, router = pair("gqa")
    for url in (router.url, decode[0].url):
        said = subprocess.run(["ab", "-k", "-n", "20", "-c", "2", url + "/v1/models"], capture_output=True, text=True, timeout=30).stdout
        assert re.search(r"Complete requests: +20\b", said) and re.search(r"Failed requests: +0\b", said), said
        assert re.search(r"Keep-Alive requests: +20\b", said), said
