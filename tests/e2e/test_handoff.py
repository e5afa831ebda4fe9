"""Text that went through a handoff equals text that did not."""
import json

import pytest

from conftest import MODELS, call, wait_idle
from layout_pairs import LAYOUTS, Walk, greedy, passkey_prompts, unified_answers


# Every layout once on each side, in an order that pairs unlike ones; `./dev pairs` walks all 32 x 32.
SAMPLE = [(prefill, LAYOUTS[(7 * i + 5) % len(LAYOUTS)]) for i, prefill in enumerate(LAYOUTS)]
PROMPTS = passkey_prompts(40)


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The undivided instance's greedy tokens and the prompts' lengths, by model."""
    return {model: unified_answers(model, PROMPTS, tmp_path_factory.mktemp("unified")) for model in MODELS}


@pytest.mark.parametrize("model", MODELS)
def test_pairs_of_layouts_answer_as_one_instance(model, expected, tmp_path):
    prompts = PROMPTS[:8]
    answers, lengths = expected[model]
    with Walk(model, LAYOUTS, LAYOUTS, prompts, (answers[:8], lengths[:8]), tmp_path) as walk:
        for prefill, decode in SAMPLE:
            walk.check(prefill, decode)


@pytest.mark.parametrize("model,prefill,decode", [("mla", "tp=4", "tp=4,dp=2"), ("mla", "tp=2,pp=2", "tp=4,dp=4"), ("gqa", "tp=6", "tp=4"), ("gqa", "tp=2,pp=2", "tp=2")])
def test_forty_prompts_through_a_cluster(cluster, expected, model, prefill, decode):
    up = cluster("--model-path", MODELS[model], "--prefill", prefill, "--decode", decode)
    assert greedy(up.url, PROMPTS) == expected[model]
    wait_idle(up)


def test_tcp_and_unequal_counts_of_instances(cluster, expected):
    answers, lengths = expected["mla"]
    up = cluster("--model-path", MODELS["mla"], "--prefill", "tp=2", "--prefill", "tp=1", "--decode", "tp=2,dp=2", "--disaggregation-transfer-backend", "tcp")
    assert greedy(up.url, PROMPTS[:20]) == (answers[:20], lengths[:20])
    wait_idle(up)


def test_answers_carry_a_verdict_and_the_parts_of_ttft(cluster):
    up = cluster("--model-path", MODELS["mla"], "--prefill", "tp=4", "--decode", "tp=4,dp=2")
    status, text, headers = call(up.url + "/generate", {"text": "Hello", "sampling_params": {"max_new_tokens": 4, "temperature": 0}})
    assert status == 200 and headers["x-baton-verdict"].startswith("disaggregated; prefill=")
    parts = json.loads(text)["meta_info"]["ttft_parts_ms"]
    assert {"grant", "prefill_queue", "prefill", "transfer", "first_step"} == set(parts) and all(v >= 0 for v in parts.values())
