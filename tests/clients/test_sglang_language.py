"""SGLang's language, whose programs call a server through its RuntimeEndpoint: `gen`, `select` and `fork`."""
import sys
import types

import pytest

from conftest import ROOT

VERSION = "0.4.6.post5"
CLIENT, PACKAGES = "SGLang's language (RuntimeEndpoint)", {"sglang": VERSION}
shows = pytest.mark.shows


@pytest.fixture(scope="session")
def sgl():
    """The files of the wheel. They import IPython, of which only notebooks have a use."""
    display = types.ModuleType("IPython.display")
    display.HTML = display.display = None
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
        patched.setitem(sys.modules, display.__name__, display)
        patched.syspath_prepend(ROOT / "build" / "clients" / "sglang" / VERSION)
        import sglang

        yield sglang


@pytest.fixture
def backend(sgl, url):
    sgl.set_default_backend(sgl.RuntimeEndpoint(url))
    return sgl


@pytest.fixture
def story(backend):
    @backend.function
    def program(s):
        s += "Once upon a time"
        s += backend.gen("first", max_tokens=20, temperature=0, stop=",")
        s += ". The" + backend.gen("second", max_tokens=4, temperature=0, return_logprob=True, top_logprobs_num=2)

    return program


@shows("gen with stop and with logprobs")
def test_gen(story):
    state = story.run()
    assert state["first"] and "," not in state["first"] and state["second"]
    assert len(state.get_meta_info("second")["output_token_logprobs"]) == 4


@shows("gen, streamed")
def test_stream(story):
    assert "".join(story.run(stream=True).text_iter()) == story.run().text()


@shows("run_batch of a chat with user and assistant")
def test_batch(backend):
    @backend.function
    def chat(s, question):
        s += backend.user(question)
        s += backend.assistant(backend.gen("answer", max_tokens=12, temperature=0))

    questions = ["What is 23 + 19?", "What is the capital of Norway?"]
    answers = [state["answer"] for state in chat.run_batch([{"question": question} for question in questions])]
    assert answers == [chat.run(question=question)["answer"] for question in questions]


@shows("select: the likeliest of three choices")
def test_select(backend):
    @backend.function
    def sum_of(s):
        s += "<｜begin▁of▁sentence｜><｜User｜>What is 23 + 19?<｜Assistant｜>23 + 19 =" + backend.select("sum", choices=[" 52", " 42", " 43"])

    assert sum_of.run()["sum"] == " 42"


@shows("fork into three, and join")
def test_fork(backend):
    @backend.function
    def forked(s):
        s += "Once upon a time"
        forks = s.fork(3)
        forks += " there" + backend.gen("more", max_tokens=5, temperature=0)
        forks.join()
        s += "|".join(fork["more"] for fork in forks)

    first, second, third = forked.run().text().removeprefix("Once upon a time").split("|")
    assert first and first == second == third


@shows("gen with a regex", result="refused: 400 that names the field")
def test_regex(backend):
    @backend.function
    def number(s):
        s += "A number:" + backend.gen("number", max_tokens=4, regex=r"\d+")

    assert "regex" in str(number.run().error())


@shows("flush_cache, get_server_info")
def test_server(backend):
    backend.flush_cache()
    assert backend.get_server_info()["internal_states"]
