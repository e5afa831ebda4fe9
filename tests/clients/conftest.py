"""Where the clients are pointed at, and the record of what they did.

A test is marked with what it shows, `@shows("chat.completions.create, streamed")`, in a module that names its client. It runs
once for each place in `PLACES` that its module asks for, and the record holds, for client, call and place, the result.
"""
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "e2e"))

from processes import MODELS, Process  # noqa: E402

MODEL = MODELS["gqa"]
OURS = ("unified", "router")
PREFILL = ("--disaggregation-mode", "prefill", "--disaggregation-bootstrap-port", 0)
DECODE = ("--disaggregation-mode", "decode", "--disaggregation-bootstrap-port", 0)
RECORD = ROOT / "build" / "clients.json"
# Nothing is asked of a hub: models, data and tokenizers are this tree's.
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_HOME=str(ROOT / "build" / "clients-cache"), TOKENIZERS_PARALLELISM="false",
                  LITELLM_LOCAL_MODEL_COST_MAP="True", LANGSMITH_TRACING="false")


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


class Front:
    """A router that is not ours, from PyPI, in front of instances that are."""

    def __init__(self, log, *flags):
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.log_path, self.log = log, open(log, "w+")
        command = [sys.executable, "-m", "sglang_router.launch_router", "--host", "127.0.0.1", "--port", str(port), *flags]
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)
        self._wait_ready(60)

    def _wait_ready(self, seconds):
        end = time.time() + seconds
        while time.time() < end and self.process.poll() is None:
            try:
                # A whole answer: a router may say that it is healthy before it knows its workers.
                with urllib.request.urlopen(self._short_request(), timeout=30):
                    return
            except OSError:
                time.sleep(0.1)
        self.end()
        raise RuntimeError(f"no answer through {self.process.args}:\n{self.log_path.read_text()[-4000:]}")

    def _short_request(self):
        body = {"text": "Once", "sampling_params": {"max_new_tokens": 1}}
        return urllib.request.Request(self.url + "/generate", data=json.dumps(body).encode(), headers={"Content-Type": "application/json"})

    def end(self):
        self.process.kill()
        self.process.wait()
        self.log.close()


class Places:
    """Starts each place when it is first asked for; all of them end with the session."""

    def __init__(self, folder):
        self.folder, self.made, self.started = folder, {}, []

    def url(self, name):
        return self._get(name).url

    def wait_idle(self, seconds=30):
        """Nothing that any client began, or left in the middle, still holds memory."""
        instances = [made for made in self.started if isinstance(made, Process)]
        end = time.time() + seconds
        while held := {made.url: pages for made in instances if (pages := held_pages(made.url))}:
            assert time.time() < end, f"pages are still held: {held}"
            time.sleep(0.1)

    def end(self):
        for process in reversed(self.started):
            process.end()

    def _get(self, name):
        if name not in self.made:
            self.made[name] = getattr(self, name)()
            self.started.append(self.made[name])
        return self.made[name]

    def _serve(self, name, *flags, model=MODEL):
        return Process("serve", "--model-path", model, "--served-model-name", "tiny", *flags, log=self.folder / f"{name}.log")

    def _router(self, name, prefill, decode):
        return Process("router", "--prefill", prefill.url, prefill.bootstrap_port, "--decode", decode.url, log=self.folder / f"{name}.log")

    def unified(self):
        return self._serve("unified")

    def keyed(self):
        return self._serve("keyed", "--api-key", "k7")

    def prefill(self):
        return self._serve("prefill", "--tp-size", 3, *PREFILL)

    def decode(self):
        return self._serve("decode", "--tp-size", 2, *DECODE)

    def router(self):
        return self._router("router", self._get("prefill"), self._get("decode"))

    def mla_prefill(self):
        return self._serve("mla_prefill", "--tp-size", 4, *PREFILL, model=MODELS["mla"])

    def mla_decode(self):
        return self._serve("mla_decode", "--tp-size", 4, "--dp-size", 2, "--enable-dp-attention", *DECODE, model=MODELS["mla"])

    def mla_router(self):
        return self._router("mla_router", self._get("mla_prefill"), self._get("mla_decode"))

    def _pair(self):
        """How SGLang's router is told of prefill and decode."""
        prefill = self._get("prefill")
        return ("--pd-disaggregation", "--prefill", prefill.url, prefill.bootstrap_port, "--decode", self.url("decode"))

    def sglang_router(self):
        return Front(self.folder / "sglang_router.log", *self._pair(), "--prometheus-port", str(free_port()))

    def mini_lb(self):
        return Front(self.folder / "mini_lb.log", *self._pair(), "--mini-lb")

    def sglang_router_of_one(self):
        return Front(self.folder / "sglang_router_of_one.log", "--worker-urls", self.url("unified"), "--prometheus-port", str(free_port()))


def held_pages(url):
    """KV pages of an instance that are neither free nor cached, by state; none of a router."""
    with urllib.request.urlopen(url + "/metrics", timeout=30) as reply:
        found = re.findall(r'^baton_pages\{state="(owned|granted|quarantined)"\} (\S+)', reply.read().decode(), re.M)
    return {state: int(float(count)) for state, count in found if float(count)}


@pytest.fixture(scope="session")
def places(tmp_path_factory):
    made = Places(tmp_path_factory.mktemp("places"))
    yield made
    try:
        made.wait_idle()
    finally:
        made.end()


def pytest_generate_tests(metafunc):
    if "url" in metafunc.fixturenames:
        metafunc.parametrize("place", getattr(metafunc.module, "PLACES", OURS), scope="session")


@pytest.fixture
def url(places, place):
    """Where a test's client goes."""
    return places.url(place)


# --- the record ---


def pytest_configure(config):
    config.addinivalue_line("markers", "shows(call, result, place): what a test shows of its module's client; the place only where the test has no `url`")
    config.record = []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    shown = item.get_closest_marker("shows")
    if shown and (report.when == "call" or report.failed):
        place = shown.kwargs.get("place") or item.callspec.params["place"]
        result = shown.kwargs.get("result", "works")
        if isinstance(result, dict):
            result = result[place]
        item.config.record.append({"client": item.module.CLIENT, "call": shown.args[0], "place": place, "result": result if report.passed else "FAILS"})
    return report


def pytest_collection_finish(session):
    unmarked = [item.nodeid for item in session.items if "url" in item.fixturenames and not item.get_closest_marker("shows")]
    assert not unmarked, f"tests that show nothing: {unmarked}"


def pytest_sessionfinish(session):
    clients = {item.module.CLIENT: versions(item.module.PACKAGES) for item in session.items if hasattr(item.module, "CLIENT")}
    RECORD.parent.mkdir(exist_ok=True)
    RECORD.write_text(json.dumps({"clients": clients, "shown": session.config.record}, indent=1))


def versions(packages):
    return [f"{name} {packages[name] or metadata.version(name)}" for name in packages]
