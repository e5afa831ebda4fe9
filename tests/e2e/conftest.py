"""Starts clusters of the built program for the tests, and reads what they say."""
import json
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BATON = ROOT / "build" / "release" / "bin" / "baton"
MODELS = {"mla": ROOT / "models" / "tiny-mla", "gqa": ROOT / "models" / "tiny-gqa"}
sys.path.insert(0, str(ROOT / "tools" / "tiny_model"))


class Cluster:
    """`baton up` with an API on a free port; `url` answers once the object exists."""

    def __init__(self, *flags, log):
        self.log_path = log
        self.log = open(log, "w+")
        self.process = subprocess.Popen([str(BATON), "up", "--port", "0", *flags], stdout=subprocess.PIPE, stderr=self.log, text=True)
        self.summary, self.url = "", None
        for line in self.process.stdout:
            self.summary += line
            found = re.search(r"API: (http://\S+)", line)
            if found:
                self.url = found.group(1)
            if "ready in" in line:
                return
        self.process.wait()
        raise RuntimeError(f"the cluster did not start ({flags}):\n{Path(log).read_text()}")

    def instances(self, role):
        """URLs of the instances whose line in the summary names `role`."""
        return re.findall(rf"{role}\S*\s.*?(http://\S+?),? ", self.summary)

    def pids(self):
        return {name: int(pid) for name, pid in re.findall(r"^\s+(\S+).*\(pid (\d+)\)", self.summary, re.M)}

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        code = self.process.wait(timeout=30)
        self.process.stdout.close()
        self.log.close()
        return code


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


@pytest.fixture
def cluster(tmp_path):
    """A function that starts clusters; all are stopped at the test's end, and must stop cleanly."""
    started = []

    def start(*flags):
        made = Cluster(*map(str, flags), log=tmp_path / f"cluster-{len(started)}.log")
        started.append(made)
        return made

    yield start
    codes = [c.stop() for c in started]
    assert all(code == 0 for code in codes), codes
