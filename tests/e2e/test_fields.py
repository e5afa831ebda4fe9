"""Fields of requests over a handoff: prefill draws the first token, decode the others, and both read the body."""
import re
import threading

import openai
import pytest

from conftest import MODELS, Cluster, call, get_json, wait_idle


@pytest.fixture(scope="module")
def up(tmp_path_factory):
    made = Cluster("--model-path", str(MODELS["gqa"]), "--prefill", "tp=1", "--decode", "tp=2,dp=2", "--trust-request-chat-template",
                   log=tmp_path_factory.mktemp("fields") / "log")
    yield made
    wait_idle(made)
    assert made.stop() == 0


@pytest.fixture
def client(up):
    return openai.OpenAI(base_url=up.url + "/v1", api_key="none", max_retries=0)


def test_only_allowed_tokens_come(client):
    answer = client.completions.create(model="any", prompt="Once upon", max_tokens=12, temperature=1,
                                       extra_body={"allowed_token_ids": [40, 41, 50], "return_token_ids": True, "ignore_eos": True})
    assert len(answer.choices[0].token_ids) == 12 and set(answer.choices[0].token_ids) <= {40, 41, 50}


def test_bad_words_do_not_come(up, client):
    ask = dict(model="any", prompt="Once", max_tokens=16, temperature=0)
    plain = client.completions.create(**ask, extra_body={"return_token_ids": True}).choices[0]
    words = plain.text.replace(",", "").split()

    def barred(text):
        """Whether both ways to write it have as many tokens, as vLLM wants it."""
        count = [get_json(up.url + "/tokenize", {"prompt": written, "add_special_tokens": False})["count"] for written in (text, " " + text)]
        return count[0] == count[1]

    pairs = [f"{a} {b}" for a, b in zip(words, words[1:])]
    for word in (next(w for w in words if len(w) > 3 and barred(w)), next(pair for pair in pairs if barred(pair))):
        assert word in plain.text
        assert word not in client.completions.create(**ask, extra_body={"bad_words": [word]}).choices[0].text


def test_stop_strings_wait_for_min_tokens(client):
    ask = dict(model="any", prompt="Once upon a time", max_tokens=30, temperature=0)
    plain = client.completions.create(**ask, extra_body={"return_token_ids": True}).choices[0]
    stop = plain.text[3]
    short = client.completions.create(**ask, stop=[stop]).choices[0]
    assert stop not in short.text and short.finish_reason == "stop"
    kept = client.completions.create(**ask, stop=[stop], extra_body={"include_stop_str_in_output": True}).choices[0]
    assert kept.text == short.text + stop and kept.stop_reason == stop
    answer = client.completions.create(**ask, stop=[stop], extra_body={"min_tokens": 20, "return_token_ids": True}).choices[0]
    assert len(answer.token_ids) >= 20 and plain.text.startswith(answer.text)


def test_a_pattern_ends_the_text_and_stays_in_it(up, client):
    ask = dict(model="any", prompt="Once upon a time", max_tokens=30, temperature=0)
    plain = client.completions.create(**ask).choices[0].text
    pattern = r"\b[a-z]{3,}\b\W"
    end = re.search(pattern, plain).end()
    answer = client.completions.create(**ask, extra_body={"stop_regex": pattern, "return_token_ids": True}).choices[0]
    assert answer.finish_reason == "stop" and answer.matched_stop == pattern
    assert plain.startswith(answer.text) and end <= len(answer.text) < len(plain)
    assert not re.search(pattern, answer.text[:end - 1])
    pieces = [event.choices[0].text for event in client.completions.create(**ask, stream=True, extra_body={"stop_regex": pattern})]
    assert "".join(pieces) == answer.text
    first = client.completions.create(**ask, extra_body={"stop_regex": [r"\\", "."], "return_token_ids": True}).choices[0]
    assert len(first.token_ids) == 1 and first.matched_stop == "."
    word = re.search(r"[a-z]{3,}", plain).group()
    cut = client.completions.create(**ask, extra_body={"stop_regex": word}).choices[0]  # a pattern of letters alone is a stop string
    assert cut.text == plain[:plain.index(word)] and cut.matched_stop == word
    assert call(up.url + "/v1/completions", {"prompt": "a", "stop_regex": "("})[0] == 400


def test_logprobs_of_chosen_tokens_stand_where_the_best_do(up, client):
    """As of the same tokens by SGLang's name, of the token that prefill drew as of those of decode."""
    ids = [40, 41, 40, 50]
    said = get_json(up.url + "/generate", {"text": "Once upon", "return_logprob": True, "token_ids_logprob": ids, "sampling_params": {"temperature": 0, "max_new_tokens": 4}})["meta_info"]
    expected = [{f"token_id:{token}": round(logprob, 4) for logprob, token, _ in [own, *row]}
                for own, row in zip(said["output_token_logprobs"], said["output_token_ids_logprobs"])]
    extra = {"logprob_token_ids": ids, "return_tokens_as_token_ids": True}
    answer = client.completions.create(model="any", prompt="Once upon", max_tokens=4, temperature=0, logprobs=2, extra_body=extra).choices[0]
    assert [{token: round(logprob, 4) for token, logprob in row.items()} for row in answer.logprobs.top_logprobs] == expected
    chat = client.chat.completions.create(model="any", messages=[{"role": "user", "content": "Hi"}], max_tokens=3, temperature=0, logprobs=True, top_logprobs=2, extra_body=extra).choices[0]
    for token in chat.logprobs.content:
        assert [top.token for top in token.top_logprobs] == [token.token, *(f"token_id:{i}" for i in (40, 41, 50) if f"token_id:{i}" != token.token)]


def test_one_room_stands_for_every_sample(up):
    prefill, decode = up.instances("prefill")[0], up.instances("decode")[0]
    port = get_json(prefill + "/get_server_info")["disaggregation_bootstrap_port"]
    body = {"prompt": ["Once upon", "A fox"], "n": 2, "max_tokens": 6, "temperature": 0, "bootstrap_host": "127.0.0.1", "bootstrap_port": port,
            "bootstrap_room": 12345, "data_parallel_rank": 1}
    legs = {}
    asked = threading.Thread(target=lambda: legs.update(prefill=call(prefill + "/v1/completions", body)))
    asked.start()
    answer = get_json(decode + "/v1/completions", body)
    asked.join()
    assert legs["prefill"][0] == 200, legs["prefill"]
    texts = [choice["text"] for choice in answer["choices"]]
    assert len(texts) == 4 and texts[0] == texts[1] and texts[2] == texts[3] and all(texts)


def test_a_message_is_continued_and_echoed(client):
    messages = [{"role": "user", "content": "Tell me a story."}, {"role": "assistant", "content": "Once upon a"}]
    ask = dict(model="any", messages=messages, max_tokens=8, temperature=0)
    answer = client.chat.completions.create(**ask, extra_body={"continue_final_message": True, "add_generation_prompt": False, "echo": True, "return_token_ids": True})
    assert answer.choices[0].message.content.startswith("Once upon a")
    without = client.chat.completions.create(**ask, extra_body={"return_token_ids": True})
    assert answer.prompt_token_ids != without.prompt_token_ids
    own = client.chat.completions.create(**ask, extra_body={"chat_template": "{{ messages[0].content }}", "return_token_ids": True})
    assert len(own.prompt_token_ids) < len(without.prompt_token_ids)


def test_ids_of_a_chat_stand_for_its_messages(client):
    ask = dict(model="any", max_tokens=6, temperature=0)
    known = client.chat.completions.create(**ask, messages=[{"role": "user", "content": "What is 2 + 3?"}], extra_body={"return_token_ids": True})
    other = client.chat.completions.create(**ask, messages=[{"role": "user", "content": "Tell me a story"}],
                                           extra_body={"kv_transfer_params": {"prompt_token_ids": known.prompt_token_ids}, "return_token_ids": True})
    assert other.prompt_token_ids == known.prompt_token_ids and other.choices[0].message.content == known.choices[0].message.content


def test_what_is_not_done_is_refused_by_name(client):
    for field, value in {"guided_regex": "a+", "structured_outputs": {"choice": ["a"]}, "use_beam_search": True, "return_hidden_states": True,
                         "logits_processors": ["x"], "session_params": {"id": "s"}, "prompt_logprobs": -1}.items():
        with pytest.raises(openai.BadRequestError, match=f"{field}: "):
            client.completions.create(model="any", prompt="x", max_tokens=1, extra_body={field: value})
    with pytest.raises(openai.BadRequestError, match="max_completion_tokens is too large"):
        client.completions.create(model="any", prompt="x", max_tokens=1_000_000)
