"""langchain-openai."""
import asyncio

import langchain_openai
import openai
import pytest

CLIENT, PACKAGES = "langchain-openai", {"langchain-openai": None}
shows = pytest.mark.shows

QUESTION = [("system", ""), ("human", "What is 23 + 19?")]


@pytest.fixture
def at(url):
    return {"model": "tiny", "base_url": url + "/v1", "api_key": "none", "temperature": 0}


@pytest.fixture
def chat(at):
    return langchain_openai.ChatOpenAI(**at)


@shows("ChatOpenAI.invoke")
def test_invoke(chat):
    answer = chat.invoke(QUESTION)
    assert "42" in answer.content and answer.response_metadata["finish_reason"] == "stop" and answer.usage_metadata["input_tokens"] == 11


@shows("ChatOpenAI.stream")
def test_stream(at):
    chunks = list(langchain_openai.ChatOpenAI(**at, stream_usage=True).stream(QUESTION))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert "42" in whole.content and len(chunks) > 4 and whole.usage_metadata["input_tokens"] == 11


@shows("ChatOpenAI.batch, abatch, astream")
def test_batch(chat):
    async def in_a_loop():
        return await chat.abatch([QUESTION] * 4), "".join([chunk.content async for chunk in chat.astream(QUESTION)])

    answers, streamed = asyncio.run(in_a_loop())
    assert {answer.content for answer in chat.batch([QUESTION] * 4) + answers} == {streamed}


@shows("ChatOpenAI(logprobs=True, top_logprobs=2, max_tokens, stop, seed)")
def test_sampling(at):
    answer = langchain_openai.ChatOpenAI(**at, logprobs=True, top_logprobs=2, max_tokens=6, stop=["?"], seed=1).invoke(QUESTION)
    assert len(answer.response_metadata["logprobs"]["content"]) == answer.usage_metadata["output_tokens"] == 6


@shows("a chain: prompt | ChatOpenAI | StrOutputParser")
def test_chain(chat):
    from langchain_core.output_parsers import StrOutputParser
    from langchain_core.prompts import ChatPromptTemplate

    assert "42" in (ChatPromptTemplate.from_messages([("human", "What is {a} + {b}?")]) | chat | StrOutputParser()).invoke({"a": 23, "b": 19})


@shows("OpenAI.invoke, batch and stream (/v1/completions)")
def test_completions(at):
    model = langchain_openai.OpenAI(**at, max_tokens=8)
    text = model.invoke("Once upon a time")
    assert text and "".join(model.stream("Once upon a time")) == text
    assert model.batch(["Once upon a time", "Once upon a time"]) == [text, text]


@shows("ChatOpenAI.bind_tools, with_structured_output", result="refused: 400 that names the field")
def test_structured(chat):
    schema = {"title": "sum", "type": "object", "properties": {"value": {"type": "integer"}}}
    with pytest.raises(openai.BadRequestError, match="tool"):
        chat.bind_tools([{"type": "function", "function": {"name": "add", "parameters": schema}}]).invoke(QUESTION)
    with pytest.raises(openai.BadRequestError, match="response_format|tool"):
        chat.with_structured_output(schema).invoke(QUESTION)
