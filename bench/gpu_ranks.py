#!/usr/bin/env python3
"""Ranks on GPUs: `./dev bench gpu_ranks [--bin FOLDER] [--skip verify,served,exchange,model]`, on a machine with one or more of them.

Holds every fixture and both bundled models against their goldens in layouts of several ranks, those of one GPU and, where there are two,
those of two; compares what both models serve with the processor's tokens in float32; and with two GPUs times an all-reduce, prefill and
decode of the shapes in bench/shapes beside one GPU's. FOLDER has `baton`, `model_bench` and `comm_cuda_bench`, build/cuda/bin without it.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from gpu import PORT, ROOT, Server, golden_models, random_prompts

SHARED = [["--tp", "4"], ["--tp", "4", "--dp", "2"], ["--tp", "4", "--dp", "2", "--ep", "4"], ["--pp", "2"]]  # one GPU for all ranks
OWN = [["--tp", "2"], ["--tp", "2", "--dp", "2"], ["--tp", "2", "--ep", "2"], ["--tp", "2", "--dp", "2", "--ep", "2"], ["--pp", "2"]]


def gpus():
    asked = subprocess.run(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True)
    return asked.stdout.split("\n")[:-1] if asked.returncode == 0 else []


def layouts(count):
    return [[*layout, "--gpu-id-step", "0"] for layout in SHARED] + ([[*layout, "--gpu-id-step", "1"] for layout in OWN] if count > 1 else [])


def verify(baton, count):
    def one(task):
        model, layout, dtype = task
        asked = [baton, "verify", "--device", "cuda", "--model", model, "--golden", model / "golden.json", "--dtype", dtype, *layout]
        try:
            done = subprocess.run(asked, capture_output=True, text=True, timeout=60)
        except subprocess.TimeoutExpired:
            return f"{model.name} {dtype} {' '.join(layout)}: no answer in 60 s", False
        said = (done.stdout or done.stderr).splitlines()[0]
        no_experts = "--ep" in layout and "the model has 0" in said
        return f"{model.name} {dtype} {' '.join(layout)}: {said}", done.returncode == 0 or no_experts

    tasks = [(model, layout, dtype) for model in golden_models() for layout in layouts(count) for dtype in (["float32"] if layout[-1] == "0" else ["float32", "bfloat16"])]
    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(one, tasks))
    for said, right in results:
        if not right:
            print(said, flush=True)
    print(f"verify: {sum(right for _, right in results)} of {len(results)} in {len(layouts(count))} layouts", flush=True)
    return all(right for _, right in results)


def served_alike(baton, count):
    prompts = random_prompts(5)
    alike = True
    for model in ("tiny-gqa", "tiny-mla"):
        wanted = [layout for layout in layouts(count) if model == "tiny-mla" or "--ep" not in layout]
        servers = []
        try:
            servers.append(Server(baton, model, "cpu", PORT))
            with ThreadPoolExecutor(4) as pool:
                starts = [pool.submit(Server, baton, model, "cuda", PORT + 1 + i, "--max-total-tokens", "16384", *layout) for i, layout in enumerate(wanted)]
                servers += [start.result() for start in starts]
            for temperature in (0, 0.9):
                answers = []
                for server in servers:
                    begun = time.time()
                    answers.append(server.answers(prompts, temperature))
                    took = time.time() - begun
                    equal = sum(a == b for a, b in zip(answers[0], answers[-1], strict=True))
                    if server is not servers[0]:
                        layout = " ".join(wanted[len(answers) - 2])
                        print(f"{model} served, temperature {temperature}, {layout}: {equal} of {len(prompts)} answers equal to the processor's, {took:.1f} s", flush=True)
                    alike &= equal == len(prompts)
        finally:
            for server in servers:
                server.stop()
    return alike


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "build" / "cuda" / "bin")
    parser.add_argument("--skip", default="")
    flags = parser.parse_args()
    binaries, skipped = flags.bin.resolve(), flags.skip.split(",")
    names = gpus()
    print(json.dumps({"gpus": names}), flush=True)
    right = True
    if "verify" not in skipped:
        right &= verify(binaries / "baton", len(names))
    if "served" not in skipped:
        right &= served_alike(binaries / "baton", len(names))
    if len(names) > 1 and "exchange" not in skipped:
        subprocess.run([binaries / "comm_cuda_bench"], check=True)
    if "model" not in skipped:
        for shape, batches in (("deepseek-v2-lite", "1,32"), ("llama-3.1-8b", "1,32")):
            own = [layout for layout in OWN[:2] if shape != "llama-3.1-8b" or "--dp" not in layout] if len(names) > 1 else []
            for layout in [[], *own]:
                subprocess.run([binaries / "model_bench", "--model", ROOT / "bench" / "shapes" / shape, "--device", "cuda", "--batches", batches, *layout], check=True)
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
