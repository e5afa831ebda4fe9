"""Every pair of layouts with real instances: `./dev pairs [--model mla|gqa] [--prompts N] [--every N] [--device cuda] [--dtype D] [--disable-overlap-schedule]`.

One cluster holds a prefill and a decode instance of every layout: tp 1, 2, 3, 4, 6, 8, dp dividing tp, pp 1 and 2. Each pair gets a router of its own in front, and must answer
greedy pass-key questions with the tokens of an undivided instance. The instances' counters say the rest: the checksum of every page was compared on every rank that holds it and
was equal, and each rank of decode was written exactly the bytes of the pages it holds, once.
"""
import argparse
import json
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from conftest import BATON, MODELS, Cluster, call, get_json

PAGE_TOKENS = 64
POOL_TOKENS = 49152
# With these two 64 instances, their caches and what prefill needs for a step fit in 16 GiB. Half of the prompts take several chunks.
CHUNK_TOKENS = 1024
LAYOUTS = [(tp, dp, pp) for tp in (1, 2, 3, 4, 6, 8) for dp in range(1, tp + 1) if tp % dp == 0 for pp in (1, 2)]


def flag(layout):
    return "tp={},dp={},pp={}".format(*layout)


def passkey_prompts(count):
    """Questions about pass keys in texts of many lengths, in the form that the models were trained on."""
    import corpus

    made = []
    r = random.Random(5)
    for i in range(count):
        text, asked = corpus.passkey(r, [40, 120, 400, 900, 1500][i % 5])
        made.append(corpus.BOS + corpus.USER + text + "\n\n" + asked[0][0] + corpus.ASSISTANT)
    return made


def greedy(url, prompts, tokens=24, parallel=16):
    """Greedy token ids and the length of each prompt in tokens."""

    def one(prompt):
        answer = get_json(url + "/generate", {"text": prompt, "sampling_params": {"temperature": 0, "max_new_tokens": tokens}})
        return answer["output_ids"], answer["meta_info"]["prompt_tokens"]

    with ThreadPoolExecutor(parallel) as pool:
        answers = list(pool.map(one, prompts))
    return [ids for ids, _ in answers], [length for _, length in answers]


def unified_answers(model, prompts, folder, options=()):
    cluster = Cluster("--model-path", str(MODELS[model]), "--unified", "tp=1", "--device", "cpu", *options, log=Path(folder) / f"unified-{model}.log")
    answers = greedy(cluster.url, prompts)
    assert cluster.stop() == 0
    return answers


class Router:
    """`baton router` in front of one pair; `url` answers once the two have met."""

    def __init__(self, prefill, decode, log):
        self.log = open(log, "w+")
        self.process = subprocess.Popen([str(BATON), "router", "--port", "0", "--prefill", prefill[0], prefill[1], "--decode", decode], stderr=self.log)
        try:
            self.url = self._until(lambda: re.search(r"listens on (\S+)", Path(log).read_text())).group(1)
            self._until(lambda: call(self.url + "/health")[0] == 200)
        except BaseException:
            self.stop()
            raise

    def _until(self, ready, seconds=20):
        end = time.time() + seconds
        while not (found := ready()):
            assert time.time() < end and self.process.poll() is None, f"the router is not ready: {Path(self.log.name).read_text()}"
            time.sleep(0.005)
        return found

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(timeout=20)
        self.log.close()
        return code


def page_bytes(model, layout, value_bytes):
    """Bytes of a page on each rank of a DP group, from the model's config alone: an independent count."""
    config = json.loads((MODELS[model] / "config.json").read_text())
    tp, dp, pp = layout
    if "kv_lora_rank" in config:
        heads, entry = 1, config["kv_lora_rank"] + config["qk_rope_head_dim"]
    else:
        heads, entry = config["num_key_value_heads"], 2 * config["head_dim"]
    part = lambda n, parts, i: n // parts + (i < n % parts)
    held = [part(heads, tp // dp, i) if tp // dp <= heads else 1 for i in range(tp // dp)]
    layers = [part(config["num_hidden_layers"], pp, i) for i in range(pp)]
    return [PAGE_TOKENS * entry * value_bytes * n * h for n in layers for h in held]


def counters(prefill, decode):
    """(bytes by destination world rank, compared and equal pages, different pages)"""
    written = Counter()
    for rank, n in re.findall(r'baton_transfer_bytes_total\{[^}]*dst_rank="(\d+)"[^}]*\} (\S+)', call(prefill + "/metrics")[1]):
        written[int(rank)] += int(float(n))
    checks = dict(re.findall(r'baton_page_checksums_total\{result="(\w+)"\} (\S+)', call(decode + "/metrics")[1]))
    return written, int(float(checks["equal"])), int(float(checks["different"]))


def check_counters(model, layout, value_bytes, lengths, before, after):
    tp, dp, pp = layout
    group = tp // dp
    pages = sum(-(-length // PAGE_TOKENS) for length in lengths)
    by_group_rank = [0] * (group * pp)
    for rank, n in (after[0] - before[0]).items():
        stage, inside = divmod(rank, tp)
        by_group_rank[stage * group + inside % group] += n
    held = [pages * n for n in page_bytes(model, layout, value_bytes)]
    assert by_group_rank == held, f"bytes written to decode's ranks {by_group_rank}, held there {held}"
    assert after[1] - before[1] == pages * group * pp, f"{after[1] - before[1]} pages compared of {pages * group * pp}"
    assert after[2] == 0, f"{after[2]} pages differ"


def told(log):
    """What a log says: its beginning, where a first cause is, and its end; every instance of a walk tells of every other's end in between."""
    text = log.read_text()
    return text if len(text) <= 4000 else f"{text[:2000]}\n[...]\n{text[-2000:]}"


class Walk:
    """A cluster of `prefills` x `decodes` (layouts) and what is expected of each pair."""

    def __init__(self, model, prefills, decodes, prompts, expected, folder, options=()):
        self.model, self.prompts, self.folder = model, prompts, Path(folder)
        self.expected, self.lengths = expected
        self.value_bytes = 4 if "float32" in options else 2
        flags = [word for layout in prefills for word in ("--prefill", flag(layout))] + [word for layout in decodes for word in ("--decode", flag(layout))]
        sizes = ["--page-size", str(PAGE_TOKENS), "--max-total-tokens", str(POOL_TOKENS), "--chunked-prefill-size", str(CHUNK_TOKENS)]
        self.cluster = Cluster("--model-path", str(MODELS[model]), *sizes, "--log-level", "warning", *options, *flags, log=self.folder / f"walk-{model}.log")
        found = re.findall(r"^\s+prefill-\d+ .*(http://\S+), bootstrap port (\d+)", self.cluster.summary, re.M)
        self.prefills = dict(zip(prefills, found, strict=True))
        self.decodes = dict(zip(decodes, re.findall(r"^\s+decode-\d+ .*(http://\S+) ", self.cluster.summary, re.M), strict=True))

    def check(self, prefill, decode):
        source, destination = self.prefills[prefill], self.decodes[decode]
        router = Router(source, destination, self.folder / "router.log")
        try:
            call(destination + "/flush_cache", method="POST")  # a prefix that decode has is not sent again
            before = counters(source[0], destination)
            answers, lengths = greedy(router.url, self.prompts)
            wrong = [i for i, (mine, theirs) in enumerate(zip(answers, self.expected, strict=True)) if mine != theirs]
            assert not wrong and lengths == self.lengths, f"answers {wrong} differ from the undivided instance's"
            self.wait_quiet(source[0], destination)
            check_counters(self.model, decode, self.value_bytes, lengths, before, counters(source[0], destination))
        except AssertionError as failed:
            words = "".join(told(log) for log in (self.folder / "router.log", self.folder / f"walk-{self.model}.log"))
            raise AssertionError(f"{self.model}, prefill {flag(prefill)} to decode {flag(decode)}: {failed}\n{words}") from None
        finally:
            router.stop()

    @staticmethod
    def wait_quiet(*urls):
        """Counters are final and nothing is held once no page is owned or granted."""
        end = time.time() + 20
        for url in urls:
            while any(int(float(n)) for n in re.findall(r'baton_pages\{state="(?:owned|granted|quarantined)"\} (\S+)', call(url + "/metrics")[1])):
                assert time.time() < end, f"pages are still held on {url}"
                time.sleep(0.01)

    def __enter__(self):
        return self

    def __exit__(self, failed, *_):
        code = self.cluster.stop()
        assert failed or code == 0, "the cluster did not stop cleanly"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", choices=MODELS, help="one of the two models; both without it")
    parser.add_argument("--prompts", type=int, default=40)
    parser.add_argument("--every", type=int, default=1, help="of all pairs, every Nth")
    parser.add_argument("--device", help="as of `baton serve`: the pairs' instances; all of them share the first GPU. What they must answer is the processor's")
    parser.add_argument("--transfer", default="auto", help="--disaggregation-transfer-backend of the pairs' instances")
    parser.add_argument("--dtype", help="as of `baton serve`, of all instances")
    parser.add_argument("--disable-overlap-schedule", action="store_true", help="the instances of the pairs wait for each step")
    args = parser.parse_args()
    exact = ["--dtype", args.dtype] if args.dtype else []
    options = exact + (["--disable-overlap-schedule"] if args.disable_overlap_schedule else [])
    options += ["--disaggregation-transfer-backend", args.transfer]
    if args.device:
        options += ["--device", args.device, "--gpu-id-step", "0"]
    prompts = passkey_prompts(args.prompts)
    for model in [args.model] if args.model else MODELS:
        with tempfile.TemporaryDirectory() as folder:
            pairs = [(p, d) for p in LAYOUTS for d in LAYOUTS][:: args.every]
            with Walk(model, LAYOUTS, LAYOUTS, prompts, unified_answers(model, prompts, folder, exact), folder, options) as walk:
                begun = time.time()
                for done, (prefill, decode) in enumerate(pairs, 1):
                    walk.check(prefill, decode)
                    if done % 32 == 0 or done == len(pairs):
                        print(f"{model}: {done} of {len(pairs)} pairs, {time.time() - begun:.0f} s", flush=True)
            print(f"{model}: {len(pairs)} pairs x {len(prompts)} prompts: every answer equal to the undivided instance's, every page's checksum equal, every byte written once")


if __name__ == "__main__":
    sys.exit(main())
