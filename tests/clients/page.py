"""Writes docs/COMPATIBILITY.md from the record of a run, or compares the two.

    page.py --write | --check
"""
import argparse
import difflib
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RECORD = ROOT / "build" / "clients.json"
PAGE = ROOT / "docs" / "COMPATIBILITY.md"

PLACES = {
    "unified": "one instance",
    "router": "prefill TP3 → decode TP2",
    "mla_router": "MLA, prefill TP4 → decode TP4/DP2",
    "sglang_router": "behind sglang-router",
    "mini_lb": "behind its mini_lb",
    "sglang_router_of_one": "one instance behind sglang-router",
}
HEAD = """# Clients that work as they are

Written by `./dev clients --write` from what the tests in `tests/clients` saw; not edited by hand. Each row is one test: the client itself, as PyPI has it, makes the call against the model
`tiny-gqa`, and what it gets is checked, not only that it gets something. CI runs all of them, and fails where a result is not what stands here.

*one instance* is undivided. *prefill TP3 → decode TP2* is our router in front of the two; *MLA* is the same with the model `tiny-mla`. *behind sglang-router* and *behind its mini_lb* are prefill TP3
and decode TP2 with SGLang's router from PyPI in front, in PD mode. What is refused says so; an empty field was not tried there. What is left open by design stands in [API.md](API.md).
"""


def row(cells):
    return "| " + " | ".join(cells) + " |"


def table(shown):
    places = [place for place in PLACES if any(entry["place"] == place for entry in shown)]
    lines = [row(["call", *(PLACES[place] for place in places)]), row(["---"] * (1 + len(places)))]
    for call in dict.fromkeys(entry["call"] for entry in shown):
        results = {entry["place"]: entry["result"] for entry in shown if entry["call"] == call}
        lines.append(row([f"{call}".replace("|", "\\|"), *(results.get(place, "") for place in places)]))
    return "\n".join(lines)


def render(record):
    parts = [HEAD]
    for client, packages in sorted(record["clients"].items(), key=lambda entry: entry[0].lower()):
        shown = [entry for entry in record["shown"] if entry["client"] == client]
        parts.append(f"## {client}\n\n{', '.join(packages)}\n\n{table(shown)}\n")
    return "\n".join(parts)


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--write", action="store_true")
    options.add_argument("--check", action="store_true")
    chosen = options.parse_args()
    page = render(json.loads(RECORD.read_text()))
    if chosen.write:
        PAGE.write_text(page)
    written = PAGE.read_text() if PAGE.exists() else ""
    if chosen.check and written != page:
        sys.stdout.writelines(difflib.unified_diff(written.splitlines(True), page.splitlines(True), "docs/COMPATIBILITY.md", "what the clients saw"))
        sys.exit("docs/COMPATIBILITY.md does not say what the clients saw: ./dev clients --write")


if __name__ == "__main__":
    main()
