#!/usr/bin/env python3
"""Short requests beside long ones, under two policies of the queue: `./dev bench fairness [--model DIR] [--rounds N]`.

Two cases, each on an undivided instance of its own for each policy, the policies alternating over the rounds:
  a long prompt: 3,100 tokens in chunks of 256, and 100 ms later four prompts of 40 tokens
  no room:       a request that fills two thirds of the pool generates, one that does not fit beside it waits, and behind that four small ones
TTFT is from the POST to the first token at this client. Medians over the rounds, with the processor and the load average.
"""
import argparse
import json
import os
import random
import re
import statistics
import subprocess
import threading
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BATON = ROOT / "build" / "release" / "bin" / "baton"
POLICIES = ["fcfs", "fair"]
ORDINARY = range(300, 1000)  # token ids that every bundled vocabulary has


class Instance:
    def __init__(self, model, policy, *flags):
        read, write = os.pipe()
        self.process = subprocess.Popen([BATON, "serve", "--model-path", model, "--port", "0", "--schedule-policy", policy, "--chunked-prefill-size", "256", "--log-level", "warning",
                                         "--report-fd", str(write), *flags], pass_fds=[write])
        os.close(write)
        with os.fdopen(read) as lines:
            ready = next(line for line in lines if line.startswith("ready"))
        self.url = f"http://127.0.0.1:{ready.split()[1]}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(timeout=60)


class Asked(threading.Thread):
    """One streamed request; `ttft` and `whole` in milliseconds."""

    def __init__(self, url, tokens, new_tokens):
        super().__init__()
        prompt = random.choices(ORDINARY, k=tokens)
        body = {"input_ids": prompt, "stream": True, "sampling_params": {"max_new_tokens": new_tokens, "ignore_eos": True, "temperature": 0}}
        self.request = urllib.request.Request(url + "/generate", json.dumps(body).encode(), {"Content-Type": "application/json"})
        self.ttft = None
        self.first = threading.Event()
        self.start()

    def run(self):
        begun = time.monotonic()
        with urllib.request.urlopen(self.request, timeout=600) as reply:
            for line in reply:
                if self.ttft is None and line.startswith(b"data: {"):
                    self.ttft = 1e3 * (time.monotonic() - begun)
                    self.first.set()
        self.whole = 1e3 * (time.monotonic() - begun)


def long_prompt(model, policy):
    with Instance(model, policy, "--max-total-tokens", "8192") as instance:
        Asked(instance.url, 40, 2).join()
        alone = Asked(instance.url, 3100, 2)
        alone.join()
        long = Asked(instance.url, 3100, 2)
        time.sleep(0.1)
        short = [Asked(instance.url, 40, 8) for _ in range(4)]
        for asked in [long, *short]:
            asked.join()
        return [asked.ttft for asked in short], long.ttft, alone.ttft


def no_room(model, policy):
    with Instance(model, policy, "--max-total-tokens", "3072") as instance:
        Asked(instance.url, 40, 2).join()
        resident = Asked(instance.url, 1900, 100)
        resident.first.wait()
        large = Asked(instance.url, 1500, 2)
        time.sleep(0.1)
        small = [Asked(instance.url, 40, 8) for _ in range(4)]
        for asked in [resident, large, *small]:
            asked.join()
        return [asked.ttft for asked in small], large.ttft, resident.whole


def processor():
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return f"{found.group(1) if found else 'unknown'}, {len(os.sched_getaffinity(0))} cores"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    real = ROOT / "build" / "models" / "smollm2-135m-instruct"
    parser.add_argument("--model", default=str(real if real.exists() else ROOT / "models" / "tiny-gqa"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--case", choices=["prompt", "room"], help="one of the two alone")
    args = parser.parse_args()
    random.seed(1)
    print(f"{Path(args.model).name}; {processor()}; load {os.getloadavg()[0]:.1f}")
    cases = {"prompt": ("a long prompt", long_prompt, "the long one alone"), "room": ("no room", no_room, "the resident, whole")}
    for name, case, third in [cases[args.case]] if args.case else cases.values():
        runs = {policy: [] for policy in POLICIES}
        for _ in range(args.rounds):
            for policy in POLICIES:
                runs[policy].append(case(args.model, policy))
        print(f"\n{name:16} {'short TTFT ms':>14} {'worst':>8} {'long TTFT ms':>14} {third + ' ms':>24}")
        for policy, made in runs.items():
            short = [ttft for run in made for ttft in run[0]]
            median = [statistics.median(run[i] for run in made) for i in (1, 2)]
            print(f"{policy:16} {statistics.median(short):14.0f} {max(short):8.0f} {median[0]:14.0f} {median[1]:24.0f}")
    print(f"\nload {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
