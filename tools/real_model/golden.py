#!/usr/bin/env python3
"""Records what transformers makes of SmolLM2-135M-Instruct, for `baton verify` and the end-to-end tests.

    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install -r tools/real_model/requirements-golden.txt
    /tmp/venv/bin/python tools/real_model/golden.py build/models/smollm2-135m-instruct tests/fixtures/smollm2

logits.golden.json: greedy answers and the eight greatest logits of each step, computed in float32 from the bfloat16 weights,
    in the form of `baton verify --golden`. Each case states its `margin`, the smallest distance of the best logit from the
    second over its steps, and `noise`, how far bfloat16 arithmetic moves that distance at most, by transformers' own run in
    bfloat16. Where the margin is over twice the noise the case says `firm`: every right implementation gives that text, in
    either arithmetic. The others are compared in float32. `bfloat16_error` is the error of transformers' logits in bfloat16, in
    the measure of `baton verify`: a bound for others that is no wish.
tokenizer.golden.json: texts and their ids. (The chat template is among tests/fixtures/chat_templates.)
"""
import json
import pathlib
import random
import sys

import torch
from transformers import AutoTokenizer, LlamaForCausalLM

NEW_TOKENS = 24
KEPT = 8  # logits of a step that are kept

CAPITALS = ["France", "Japan", "Italy", "Spain", "Germany", "Greece", "Russia", "Egypt"]
ASK = [
    [("user", f"What is the capital of {country}?")] for country in CAPITALS
] + [
    [("user", "List the months of the year.")],
    [("user", "Count from one to ten.")],
    [("user", "What is the opposite of hot?")],
    [("user", "Write a Python function that adds two numbers.")],
    [("user", "What is the capital of Japan?"), ("assistant", "The capital of Japan is Tokyo."), ("user", "And of Italy?")],
    [("system", "You answer in one word."), ("user", "Which planet do we live on?")],
    [("user", "Complete the sequence: Monday, Tuesday, Wednesday,")],
    [("user", "Übersetze ins Englische: Guten Morgen! 🙂")],
]


def long_text(seed, sentences):
    """A note book with a pass key in it, of some thousand tokens."""
    r = random.Random(seed)
    names, things = ["Anna", "Tom", "Maria", "Ben", "Lucy"], ["apples", "books", "stamps", "shells", "pens"]
    lines = [f"On day {i + 1} {r.choice(names)} counted {r.randrange(10, 99)} {r.choice(things)}." for i in range(sentences)]
    lines.insert(sentences // 2, "The secret pass key is 71432. Remember it: the pass key is 71432.")
    return " ".join(lines)


def conversations():
    for turns in ASK:
        yield [{"role": role, "content": text} for role, text in turns]
    for seed, sentences in ((1, 40), (2, 120)):
        yield [{"role": "user", "content": long_text(seed, sentences) + "\nWhat is the secret pass key?"}]


def distance(row):
    best = row.topk(2).values
    return (best[0] - best[1]).item()


class Reference:
    def __init__(self, folder):
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        load = lambda dtype: LlamaForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()  # noqa: E731
        self.exact, self.rough = load(torch.float32), load(torch.bfloat16)

    @torch.no_grad()
    def rows(self, net, prompt, forced=None):
        """Tokens and logits; without `forced` tokens greedily, until the end token or NEW_TOKENS."""
        made, rows = [], []
        out = net(torch.tensor([prompt]), use_cache=True)
        while True:
            rows.append(out.logits[0, -1].float())
            if forced is not None and len(made) == len(forced):
                return made, rows
            made.append(int(rows[-1].argmax()) if forced is None else forced[len(made)])
            if forced is None and (made[-1] == self.tokenizer.eos_token_id or len(made) == NEW_TOKENS):
                return made, rows
            out = net(torch.tensor([[made[-1]]]), past_key_values=out.past_key_values, use_cache=True)

    def case(self, messages):
        prompt = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        ids = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        made, rows = self.rows(self.exact, ids)
        _, rough = self.rows(self.rough, ids, forced=made[:-1])
        # How far bfloat16 moves the best logit against the one that was second.
        noise = max(abs(distance(a) - (b[a.topk(2).indices[0]] - b[a.topk(2).indices[1]]).item()) for a, b in zip(rows, rough))
        margin = min(map(distance, rows))
        tops = [row.topk(KEPT) for row in rows]
        error = max(((b[top.indices] - top.values).norm() / top.values.norm()).item() for top, b in zip(tops, rough))
        return {
            "messages": messages, "prompt": prompt, "prompt_ids": ids, "greedy_ids": made,
            "greedy_text": self.tokenizer.decode(made), "margin": round(margin, 4), "noise": round(noise, 4), "bfloat16_error": round(error, 4),
            "firm": margin > 2 * noise,
            "top8_per_step": [{"ids": top.indices.tolist(), "logits": [round(v, 5) for v in top.values.tolist()],
                               "logsumexp": round(row.logsumexp(0).item(), 5)} for top, row in zip(tops, rows)],
        }

    def texts(self):
        r = random.Random(3)
        pool = ["Hello", " world", "don't", "I'LL", "'s", " ", "  ", "\n", "\r\n", "\t", "1", "12", "2025-11-23", "٣٤", "½", "Ⅷ", "中文", "ひらがな",
                "한국어", "русский", "Ελληνικά", "e\u0301", "\u00a0", "\u200b", "👍🏽", "👨\u200d👩\u200d👧", "...", "!?", "=>", "x**2", "camelCase",
                "snake_case", "http://a.b/c?d=e", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|im_", "\x00", "\x7f", "\U0001F1E9\U0001F1EA", "ß", "ﬁ"]
        yield from ["", " ", "Hello, world! It's 1234567.89 €", "def f(x):\n    return x**2  # 平方\n", " " * 40 + "y", "\n" * 9, "x" * 200, *pool]
        for _ in range(120):
            yield "".join(r.choice(pool) for _ in range(r.randint(2, 9)))

    def tokenizer_case(self, text):
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return {"text": text, "ids": ids, "decoded": self.tokenizer.decode(ids, skip_special_tokens=False),
                "decoded_skip_special": self.tokenizer.decode(ids, skip_special_tokens=True)}


def write(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
    print(path, path.stat().st_size, "bytes")


def main():
    folder, out = sys.argv[1], pathlib.Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    reference = Reference(folder)
    write(out / "tokenizer.golden.json", [reference.tokenizer_case(text) for text in reference.texts()])
    cases = []
    for messages in conversations():
        cases.append(reference.case(messages))
        made = cases[-1]
        print(f"margin {made['margin']:.3f} noise {made['noise']:.3f} error {made['bfloat16_error']:.4f} {'firm' if made['firm'] else '    '} "
              f"{len(made['prompt_ids'])} tokens: {messages[-1]['content'][-40:]!r}: {made['greedy_text']!r}", flush=True)
    write(out / "logits.golden.json",
          {"made_with": f"transformers, float32 arithmetic on bfloat16 weights, torch {torch.__version__}", "cases": cases})


if __name__ == "__main__":
    main()
