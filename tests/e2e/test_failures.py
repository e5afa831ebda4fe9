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
    (["serve", "--model-path", MODELS["mla"], "--tp-sise", "4"], 2, "did you mean --tp-size?"),
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


@pytest.mark.parametrize("command", ["serve", "router", "up", "demo", "chat", "plan", "verify", "bench"])
def test_every_number_is_bounded(command):
    flags = numbers_of(command)
    assert flags, "no numbers in the help"
    for flag, kind in flags:
        for value in ("nan", "1e300", "-1e300") if kind == "FLOAT" else ("1e300", "-99999999999999999999", "99999999999999999999"):
            made = run(command, f"{flag}={value}", timeout=10)
            line = made.stderr.splitlines()[0]
            assert made.returncode == 2 and f"{value} is not a " in line and len(line) < 120, (flag, made.stderr)


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
    made = run("serve", "--trust-remote-code", "--moe-runner-backend", "triton", "--disaggregation-ib-device", "--disaggregation-decode-enable-radix-cache", "--model-path", "/nonexistent")
    assert made.returncode == 4
    for flag in ("--trust-remote-code", "--moe-runner-backend", "--disaggregation-ib-device"):
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
    two_prompts = 2 * 3000 // 64  # pages: some are still under way when the signal has come
    wait_until(lambda: metric(prefill.url, "baton_transfer_bytes_total") > 0 and held(decode.url).get("granted", 0) > two_prompts, what="no KV was seen under way")
    prefill.signal(how)
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


def test_an_instance_that_restarts_at_its_address_is_used_at_once(pair, start):
    """Killed and started again while requests come, the router's only decode: it is not held back for what the one before it left undone."""
    _, (decode,), router = pair()
    ask = lambda: call(router.url + "/generate", {"text": "Hi", "sampling_params": {"max_new_tokens": 2}})[0]
    assert ask() == 200
    decode.signal(signal.SIGKILL)
    decode.ended()
    with ThreadPoolExecutor(4) as pool:
        failures = [pool.submit(ask) for _ in range(8)]
        start("serve", "--model-path", MODELS["mla"], "--disaggregation-mode", "decode", port=decode.port)
        begun = time.time()
        assert {f.result() for f in failures} <= {200, 502, 503, 504}
    wait_until(lambda: ask() == 200, what="the new instance is not used")
    assert time.time() - begun < 4.5, "the new instance was held back"
    assert {ask() for _ in range(20)} == {200}


def test_a_call_has_a_time_limit(pair):
    _, _, router = pair(router=("--request-timeout", 1))
    stream = Stream(router.url, 3500)
    stream.wait_end()
    assert stream.status == 200 and stream.error() == 504


def log_many_requests(url, count=1500):
    get_json(url + "/configure_logging", {"log_requests": True})
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: call(url + "/generate", {"input_ids": [5], "sampling_params": {"max_new_tokens": 1}}, timeout=30)[0], range(count)))
    assert answers == [200] * count


@pytest.fixture
def unread_pipe():
    """The writing end of a pipe that nobody reads: it holds some hundred lines, then whoever writes waits."""
    read, write = os.pipe()
    yield write
    os.close(read)
    os.close(write)


def test_a_log_that_nobody_reads_stops_no_server(start, unread_pipe):
    server = start("serve", "--model-path", MODELS["gqa"], stderr=unread_pipe)
    log_many_requests(server.url)
    server.signal(signal.SIGTERM)
    assert server.ended() == 0


def test_a_log_that_nobody_reads_stops_no_cluster(tmp_path, unread_pipe):
    up = Cluster("--model-path", str(MODELS["gqa"]), "--prefill", "tp=1", "--decode", "tp=1", log=tmp_path / "log", stderr=unread_pipe)
    try:
        log_many_requests(up.url, 600)  # a line on each side
    finally:
        code = up.stop()
    assert code == 0


def edited(name, **fields):
    """Sets fields of a JSON file of the model; None removes one."""
    def damage(directory):
        path = directory / name
        content = json.loads(path.read_text())
        for key, value in fields.items():
            content[key] = value
        path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    return damage


def header_edited(change):
    """Rewrites the header of the first shard."""
    def damage(directory):
        path = directory / "model-00001-of-00002.safetensors"
        data = path.read_bytes()
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8:8 + length])
        change(header, next(name for name in sorted(header) if name != "__metadata__"))
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length:])
    return damage


def pattern(regex):
    def damage(directory):
        path = directory / "tokenizer.json"
        content = json.loads(path.read_text())
        content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}]}
        path.write_text(json.dumps(content))
    return damage


def written(name, text):
    return lambda directory: (directory / name).write_text(text)


def as_pipe(name):
    def damage(directory):
        (directory / name).unlink()
        os.mkfifo(directory / name)
    return damage


def shard_elsewhere(directory):
    path = directory / "model.safetensors.index.json"
    content = json.loads(path.read_text())
    content["weight_map"][next(iter(content["weight_map"]))] = "../../etc/passwd"
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("damage,code,words", [
    (edited("config.json", num_hidden_layers=10**9), 4, "config.json: num_hidden_layers is 1000000000, must be a whole number from 1 to 1024"),
    (edited("config.json", vocab_size=10**9), 4, "vocab_size is 1000000000, must be a whole number from 1 to 16777216"),
    (edited("config.json", vocab_size=0), 4, "vocab_size is 0"),
    (edited("config.json", hidden_size=-1), 4, "hidden_size is -1"),
    (edited("config.json", hidden_size=256.5), 4, "hidden_size is 2.565E2"),
    (edited("config.json", hidden_size="256"), 4, "hidden_size is \"256\""),
    (edited("config.json", hidden_size=None), 4, "hidden_size is missing"),
    (edited("config.json", num_attention_heads=0), 4, "num_attention_heads is 0"),
    (edited("config.json", num_attention_heads=4096, qk_nope_head_dim=2**20), 4, "must be at most 16777216"),
    (edited("config.json", n_shared_experts=4096, moe_intermediate_size=2**20), 4, "n_shared_experts 4096 times moe_intermediate_size 1048576"),
    (edited("config.json", qk_rope_head_dim=31), 4, "qk_rope_head_dim 31 is odd"),
    (edited("config.json", n_group=3), 4, "n_group 3"),
    (edited("config.json", num_experts_per_tok=9), 4, "num_experts_per_tok is 9"),
    (edited("config.json", rope_theta=0), 4, "rope_theta is 0"),
    (edited("config.json", rope_theta=1, rope_scaling={"type": "yarn", "factor": 4}), 4, "yarn with a rope_theta of 1"),
    (edited("config.json", rope_scaling={"type": "yarn", "factor": 0}), 4, "factor is 0"),
    (edited("config.json", rope_scaling=[1]), 4, "rope_scaling is not an object"),
    (edited("config.json", quantization_config={"quant_method": "fp8", "weight_block_size": [0, 0]}), 4, "quantization_config is not supported"),
    (edited("config.json", architectures=["x" * 100_000]), 4, "architecture (none) is not supported"),
    (edited("config.json", num_hidden_layers=7), 4, "model.layers.6."),
    (edited("config.json", intermediate_size=769), 3, "config.json asks for (769, 256)"),
    (edited("config.json", eos_token_id="x"), 4, "eos_token_id is \"x\""),
    (written("config.json", "[" * 100_000), 4, "config.json: not JSON"),
    (written("config.json", '{"a": "' + "x" * (5 << 20) + '"}'), 4, "at most 4194304 are read"),
    (as_pipe("config.json"), 4, "config.json: not a regular file"),
    (edited("generation_config.json", eos_token_id={}), 4, "generation_config.json: eos_token_id is {}"),
    (edited("generation_config.json", temperature="x"), 4, "generation_config.json: temperature: must be a number in [0, 1000000]"),
    (as_pipe("tokenizer.json"), 4, "tokenizer.json: not a regular file"),
    (as_pipe("model-00002-of-00002.safetensors"), 4, "model-00002-of-00002.safetensors is not a regular file"),
    (written("tokenizer.json", "[" * 3000), 4, "tokenizer.json: not JSON"),
    (edited("tokenizer.json", post_processor={"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "a"}}, {"Sequence": {}}],
                                              "special_tokens": {"a": {"ids": [10**6]}}}), 4, "post_processor: it adds id 1000000, which names no token"),
    (pattern("((a{1000}){1000}){1000}"), 4, "regular expression"),
    (edited("tokenizer_config.json", chat_template="{% if %}"), 4, "chat template line 1"),
    (edited("tokenizer_config.json", chat_template="{{ 'x'|title }}"), 4, "the filter 'title' of Jinja is not supported"),
    (edited("tokenizer_config.json", tokenizer_class="LlamaTokenizerFast", add_bos_token=True, bos_token="nothing"), 4, "which tokenizer.json lacks"),
    (written("chat_template.jinja", "{{ '%s' }} " + "x" * (1 << 20)), 4, "at most 1048576 are allowed"),
    (shard_elsewhere, 4, "is not mapped to a file of the same directory"),
    (header_edited(lambda header, name: header[name].update(data_offsets=[0, 2**63])), 4, "model-00001-of-00002.safetensors"),
    (header_edited(lambda header, name: header[name].update(shape=[2**32, 2**32, 2**32])), 4, "model-00001-of-00002.safetensors"),
    (header_edited(lambda header, name: header[name].update(dtype="F64")), 4, "model-00001-of-00002.safetensors"),
    (header_edited(lambda header, name: header.update(other=header[name])), 4, "model-00001-of-00002.safetensors"),
])
def test_no_file_of_a_model_ends_the_program_otherwise(tmp_path, damage, code, words):
    made = run("serve", "--model-path", damaged(tmp_path, damage), "--port", "0")
    assert made.returncode == code, (made.returncode, made.stderr[-2000:])
    assert words in made.stderr, made.stderr[-2000:]
    assert len(made.stderr) < 5000


def test_a_config_that_asks_for_more_memory_than_there_is(tmp_path):
    directory = tmp_path / "model"
    directory.mkdir()
    shutil.copy(MODELS["gqa"] / "config.json", directory)
    edited("config.json", num_hidden_layers=1024, hidden_size=2**20, intermediate_size=2**24, vocab_size=2**24)(directory)
    made = run("serve", "--model-path", directory, "--load-format", "dummy", "--port", "0")
    assert made.returncode == 3, (made.returncode, made.stderr)
    assert "GiB are available" in made.stderr and "config.json" in made.stderr


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """An instance whose files name tokens that are not there, split by a pattern without end, and have a template without end."""
    directory = damaged(tmp_path_factory.mktemp("hostile"), pattern("(a+)+$|(a|aa)+$|."))
    edited("config.json", eos_token_id=[1, 10**6, -1])(directory)
    edited("generation_config.json", eos_token_id=2**40)(directory)
    edited("tokenizer_config.json", chat_template="{% if messages[0].content == 'loop' %}{% for a in range(100000) %}{% for b in range(100000) %}"
           "{% endfor %}{% endfor %}{% endif %}{{ messages[0].content }}")(directory)
    made = Cluster("--model-path", directory, "--unified", "tp=1", log=directory / "log")
    yield made
    assert made.stop() == 0


def test_ids_that_the_vocabulary_lacks_are_ignored_with_a_warning(hostile):
    assert call(hostile.url + "/v1/completions", {"prompt": "Hi", "max_tokens": 3})[0] == 200
    log = hostile.log_path.read_text()
    assert "config.json: eos_token_id has 1000000 and 1 more, but ids go from 0 to 1872 (vocab_size 1873): ignored" in log
    assert "generation_config.json: eos_token_id has 1099511627776" in log


def test_texts_and_templates_that_cannot_end_are_refused(hostile):
    begin = time.monotonic()
    code, body, _ = call(hostile.url + "/v1/completions", {"prompt": "a" * 50_000 + "b", "max_tokens": 1})
    assert code == 400 and "a pattern of tokenizer.json takes too many steps" in body, body
    code, body, _ = call(hostile.url + "/v1/chat/completions", {"messages": [{"role": "user", "content": "loop"}], "max_tokens": 1})
    assert code == 400 and "the template or its input is too large" in body, body
    assert time.monotonic() - begin < 40
    assert call(hostile.url + "/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1})[0] == 200


def test_positions_beyond_the_models_are_computed_where_asked_for(tmp_path, start):
    server = start("serve", "--model-path", damaged(tmp_path, edited("config.json", max_position_embeddings=32)),
                   "--context-length", "100", "--allow-longer-context")
    code, body, _ = call(server.url + "/generate", {"input_ids": [5] * 80, "sampling_params": {"max_new_tokens": 10, "ignore_eos": True}})
    assert code == 200 and json.loads(body)["meta_info"]["completion_tokens"] == 10, body
