#!/usr/bin/env python3
"""Two builds of Baton beside each other: `./dev bench versions BEFORE [--rounds N]`.

BEFORE is the `baton` of another build; the one beside it is build/release/bin/baton. Each serves the bundled models and a
Llama of 1.1 B parameters with dummy weights, one undivided instance on all cores, measured from outside over HTTP. The
builds take turns, and the medians over the rounds are printed, with the processor and the load.
"""
import argparse
import json
import os
import pathlib
import statistics

import cpu

MODELS = {"tiny-gqa": (cpu.ROOT / "models" / "tiny-gqa", ()), "tiny-mla": (cpu.ROOT / "models" / "tiny-mla", ()),
          "Llama of 1.1 B": (cpu.PLACE / "model", ("--load-format", "dummy"))}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=48, help="new tokens of a decode measurement")
    args = parser.parse_args()
    model = MODELS["Llama of 1.1 B"][0]
    model.mkdir(parents=True, exist_ok=True)
    (model / "config.json").write_text(json.dumps(cpu.SHAPE))

    load = [os.getloadavg()[0]]
    lines = []
    for name, (path, arguments) in MODELS.items():
        builds = [cpu.Baton(path, binary=binary, arguments=arguments) for binary in (args.before, cpu.BATON)]
        try:
            rounds = [[build.measure(args.tokens) for build in builds] for _ in range(args.rounds)]
        finally:
            for build in builds:
                build.stop()
        for figure, says in cpu.FIGURES.items():
            before, after = (statistics.median(r[side][figure] for r in rounds) for side in (0, 1))
            lines.append(f"| {name} | {says} | {before:.1f} | {after:.1f} | {after / before:.2f} |")
    load.append(os.getloadavg()[0])
    print(f"{cpu.processor()}; tokens a second, medians of {args.rounds}; load {load[0]:.1f} before, {load[1]:.1f} at the end\n")
    print("| model | | before | after | after / before |\n|---|---|---|---|---|")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
