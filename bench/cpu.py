#!/usr/bin/env python3
"""Baton beside llama.cpp on this processor: `./dev bench cpu [--isa avx2 native] [--rounds N]`.

A Llama of 1.1 B parameters (TinyLlama's shape) with random bfloat16 weights, one undivided instance on all cores.
Baton is measured from outside, over HTTP; llama.cpp by its own llama-bench and llama-batched-bench, built from the
sources in PyPI's llama-cpp-python, on a GGUF of the same shape that this script writes. Everything lies in build/cpu.

`avx2` holds both sides to AVX2, FMA and F16C, whatever the processor has more; `native` lets both take what it has.
The sides take turns, and the medians over the rounds are printed, with the processor and the load.

On a machine that does other things, too, the clock says little (a side whose threads meet often waits for the slowest).
`--cpu-time` counts the processor's seconds instead, as GFLOP a second of one core: llama.cpp with one thread, so that
its spinning counts for nothing, Baton with its usual ones.
"""
import argparse
import concurrent.futures
import json
import os
import pathlib
import random
import re
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tarfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[1]
BATON = pathlib.Path(os.environ.get("BATON", ROOT / "build" / "release" / "bin" / "baton"))
PLACE = ROOT / "build" / "cpu"
PEER = "llama-cpp-python==0.3.36"
CORES = os.cpu_count()
PROMPT, SHORT, BATCH = 512, 16, 16

SHAPE = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 2048, "intermediate_size": 5632,
         "num_hidden_layers": 22, "num_attention_heads": 32, "num_key_value_heads": 4,
         "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "vocab_size": 32000,
         "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu",
         "tie_word_embeddings": False}

# What cmake tells llama.cpp, and BATON_INSTRUCTION_SET tells Baton.
PEER_FLAGS = {"avx2": ["-DGGML_NATIVE=OFF", "-DGGML_AVX512=OFF", "-DGGML_AVX=ON", "-DGGML_AVX2=ON", "-DGGML_FMA=ON",
                       "-DGGML_F16C=ON", "-DGGML_BMI2=ON"],
              "native": ["-DGGML_NATIVE=ON"]}
OUR_LIMIT = {"avx2": "avx2", "native": ""}

PARAMETERS = 1.034e9  # that a token is multiplied by: all but the embedding
FIGURES = {"prefill": f"prompt of {PROMPT}", "decode": "decode, one at a time", "batch": f"decode, {BATCH} at once"}


def run(*command, **options):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, **options)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return done.stdout


def peer_sources():
    """llama.cpp's tree, from PyPI."""
    python = PLACE / "venv" / "bin" / "python"
    if not python.exists():
        run(sys.executable, "-m", "venv", PLACE / "venv")
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "gguf==0.19.0", "numpy")
    folder = PLACE / PEER.replace("-", "_").replace("==", "-")
    if not folder.exists():
        run(python, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-binary", ":all:",
            "-d", PLACE, PEER)
        with tarfile.open(PLACE / f"{folder.name}.tar.gz") as archive:
            archive.extractall(PLACE, filter="data")
    return python, folder / "vendor" / "llama.cpp"


def build_peer(sources, isa):
    folder = PLACE / f"llama-{isa}"
    if not (folder / "bin" / "llama-batched-bench").exists():
        print(f"building llama.cpp for {isa}: some minutes", flush=True)
        launcher = ["-DCMAKE_C_COMPILER_LAUNCHER=ccache", "-DCMAKE_CXX_COMPILER_LAUNCHER=ccache"] if shutil.which("ccache") else []
        run("cmake", "-G", "Ninja", "-S", sources, "-B", folder, "-DCMAKE_BUILD_TYPE=Release", "-DGGML_CCACHE=OFF",
            "-DLLAMA_OPENSSL=OFF", "-DLLAMA_CURL=OFF", "-DLLAMA_BUILD_SERVER=OFF", "-DLLAMA_BUILD_UI=OFF",
            "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_BUILD_TOOLS=ON", *launcher, *PEER_FLAGS[isa])
        run("ninja", "-C", folder, "llama-bench", "llama-batched-bench")
    return folder / "bin"


def write_gguf(path, shape):
    """The shape with random bfloat16 weights and no vocabulary; run by the virtual environment's Python."""
    import gguf
    import numpy as np

    hidden, ffn, vocab = shape["hidden_size"], shape["intermediate_size"], shape["vocab_size"]
    head = hidden // shape["num_attention_heads"]
    kv = shape["num_key_value_heads"] * head
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(shape["max_position_embeddings"])
    writer.add_embedding_length(hidden)
    writer.add_block_count(shape["num_hidden_layers"])
    writer.add_feed_forward_length(ffn)
    writer.add_head_count(shape["num_attention_heads"])
    writer.add_head_count_kv(shape["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(shape["rms_norm_eps"])
    writer.add_rope_dimension_count(head)
    writer.add_vocab_size(vocab)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    writer.add_tokenizer_model("no_vocab")
    rng = np.random.default_rng(0)

    def matrix(name, n, k):
        values = (rng.random((n, k), dtype=np.float32) * 2 - 1) * np.float32((3 / k) ** 0.5)
        bits = (values.view(np.uint32) >> 16).astype(np.uint16)
        writer.add_tensor(name, bits.view(np.uint8).reshape(n, 2 * k), raw_dtype=gguf.GGMLQuantizationType.BF16)

    def norm(name):
        writer.add_tensor(name, np.ones(hidden, np.float32))

    matrix("token_embd.weight", vocab, hidden)
    matrix("output.weight", vocab, hidden)
    norm("output_norm.weight")
    for layer in range(shape["num_hidden_layers"]):
        prefix = f"blk.{layer}."
        norm(prefix + "attn_norm.weight")
        norm(prefix + "ffn_norm.weight")
        for name, n, k in (("attn_q", hidden, hidden), ("attn_k", kv, hidden), ("attn_v", kv, hidden),
                           ("attn_output", hidden, hidden), ("ffn_gate", ffn, hidden), ("ffn_up", ffn, hidden),
                           ("ffn_down", hidden, ffn)):
            matrix(f"{prefix}{name}.weight", n, k)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Baton:
    """One undivided instance, driven by token ids over HTTP."""

    def __init__(self, model, isa="native", binary=BATON, arguments=("--load-format", "dummy")):
        began = time.monotonic()
        self.vocab = json.loads((pathlib.Path(model) / "config.json").read_text())["vocab_size"]
        environment = dict(os.environ, BATON_INSTRUCTION_SET=OUR_LIMIT[isa])
        self.process = subprocess.Popen(
            [binary, "up", "--model-path", model, "--unified", "tp=1", *arguments, "--port", "0",
             "--max-total-tokens", "16384", "--disable-radix-cache", "--log-level", "warning"],
            stdout=subprocess.PIPE, text=True, env=environment)
        found = (re.search(r"API: (http://\S+)", line) for line in self.process.stdout)
        self.url = next((match.group(1) for match in found if match), None)
        if self.url is None:
            sys.exit("baton up did not start")
        self.start_s = time.monotonic() - began
        self.generate(SHORT, 4)  # memory is touched once

    def generate(self, prompt, tokens):
        """The times of the events: when it was sent, and when each token came."""
        ids = [random.randrange(3, self.vocab) for _ in range(prompt)]
        body = json.dumps({"input_ids": ids, "stream": True, "sampling_params": {
            "max_new_tokens": tokens, "ignore_eos": True, "temperature": 0}}).encode()
        times = [time.monotonic()]
        request = urllib.request.Request(self.url + "/generate", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=600) as response:
            for line in response:
                if line.startswith(b"data: {"):
                    if b'"error"' in line:
                        sys.exit(line.decode())
                    times.append(time.monotonic())
        return times

    def measure(self, tokens):
        sent, first, *_ = self.generate(PROMPT, 1)
        single = self.generate(SHORT, tokens)
        with concurrent.futures.ThreadPoolExecutor(BATCH) as pool:
            answers = list(pool.map(lambda _: self.generate(SHORT, tokens), range(BATCH)))
        # From when all have their first token until the first is done.
        begin, end = max(times[1] for times in answers), min(times[-1] for times in answers)
        came = sum(begin < at <= end for times in answers for at in times[1:])
        return {"prefill": PROMPT / (first - sent), "decode": (len(single) - 2) / (single[-1] - single[1]),
                "batch": came / (end - begin)}

    def cpu_s(self):
        """Processor seconds of `baton up` and its children so far."""
        total = 0
        for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue  # it ended meanwhile
            if self.process.pid in (int(fields[1]), int(stat.parent.name)):
                total += int(fields[11]) + int(fields[12])
        return total / os.sysconf("SC_CLK_TCK")

    def measure_cpu(self, tokens):
        def cost(work):
            before = self.cpu_s()
            work()
            return self.cpu_s() - before

        def batch(n):
            with concurrent.futures.ThreadPoolExecutor(BATCH) as pool:
                list(pool.map(lambda _: self.generate(SHORT, n), range(BATCH)))

        def step(generate):
            return (cost(lambda: generate(2 + tokens)) - cost(lambda: generate(2))) / tokens

        return rates(cost(lambda: self.generate(PROMPT, 1)), step(lambda n: self.generate(SHORT, n)), step(batch))

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=60)


def rates(prefill_s, decode_s, batch_s):
    """GFLOP a second of one core."""
    flop = 2e-9 * PARAMETERS
    return {"prefill": PROMPT * flop / prefill_s, "decode": flop / decode_s, "batch": BATCH * flop / batch_s}


def measure_peer_cpu(binaries, gguf, tokens):
    def cost(program, *arguments):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run(binaries / program, "-m", gguf, "-t", 1, *arguments)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def bench(prompt, new):
        return cost("llama-bench", "-p", prompt, "-n", new, "-r", 1, "--no-warmup")

    def batched(new):
        return cost("llama-batched-bench", "-tb", 1, "-c", 4096, "-npp", SHORT, "-ntg", new, "-npl", BATCH)

    # Differences, so that loading the model is in none. SHORT tokens of a prompt are part of what they leave out.
    prefill = (bench(PROMPT, 0) - bench(SHORT, 0)) * PROMPT / (PROMPT - SHORT)
    return rates(prefill, (bench(0, 2 + tokens) - bench(0, 2)) / tokens, (batched(2 + tokens) - batched(2)) / tokens)


def measure_peer(binaries, gguf, tokens):
    common = ["-m", gguf, "-t", CORES]
    prefill = json.loads(run(binaries / "llama-bench", *common, "-p", PROMPT, "-n", 0, "-r", 1, "--no-warmup", "-o", "json"))
    rows = [json.loads(line) for line in run(
        binaries / "llama-batched-bench", *common, "-tb", CORES, "-c", 4096, "-npp", SHORT, "-ntg", tokens,
        "-npl", f"1,{BATCH}", "--output-format", "jsonl").splitlines() if line.startswith("{")]
    speed = {row["pl"]: row["speed_tg"] for row in rows}
    return {"prefill": prefill[0]["avg_ts"], "decode": speed[1], "batch": speed[BATCH]}


def processor():
    text = run("lscpu")
    name = re.search(r"Model name:\s+(.*)", text).group(1)
    family = re.search(r"CPU family:\s+(\d+)", text), re.search(r"\nModel:\s+(\d+)", text)
    return f"{name} (family {family[0].group(1)} model {family[1].group(1)}), {CORES} cores"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--isa", nargs="+", choices=PEER_FLAGS, default=list(PEER_FLAGS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=32, help="new tokens of a decode measurement")
    parser.add_argument("--cpu-time", action="store_true", help="processor seconds in place of the clock")
    parser.add_argument("--prepare", action="store_true", help="build and write what is needed, and measure nothing")
    args = parser.parse_args()

    PLACE.mkdir(parents=True, exist_ok=True)
    model, gguf = PLACE / "model", PLACE / "model.gguf"
    model.mkdir(exist_ok=True)
    (model / "config.json").write_text(json.dumps(SHAPE))
    python, sources = peer_sources()
    binaries = {isa: build_peer(sources, isa) for isa in args.isa}
    if not gguf.exists():
        run(python, __file__, "--write-gguf", gguf)
    if args.prepare:
        return

    load = [os.getloadavg()[0]]
    batons = {isa: Baton(model, isa) for isa in args.isa}
    try:
        results = {(isa, side): [] for isa in args.isa for side in ("baton", "llama.cpp")}
        for _ in range(args.rounds):
            for isa in args.isa:
                ours, peer = (batons[isa].measure_cpu, measure_peer_cpu) if args.cpu_time else (batons[isa].measure, measure_peer)
                results[isa, "baton"].append(ours(args.tokens))
                results[isa, "llama.cpp"].append(peer(binaries[isa], gguf, args.tokens))
        load.append(os.getloadavg()[0])
    finally:
        for baton in batons.values():
            baton.stop()

    unit = "GFLOP a second of one core by processor time" if args.cpu_time else "tokens a second"
    print(f"{processor()}; {unit}, medians of {args.rounds}; load {load[0]:.1f} before, {load[1]:.1f} at the end\n")
    print("| instructions | | Baton | llama.cpp | Baton / llama.cpp |\n|---|---|---|---|---|")
    for isa in args.isa:
        for figure, name in FIGURES.items():
            ours, peer = (statistics.median(r[figure] for r in results[isa, side]) for side in ("baton", "llama.cpp"))
            print(f"| {isa} | {name} | {ours:.1f} | {peer:.1f} | {ours / peer:.2f} |")
    print(f"\nready with dummy weights after {max(b.start_s for b in batons.values()):.1f} s")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--write-gguf"]:
        write_gguf(sys.argv[2], SHAPE)
    else:
        main()
