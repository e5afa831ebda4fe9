"""lm-eval's API models. The log-likelihoods that they find are transformers' own, from the model's golden file.

sglang-router 0.3.2 takes no ids in `/v1/completions`, and calls an answer with logprobs application/octet-stream, which the
client takes only where it sends one request at a time; there it is asked so.
"""
import json

import lm_eval
import pytest
import requests
from lm_eval.tasks import TaskManager

from conftest import MODEL

CLIENT, PACKAGES = "lm-eval", {"lm_eval": None}
PLACES = ("unified", "router", "sglang_router", "mini_lb")
shows = pytest.mark.shows

GOLDEN = [case for case in json.loads((MODEL / "golden.json").read_text())["cases"] if len(case["prompt_ids"]) < 100]
SUMS = [(23, 19), (4, 5), (17, 30)]


BY_TEXT = {"tokenized_requests": False}


@pytest.fixture
def suited(place):
    """The model's arguments with which the router at that place can be asked."""
    return {"num_concurrent": 1, **BY_TEXT} if place == "sglang_router" else {}


def golden_logprob(case):
    return sum(step["logits"][0] - step["logsumexp"] for step in case["top8_per_step"])


def task(tmp_path, name, rows, **more):
    """A task of the client over `rows`, which it reads from a file as it does a data set."""
    file = tmp_path / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(file)}, "cache_dir": str(tmp_path / "cache")}, "test_split": "test",
            "doc_to_text": "{{question}}", "doc_to_target": "{{answer}}", "target_delimiter": "", **more}


def evaluate(model, url, task, endpoint="/v1/completions", chat=False, **model_args):
    given = {"model": "tiny", "base_url": url + endpoint, "tokenizer": str(MODEL), "max_length": 16384, "num_concurrent": 2, "max_retries": 1, **model_args}
    given = {name: value for name, value in given.items() if value is not None}
    # Its own tasks, thousands of files, are not looked through.
    done = lm_eval.simple_evaluate(model=model, model_args=given, tasks=[task], task_manager=TaskManager(include_defaults=False), bootstrap_iters=0, apply_chat_template=chat)
    return done["results"][task["task"]], [sample["resps"][0] for sample in done["samples"][task["task"]]]


def score_golden(tmp_path, url, model="local-completions", **more):
    rows = [{"question": case["prompt"], "answer": case["greedy_text"]} for case in GOLDEN]
    _, found = evaluate(model, url, task(tmp_path, "golden", rows, output_type="loglikelihood", metric_list=[{"metric": "acc"}]), **more)
    # Stories are near ties of bfloat16 weights; everything else agrees far better.
    assert [score for [(score, _)] in found] == pytest.approx([golden_logprob(case) for case in GOLDEN], abs=0.01, rel=1e-3)
    return [greedy for [(_, greedy)] in found]


@shows("local-completions, loglikelihood in batches of ids", result={**dict.fromkeys(PLACES, "works"), "sglang_router": "the router itself refuses it (422)"})
def test_loglikelihood(url, place, tmp_path):
    if place == "sglang_router":
        assert requests.post(url + "/v1/completions", json={"model": "tiny", "prompt": [[532]], "max_tokens": 1}, timeout=60).status_code == 422
    else:
        assert all(score_golden(tmp_path, url, batch_size=4))


@shows("local-completions, loglikelihood in batches of texts")
def test_loglikelihood_of_texts(url, tmp_path, suited):
    assert all(score_golden(tmp_path, url, batch_size=3, **{**suited, **BY_TEXT}))


@shows("local-completions, multiple choice")
def test_multiple_choice(url, tmp_path, suited):
    rows = [{"question": f"<｜begin▁of▁sentence｜><｜User｜>What is {a} + {b}?<｜Assistant｜>{a} + {b} =", "choices": [str(a + b + d) for d in (10, 0, 1)]} for a, b in SUMS]
    made = task(tmp_path, "choice", rows, output_type="multiple_choice", doc_to_choice="{{choices}}", doc_to_target=1, metric_list=[{"metric": "acc"}])
    made["target_delimiter"] = " "
    assert evaluate("local-completions", url, made, **suited)[0]["acc,none"] == 1


@shows("local-completions, rolling loglikelihood (perplexity)")
def test_rolling(url, tmp_path, suited):
    rows = [{"question": "", "answer": "Once upon a time there was a hungry otter named Ned."}]
    made = task(tmp_path, "rolling", rows, output_type="loglikelihood_rolling", metric_list=[{"metric": "word_perplexity"}])
    # Without logprobs of the prompt it would be 1.
    assert 1.5 < evaluate("local-completions", url, made, **suited)[0]["word_perplexity,none"] < 1000


@shows("local-completions, generate_until")
def test_generate(url, tmp_path, suited):
    rows = [{"question": f"<｜begin▁of▁sentence｜><｜User｜>What is {a} + {b}?<｜Assistant｜>", "answer": f"{a} + {b} = {a + b}"} for a, b in SUMS]
    made = task(tmp_path, "generate", rows, output_type="generate_until", generation_kwargs={"until": ["."], "max_gen_toks": 20}, metric_list=[{"metric": "exact_match"}])
    assert evaluate("local-completions", url, made, batch_size=2, **suited)[0]["exact_match,none"] == 1


@shows("local-chat-completions, generate_until")
def test_chat(url, tmp_path):
    rows = [{"question": f"What is {a} + {b}?", "answer": f"{a} + {b} = {a + b}"} for a, b in SUMS]
    made = task(tmp_path, "chat", rows, output_type="generate_until", generation_kwargs={"until": ["."], "max_gen_toks": 20}, metric_list=[{"metric": "exact_match"}])
    assert evaluate("local-chat-completions", url, made, "/v1/chat/completions", chat=True, tokenizer=None)[0]["exact_match,none"] == 1


@shows("sglang-generate, loglikelihood in batches of ids")
def test_native(url, tmp_path, suited):
    score_golden(tmp_path, url, model="sglang-generate", endpoint="/generate", batch_size=4, **{**suited, "tokenized_requests": True})


@shows("local-completions with the server's tokenizer", result={**dict.fromkeys(PLACES, "works"), **dict.fromkeys(PLACES[2:], "the router itself has no /tokenizer_info")})
def test_remote_tokenizer(url, place, tmp_path):
    if place in PLACES[2:]:
        assert requests.get(url + "/tokenizer_info", timeout=60).status_code == 404
    else:
        assert all(score_golden(tmp_path, url, tokenizer=None, tokenizer_backend="remote"))
