"""What goes wrong says so, with the remedy, and leaves nothing behind."""
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time

import pytest

from conftest import BATON, MODELS, Cluster, call, pages


def run(*arguments, timeout=60):
    return subprocess.run([BATON, *map(str, arguments)], capture_output=True, text=True, timeout=timeout)


@pytest.mark.parametrize("arguments,code,words", [
    (["serve", "--model-path", MODELS["mla"], "--tp-siz", "4"], 2, "did you mean --tp-size?"),
    (["srve"], 2, "did you mean 'serve'"),
    (["serve", "--model-path", "/nonexistent"], 4, "no /nonexistent/config.json; the model path must be a Hugging Face directory"),
    (["serve", "--model-path", MODELS["mla"], "--tp-size", "4", "--dp-size", "3"], 2, "dp 3 does not divide tp 4"),
    (["serve", "--model-path", MODELS["mla"], "--tp-size", "16"], 3, "use at most --tp-size 8"),
    (["serve", "--model-path", MODELS["mla"], "--port", "0", "--disaggregation-mode", "decode", "--disaggregation-transfer-backend", "tcp", "--host", "0.0.0.0"], 3,
     "give --host an address of this machine"),
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


def test_a_prefill_that_dies_is_an_error_and_frees_decodes_pages(tmp_path):
    """kill -9 of prefill while requests run: errors or whole answers, never broken text, and decode's pages come back."""
    processes = {}
    ports = {}
    try:
        for mode in ("prefill", "decode"):
            read, write = os.pipe()
            processes[mode] = subprocess.Popen([BATON, "serve", "--model-path", MODELS["mla"], "--port", "0", "--disaggregation-mode", mode, "--tp-size", "2",
                                                "--disaggregation-bootstrap-port", "0", "--report-fd", str(write)], pass_fds=[write], stderr=subprocess.DEVNULL)
            os.close(write)
            with os.fdopen(read) as lines:
                _, port, bootstrap = next(line for line in lines if line.startswith("ready")).split()
            ports[mode] = (int(port), int(bootstrap))
        decode = f"http://127.0.0.1:{ports['decode'][0]}"
        body = {"input_ids": [5] * 3000, "sampling_params": {"max_new_tokens": 4}, "bootstrap_host": "127.0.0.1", "bootstrap_port": ports["prefill"][1], "bootstrap_room": 77}
        waiting = subprocess.Popen(["curl", "-s", "-w", "%{http_code}", decode + "/generate", "-H", "Content-Type: application/json", "-d", json.dumps(body)],
                                   stdout=subprocess.PIPE, text=True)
        time.sleep(0.5)
        processes["prefill"].kill()
        text, _ = waiting.communicate(timeout=60)
        assert text[-3:] in ("500", "502", "503", "504"), text
        for _ in range(100):
            held = {s: n for s, n in pages(decode).items() if s in ("owned", "granted", "quarantined")}
            if not any(held.values()):
                break
            time.sleep(0.1)
        assert not any(held.values()), held
    finally:
        for mode, process in processes.items():
            process.terminate()
            process.wait(timeout=20)
