#!/usr/bin/python3
"""Writes tests/fixtures/chat_templates/golden.json: what Jinja 3.1, set up as Hugging Face's apply_chat_template sets it up,
makes of the templates beside it and of a table of small templates. Needs python3-jinja2 only.

    tools/chat_template_golden.py            write the file
    tools/chat_template_golden.py --check    fail if it would change
"""
import argparse
import copy
import datetime
import json
import pathlib
import sys

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from chat_template_cases import EXPRESSION_CONTEXT, EXPRESSIONS, conversations

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDER = ROOT / "tests" / "fixtures" / "chat_templates"
NOW = 1735689600  # 2025-01-01 00:00:00 UTC


class Generation(jinja2.ext.Extension):
    """{% generation %} of Hugging Face, which marks what the assistant said."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_render"), [], [], body).set_lineno(line)

    @jinja2.pass_eval_context
    def _render(self, context, caller):
        return caller()


def environment():
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def strftime_now(format):
        return datetime.datetime.fromtimestamp(NOW, tz=datetime.timezone.utc).strftime(format)

    env = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = strftime_now
    return env


ENV = environment()


def render(source, context):
    """The text, or None for any error."""
    try:
        return ENV.from_string(source).render(**copy.deepcopy(context))  # indent appends to a list it is given
    except Exception:  # every kind counts the same: the engine must fail too
        return None


def golden():
    templates = {path.stem: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.jinja"))}
    tiny = json.loads((ROOT / "models" / "tiny-mla" / "tokenizer_config.json").read_text(encoding="utf-8"))
    templates["tiny_mla"] = tiny["chat_template"]
    contexts = conversations()
    small = [[source, render(source, EXPRESSION_CONTEXT)] for source in EXPRESSIONS]
    rendered = {
        name: [render(source, context) for context in contexts] for name, source in templates.items()
    }
    return {
        "now": NOW,
        "contexts": contexts,
        "templates": [{"name": name, "source": templates[name], "expected": rendered[name]} for name in templates],
        "expression_context": EXPRESSION_CONTEXT,
        # Without those that print an object's address.
        "expressions": [pair for pair in small if pair[1] is None or " at 0x" not in pair[1].lower()],
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    args = parser.parse_args()
    text = json.dumps(golden(), ensure_ascii=False, indent=0) + "\n"
    path = FOLDER / "golden.json"
    if args.check:
        if path.read_text(encoding="utf-8") != text:
            sys.exit(f"{path} is out of date: run tools/chat_template_golden.py")
        return
    path.write_text(text, encoding="utf-8")
    print(f"{path}: {len(text)} bytes")


if __name__ == "__main__":
    main()
