"""The API as curl asks for it. Other people's clients are in tests/clients."""
import json
import socket
import subprocess

import openai
import pytest

from conftest import BATON, MODELS, Cluster, call, get_json, wait_idle


@pytest.fixture(scope="module")
def up(tmp_path_factory):
    made = Cluster("--model-path", str(MODELS["mla"]), "--prefill", "tp=4", "--decode", "tp=4,dp=2", log=tmp_path_factory.mktemp("clients") / "log")
    yield made
    wait_idle(made)
    assert made.stop() == 0


def test_generate_streams_cumulative_text(up):
    body = {"text": "Once upon a time", "sampling_params": {"temperature": 0, "max_new_tokens": 12}, "stream": True, "lora_path": None}
    status, text, headers = call(up.url + "/generate", body)
    assert status == 200 and headers["Content-Type"].startswith("text/event-stream")
    events = [line[6:] for line in text.split("\n") if line]
    assert events[-1] == "[DONE]"
    parsed = [json.loads(e) for e in events[:-1]]
    for before, after in zip(parsed, parsed[1:]):
        assert after["text"].startswith(before["text"])
    assert parsed[-1]["meta_info"]["finish_reason"] == {"type": "length", "length": 12}
    assert parsed[-1]["meta_info"]["completion_tokens"] == 12


def test_generate_batch_and_logprobs(up):
    body = {"text": ["What is 1 + 1?", "Hello"], "sampling_params": {"temperature": 0, "max_new_tokens": 4}, "return_logprob": True, "logprob_start_len": 0,
            "top_logprobs_num": 2}
    answers = get_json(up.url + "/generate", body)
    assert len(answers) == 2
    for answer in answers:
        meta = answer["meta_info"]
        assert len(meta["output_token_logprobs"]) == meta["completion_tokens"]
        assert len(meta["input_token_logprobs"]) == meta["prompt_tokens"]


def test_every_read_endpoint_answers(up):
    for path in ("/health", "/ping", "/liveness", "/readiness", "/get_server_info", "/server_info", "/get_model_info", "/model_info", "/v1/models", "//v1///models",
                 "/metrics", "/engine_metrics", "/version", "/workers", "/plan", "/tokenizer_info", "/health_generate"):
        status, text, _ = call(up.url + path)
        assert status == 200, (path, status, text)
    info = get_json(up.url + "/get_server_info")
    assert len(info["internal_states"]) == 2 and len(info["prefill"]) == 1 and len(info["decode"]) == 1
    assert call(up.url + "/flush_cache", b"")[0] == 200
    decode = up.instances("decode")[0]
    text = call(decode + "/metrics")[1]
    for name in ("sglang:num_running_reqs", "sglang:token_usage", "sglang:kv_transfer_total_mb_bucket", "vllm:num_requests_running", "baton_transfer_bytes_total",
                 "baton_link_planned", "baton_ttft_part_seconds_bucket", "baton_pages"):
        assert name in text, name


def test_bad_requests_are_clear(up):
    decode = up.instances("decode")[0]
    cases = [
        (up.url + "/generate", b"{", 400, "not JSON"),
        (up.url + "/generate", {"text": "x", "input_ids": [1]}, 400, "exactly one of text and input_ids"),
        (up.url + "/generate", {"input_ids": [99999]}, 400, "not below the vocabulary"),
        (up.url + "/v1/chat/completions", {"messages": []}, 400, "messages"),
        (up.url + "/v1/completions", {"prompt": "x", "top_p": 0}, 400, "top_p"),
        (decode + "/generate", {"text": "x"}, 400, "bootstrap_room"),
        (up.url + "/v1/embeddings", {}, 501, "does not have that"),
        (up.url + "/v1/nothing", {}, 404, "no such endpoint"),
        (decode + "/v1/embeddings", {}, 501, "does not have that"),
    ]
    for url, body, status, words in cases:
        got, text, _ = call(url, body)
        assert got == status and words in text, (url, body, got, text)


def test_a_client_that_leaves_frees_everything(up):
    for _ in range(6):
        process = subprocess.Popen(["curl", "-sN", up.url + "/generate", "-H", "Content-Type: application/json", "-d",
                                    json.dumps({"text": "Tell me", "stream": True, "sampling_params": {"max_new_tokens": 8000, "ignore_eos": True}})],
                                   stdout=subprocess.PIPE)
        process.stdout.read(200)
        process.kill()
        process.wait()
        process.stdout.close()
    wait_idle(up, 30)


def test_bench_reports_ttft_as_a_sum(up):
    host, port = up.url.removeprefix("http://").split(":")
    made = subprocess.run([BATON, "bench", "--host", host, "--port", port, "--model", MODELS["mla"], "--num-prompts", "4", "--random-input-len", "256", "--random-output-len",
                           "8", "--random-range-ratio", "1", "--dataset-name", "random", "--request-rate", "4"], capture_output=True, text=True, timeout=120)
    assert made.returncode == 0, made.stderr
    assert "Successful requests:                     4" in made.stdout
    for part in ("router", "grant", "prefill_queue", "prefill", "transfer"):
        assert f"TTFT part {part} (ms):" in made.stdout


def test_an_ipv6_address_is_printed_as_a_url(tmp_path):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    cluster = Cluster("--model-path", str(MODELS["gqa"]), "--unified", "tp=1", "--host", "::1", log=tmp_path / "log")
    assert cluster.url.startswith("http://[::1]:") and cluster.instances("unified") == [cluster.url]
    assert call(cluster.url + "/health")[0] == 200
    assert cluster.stop() == 0
    assert f"API on {cluster.url}" in cluster.log_path.read_text()


def test_a_key_for_the_whole_cluster(tmp_path):
    """The router shows it to its workers, and wants it from clients; the instances are on loopback even where the API is not."""
    cluster = Cluster("--model-path", str(MODELS["gqa"]), "--prefill", "tp=2", "--decode", "tp=1", "--api-key", "k7", "--host", "0.0.0.0", log=tmp_path / "log")
    port = cluster.url.rsplit(":", 1)[1]
    ask = dict(model="default", prompt="Once upon a time", max_tokens=4)
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="wrong", max_retries=0).completions.create(**ask)
    assert openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="k7", max_retries=0).completions.create(**ask).usage.completion_tokens == 4
    assert [url for role in ("prefill", "decode") for url in cluster.instances(role) if "127.0.0.1" not in url] == []
    assert len(cluster.instances("prefill")) == len(cluster.instances("decode")) == 1
    assert cluster.stop() == 0
    assert "not healthy" not in cluster.log_path.read_text()
