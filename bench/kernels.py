#!/usr/bin/env python3
"""Our matrix products beside oneDNN's: `./dev bench kernels` runs this.

It starts kernels_bench (built with BATON_BENCH_ONEDNN) with the repetitions of all rows in a random order, so that what
else the machine does meets both sides alike, and ends with one line a shape: the medians and their ratio. Arguments go
to kernels_bench; with `--benchmark_filter=linear|onednn` only the products are measured.
"""
import argparse
import json
import pathlib
import re
import subprocess
import sys
import tempfile

DEFAULTS = ["--benchmark_repetitions=9", "--benchmark_min_time=0.1", "--benchmark_enable_random_interleaving=true",
            "--benchmark_report_aggregates_only=true"]
SHAPE = re.compile(r"(linear|onednn)/m:(\d+)/n:(\d+)/k:(\d+)/bf16:([01])/threads:1$")


def medians(report):
    """{(m, n, k, bf16): {"linear": GFLOP/s, "onednn": GFLOP/s}}, by CPU time; one repetition counts as its own median."""
    shapes = {}
    for row in report["benchmarks"]:
        name = SHAPE.match(row["run_name"])
        if name and row.get("aggregate_name", "median") == "median":
            side, *shape = name.groups()
            shapes.setdefault(tuple(map(int, shape)), {})[side] = row["GFLOP/s"]
    return {shape: sides for shape, sides in shapes.items() if len(sides) == 2}


def table(shapes, load):
    lines = [f"one thread, GFLOP/s, medians; load when it began {load}", "",
             "| rows | n = k | type | ours | oneDNN | ours / oneDNN |", "|---|---|---|---|---|---|"]
    for (m, n, k, bf16), sides in sorted(shapes.items(), key=lambda item: (-item[0][3], item[0])):
        size = f"{n}" if n == k else f"{n} x {k}"
        ours, peer = sides["linear"], sides["onednn"]
        lines.append(f"| {m} | {size} | {'bf16' if bf16 else 'f32'} | {ours:.0f} | {peer:.0f} | {ours / peer:.2f} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=pathlib.Path, help="kernels_bench")
    options, arguments = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "kernels.json"
        command = [options.program, *DEFAULTS, *arguments, f"--benchmark_out={out}", "--benchmark_out_format=json"]
        code = subprocess.run(command).returncode
        if code != 0:
            return code
        text = out.read_text()
    report = json.loads(text) if text else {"benchmarks": []}
    shapes = medians(report)
    if shapes:
        print("\n" + table(shapes, report["context"]["load_avg"][0]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
