"""Bodies that are as large as may be: everybody else is served meanwhile, and memory stays in proportion."""
import json
import re
import threading
import time
from pathlib import Path

import pytest

from conftest import MODELS, Cluster, call, get_json, wait_idle

MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def up(tmp_path_factory):
    made = Cluster("--model-path", str(MODELS["gqa"]), "--prefill", "tp=2", "--decode", "tp=2", log=tmp_path_factory.mktemp("large") / "log")
    yield made
    wait_idle(made)
    assert made.stop() == 0


def peak_bytes(pid):
    """The most memory that the process has had so far."""
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text()).group(1))


class Watch:
    """Asks for the health of the router and of every instance, over and over, and keeps the longest wait."""

    def __init__(self, cluster):
        self.urls = [cluster.url] + cluster.instances("prefill") + cluster.instances("decode")
        self.longest, self.problems, self.asked, self.over = 0.0, [], 0, False
        self.thread = threading.Thread(target=self.run)

    def run(self):
        while not self.over:
            for url in self.urls:
                begin = time.time()
                status, text, _ = call(url + "/health")
                self.longest = max(self.longest, time.time() - begin)
                self.asked += 1
                if status != 200:
                    self.problems.append((url, status, text))
            time.sleep(0.02)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over = True
        self.thread.join()


def post_all(url, bodies):
    """(status, text) of each, all sent at once."""
    answers = [None] * len(bodies)

    def post(i):
        answers[i] = call(url, bodies[i])[:2]

    threads = [threading.Thread(target=post, args=(i,)) for i in range(len(bodies))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


BODIES = {
    "one long text": ("/generate", lambda n: json.dumps({"text": "a b " * (n // 4)}).encode()),
    "one long word": ("/v1/completions", lambda n: json.dumps({"prompt": "a" * n}).encode()),
    "a long chat": ("/v1/chat/completions", lambda n: json.dumps({"messages": [{"role": "user", "content": "a b " * (n // 4)}]}).encode()),
    "escapes": ("/generate", lambda n: b'{"text":"' + b"\\u0061" * (n // 6) + b'"}'),
    "numbers": ("/generate", lambda n: b'{"input_ids":[' + b"0," * (n // 2) + b"0]}"),
    "empty lists": ("/generate", lambda n: b'{"input_ids":[' + b"[]," * (n // 3) + b"[]]}"),
    "token ids": ("/generate", lambda n: b'{"input_ids":[' + b"12345," * 2000000 + b"0]}"),
    "texts to tokenize": ("/tokenize", lambda n: json.dumps({"prompt": "a b " * (n // 4)}).encode()),
}


@pytest.mark.parametrize("what", BODIES)
def test_others_are_served_meanwhile(up, what):
    path, make = BODIES[what]
    body = make(15 * MEGABYTE)
    before = {name: peak_bytes(pid) for name, pid in up.pids().items()}
    with Watch(up) as watch:
        answers = post_all(up.url + path, [body] * 4)
    assert all(status == 400 or (status == 503 and "try again" in text) for status, text in answers), answers
    assert any(status == 400 for status, _ in answers)
    assert not watch.problems and watch.asked > 0
    assert watch.longest < 4, f"/health took {watch.longest:.1f} s"
    grown = {name: (peak_bytes(pid) - before[name]) / (4 * len(body)) for name, pid in up.pids().items()}
    print(f"{what}: /health took at most {watch.longest:.2f} s; bytes of memory a byte of the bodies: {grown}")
    assert all(growth < 8 for growth in grown.values()), grown
    assert all(worker["is_healthy"] for worker in get_json(up.url + "/workers")["workers"])
    assert get_json(up.url + "/generate", {"text": "Once", "sampling_params": {"max_new_tokens": 2}})["text"]


def test_a_stream_goes_on_meanwhile(up):
    body = json.dumps({"text": "a b " * (15 * MEGABYTE // 4)}).encode()
    ask = {"text": "Once upon a time", "sampling_params": {"max_new_tokens": 60, "temperature": 0, "ignore_eos": True}}
    expected = get_json(up.url + "/generate", ask)["text"]
    done = []
    heavy = threading.Thread(target=lambda: done.append(post_all(up.url + "/generate", [body] * 4)))
    heavy.start()
    assert get_json(up.url + "/generate", ask)["text"] == expected
    heavy.join()
    assert len(done[0]) == 4


def test_too_large_is_said_to_those_who_send_all_of_it(up):
    for url in [up.url] + up.instances("decode"):
        status, text, headers = call(url + "/generate", b'{"text":"' + b"a" * (18 * MEGABYTE) + b'"}')
        assert status == 413 and "--max-body-bytes" in text and headers["x-should-retry"] == "false", (status, text)
