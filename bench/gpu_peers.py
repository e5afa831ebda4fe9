#!/usr/bin/env python3
"""Baton's kernels and steps beside what else one would take, on one GPU in one run: `./dev bench gpu --peers [--bin FOLDER] [--seconds N]`.

Needs PyTorch with CUDA and `transformers` on the machine. Kernels: FlashInfer's (bench/flashinfer, if FOLDER has its programs), torch's scaled_dot_product_attention (the fastest of its backends
that takes the shape) and torch.matmul, ten calls in a graph as kernels_cuda_bench does, on inputs of the same shapes. Models:
`generate` with the configs of bench/shapes, random weights, bfloat16, as it comes. A ratio above 1: ours is faster. Rows are printed as they
are measured; after --seconds nothing new is begun.
"""
import argparse
import gc
import pathlib
import re
import statistics
import subprocess
import sys
import time
import warnings

ROOT = pathlib.Path(__file__).resolve().parent.parent
CONTEXT = 4096
BATCHES = (1, 32)


def row(what, ours, peer, unit, who):
    print(f"| {what} | {ours:.4g} {unit} | {peer:.4g} {unit} | {peer / ours:.2f} | {who} |", flush=True)


def cases(program):
    """What a program of kernels prints: its first line, and microseconds by case."""
    said = subprocess.run([program], capture_output=True, text=True, check=True).stdout.splitlines()
    return said[0], {m[1]: float(m[2]) for m in (re.match(r"(.+?) +([\d.]+) us ", line) for line in said) if m}


def our_steps(binaries, shape):
    """Milliseconds: of the prompt under 0, of a decode step under its batch."""
    command = [binaries / "model_bench", "--model", ROOT / "bench" / "shapes" / shape, "--device", "cuda", "--batches", ",".join(map(str, BATCHES))]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    steps = {int(b): float(ms) for b, ms in re.findall(r"decode batch (\d+) at \d+: ([\d.]+) ms", said)}
    return {0: float(re.search(r"prefill of \d+ tokens: ([\d.]+) ms", said)[1]), **steps}


def flashinfer(binaries, ours):
    for program in ("flashinfer_decode", "flashinfer_prefill"):
        if not (binaries / program).exists():
            continue
        for case, us in cases(binaries / program)[1].items():
            row(case, ours[case], us, "us", "FlashInfer")


def graph_us(torch, call, launches=10):
    """Median microseconds of call(turn), `launches` of them in a graph."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for turn in range(3):
            call(turn)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for turn in range(launches):
            call(turn)
    times = []
    for _ in range(7):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e3 / launches)
    return statistics.median(times[1:])


def fastest_attention(torch, turns, **options):
    """Of SDPA's backends on (q, k, v) of each turn: microseconds and name."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    found = []
    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH):
        if backend == SDPBackend.MATH and found:
            break
        try:
            with sdpa_kernel([backend]):
                us = graph_us(torch, lambda turn: torch.nn.functional.scaled_dot_product_attention(*turns[turn % len(turns)], **options))
            found.append((us, f"SDPA {backend.name.removesuffix('_ATTENTION').lower()}"))
        except RuntimeError:
            torch.cuda.synchronize()
    return min(found)


def kernels(torch, ours):
    def random(*shape):
        return torch.randn(*shape, device="cuda", dtype=torch.bfloat16) * 0.05

    def attention(name, case, turns, **options):
        us, who = fastest_attention(torch, turns, **options)
        row(name, ours[case], us, "us", who)

    for batch in (1, 32):
        turns = [(random(batch, 32, 1, 128), random(batch, 8, CONTEXT, 128), random(batch, 8, CONTEXT, 128)) for _ in range(4 if batch == 1 else 1)]
        attention(f"GQA decode, 32 / 8 heads, batch {batch}", f"gqa_decode 32/8 b={batch} page=64", turns, enable_gqa=True)
    turns = [(random(1, 32, CONTEXT, 128), random(1, 8, CONTEXT, 128), random(1, 8, CONTEXT, 128))]
    attention("GQA prefill of 4096, 32 / 8 heads", "gqa_prefill 32/8 4096 page=64", turns, is_causal=True, enable_gqa=True)
    # Absorbed, its heads are rows of one query over one KV head whose values are the first 512 of its keys.
    latents = random(128, 1, CONTEXT, 576)
    attention("MLA decode, 16 heads, batch 128", "mla_decode heads=16 b=128", [(random(128, 1, 16, 576), latents, latents[..., :512])])
    del latents, turns
    attention("MLA prefill of 4096, 16 heads of 192, 128", "mla_prefill heads=16 4096", [(random(1, 16, CONTEXT, 192), random(1, 16, CONTEXT, 192), random(1, 16, CONTEXT, 128))], is_causal=True)
    for rows in (1, 8, 32, 128, 4096):
        for name, n, k in (("lite q", 3072, 2048), ("lite shared up", 5632, 2048), ("llama qkv", 6144, 4096), ("llama up", 28672, 4096), ("llama down", 4096, 14336)):
            weights = [random(n, k) for _ in range(max(2, min(10, 400_000_000 // (2 * n * k))))]
            x = [random(rows, k) for _ in range(4)]
            us = graph_us(torch, lambda turn, x=x, weights=weights: torch.nn.functional.linear(x[turn % 4], weights[turn % len(weights)]))
            case = f"{name} {n}x{k} m={rows}"
            row(f"linear {name} {n} x {k}, {rows} rows", min(us_ for key, us_ in ours.items() if key in (f"{case} own", f"{case} cublas")), us, "us", "torch.matmul")


def generate(torch, shape, ours, over):
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(ROOT / "bench" / "shapes" / shape, dtype="bfloat16")
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()

    def seconds(batch, tokens):
        ids = torch.randint(5, 1000, (batch, CONTEXT), device="cuda")
        torch.cuda.synchronize()
        begin = time.perf_counter()
        model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, min_new_tokens=tokens, max_new_tokens=tokens, pad_token_id=0)
        torch.cuda.synchronize()
        return time.perf_counter() - begin

    for batch in BATCHES:
        if over():
            break
        seconds(batch, 2)
        first = min(seconds(batch, 1) for _ in range(3 if batch == 1 else 1))
        step = (seconds(batch, 9) - first) / 8
        if batch == 1:
            row(f"{shape}, prefill of {CONTEXT}", ours[0], first * 1e3, "ms", "transformers")
        row(f"{shape}, decode step, batch {batch}", ours[batch], step * 1e3, "ms", "transformers")
    del model
    gc.collect()
    torch.cuda.empty_cache()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "build" / "cuda" / "bin")
    parser.add_argument("--seconds", type=float, default=3600)
    arguments = parser.parse_args()
    end = time.monotonic() + arguments.seconds
    binaries = arguments.bin.resolve()
    try:
        import torch
        import transformers
    except ImportError as missing:
        return f"the peers are not on this machine: {missing}"
    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore")  # SDPA explains at length why a backend does not take a shape
    card, ours = cases(binaries / "kernels_cuda_bench")
    print(card)
    print(f"torch {torch.__version__}, transformers {transformers.__version__}; contexts of {CONTEXT}\n| | ours | peer | ours is faster by | peer |\n|---|---|---|---|---|")
    flashinfer(binaries, ours)
    with torch.inference_mode():
        kernels(torch, ours)
        torch.cuda.empty_cache()
        for shape in ("llama-3.1-8b", "deepseek-v2-lite"):
            if time.monotonic() < end:
                generate(torch, shape, our_steps(binaries, shape), lambda: time.monotonic() > end)
    return 0


if __name__ == "__main__":
    sys.exit(main())
