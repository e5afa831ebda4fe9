#!/usr/bin/env python3
"""What a GPU computes: `./dev bench gpu [--bin FOLDER]`, on a machine that has one.

Holds every fixture and both bundled models against their goldens there (`baton verify --device cuda`), serves both models on the
processor and on the GPU and compares the tokens they answer with in float32, and times prefill and decode of the shapes in bench/shapes.
FOLDER has `baton` and `model_bench`, build/cuda/bin without it: a build made elsewhere may be taken along.
"""
import argparse
import json
import pathlib
import random
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

ROOT = pathlib.Path(__file__).resolve().parent.parent
PORT = 7431
# Shapes with batches whose KV of 4096 tokens each fits on a card of 80 GB beside the weights. Of DeepSeek-V3 a dense layer and three, then one of the others:
# half of the difference is such a layer's time.
FP8 = ["--quantization", "fp8"]
SHAPES = [("deepseek-v2-lite", "1,32,128", []), ("deepseek-v2-lite", "1,32,128", FP8), ("llama-3.1-8b", "1,32", []), ("llama-3.1-8b", "1,32", FP8),
          ("deepseek-v3-4-layers", "1,32,128", FP8), ("deepseek-v3-4-layers", "1,32,128", [*FP8, "--layers", "2"])]


def golden_models():
    return sorted(p.parent for p in [*ROOT.glob("tests/fixtures/*/golden.json"), *ROOT.glob("models/*/golden.json")] if (p.parent / "config.json").exists())


def random_prompts(seed):
    r = random.Random(seed)
    return [[r.randrange(5, 400) for _ in range(n)] for n in (1, 5, 30, 100, 400, 17, 64, 65, 200, 900, 3, 33)]


def verify(baton):
    equal = True
    for model in golden_models():
        for dtype in ("float32", "bfloat16"):
            done = subprocess.run([baton, "verify", "--device", "cuda", "--model", model, "--golden", model / "golden.json", "--dtype", dtype], capture_output=True, text=True)
            print(f"{model.name} {dtype}: {(done.stdout or done.stderr).splitlines()[0]}", flush=True)
            equal &= done.returncode == 0
    return equal


class Server:
    def __init__(self, baton, model, device, port, *flags):
        self.url = f"http://127.0.0.1:{port}"
        self.process = subprocess.Popen([baton, "serve", "--model-path", ROOT / "models" / model, "--device", device, "--dtype", "float32", "--port", str(port), *flags], stderr=subprocess.DEVNULL)
        end = time.time() + 60
        while True:
            try:
                urllib.request.urlopen(self.url + "/health", timeout=2)
                return
            except OSError:
                assert time.time() < end and self.process.poll() is None, f"{model} on {device} does not start"
                time.sleep(0.1)

    def tokens(self, ids, temperature):
        sampling = {"temperature": temperature, "max_new_tokens": 48, "ignore_eos": True, "sampling_seed": 5}
        body = json.dumps({"input_ids": ids, "sampling_params": sampling}).encode()
        asked = urllib.request.Request(self.url + "/generate", body, {"Content-Type": "application/json"})
        return json.load(urllib.request.urlopen(asked, timeout=120))["output_ids"]

    def answers(self, prompts, temperature):
        with ThreadPoolExecutor(6) as pool:
            return list(pool.map(lambda ids: self.tokens(ids, temperature), prompts))

    def stop(self):
        self.process.terminate()
        self.process.wait()


def served_alike(baton):
    prompts = random_prompts(3)
    alike = True
    for model in ("tiny-gqa", "tiny-mla"):
        servers = []
        try:
            for i, device in enumerate(("cpu", "cuda")):
                servers.append(Server(baton, model, device, PORT + i))
            for _ in range(3):  # a prompt of one token has the shape of a decode step
                first = [server.tokens([7], 0) for server in servers]
                alike &= first[0] == first[1]
            for temperature in (0, 0.9):
                answers = [server.answers(prompts, temperature) for server in servers]
                equal = sum(a == b for a, b in zip(*answers, strict=True))
                print(f"{model} served, temperature {temperature}: {equal} of {len(prompts)} answers equal to the processor's", flush=True)
                alike &= equal == len(prompts)
        finally:
            for server in servers:
                server.stop()
    return alike


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "build" / "cuda" / "bin")
    binaries = parser.parse_args().bin.resolve()
    right = verify(binaries / "baton")
    right &= served_alike(binaries / "baton")
    for shape, batches, flags in SHAPES:
        print(f"{shape} {' '.join(flags)}", flush=True)
        subprocess.run([binaries / "model_bench", "--model", ROOT / "bench" / "shapes" / shape, "--device", "cuda", "--batches", batches, *flags], check=True)
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
