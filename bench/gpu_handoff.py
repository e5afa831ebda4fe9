#!/usr/bin/env python3
"""KV from GPU to GPU: `./dev bench handoff [--bin FOLDER] [--only NAME]`, on a machine that has two.

For each pair of layouts below a prefill instance computes on one GPU and a decode instance on the other, with made-up weights of a real model's shape, and prompts of
4096 tokens are asked one after another. Printed are the parts of the time to the first token that begin when the prompt is computed, and the rate of the KV: its bytes
over the time from the first write to the last completion, as the prefill instance counts them. Then prompts are asked beside a running batch, whose time between tokens
is shown without and with them.
"""
import argparse
import json
import os
import pathlib
import random
import re
import statistics
import sys
import tempfile
import threading
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "e2e"))

PROMPT = 4096
# Name, model, prefill's flags, decode's. Ranks of one instance share its GPU.
PAIRS = [
    ("equal", "deepseek-v2-lite", "--tp-size 1 --page-size 64", "--tp-size 1 --page-size 64"),
    ("unequal pages", "deepseek-v2-lite", "--tp-size 1 --page-size 64", "--tp-size 1 --page-size 16"),
    ("TP2 to TP2/DP2", "deepseek-v2-lite", "--tp-size 2 --page-size 64", "--tp-size 2 --dp-size 2 --enable-dp-attention --page-size 64"),
    ("equal", "llama-3.1-8b", "--tp-size 1 --page-size 64", "--tp-size 1 --page-size 64"),
    ("TP2 to TP1", "llama-3.1-8b", "--tp-size 2 --page-size 64", "--tp-size 1 --page-size 64"),
]


def post(url, body):
    asked = urllib.request.Request(url + "/generate", json.dumps(body).encode(), {"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(asked, timeout=300))


def sums(url, name):
    """(sum, count) of a histogram."""
    text = urllib.request.urlopen(url + "/metrics").read().decode()
    total = lambda what: sum(float(n) for n in re.findall(rf"^{re.escape(name)}_{what}(?:\{{[^}}]*\}})? (\S+)", text, re.M))
    return total("sum"), total("count")


def prompt(seed, length=PROMPT):
    r = random.Random(seed)
    return [r.randrange(5, 30000) for _ in range(length)]


def measure(url, prefill, count):
    ask = lambda seed: post(url, {"input_ids": prompt(seed), "sampling_params": {"temperature": 0, "max_new_tokens": 2, "ignore_eos": True}})["meta_info"]["ttft_parts_ms"]
    for seed in range(3):
        ask(seed)
    before = sums(prefill, "sglang:kv_transfer_latency_ms"), sums(prefill, "sglang:kv_transfer_total_mb")
    parts = [ask(10 + seed) for seed in range(count)]
    after = sums(prefill, "sglang:kv_transfer_latency_ms"), sums(prefill, "sglang:kv_transfer_total_mb")
    ms, mb = ((a[0] - b[0]) / (a[1] - b[1]) for b, a in zip(before, after, strict=True))
    median = {name: statistics.median(p[name] for p in parts) for name in parts[0]}
    return median, mb, ms


class Batch:
    """Requests that decode beside each other; `gaps` are the times between their tokens, in seconds, from reset() on."""

    def __init__(self, url, size, tokens):
        self.gaps, self.counting = [], False
        self.threads = [threading.Thread(target=self.run, args=(url, 1000 + i, tokens), daemon=True) for i in range(size)]
        for thread in self.threads:
            thread.start()

    def run(self, url, seed, tokens):
        body = {"input_ids": prompt(seed, 512), "stream": True, "sampling_params": {"temperature": 0, "max_new_tokens": tokens, "ignore_eos": True}}
        asked = urllib.request.Request(url + "/generate", json.dumps(body).encode(), {"Content-Type": "application/json"})
        last = None
        with urllib.request.urlopen(asked, timeout=300) as reply:
            for line in reply:
                if not line.startswith(b"data: "):
                    continue
                now = time.perf_counter()
                if last is not None and self.counting:
                    self.gaps.append(now - last)
                last = now

    def mean_gap(self, seconds, meanwhile=None):
        self.gaps, self.counting = [], True
        end = time.time() + seconds
        asked = 0
        while time.time() < end:
            if meanwhile is None:
                time.sleep(0.05)
            else:
                meanwhile(asked)
                asked += 1
        self.counting = False
        return statistics.mean(self.gaps) * 1e3, asked / seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "build" / "cuda" / "bin")
    parser.add_argument("--only", help="pairs of this model")
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=5, help="of each part of the run beside a batch; 0: none")
    args = parser.parse_args()
    os.environ["BATON_PROGRAM"] = str(args.bin / "baton")
    from processes import Process

    logs = tempfile.mkdtemp(prefix="handoff-")
    for name, model, prefill_flags, decode_flags in PAIRS:
        if args.only and args.only != model:
            continue
        shared = f"--model-path {ROOT / 'bench' / 'shapes' / model} --load-format dummy --skip-tokenizer-init --device cuda --gpu-id-step 0 --max-total-tokens 262144 --disable-radix-cache".split()
        started, both = [], [None, None]
        begun = time.time()
        log = os.path.join(logs, re.sub(r"\W+", "-", f"{model}-{name}"))
        try:

            def start(i, *flags):
                both[i] = Process("serve", *shared, *flags, log=f"{log}-{i}.log")

            threads = [
                threading.Thread(target=start, args=(0, *prefill_flags.split(), "--base-gpu-id", 0, "--disaggregation-mode", "prefill", "--disaggregation-bootstrap-port", 0)),
                threading.Thread(target=start, args=(1, *decode_flags.split(), "--base-gpu-id", 1, "--disaggregation-mode", "decode")),
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            started += [p for p in both if p]
            assert None not in both, pathlib.Path(f"{log}-0.log").read_text()[-2000:] + pathlib.Path(f"{log}-1.log").read_text()[-2000:]
            prefill, decode = both
            router = Process("router", "--prefill", prefill.url, prefill.bootstrap_port, "--decode", decode.url, log=f"{log}-router.log")
            started.append(router)
            ready = time.time() - begun
            parts, mb, ms = measure(router.url, prefill.url, args.prompts)
            shown = ", ".join(f"{part} {value:.2f}" for part, value in parts.items())
            print(f"{model}, {name}: {mb:.1f} MB in {ms:.3f} ms, {mb / ms:.0f} GB/s; ms: {shown}; started in {ready:.0f} s", flush=True)
            if args.seconds and name == "equal":
                batch = Batch(router.url, 32, 4000)
                time.sleep(3)
                alone, _ = batch.mean_gap(args.seconds)
                ask = lambda i: post(router.url, {"input_ids": prompt(5000 + i), "sampling_params": {"temperature": 0, "max_new_tokens": 1, "ignore_eos": True}})
                beside, rate = batch.mean_gap(args.seconds, ask)
                print(f"{model}, {name}: 32 requests decode with {alone:.2f} ms a token alone, {beside:.2f} beside {rate:.1f} prompts a second of {PROMPT} tokens", flush=True)
        finally:
            for process in started:
                process.end()


if __name__ == "__main__":
    main()
