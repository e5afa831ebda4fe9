"""Text that went through a handoff equals text that did not."""
import json
import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from conftest import MODELS, call, get_json, wait_idle


def passkey_prompts(count):
    """Questions about pass keys in texts of many lengths, in the form that the models were trained on."""
    import corpus

    made = []
    r = random.Random(5)
    for i in range(count):
        text, asked = corpus.passkey(r, [40, 120, 400, 900, 1500][i % 5])
        made.append(corpus.BOS + corpus.USER + text + "\n\n" + asked[0][0] + corpus.ASSISTANT)
    return made


def greedy(url, prompts, tokens=24, parallel=4):
    def one(prompt):
        answer = get_json(url + "/generate", {"text": prompt, "sampling_params": {"temperature": 0, "max_new_tokens": tokens}})
        return answer["output_ids"]

    with ThreadPoolExecutor(parallel) as pool:
        return list(pool.map(one, prompts))


PAIRS = {
    "mla": [("tp=4", "tp=4,dp=2"), ("tp=3", "tp=2,pp=2"), ("tp=2,pp=2", "tp=4,dp=4"), ("tp=8", "tp=6,dp=3")],
    "gqa": [("tp=4", "tp=4,dp=2"), ("tp=6", "tp=4"), ("tp=2,pp=2", "tp=2"), ("tp=1", "tp=8,dp=2")],
}


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The undivided instance's greedy tokens for 40 pass-key prompts, by model."""
    from conftest import Cluster

    made, prompts = {}, passkey_prompts(40)
    for model, path in MODELS.items():
        unified = Cluster("--model-path", str(path), "--unified", "tp=1", log=tmp_path_factory.mktemp("unified") / "log")
        made[model] = greedy(unified.url, prompts)
        assert unified.stop() == 0
    return prompts, made


@pytest.mark.parametrize("model,prefill,decode", [(m, p, d) for m, pairs in PAIRS.items() for p, d in pairs])
def test_text_equals_the_unified_instances(cluster, expected, model, prefill, decode):
    prompts, by_model = expected
    up = cluster("--model-path", MODELS[model], "--prefill", prefill, "--decode", decode)
    assert greedy(up.url, prompts) == by_model[model]
    wait_idle(up)


def test_tcp_and_unequal_counts_of_instances(cluster, expected):
    prompts, by_model = expected
    up = cluster("--model-path", MODELS["mla"], "--prefill", "tp=2", "--prefill", "tp=1", "--decode", "tp=2,dp=2", "--disaggregation-transfer-backend", "tcp")
    assert greedy(up.url, prompts[:20]) == by_model["mla"][:20]
    wait_idle(up)


def test_answers_carry_a_verdict_and_the_parts_of_ttft(cluster):
    up = cluster("--model-path", MODELS["mla"], "--prefill", "tp=4", "--decode", "tp=4,dp=2")
    status, text, headers = call(up.url + "/generate", {"text": "Hello", "sampling_params": {"max_new_tokens": 4, "temperature": 0}})
    assert status == 200 and headers["x-baton-verdict"].startswith("disaggregated; prefill=")
    parts = json.loads(text)["meta_info"]["ttft_parts_ms"]
    assert {"grant", "prefill_queue", "prefill", "transfer", "first_step"} == set(parts) and all(v >= 0 for v in parts.values())
