"""Starts clusters of the built program for the tests, and reads what they say."""
import json
import re
import sys
import threading
import time
import urllib.error
import urllib.request

import pytest

from processes import BATON, MODELS, ROOT, Cluster, Process  # noqa: F401 (the tests take them from here)

sys.path.insert(0, str(ROOT / "tools" / "tiny_model"))


@pytest.fixture
def start(tmp_path):
    """A function that starts single processes; what is left of them is killed at the test's end."""
    started = []

    def make(command, *flags, **more):
        made = Process(command, *flags, log=tmp_path / f"{command}-{len(started)}.log", **more)
        started.append(made)
        return made

    yield make
    for made in started:
        made.end()


@pytest.fixture
def pair(start):
    """A function that starts prefill, decode instances and a router in front: (prefill, [decode ...], router)."""

    def make(model="mla", decodes=1, serve=(), router=()):
        serving = ("--model-path", MODELS[model], "--disaggregation-bootstrap-port", "0", *serve)
        prefill = start("serve", *serving, "--disaggregation-mode", "prefill")
        decode = [start("serve", *serving, "--disaggregation-mode", "decode") for _ in range(decodes)]
        words = [word for d in decode for word in ("--decode", d.url)]
        return prefill, decode, start("router", "--prefill", prefill.url, prefill.bootstrap_port, *words, *router)

    return make


def wait_until(condition, seconds=30, what="it did not happen"):
    end = time.time() + seconds
    while not (found := condition()):
        assert time.time() < end, what
        time.sleep(0.005)
    return found


def metric(url, name):
    """The sum over all labels."""
    return sum(float(n) for n in re.findall(rf"^{name}(?:\{{[^}}]*\}})? (\S+)", call(url + "/metrics")[1], re.M))


class Stream(threading.Thread):
    """A streamed /generate; `events` are what came so far, without "data: "."""

    def __init__(self, url, tokens, **more):
        super().__init__(daemon=True)
        self.events, self.status = [], None
        body = {"text": "Once upon a time", "stream": True, "sampling_params": {"max_new_tokens": tokens, "ignore_eos": True, "temperature": 0}, **more}
        self.request = urllib.request.Request(url + "/generate", data=json.dumps(body).encode(), headers={"Content-Type": "application/json"})
        self.start()

    def run(self):
        try:
            with urllib.request.urlopen(self.request, timeout=120) as reply:
                self.status = reply.status
                for line in reply:
                    if line.startswith(b"data: "):
                        self.events.append(line[6:].decode().strip())
        except urllib.error.HTTPError as failed:
            self.status, self.events = failed.code, [failed.read().decode()]

    def wait_begun(self):
        wait_until(lambda: self.events, 60, "the stream did not begin")

    def wait_end(self, seconds=60):
        self.join(seconds)
        assert not self.is_alive(), f"the stream hangs after {len(self.events)} events"

    def tokens(self):
        """Tokens of a stream that came to its end, and to no error."""
        assert self.events[-1] == "[DONE]" and not any("error" in json.loads(e) for e in self.events[:-1]), self.events[-3:]
        return json.loads(self.events[-2])["meta_info"]["completion_tokens"]

    def error(self):
        """The code of the error event with which a stream ends."""
        assert self.events[-1] == "[DONE]", self.events[-3:]
        return json.loads(self.events[-2])["error"]["code"]


def call(url, body=None, method=None, headers=None, timeout=120):
    """(status, body as text, headers) of one request; `body` is sent as JSON unless it is bytes."""
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, method=method, headers={"Content-Type": "application/json", **(headers or {})})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as reply:
            return reply.status, reply.read().decode(), reply.headers
    except urllib.error.HTTPError as failed:
        return failed.code, failed.read().decode(), failed.headers


def get_json(url, body=None, **more):
    status, text, _ = call(url, body, **more)
    assert status == 200, (status, text)
    return json.loads(text)


def pages(instance_url):
    """Pages by state over all DP groups of an instance."""
    text = call(instance_url + "/metrics")[1]
    return {state: int(float(n)) for state, n in re.findall(r'baton_pages\{state="(\w+)"\} (\S+)', text)}


def wait_idle(cluster, seconds=10):
    """Every page is free or cached again: nothing leaked."""
    urls = cluster.instances("prefill") + cluster.instances("decode") + cluster.instances("unified")
    end = time.time() + seconds
    while True:
        held = {url: {s: n for s, n in pages(url).items() if s in ("owned", "granted", "quarantined") and n} for url in urls}
        if not any(held.values()):
            return
        assert time.time() < end, f"pages are still held: {held}"
        time.sleep(0.1)


def clusters(tmp_path, codes):
    started = []

    def start(*flags):
        made = Cluster(*map(str, flags), log=tmp_path / f"cluster-{len(started)}.log")
        started.append(made)
        return made

    yield start
    codes += [c.stop() for c in started]


@pytest.fixture
def cluster(tmp_path):
    """A function that starts clusters; all are stopped at the test's end, and must stop cleanly."""
    codes = []
    yield from clusters(tmp_path, codes)
    assert all(code == 0 for code in codes), codes


@pytest.fixture
def cluster_of_any_end(tmp_path):
    """The same for a test that ends them in another way."""
    yield from clusters(tmp_path, [])
