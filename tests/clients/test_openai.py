"""openai-python."""
import asyncio

import openai
import pytest

from conftest import OURS

CLIENT, PACKAGES = "openai (Python)", {"openai": None}
PLACES = (*OURS, "mla_router")
shows = pytest.mark.shows

ASK = {"model": "tiny", "temperature": 0}
QUESTION = [{"role": "user", "content": "What is 23 + 19?"}]
STORY = [{"role": "system", "content": ""}, {"role": "user", "content": [{"type": "text", "text": "Tell me a story about an otter."}]}]


@pytest.fixture
def client(url):
    return openai.OpenAI(base_url=url + "/v1", api_key="none")


def is_logprob(value):
    return value <= 0


@shows("models.list, models.retrieve")
def test_models(client):
    model = client.models.list().data[0]
    assert model.id == "tiny" and model.max_model_len == 16384 and client.models.retrieve("tiny") == model


@shows("models.retrieve of an unknown name", result="NotFoundError")
def test_unknown_model(client):
    with pytest.raises(openai.NotFoundError) as raised:
        client.models.retrieve("gpt-nonsense")
    assert raised.value.code == "model_not_found"


@shows("chat.completions.create")
def test_chat(client):
    answer = client.chat.completions.create(**ASK, messages=QUESTION)
    assert "42" in answer.choices[0].message.content and answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "stop" and answer.object == "chat.completion" and answer.model == "tiny"
    assert answer.usage.prompt_tokens == 11 and answer.usage.total_tokens == 11 + answer.usage.completion_tokens


@shows("chat.completions.create under any model's name")
def test_any_model(client):
    assert "42" in client.chat.completions.create(model="gpt-5", messages=QUESTION, temperature=0).choices[0].message.content


@shows("chat.completions.create(stream=True, stream_options={include_usage})")
def test_chat_stream(client):
    whole = client.chat.completions.create(**ASK, messages=STORY, max_tokens=40)
    chunks = list(client.chat.completions.create(**ASK, messages=STORY, max_tokens=40, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant" and chunks[0].choices[0].delta.content
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole.choices[0].message.content
    assert chunks[-1].choices == [] and chunks[-1].usage.total_tokens == whole.usage.total_tokens
    assert len(chunks) >= 35 and len({c.id for c in chunks}) == 1
    assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == ["length"]


@shows("chat.completions.stream, the helper with events")
def test_chat_stream_helper(client):
    with client.chat.completions.stream(**ASK, messages=QUESTION) as stream:
        kinds = {event.type for event in stream}
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert "42" in stream.get_final_completion().choices[0].message.content


@shows("chat.completions.create(n=2, seed=…), streamed too")
def test_chat_choices(client):
    ask = dict(model="tiny", messages=STORY, n=2, seed=11, temperature=1, max_completion_tokens=12)
    whole = client.chat.completions.create(**ask)
    assert [c.index for c in whole.choices] == [0, 1] and whole.usage.completion_tokens <= 24
    texts = ["", ""]
    for chunk in client.chat.completions.create(**ask, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == [c.message.content for c in whole.choices]


@shows("chat.completions.create(logprobs=True, top_logprobs=3)")
def test_chat_logprobs(client):
    answer = client.chat.completions.create(**ASK, messages=STORY, max_tokens=6, logprobs=True, top_logprobs=3)
    tokens = answer.choices[0].logprobs.content
    assert len(tokens) == 6 and "".join(t.token for t in tokens) == answer.choices[0].message.content
    assert all(is_logprob(t.logprob) and len(t.top_logprobs) == 3 and t.top_logprobs[0].token == t.token for t in tokens)


@shows("chat.completions.create(stop=…, logit_bias=…, penalties)")
def test_chat_sampling(client):
    full = client.chat.completions.create(**ASK, messages=STORY, max_tokens=30).choices[0].message.content
    word = full.split()[3]
    cut = client.chat.completions.create(**ASK, messages=STORY, max_tokens=30, stop=[word])
    assert cut.choices[0].message.content == full[: full.index(word)] and cut.choices[0].finish_reason == "stop"
    forced = client.chat.completions.create(**ASK, messages=STORY, max_tokens=3, logit_bias={"532": 100}, presence_penalty=0.5, frequency_penalty=0.5)
    text = forced.choices[0].message.content
    assert text and text == 3 * text[: len(text) // 3]


@shows("chat.completions.create(tools=…)", result="refused: 400 that names the field")
def test_tools(client):
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}}
    with pytest.raises(openai.BadRequestError, match="tools"):
        client.chat.completions.create(**ASK, messages=QUESTION, tools=[tool])


@shows("chat.completions.create(response_format=json_schema)", result="refused: 400 that names the field")
def test_response_format(client):
    form = {"type": "json_schema", "json_schema": {"name": "sum", "schema": {"type": "object"}}}
    with pytest.raises(openai.BadRequestError, match="response_format"):
        client.chat.completions.create(**ASK, messages=QUESTION, response_format=form)


@shows("completions.create of a text, several texts, ids, several lists of ids")
def test_completions(client):
    ask = dict(ASK, max_tokens=5)
    one = client.completions.create(**ask, prompt="Once upon a time").choices[0].text
    two = client.completions.create(**ask, prompt=["Once upon a time", "The fox"])
    assert [c.index for c in two.choices] == [0, 1] and two.choices[0].text == one and two.usage.completion_tokens == 10
    ids = client.completions.create(**ask, prompt=[532, 531, 263]).choices[0].text
    lists = client.completions.create(**ask, prompt=[[532, 531, 263], [532]])
    assert lists.choices[0].text == ids and len(lists.choices) == 2


@shows("completions.create(stream=True, n=2, stop=…)")
def test_completions_stream(client):
    ask = dict(ASK, prompt="Once upon a time", max_tokens=20, n=2, stop=["."])
    whole = client.completions.create(**ask)
    texts = ["", ""]
    for chunk in client.completions.create(**ask, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == [c.text for c in whole.choices] and texts[0] == texts[1] and "." not in texts[0]


@shows("completions.create(echo=True, logprobs=2)")
def test_completions_echo(client):
    prompt = "Once upon a time"
    logprobs = client.completions.create(**ASK, prompt=prompt, max_tokens=3, echo=True, logprobs=2)
    text, logprobs = logprobs.choices[0].text, logprobs.choices[0].logprobs
    assert text.startswith(prompt) and "".join(logprobs.tokens) == text
    assert [text[o : o + len(t)] for o, t in zip(logprobs.text_offset, logprobs.tokens)] == logprobs.tokens
    assert logprobs.token_logprobs[0] is None and all(is_logprob(v) for v in logprobs.token_logprobs[1:])
    assert len(logprobs.top_logprobs) == len(logprobs.tokens)


@shows("completions.create(echo=True, logprobs=1, max_tokens=0)")
def test_completions_score(client):
    answer = client.completions.create(**ASK, prompt="The fox was happy.", max_tokens=0, echo=True, logprobs=1)
    assert answer.choices[0].text == "The fox was happy." and len(answer.choices[0].logprobs.tokens) == answer.usage.prompt_tokens
    assert answer.usage.completion_tokens == 0


@shows("AsyncOpenAI, twelve streams at once")
def test_async(url):
    async def one(client, prompt):
        stream = await client.completions.create(**ASK, prompt=prompt, max_tokens=8, stream=True)
        return "".join([c.choices[0].text async for c in stream])

    async def all_of_them():
        async with openai.AsyncOpenAI(base_url=url + "/v1", api_key="none") as client:
            return await asyncio.gather(*(one(client, "Once upon a time") for _ in range(12)))

    assert len(set(asyncio.run(all_of_them()))) == 1


@shows("a stream that is closed early")
def test_closed_stream(client):
    stream = client.completions.create(**ASK, prompt="Once", max_tokens=4000, stream=True, extra_body={"ignore_eos": True})
    next(iter(stream))
    stream.close()
    assert client.completions.create(**ASK, prompt="Once", max_tokens=1).usage.completion_tokens == 1


@shows("extra_body with SGLang's and vLLM's fields")
def test_extra_body(client):
    more = {"ignore_eos": True, "top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1, "skip_special_tokens": False, "stop_token_ids": [1], "min_tokens": 2}
    answer = client.chat.completions.create(**ASK, messages=QUESTION, max_tokens=12, extra_body={**more, "stop_token_ids": None})
    assert answer.usage.completion_tokens == 12


@shows("with_raw_response, extra_headers={x-request-id}")
def test_raw_response(client):
    raw = client.chat.completions.with_raw_response.create(**ASK, messages=QUESTION, extra_headers={"x-request-id": "mine-7"})
    assert raw.headers["x-request-id"] == "mine-7" and raw.parse().choices[0].message.content


@shows("a field out of its range", result="BadRequestError that names it")
def test_bad_value(client):
    with pytest.raises(openai.BadRequestError, match="temperature") as raised:
        client.completions.create(model="tiny", prompt="x", temperature=-1)
    assert raised.value.type == "invalid_request_error" and raised.value.param == "temperature"


@shows("a prompt, or a prompt and max_tokens, over the context", result="BadRequestError in the originals' words")
def test_too_long(client):
    with pytest.raises(openai.BadRequestError, match="longer than the model's context length|maximum context length"):
        client.completions.create(model="tiny", prompt=[5] * 20000, max_tokens=1)
    with pytest.raises(openai.BadRequestError, match="context length|max_completion_tokens is too large"):
        client.chat.completions.create(model="tiny", messages=QUESTION, max_completion_tokens=16380)


@shows("embeddings.create, responses.create", result="refused: 501, not tried again")
def test_not_served(client):
    for ask in (lambda: client.embeddings.create(model="tiny", input="x"), lambda: client.responses.create(model="tiny", input="x")):
        with pytest.raises(openai.InternalServerError) as raised:
            ask()
        assert raised.value.status_code == 501 and raised.value.response.headers["x-should-retry"] == "false"


@shows("a wrong api_key against --api-key", result="AuthenticationError", place="unified")
def test_key(places):
    url = places.url("keyed") + "/v1"
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=url, api_key="wrong").models.list()
    assert openai.OpenAI(base_url=url, api_key="k7").models.list().data
