"""SGLang's bench_serving: the newest, and one of those that were a file that stands alone."""
import functools
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import MODEL, ROOT
from sglang_files import WHEELS

CLIENT, PACKAGES = "SGLang's bench_serving", {"sglang": " and ".join(WHEELS)}
shows = pytest.mark.shows

FILES = {"0.4.6.post5": "sglang/bench_serving.py", "0.5.23": "sglang/benchmark/serving.py"}
PROMPTS = 6


class Client:
    """A process that holds the client's imports and runs it again and again."""

    def __init__(self, version):
        file = ROOT / "build" / "clients" / "sglang" / version / FILES[version]
        self.process = subprocess.Popen([sys.executable, str(Path(__file__).with_name("sglang_bench.py")), str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, *argv):
        self.process.stdin.write(shlex.join(map(str, argv)) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def end(self):
        self.process.stdin.close()
        self.process.wait(60)


@pytest.fixture(scope="session")
def clients():
    made = {version: Client(version) for version in WHEELS}
    yield made
    for client in made.values():
        client.end()


@pytest.fixture(scope="module")
def conversations(tmp_path_factory):
    """A data set in ShareGPT's form, from which the client makes its prompts."""
    rows = [{"conversations": [{"from": "human", "value": f"What is {i} + {i + 3}? Tell me a story about an otter."}, {"from": "gpt", "value": f"{2 * i + 3}. Once upon a time."}]}
            for i in range(20)]
    file = tmp_path_factory.mktemp("bench") / "conversations.json"
    file.write_text(json.dumps(rows))
    return file


@pytest.fixture
def bench_at(clients, conversations, tmp_path):
    """Runs a version with a backend and more flags: the report that it wrote."""

    def run(url, version, backend, *more):
        report = tmp_path / "report.jsonl"
        code, said = clients[version].run("--backend", backend, "--base-url", url, "--tokenizer", MODEL, "--dataset-name", "random", "--dataset-path", conversations,
                                          "--num-prompts", PROMPTS, "--random-input-len", 64, "--random-output-len", 8, "--random-range-ratio", 1, "--request-rate", "inf",
                                          "--disable-tqdm", "--output-file", report, *more)
        assert code == 0 and report.exists(), said[-4000:]
        return json.loads(report.read_text().splitlines()[-1])

    return run


@pytest.fixture
def bench(bench_at, url):
    return functools.partial(bench_at, url)


def assert_complete(report, output_len=8):
    assert report["completed"] == PROMPTS and report["total_output_tokens"] == PROMPTS * output_len, report
    assert report["total_input_tokens"] == PROMPTS * 64 and 0 < report["mean_ttft_ms"] < 60e3 and report["mean_itl_ms"] > 0


def backend_test(version, backend, path):
    @shows(f"{version}, --backend {backend} ({path})")
    def test(bench):
        assert_complete(bench(version, backend))

    return test


test_sglang = backend_test("0.5.23", "sglang", "/generate")
test_sglang_oai = backend_test("0.5.23", "sglang-oai", "/v1/completions")
test_sglang_oai_chat = backend_test("0.5.23", "sglang-oai-chat", "/v1/chat/completions")
test_vllm = backend_test("0.5.23", "vllm", "/v1/completions")
test_vllm_chat = backend_test("0.5.23", "vllm-chat", "/v1/chat/completions")
test_old_sglang = backend_test("0.4.6.post5", "sglang", "/generate")
test_old_sglang_oai = backend_test("0.4.6.post5", "sglang-oai", "/v1/completions")
test_old_vllm = backend_test("0.4.6.post5", "vllm", "/v1/completions")


@shows("0.5.23, --tokenize-prompt --return-logprob --top-logprobs-num 2")
def test_ids_and_logprobs(bench):
    assert_complete(bench("0.5.23", "sglang", "--tokenize-prompt", "--return-logprob", "--top-logprobs-num", 2))


@shows("0.5.23, --disable-stream")
def test_not_streamed(bench):
    assert bench("0.5.23", "sglang-oai-chat", "--disable-stream")["completed"] == PROMPTS


@shows("0.5.23, --flush-cache --cache-report")
def test_flush_and_cache_report(bench):
    assert_complete(bench("0.5.23", "sglang-oai", "--flush-cache", "--cache-report"))


@shows("0.5.23, --profile")
def test_profile(bench):
    assert_complete(bench("0.5.23", "sglang", "--profile"))


@shows("0.5.23, --dataset-name generated-shared-prefix")
def test_shared_prefix(bench):
    sizes = {"--gsp-num-groups": 2, "--gsp-prompts-per-group": 3, "--gsp-system-prompt-len": 64, "--gsp-question-len": 16, "--gsp-output-len": 8}
    report = bench("0.5.23", "sglang", "--dataset-name", "generated-shared-prefix", *(word for pair in sizes.items() for word in pair))
    assert report["completed"] == 6


@shows("0.5.23, --fake-prefill, at the decode instance", place="router")
def test_fake_prefill(bench_at, places):
    report = bench_at(places.url("decode"), "0.5.23", "sglang", "--fake-prefill")
    assert report["completed"] == PROMPTS and report["total_output_tokens"] == PROMPTS * 8
