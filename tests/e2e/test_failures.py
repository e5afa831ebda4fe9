"""What goes wrong says so, with the remedy, and leaves nothing behind."""
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from conftest import BATON, MODELS, Cluster, Stream, call, get_json, metric, pages, wait_until


def run(*arguments, timeout=60):
    return subprocess.run([BATON, *map(str, arguments)], capture_output=True, text=True, timeout=timeout)


@pytest.mark.parametrize("arguments,code,words", [
    (["serve", "--model-path", MODELS["mla"], "--tp-siz", "4"], 2, "did you mean --tp-size?"),
    (["srve"], 2, "did you mean 'serve'"),
    (["serve", "--model-path", "/nonexistent"], 4, "no /nonexistent/config.json; the model path must be a Hugging Face directory"),
    (["serve", "--model-path", MODELS["mla"], "--tp-size", "4", "--dp-size", "3"], 2, "dp 3 does not divide tp 4"),
    (["serve", "--model-path", MODELS["mla"], "--tp-size", "16"], 3, "use at most --tp-size 8"),
    (["serve", "--model-path", MODELS["mla"], "--port", "0", "--disaggregation-mode", "decode", "--disaggregation-transfer-backend", "tcp", "--advertise-host", "0.0.0.0"], 3,
     "--advertise-host 0.0.0.0: peers cannot connect to that"),
    (["up", "--model-path", MODELS["mla"], "--prefill", "tp=4"], 2, "at least one of each"),
    (["up", "--model-path", MODELS["mla"], "--unified", "tp=16", "--port", "0"], 3, "exit code 3"),
    (["router", "--port", "99999"], 2, "--port: 99999 is not a whole number from 0 to 65535"),
    (["serve", "--model-path", MODELS["mla"], "--port", "0", "--host", "203.0.113.7"], 5, "no interface of this machine has that address"),
    (["serve", "--model-path", MODELS["mla"], "--port", "0", "--host", "example"], 2, "--host example is not an IP address"),
    (["serve", "--model-path", MODELS["mla"], "--port", "0", "--context-length", "16385"], 3, "beyond the 16384 positions that the model was made for; lower it"),
    (["plan", "--prefill", "tp=4", "--decode", "tp=banana", "--model", MODELS["mla"]], 2, "tp=banana is not a number of ranks"),
])
def test_wrong_command_lines(arguments, code, words):
    made = run(*arguments)
    assert made.returncode == code, (made.returncode, made.stderr)
    assert words in made.stderr, made.stderr


@pytest.mark.parametrize("flag,value", [
    *[(flag, value) for flag in ("--max-total-tokens", "--max-running-requests", "--num-reserved-decode-tokens", "--context-length", "--watchdog-timeout",
                                 "--page-size", "--tp-size", "--mem-fraction-static", "--chunked-prefill-size") for value in ("-7", "nan", "inf", "1e300", "x")],
    ("--watchdog-timeout", "0"), ("--random-seed", "-1"), ("--port", "0x10"), ("--http-threads", "99999999999999999999")])
def test_a_number_out_of_bounds_is_refused_in_one_short_line(flag, value):
    made = run("serve", "--model-path", "/nonexistent", f"{flag}={value}")
    assert made.returncode == 2, (made.returncode, made.stderr)
    line = made.stderr.splitlines()[0]
    assert re.fullmatch(rf"{flag}: .*{re.escape(value)} is not a (whole )?number from -?[0-9.e+]+ to [0-9.e+]+", line), made.stderr
    assert len(line) < 100, line


def numbers_of(command):
    """(flag, INT, UINT or FLOAT) of every number that the command takes, as its help says."""
    return re.findall(r"^\s+(--[\w-]+)(?:,\S+)* (INT|UINT|FLOAT)\b", run(command, "--help").stdout, re.M)


@pytest.mark.parametrize("command", ["serve", "router", "up", "demo", "plan", "verify", "bench"])
def test_every_number_is_bounded(command):
    flags = numbers_of(command)
    assert flags, "no numbers in the help"
    for flag, kind in flags:
        for value in ("nan", "1e300", "-1e300") if kind == "FLOAT" else ("1e300", "-99999999999999999999", "99999999999999999999"):
            made = run(command, f"{flag}={value}", timeout=10)
            line = made.stderr.splitlines()[0]
            assert made.returncode == 2 and f"{value} is not a " in line and len(line) < 100, (flag, made.stderr)


def test_leading_zeros_are_decimal():
    made = run("router", "--port", "0100000")
    assert made.returncode == 2 and "--port: 0100000 is not a whole number" in made.stderr
    made = run("plan", "--prefill", "tp=1", "--decode", "tp=1", "--model", MODELS["mla"], "--page-size", "010")
    assert "10 tokens" in made.stdout, (made.stdout, made.stderr)


@pytest.mark.parametrize("environment,flags", [({"SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN": "1"}, []), ({}, ["--allow-longer-context"])])
def test_a_longer_context_is_taken_when_asked_for(environment, flags):
    # The pool's check comes after it and refuses, so nothing is loaded.
    made = subprocess.run([BATON, "serve", "--model-path", MODELS["mla"], "--port", "0", "--context-length", "16385", "--max-total-tokens", "1", *flags],
                          capture_output=True, text=True, timeout=60, env={**os.environ, **environment})
    assert made.returncode == 3 and "its answers may be poor there" in made.stderr and "lower it" not in made.stderr, made.stderr


@pytest.mark.parametrize("path", ["/nonexistent/report.jsonl", "/", "/proc/version"])
def test_a_benchmark_that_cannot_be_written_does_not_run(path):
    # No server listens at the address: the file is found out first.
    made = run("bench", "--port", "1", "--output-file", path)
    assert made.returncode == 2 and f"cannot write --output-file {path}: " in made.stderr, (made.returncode, made.stderr)


def test_flags_without_meaning_are_named():
    made = run("serve", "--trust-remote-code", "--attention-backend", "fa3", "--disaggregation-ib-device", "--disaggregation-decode-enable-radix-cache", "--model-path", "/nonexistent")
    assert made.returncode == 4
    for flag in ("--trust-remote-code", "--attention-backend", "--disaggregation-ib-device"):
        assert f"{flag} has no meaning here: " in made.stderr, made.stderr


def damaged(tmp_path, damage):
    copy = tmp_path / "model"
    shutil.copytree(MODELS["mla"], copy)
    damage(copy)
    return copy


def cut(name, size):
    def damage(directory):
        with open(directory / name, "r+b") as file:
            file.truncate(size)
    return damage


@pytest.mark.parametrize("damage,words", [
    (cut("model-00001-of-00002.safetensors", 5), "model-00001-of-00002.safetensors"),
    (cut("model-00002-of-00002.safetensors", 100_000), "model-00002-of-00002.safetensors"),
    (cut("tokenizer.json", 5000), "tokenizer.json"),
    (cut("config.json", 20), "config.json"),
    (lambda d: os.remove(d / "tokenizer.json"), "--tokenizer-path"),
    (lambda d: os.remove(d / "model-00002-of-00002.safetensors"), "model-00002-of-00002.safetensors"),
])
def test_damaged_models(tmp_path, damage, words):
    made = run("serve", "--model-path", damaged(tmp_path, damage), "--port", "0")
    assert made.returncode == 4, (made.returncode, made.stderr)
    assert words in made.stderr, made.stderr


@pytest.mark.parametrize("flag", ["--port", "--disaggregation-bootstrap-port"])
def test_a_port_in_use_names_its_owner(flag):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        others = {"--port": 0, "--disaggregation-bootstrap-port": 0, flag: port}
        made = run("serve", "--model-path", MODELS["mla"], "--disaggregation-mode", "prefill", *[word for pair in others.items() for word in pair])
    assert made.returncode == 5, (made.returncode, made.stderr)
    assert flag in made.stderr and str(port) in made.stderr and f"(pid {os.getpid()})" in made.stderr, made.stderr


def test_a_pair_whose_models_differ(tmp_path):
    """Refused when the two meet, in words, and no request finds out later."""
    processes, urls = [], []
    try:
        for mode, model in (("prefill", "mla"), ("decode", "gqa")):
            read, write = os.pipe()
            processes.append(subprocess.Popen([BATON, "serve", "--model-path", MODELS[model], "--port", "0", "--disaggregation-mode", mode,
                                               "--disaggregation-bootstrap-port", "0", "--report-fd", str(write)], pass_fds=[write], stderr=subprocess.DEVNULL))
            os.close(write)
            with os.fdopen(read) as lines:
                _, port, bootstrap = next(line for line in lines if line.startswith("ready")).split()
            urls.append((int(port), int(bootstrap)))
        status, text, _ = call(f"http://127.0.0.1:{urls[1][0]}/pair", {"bootstrap_host": "127.0.0.1", "bootstrap_port": urls[0][1]})
        assert status == 409 and "--model-path" in text, (status, text)
        router = run("router", "--prefill", f"http://127.0.0.1:{urls[0][0]}", urls[0][1], "--decode", f"http://127.0.0.1:{urls[1][0]}", "--port", "0", "--report-fd", "1",
                     "--wait-ready", "3")
        assert router.returncode == 3 and "cannot" in router.stderr, (router.returncode, router.stderr)
    finally:
        for process in processes:
            process.terminate()
            assert process.wait(timeout=20) == 0


def test_the_death_of_a_child_stops_the_cluster(tmp_path):
    up = Cluster("--model-path", str(MODELS["gqa"]), "--prefill", "tp=2", "--decode", "tp=2", log=tmp_path / "log")
    pids = up.pids()
    os.kill(pids["decode-0"], signal.SIGKILL)
    assert up.process.wait(timeout=30) == 1
    up.process.stdout.close()
    assert "decode-0" in (tmp_path / "log").read_text()
    for pid in pids.values():
        with pytest.raises(ProcessLookupError):
            for _ in range(50):
                os.kill(pid, 0)
                time.sleep(0.1)


def held(url):
    return {state: n for state, n in pages(url).items() if state in ("owned", "granted", "quarantined") and n}


# Prompts long enough, in chunks small enough, for KV to be under way when something happens.
SLOW = ("--tp-size", 2, "--chunked-prefill-size", 128)


class Askers:
    """Long prompts all at once, through a router or to both legs of a pair; what each got: (status, body)."""

    def __init__(self, count, prefill, decode, router=None):
        self.answers = []
        self.threads = [threading.Thread(target=self.ask, args=(i, prefill, decode, router), daemon=True) for i in range(count)]
        for thread in self.threads:
            thread.start()

    def ask(self, i, prefill, decode, router):
        body = {"input_ids": [5 + i] * 3000, "sampling_params": {"max_new_tokens": 4, "temperature": 0, "ignore_eos": True}}
        if router is None:
            body |= {"bootstrap_host": "127.0.0.1", "bootstrap_port": int(prefill.bootstrap_port), "bootstrap_room": 7000 + i}
            threading.Thread(target=self.other_leg, args=(prefill, body), daemon=True).start()
        self.answers.append(call((router or decode).url + "/generate", body)[:2])

    @staticmethod
    def other_leg(prefill, body):
        try:
            call(prefill.url + "/generate", body)
        except OSError:
            pass  # killed

    def wait_end(self, seconds):
        end = time.time() + seconds
        for thread in self.threads:
            thread.join(max(0, end - time.time()))
        assert len(self.answers) == len(self.threads), f"{len(self.threads) - len(self.answers)} requests hang"
        return self.answers


@pytest.mark.parametrize("way", ["router", "direct"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_prefill_that_goes_with_kv_under_way(pair, way, how):
    """Killed or stopped: errors or whole answers, never broken text, nobody hangs, and decode's pages come back."""
    prefill, (decode,), router = pair(serve=SLOW, router=("--health-check-timeout", 3))
    asking = Askers(12, prefill, decode, router if way == "router" else None)
    wait_until(lambda: metric(prefill.url, "baton_transfer_bytes_total") > 0 and held(decode.url).get("granted"), what="no KV was seen under way")
    prefill.signal(how)
    assert held(decode.url).get("granted"), "everything had arrived already"
    answers = asking.wait_end(60)
    assert {status for status, _ in answers} <= {200, 500, 502, 503, 504}, answers
    assert any(status != 200 for status, _ in answers), "nothing was under way"
    for status, text in answers:
        answer = json.loads(text)
        assert (answer["meta_info"]["completion_tokens"] == 4) if status == 200 else ("error" in answer), text
    if how == signal.SIGSTOP:
        prefill.signal(signal.SIGCONT)  # what it was stopped in must not write any more: its pages come back with its word
        wait_until(lambda: call(router.url + "/generate", {"text": "Hi", "sampling_params": {"max_new_tokens": 2}})[0] == 200, what="nothing is served after SIGCONT")
    wait_until(lambda: not held(decode.url), what=f"pages are still held: {held(decode.url)}")
    decode.signal(signal.SIGTERM)
    assert decode.ended() == 0


def test_a_decode_that_is_stopped_ends_what_waits_for_it(pair):
    """SIGSTOP leaves every connection open: only its silence tells. Open calls end, new ones are refused, and after SIGCONT all is well."""
    prefill, (decode,), router = pair(router=("--health-check-timeout", 3))
    stream = Stream(router.url, 2000)
    stream.wait_begun()
    whole = []
    asking = threading.Thread(target=lambda: whole.append(call(router.url + "/generate", {"text": "Hi", "sampling_params": {"max_new_tokens": 2000, "ignore_eos": True}})))
    asking.start()
    wait_until(lambda: metric(decode.url, "sglang:num_running_reqs") >= 2)
    decode.signal(signal.SIGSTOP)
    stream.wait_end(30)
    asking.join(30)
    assert stream.status == 200 and stream.error() == 504
    assert whole[0][0] == 504 and "nothing was heard from" in whole[0][1], whole
    assert call(router.url + "/health")[0] == 503
    refused = call(router.url + "/generate", {"text": "Hi"})
    assert refused[0] == 503 and refused[2]["Retry-After"], refused
    decode.signal(signal.SIGCONT)
    wait_until(lambda: call(router.url + "/generate", {"text": "Hi", "sampling_params": {"max_new_tokens": 2}})[0] == 200, what="nothing is served after SIGCONT")
    for instance in (prefill, decode):
        wait_until(lambda: not held(instance.url), what=f"pages are still held: {held(instance.url)}")


def test_another_decode_takes_over_from_one_that_is_stopped(pair):
    _, decodes, router = pair(decodes=2, router=("--health-check-timeout", 3))
    decodes[0].signal(signal.SIGSTOP)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: call(router.url + "/generate", {"text": "Hi", "sampling_params": {"max_new_tokens": 2}}), range(8)))
    assert [status for status, _, _ in answers] == [200] * 8, answers
    assert any("tries=2" in headers["x-baton-verdict"] for _, _, headers in answers)


def test_a_call_has_a_time_limit(pair):
    _, _, router = pair(router=("--request-timeout", 1))
    stream = Stream(router.url, 3500)
    stream.wait_end()
    assert stream.status == 200 and stream.error() == 504


def test_a_log_that_nobody_reads_stops_nothing(start):
    """A pipe holds some hundred lines; then whoever writes one more would wait for ever."""
    read, write = os.pipe()
    try:
        server = start("serve", "--model-path", MODELS["gqa"], stderr=write)
        get_json(server.url + "/configure_logging", {"log_requests": True})
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: call(server.url + "/generate", {"input_ids": [5], "sampling_params": {"max_new_tokens": 1}}, timeout=30)[0], range(1500)))
        assert answers == [200] * 1500
        server.signal(signal.SIGTERM)
        assert server.ended() == 0
    finally:
        os.close(read)
        os.close(write)
