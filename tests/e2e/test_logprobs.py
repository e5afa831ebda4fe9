"""Logprobs and cached tokens: decode's answer is whole by itself, and says what an undivided instance says."""
import json
import random
import re
import threading

from conftest import MODELS, call, get_json

GREEDY = {"temperature": 0, "max_new_tokens": 5}
CALLS = [
    ("/generate", {"text": "What is 1 + 1?", "sampling_params": GREEDY, "return_logprob": True, "logprob_start_len": 0, "top_logprobs_num": 2, "token_ids_logprob": [3, 5],
                   "return_text_in_logprobs": True}),
    ("/generate", {"text": "What is 1 + 1?", "sampling_params": {"temperature": 0, "max_new_tokens": 0}, "return_logprob": True, "token_ids_logprob": [3]}),
    ("/generate", {"text": ["a b c", "What is 1 + 1?"], "sampling_params": GREEDY, "return_logprob": True, "logprob_start_len": [0, 2], "top_logprobs_num": [0, 3]}),
    ("/v1/completions", {"prompt": "\u00e9\u65e5 <s> Hello", "echo": True, "logprobs": 2, "max_tokens": 5, "temperature": 0}),
    ("/v1/completions", {"prompt": ["\u00e9\u65e5", "Hello"], "echo": True, "logprobs": 0, "max_tokens": 5, "temperature": 0}),
    ("/v1/completions", {"prompt": [[5, 6, 7], [8, 9]], "echo": True, "logprobs": 1, "max_tokens": 1, "temperature": 0}),
]


def sequences(body):
    prompt = body.get("text", body.get("prompt"))
    return len(prompt) if isinstance(prompt, list) else None


def behind_no_router(prefill, bootstrap_port, decode, path, body):
    """What the legs answer to one body that names where they meet, as any router sends it."""
    def room():
        return random.randrange(1, 2**63)

    n = sequences(body)
    meeting = {"bootstrap_host": "127.0.0.1", "bootstrap_port": bootstrap_port, "bootstrap_room": room()}
    if n is not None:
        meeting = {"bootstrap_host": ["127.0.0.1"] * n, "bootstrap_port": [bootstrap_port] * n, "bootstrap_room": [room() for _ in range(n)]}
    prefills = []
    leg = threading.Thread(target=lambda: prefills.append(call(prefill + path, {**body, **meeting})))
    leg.start()
    status, text, _ = call(decode + path, {**body, **meeting})
    leg.join()
    assert status == 200 and prefills[0][0] == 200, (text, prefills)
    return text, prefills[0][1]


def comparable(text):
    """Without what differs from call to call; the events of a stream in the order of their contents."""
    volatile = {"id", "created", "e2e_latency", "ttft_parts_ms", "cached_tokens", "prompt_tokens_details", "dp_rank"}

    def strip(value):
        if isinstance(value, dict):
            return {name: strip(entry) for name, entry in value.items() if name not in volatile}
        if isinstance(value, list):
            return [strip(entry) for entry in value]
        return round(value, 1) + 0 if isinstance(value, float) else value

    if not text.startswith("data: "):
        return strip(json.loads(text))
    events = [line[6:] for line in text.split("\n") if line]
    assert events.pop() == "[DONE]"
    return sorted(json.dumps(strip(json.loads(event)), sort_keys=True) for event in events)


def test_decodes_answer_has_every_logprob_whoever_is_in_front(cluster):
    up = cluster("--model-path", MODELS["gqa"], "--prefill", "tp=1", "--decode", "tp=1")
    undivided = cluster("--model-path", MODELS["gqa"], "--unified", "tp=1")
    prefill, decode = up.instances("prefill")[0], up.instances("decode")[0]
    port = int(re.search(r"bootstrap port (\d+)", up.summary).group(1))
    for path, body in CALLS:
        for stream in (False, True):
            asked = {**body, "stream": stream}
            expected = comparable(call(undivided.url + path, asked)[1])
            legs = behind_no_router(prefill, port, decode, path, asked)
            assert comparable(legs[0]) == expected, (path, asked)
            assert comparable(call(up.url + path, asked)[1]) == expected, (path, asked)
            if path == "/generate" and not stream:  # nothing that could be counted twice
                answers = json.loads(legs[1])
                for answer in answers if isinstance(answers, list) else [answers]:
                    assert answer["meta_info"]["input_token_logprobs"] == []


def test_text_offsets_are_places_in_the_text(cluster):
    up = cluster("--model-path", MODELS["gqa"], "--prefill", "tp=1", "--decode", "tp=2")
    choice = get_json(up.url + "/v1/completions", {"prompt": "\u00e9\u65e5 Hello", "echo": True, "logprobs": 1, "max_tokens": 8, "temperature": 0})["choices"][0]
    text, lists = choice["text"], choice["logprobs"]
    assert text.startswith("\u00e9\u65e5 Hello")
    ends = lists["text_offset"][1:] + [len(text)]
    for token, begin, end in zip(lists["tokens"], lists["text_offset"], ends):
        assert token == "\ufffd" or text[begin:end] in (token, ""), (token, begin, end)  # no text: a special one


def test_a_stop_token_that_comes_first_has_no_text(cluster):
    up = cluster("--model-path", MODELS["gqa"], "--prefill", "tp=1", "--decode", "tp=1")
    prompt = "The number is 12. What is the number?"
    first = next(i for i in get_json(up.url + "/generate", {"text": prompt, "sampling_params": GREEDY})["output_ids"])
    for skip in (True, False):
        for n in (1, 2):
            params = {**GREEDY, "stop_token_ids": [first], "skip_special_tokens": skip, "n": n}
            answers = get_json(up.url + "/generate", {"text": prompt, "sampling_params": params})
            for answer in answers if n > 1 else [answers]:
                assert answer["text"] == "" and answer["output_ids"] == [first]
                assert answer["meta_info"]["finish_reason"] == {"type": "stop", "matched": first}


def test_cached_tokens_are_to_the_page(cluster):
    for page in (1, 64):
        up = cluster("--model-path", MODELS["gqa"], "--prefill", "tp=1", "--decode", "tp=1", "--page-size", page)
        undivided = cluster("--model-path", MODELS["gqa"], "--unified", "tp=1", "--page-size", page)
        for url in (up.url, undivided.url):
            info = get_json(url + "/get_server_info")
            assert (info["prefill"][0] if "prefill" in info else info)["page_size"] == page

            def cached(length):
                body = {"input_ids": [5 + i % 900 for i in range(length)], "sampling_params": {"max_new_tokens": 1}}
                return get_json(url + "/generate", body)["meta_info"]["cached_tokens"]

            for length, before in ((100, 0), (1000, 100), (1000, 999), (300, 299), (1100, 1000)):
                assert cached(length) == before // page * page, (url, page, length)


def test_a_fake_transfer_answers_and_says_nothing_of_the_models(cluster):
    up = cluster("--model-path", MODELS["gqa"], "--prefill", "tp=1", "--decode", "tp=1")
    body = {"input_ids": [40, 41, 42], "sampling_params": {"max_new_tokens": 4, "ignore_eos": True}, "bootstrap_host": "2.2.2.2", "bootstrap_room": 0}
    answer = get_json(up.instances("decode")[0] + "/generate", body)
    assert answer["output_ids"] == [42] * 4 and answer["meta_info"]["fake_transfer"] is True
    assert get_json(up.instances("prefill")[0] + "/generate", body)["meta_info"]["finish_reason"] == {"type": "length", "length": 0}
    for role in ("prefill", "decode"):
        assert call(up.instances(role)[0] + "/health_generate")[0] == 200
