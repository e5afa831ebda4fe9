"""`baton bench` against servers with and without text, and when requests fail."""
import json
import os
import pty
import subprocess

import pytest
from conftest import BATON, MODELS


def bench(instance, *flags, **more):
    return subprocess.run([BATON, "bench", "--port", str(instance.port), "--num-prompts", "6", "--random-input-len", "20", "--random-output-len", "5", "--random-range-ratio", "1", *map(str, flags)],
                          capture_output=True, text=True, timeout=120, **more)


def test_prompts_are_text_and_a_profile_is_taken(start):
    instance = start("serve", "--model-path", MODELS["gqa"], "--max-total-tokens", 4096, "--log-requests")
    made = bench(instance, "--model", MODELS["gqa"], "--profile", "--output-file", f"{instance.log.name}.json")
    assert made.returncode == 0, made.stderr
    for label in ("Successful requests:                     6", "P90 TTFT (ms):", "P95 TPOT (ms):", "P90 E2E Latency (ms):", "Peak output token throughput (tok/s):", "Peak concurrent requests:",
                  "Total generated tokens:                  30", "Total generated tokens (retokenized):"):
        assert label in made.stdout, label
    assert "TTFT part prefill (ms):" in made.stdout and "TTFT part router" not in made.stdout
    profile = json.loads(made.stdout.split("Profile: ")[1])
    assert profile["requests"] == 6 and 30 <= profile["generation_tokens"] <= 31  # the end of the warm-up may be counted late
    figures = json.loads(open(f"{instance.log.name}.json").read())
    assert figures["p95_ttft_ms"] >= figures["median_ttft_ms"] > 0 and figures["max_concurrent_requests"] >= 1


@pytest.mark.parametrize("backend", ["sglang", "sglang-oai"])
def test_tokens_are_counted_where_there_is_no_text(start, tmp_path, backend):
    model = tmp_path / "dummy"
    model.mkdir()
    (model / "config.json").write_text((MODELS["gqa"] / "config.json").read_text())
    instance = start("serve", "--model-path", model, "--load-format", "dummy", "--max-total-tokens", 4096)
    made = bench(instance, "--backend", backend)
    assert made.returncode == 0 and "Total generated tokens:                  30" in made.stdout, made.stdout + made.stderr


def test_failures_come_first_and_end_with_1(start):
    instance = start("serve", "--model-path", MODELS["gqa"], "--max-total-tokens", 4096)
    made = bench(instance, "--model", MODELS["gqa"], "--warmup-requests", "0", "--extra-request-body", '{"rid": 7}')
    assert made.returncode == 1
    assert made.stderr.startswith("6 of 6 requests failed:\nfailed: HTTP 4"), made.stderr
    assert "Serving Benchmark Result" not in made.stdout


def test_progress_is_shown_on_a_terminal_alone(start):
    instance = start("serve", "--model-path", MODELS["gqa"], "--max-total-tokens", 4096)
    assert "under way" not in bench(instance).stderr
    ours, theirs = pty.openpty()
    made = subprocess.run([BATON, "bench", "--port", str(instance.port), "--num-prompts", "3", "--random-input-len", "8", "--random-output-len", "4"], stdout=subprocess.DEVNULL, stderr=theirs,
                          timeout=120)
    os.close(theirs)
    said = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert made.returncode == 0 and "3 of 3 requests, 0 under way" in said
