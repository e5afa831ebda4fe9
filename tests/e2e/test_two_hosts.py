"""Router, prefill and decode on hosts of their own: three network namespaces with one bridge between them."""
import json
import os
import re
import shutil
import subprocess
import sys
import time

import pytest

from conftest import BATON, MODELS, get_json

PROMPTS = ["The capital of France is", "one two three four five", "Hello"]
# In the namespace of a host: GET or POST, answer on standard output.
FETCH = """
import sys, urllib.request
url, body = sys.argv[1], sys.argv[2].encode() or None
print(urllib.request.urlopen(urllib.request.Request(url, body, {"Content-Type": "application/json"}), timeout=60).read().decode())
"""


def ip(*words, check=True):
    return subprocess.run(["ip", *words], check=check, capture_output=True, text=True)


class Hosts:
    """Hosts by name, each with an address and a default route by a gateway that is not there."""

    def __init__(self, names, log_directory):
        self.prefix, self.logs, self.programs = f"baton{os.getpid()}", log_directory, []
        self.addresses = {name: f"10.77.0.{i + 2}" for i, name in enumerate(names)}
        self.switch = f"{self.prefix}-switch"
        ip("netns", "add", self.switch)
        ip("-n", self.switch, "link", "add", "bridge0", "type", "bridge")
        ip("-n", self.switch, "link", "set", "bridge0", "up")
        for name, address in self.addresses.items():
            host = self.namespace(name)
            ip("netns", "add", host)
            ip("-n", self.switch, "link", "add", f"to-{name}", "type", "veth", "peer", "name", "eth0", "netns", host)
            ip("-n", self.switch, "link", "set", f"to-{name}", "master", "bridge0", "up")
            ip("-n", host, "address", "add", f"{address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                ip("-n", host, "link", "set", device, "up")
            ip("-n", host, "route", "add", "default", "via", "10.77.0.1")

    def namespace(self, name):
        return f"{self.prefix}-{name}"

    def start(self, name, *arguments):
        log = open(self.logs / f"{name}.log", "w")
        self.programs.append(subprocess.Popen(["ip", "netns", "exec", self.namespace(name), str(BATON), *map(str, arguments)], stdout=log, stderr=log))
        log.close()

    def log(self, name):
        return (self.logs / f"{name}.log").read_text()

    def fetch(self, name, url, body=None):
        """What `name` gets from a URL, or None if it gets nothing."""
        made = subprocess.run(["ip", "netns", "exec", self.namespace(name), sys.executable, "-c", FETCH, url, json.dumps(body) if body else ""], capture_output=True, text=True)
        return made.stdout if made.returncode == 0 else None

    def wait(self, name, url, seconds=60):
        end = time.time() + seconds
        while self.fetch(name, url) is None:
            dead = [p.args for p in self.programs if p.poll() is not None]
            assert not dead and time.time() < end, (url, dead, {n: self.log(n) for n in self.addresses if (self.logs / f"{n}.log").exists()})
            time.sleep(0.2)

    def stop(self):
        for program in self.programs:
            program.terminate()
        codes = [program.wait(timeout=30) for program in self.programs]
        for name in [*self.addresses, None]:
            ip("netns", "del", self.namespace(name) if name else self.switch, check=False)
        return codes


@pytest.fixture
def hosts(tmp_path):
    if shutil.which("ip") is None:
        pytest.skip("no `ip` here: install iproute2")
    made = ip("netns", "add", f"baton{os.getpid()}-try", check=False)
    if made.returncode != 0:
        pytest.skip(f"network namespaces are not permitted here: {made.stderr.strip()}")
    ip("netns", "del", f"baton{os.getpid()}-try")
    network = Hosts(["router", "prefill", "decode"], tmp_path)
    yield network
    assert all(code == 0 for code in network.stop())


def trusted(address):
    """Decode pairs with prefill instances that it was told of, where the program has a flag for that."""
    flag = "--disaggregation-prefill-peers"
    known = flag in subprocess.run([BATON, "serve", "--help"], capture_output=True, text=True).stdout
    return [flag, address] if known else []


@pytest.mark.parametrize("case", ["default_route", "advertise_host", "disaggregation_host", "every_ipv6_address"])
def test_requests_go_through_three_hosts(hosts, cluster, case):
    here = hosts.addresses
    flags = {
        "default_route": lambda name: ["--host", "0.0.0.0"],
        "advertise_host": lambda name: ["--host", "0.0.0.0", "--advertise-host", here[name]],
        "disaggregation_host": lambda name: ["--host", "0.0.0.0", "--disaggregation-host", here[name]],
        "every_ipv6_address": lambda name: ["--host", "::", "--advertise-host", here[name]],
    }[case]
    common = ["--model-path", MODELS["gqa"], "--port", "30000", "--disaggregation-transfer-backend", "tcp"]
    if case == "advertise_host":  # nothing else says it
        for name in ("prefill", "decode"):
            ip("-n", hosts.namespace(name), "route", "del", "default")
    hosts.start("prefill", "serve", *common, *flags("prefill"), "--tp-size", "3", "--disaggregation-mode", "prefill")
    hosts.start("decode", "serve", *common, *flags("decode"), "--tp-size", "2", "--disaggregation-mode", "decode", *trusted(here["prefill"]))
    urls = {name: f"http://{here[name]}:30000" for name in ("prefill", "decode")}
    hosts.start("router", "router", "--host", here["router"], "--port", "8000", "--prefill", urls["prefill"], "8998", "--decode", urls["decode"])
    for url in urls.values():
        hosts.wait("router", url + "/health")
    api = f"http://{here['router']}:8000"
    hosts.wait("router", api + "/readiness")
    body = {"max_tokens": 12, "temperature": 0, "ignore_eos": True}
    answers = [hosts.fetch("router", api + "/v1/completions", {"prompt": prompt, **body}) for prompt in PROMPTS]
    assert all(answers), hosts.log("decode")
    unified = cluster("--model-path", MODELS["gqa"], "--unified", "tp=1")
    expected = [get_json(unified.url + "/v1/completions", {"prompt": prompt, **body})["choices"][0]["text"] for prompt in PROMPTS]
    assert [json.loads(answer)["choices"][0]["text"] for answer in answers] == expected
    moved = re.findall(r"^baton_transfer_bytes_total\{.*\} (\S+)", hosts.fetch("router", urls["prefill"] + "/metrics") + hosts.fetch("router", urls["decode"] + "/metrics"), re.M)
    assert sum(map(float, moved)) > 0, "the KV came by the network"
    if case == "default_route":
        assert f"peers are told {here['decode']}, the address of the default route" in hosts.log("decode")
    info = json.loads(hosts.fetch("router", urls["decode"] + "/server_info"))
    assert info["host"] == flags("decode")[1]
    assert info["advertise_host"] == (here["decode"] if "--advertise-host" in flags("decode") else None)


def test_without_a_default_route_an_address_is_asked_for(hosts):
    ip("-n", hosts.namespace("decode"), "route", "del", "default")
    made = subprocess.run(["ip", "netns", "exec", hosts.namespace("decode"), BATON, "serve", "--model-path", MODELS["gqa"], "--port", "0",
                           "--disaggregation-mode", "decode", "--disaggregation-transfer-backend", "tcp", "--host", "0.0.0.0"], capture_output=True, text=True, timeout=60)
    assert made.returncode == 3, made.stderr
    assert "give --advertise-host an address of this machine" in made.stderr
