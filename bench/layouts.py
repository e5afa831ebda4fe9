#!/usr/bin/env python3
"""The four layout pairs of the anchor table (SGLang pull request 5887) on one machine: `./dev bench layouts [--model DIR] [--num-prompts N] [--rate R]`.

Each pair is started alone with `baton up`, measured by `baton bench` (4096 tokens in, 100 out), and stopped; the pairs are interleaved over the rounds, and the means
over the prompts of each pair's middle round by TTFT are printed, with the load average beside them. A failed request fails the run.
"""
import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BATON = ROOT / "build" / "release" / "bin" / "baton"
PAIRS = [("tp=8", "tp=8,dp=2"), ("tp=8,dp=2", "tp=8,dp=2"), ("tp=8", "tp=8,dp=4"), ("tp=8,dp=4", "tp=8,dp=4")]


def measure(model, prefill, decode, args):
    with tempfile.TemporaryFile("w+") as log:
        up = subprocess.Popen([BATON, "up", "--model-path", model, "--prefill", prefill, "--decode", decode, "--port", "0", "--log-level", "warning"],
                              stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            port = next(found.group(1) for found in (re.search(r"API: http://[^:]+:(\d+)", line) for line in up.stdout) if found)
            with tempfile.NamedTemporaryFile("r") as figures:
                made = subprocess.run([BATON, "bench", "--host", "127.0.0.1", "--port", port, "--model", model, "--num-prompts", str(args.num_prompts), "--random-input-len",
                                       str(args.input_len), "--random-output-len", str(args.output_len), "--random-range-ratio", "1", "--dataset-name", "random", "--tokenize-prompt",
                                       "--request-rate", str(args.rate), "--max-concurrency", "100", "--output-file", figures.name], capture_output=True, text=True)
                if made.returncode != 0:
                    log.seek(0)
                    sys.exit(f"{prefill} -> {decode} failed:\n{made.stdout}{made.stderr}{log.read()}")
                if args.verbose:
                    print(made.stdout)
                return json.loads(figures.read())
        finally:
            up.send_signal(signal.SIGINT)
            up.wait(timeout=60)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=str(ROOT / "models" / "tiny-mla"))
    parser.add_argument("--num-prompts", type=int, default=20)
    parser.add_argument("--input-len", type=int, default=4096)
    parser.add_argument("--output-len", type=int, default=100)
    parser.add_argument("--rate", type=float, default=0.2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--verbose", action="store_true")
    args = parser.parse_args()
    results = {pair: [] for pair in PAIRS}
    before = os.getloadavg()[0]
    for _ in range(args.rounds):
        for pair in PAIRS:
            results[pair].append(measure(args.model, *pair, args))
    print(f"{args.num_prompts} prompts, {args.input_len} in / {args.output_len} out, {args.rate} req/s, means over the prompts of the middle round by TTFT of {args.rounds}, "
          f"load {before:.1f} before, {os.getloadavg()[0]:.1f} at the end")
    print(f"{'prefill':12} {'decode':12} {'TTFT ms':>9} {'ITL ms':>8} {'QPS':>6}   TTFT as a sum (ms)")
    for (prefill, decode), runs in results.items():
        run = sorted(runs, key=lambda run: run["mean_ttft_ms"])[len(runs) // 2]  # one round, so that the parts add up
        parts = run["mean_ttft_parts_ms"]
        total = " + ".join(f"{name} {parts[name]:.0f}" for name in ("router", "grant", "prefill_queue", "prefill", "transfer", "first_step") if name in parts)
        print(f"{prefill:12} {decode:12} {run['mean_ttft_ms']:9.0f} {run['mean_itl_ms']:8.1f} {run['request_throughput']:6.2f}   {total}")


if __name__ == "__main__":
    main()
