"""litellm, in its provider for any OpenAI-compatible server and in the one for vLLM."""
import asyncio

import litellm
import pytest

CLIENT, PACKAGES = "litellm", {"litellm": None}
shows = pytest.mark.shows

QUESTION = [{"role": "user", "content": "What is 23 + 19?"}]


@pytest.fixture
def at(url):
    return {"model": "openai/tiny", "api_base": url + "/v1", "api_key": "none", "temperature": 0}


@shows("completion")
def test_completion(at):
    answer = litellm.completion(**at, messages=QUESTION)
    assert "42" in answer.choices[0].message.content and answer.choices[0].finish_reason == "stop" and answer.usage.prompt_tokens == 11


@shows("completion(stream=True, stream_options={include_usage})")
def test_stream(at):
    chunks = list(litellm.completion(**at, messages=QUESTION, stream=True, stream_options={"include_usage": True}))
    assert "42" in "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert chunks[-1].usage.prompt_tokens == 11


@shows("acompletion, eight at once")
def test_async(at):
    async def all_of_them():
        return await asyncio.gather(*(litellm.acompletion(**at, messages=QUESTION) for _ in range(8)))

    assert len({answer.choices[0].message.content for answer in asyncio.run(all_of_them())}) == 1


@shows("completion(n=2, logprobs=True, top_logprobs=2, stop=…, seed=…)")
def test_sampling(at):
    at.update(temperature=1.0)
    answer = litellm.completion(**at, messages=QUESTION, n=2, logprobs=True, top_logprobs=2, stop=["="], seed=3, max_tokens=8)
    assert len(answer.choices) == 2 and all("=" not in c.message.content for c in answer.choices)
    assert all(len(t.top_logprobs) >= 2 for c in answer.choices for t in c.logprobs.content)


@shows("completion through provider hosted_vllm, with top_k")
def test_hosted_vllm(at):
    at.update(model="hosted_vllm/tiny")
    assert "42" in litellm.completion(**at, messages=QUESTION, top_k=4).choices[0].message.content


@shows("text_completion of one and of two prompts")
def test_text_completion(at):
    at.update(model="text-completion-openai/tiny")
    one = litellm.text_completion(**at, prompt="Once upon a time", max_tokens=6)
    two = litellm.text_completion(**at, prompt=["Once upon a time", "The fox"], max_tokens=6)
    assert two.choices[0].text == one.choices[0].text and len(two.choices) == 2


@shows("a prompt over the context", result="ContextWindowExceededError")
def test_too_long(at):
    with pytest.raises(litellm.ContextWindowExceededError):
        litellm.completion(**at, messages=[{"role": "user", "content": "otter " * 20000}])


@shows("a field out of its range", result="BadRequestError that names it")
def test_bad_value(at):
    at.update(temperature=-1)
    with pytest.raises(litellm.BadRequestError, match="temperature"):
        litellm.completion(**at, messages=QUESTION)
