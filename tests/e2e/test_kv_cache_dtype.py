"""KV pages of float8, and KV that is converted on its way from prefill to decode."""
import re
import subprocess

import pytest

from conftest import BATON, MODELS, call, get_json, wait_idle
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


@pytest.mark.parametrize("model,prefill,decode", [("mla", ("--tp-size", 2, "--page-size", 16), ("--tp-size", 4, "--dp-size", 2)), ("gqa", ("--tp-size", 3), ("--tp-size", 2, "--page-size", 128))])
def test_prefill_converts_what_decode_holds_otherwise(start, cluster, model, prefill, decode):
    """Prefill attends to its own bfloat16 and an undivided fp8 instance to fp8, so tokens are held against neither alone: to bfloat16 the answers are as near as fp8's own are."""
    serving = ("--model-path", MODELS[model], "--disaggregation-bootstrap-port", "0")
    first = start("serve", *serving, *prefill, "--disaggregation-mode", "prefill")
    second = start("serve", *serving, *decode, *FP8, "--disaggregation-mode", "decode")
    router = start("router", "--prefill", first.url, first.bootstrap_port, "--decode", second.url)
    answers, lengths = greedy(router.url, PROMPTS)
    plain = cluster("--model-path", MODELS[model], "--unified", "tp=1")
    narrow = cluster("--model-path", MODELS[model], "--unified", "tp=1", *FP8)
    bf16, fp8 = greedy(plain.url, PROMPTS), greedy(narrow.url, PROMPTS)
    assert lengths == bf16[1]
    checked = call(second.url + "/metrics")[1]
    assert re.search(r'baton_page_checksums_total\{result="equal"\} [1-9]', checked) and 'result="different"} 0' in checked
    alike = [sum(a == b for a, b in zip(one, bf16[0])) for one in (answers, fp8[0])]
    print(alike)
    assert min(alike) >= 6, (answers, bf16[0], fp8[0])


def test_names_of_types():
    answer = subprocess.run([BATON, "serve", "--model-path", MODELS["mla"], "--kv-cache-dtype", "fp8_e5m2"], capture_output=True, text=True, timeout=20)
    assert answer.returncode != 0 and "fp8_e4m3" in answer.stderr
