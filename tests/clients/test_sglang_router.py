"""SGLang's router in PD mode, its mini_lb, and the router over undivided instances, from PyPI, in front of ours."""
import json

import pytest
import requests

CLIENT, PACKAGES = "sglang-router", {"sglang-router": None}
PLACES = ("sglang_router", "mini_lb", "sglang_router_of_one")
REFUSED = "the router itself refuses it (422)"
shows = pytest.mark.shows

GREEDY = {"temperature": 0, "max_new_tokens": 8}


def post(url, path, body, status=200):
    reply = requests.post(url + path, json=body, timeout=120)
    assert reply.status_code == status, (reply.status_code, reply.text)
    return reply.json()


def events(url, path, body):
    """The events of a stream that ends as it should, parsed."""
    with requests.post(url + path, json={**body, "stream": True}, stream=True, timeout=120) as reply:
        assert reply.status_code == 200 and reply.headers["Content-Type"].startswith("text/event-stream"), reply.text
        lines = [line for line in reply.iter_lines() if line]
    assert lines[-1] == b"data: [DONE]" and all(line.startswith(b"data: ") for line in lines)
    return [json.loads(line[6:]) for line in lines[:-1]]


@pytest.fixture(scope="module")
def alone(places):
    """What one undivided instance answers."""
    url = places.url("unified")
    return lambda path, body: post(url, path, body)


@shows("/generate of a text")
def test_generate(url, alone):
    body = {"text": "Once upon a time", "sampling_params": GREEDY}
    answer, wanted = post(url, "/generate", body), alone("/generate", body)
    assert answer["text"] == wanted["text"]
    for name in ("prompt_tokens", "completion_tokens", "finish_reason"):
        assert answer["meta_info"][name] == wanted["meta_info"][name]


@shows("/generate of a batch of texts", result={"sglang_router": REFUSED, "mini_lb": "works", "sglang_router_of_one": REFUSED})
def test_batch(url, place, alone):
    body = {"text": ["Once upon a time", "The fox"], "sampling_params": GREEDY}
    if place == "mini_lb":
        assert [a["text"] for a in post(url, "/generate", body)] == [a["text"] for a in alone("/generate", body)]
    else:
        assert "text" in requests.post(url + "/generate", json=body, timeout=60).text


@shows("/generate of a batch of ids")
def test_batch_of_ids(url, alone):
    body = {"input_ids": [[532, 531, 263], [532]], "sampling_params": GREEDY}
    assert [a["text"] for a in post(url, "/generate", body)] == [a["text"] for a in alone("/generate", body)]


@shows("/generate with n = 2")
def test_choices(url, alone):
    body = {"text": "The fox", "sampling_params": {**GREEDY, "n": 2}}
    assert [a["text"] for a in post(url, "/generate", body)] == [a["text"] for a in alone("/generate", body)]


@shows("/generate streamed")
def test_stream(url, alone):
    body = {"text": "Once upon a time", "sampling_params": GREEDY}
    got = events(url, "/generate", body)
    assert got[-1]["text"] == alone("/generate", body)["text"] and len(got) == 8


def assert_logprobs(answer, wanted):
    for name in ("input_token_logprobs", "output_token_logprobs"):
        got, want = answer["meta_info"][name], wanted["meta_info"][name]
        assert [entry[1] for entry in got] == [entry[1] for entry in want], name
        assert [entry[0] for entry in got if entry[0]] == pytest.approx([entry[0] for entry in want if entry[0]], abs=0.05)
    for name in ("input_top_logprobs", "output_top_logprobs"):
        assert len(answer["meta_info"][name]) == len(wanted["meta_info"][name]), name


@shows("/generate with logprobs of prompt and answer")
def test_logprobs(url, alone):
    body = {"text": "The fox was happy.", "sampling_params": GREEDY, "return_logprob": True, "logprob_start_len": 0, "top_logprobs_num": 2}
    assert_logprobs(post(url, "/generate", body), alone("/generate", body))


@shows("/generate of a batch with logprobs of prompt and answer")
def test_batch_logprobs(url, alone):
    body = {"input_ids": [[532, 531, 263], [532, 531]], "sampling_params": GREEDY, "return_logprob": True, "logprob_start_len": 0, "top_logprobs_num": 2}
    for answer, wanted in zip(post(url, "/generate", body), alone("/generate", body), strict=True):
        assert_logprobs(answer, wanted)


@shows("/generate streamed with logprobs of prompt and answer")
def test_stream_logprobs(url, alone):
    body = {"text": "The fox was happy.", "sampling_params": GREEDY, "return_logprob": True, "logprob_start_len": 0, "top_logprobs_num": 2}
    assert_logprobs(events(url, "/generate", body)[-1], alone("/generate", body))


@shows("/v1/completions, also streamed")
def test_completions(url, alone):
    body = {"model": "tiny", "prompt": "Once upon a time", "max_tokens": 8, "temperature": 0}
    wanted = alone("/v1/completions", body)["choices"][0]["text"]
    assert post(url, "/v1/completions", body)["choices"][0]["text"] == wanted
    assert "".join(e["choices"][0]["text"] for e in events(url, "/v1/completions", body)) == wanted


@shows("/v1/completions of a list of prompts")
def test_completions_batch(url, alone):
    body = {"model": "tiny", "prompt": ["Once upon a time", "The fox"], "max_tokens": 8, "temperature": 0}
    wanted = [choice["text"] for choice in alone("/v1/completions", body)["choices"]]
    assert [choice["text"] for choice in post(url, "/v1/completions", body)["choices"]] == wanted


@shows("/v1/completions with echo and logprobs")
def test_echo(url, alone):
    body = {"model": "tiny", "prompt": "The fox was happy.", "max_tokens": 4, "temperature": 0, "echo": True, "logprobs": 1}
    (answer,), (wanted,) = (post(url, "/v1/completions", body)["choices"], alone("/v1/completions", body)["choices"])
    assert answer["text"] == wanted["text"] and answer["logprobs"]["tokens"] == wanted["logprobs"]["tokens"]
    assert answer["logprobs"]["token_logprobs"][0] is None
    assert answer["logprobs"]["token_logprobs"][1:] == pytest.approx(wanted["logprobs"]["token_logprobs"][1:], abs=0.05)


@shows("/v1/chat/completions, also streamed")
def test_chat(url, alone):
    body = {"model": "tiny", "messages": [{"role": "user", "content": "What is 23 + 19?"}], "temperature": 0}
    wanted = alone("/v1/chat/completions", body)["choices"][0]["message"]["content"]
    assert post(url, "/v1/chat/completions", body)["choices"][0]["message"]["content"] == wanted
    assert "".join(e["choices"][0]["delta"].get("content") or "" for e in events(url, "/v1/chat/completions", body)) == wanted


@shows("/v1/chat/completions with n = 2 and logprobs")
def test_chat_choices(url, alone):
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Tell me a story."}], "temperature": 0, "max_tokens": 6, "n": 2, "logprobs": True, "top_logprobs": 2}
    got, wanted = post(url, "/v1/chat/completions", body)["choices"], alone("/v1/chat/completions", body)["choices"]
    assert [c["message"] for c in got] == [c["message"] for c in wanted] and len(got) == 2
    assert [len(c["logprobs"]["content"]) for c in got] == [6, 6]


@shows("an answer that begins with the stop token")
def test_stop_first(url, alone):
    first = alone("/generate", {"text": "Once upon a time", "sampling_params": GREEDY, "return_logprob": True})["meta_info"]["output_token_logprobs"][0][1]
    body = {"text": "Once upon a time", "sampling_params": {**GREEDY, "stop_token_ids": [first]}}
    assert post(url, "/generate", body)["text"] == alone("/generate", body)["text"] == ""


@shows("a bad request", result="our 400, in our words")
def test_bad_request(url):
    body = {"text": "x", "sampling_params": {"temperature": -1}}
    assert "temperature" in json.dumps(post(url, "/generate", body, status=400))


@shows("/health, /get_model_info, /v1/models, /get_server_info, /flush_cache")
def test_other_paths(url):
    for path in ("/health", "/get_model_info", "/v1/models", "/get_server_info"):
        assert requests.get(url + path, timeout=60).status_code == 200, path
    assert requests.get(url + "/v1/models", timeout=60).json()["data"][0]["id"] == "tiny"
    assert requests.post(url + "/flush_cache", timeout=60).status_code == 200
