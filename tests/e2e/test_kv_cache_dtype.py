"""KV pages of float8."""
import subprocess

import pytest

from conftest import BATON, MODELS, get_json, wait_idle
from layout_pairs import greedy, passkey_prompts

PROMPTS = passkey_prompts(8)
FP8 = ("--kv-cache-dtype", "fp8_e4m3")


@pytest.mark.parametrize("model,prefill,decode", [("mla", "tp=4", "tp=4,dp=2"), ("gqa", "tp=2,pp=2", "tp=4")])
def test_fp8_pages_answer_as_one_instance(cluster, model, prefill, decode):
    unified = cluster("--model-path", MODELS[model], "--unified", "tp=1", *FP8)
    assert get_json(unified.url + "/server_info")["kv_cache_dtype"] == "float8_e4m3fn"
    up = cluster("--model-path", MODELS[model], "--prefill", prefill, "--decode", decode, *FP8)
    assert greedy(up.url, PROMPTS) == greedy(unified.url, PROMPTS)
    wait_idle(up)


def test_names_of_types():
    answer = subprocess.run([BATON, "serve", "--model-path", MODELS["mla"], "--kv-cache-dtype", "fp8_e5m2"], capture_output=True, text=True, timeout=20)
    assert answer.returncode != 0 and "fp8_e4m3" in answer.stderr
