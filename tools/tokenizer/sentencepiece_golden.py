#!/usr/bin/env python3
"""Records what the reference makes of texts and ids with tokenizers that come from SentencePiece's models, and with added
tokens whose ids are not those that are written down.

    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install tokenizers==0.23.3
    /tmp/venv/bin/python tools/tokenizer/sentencepiece_golden.py tests/fixtures/tokenizers/sentencepiece.golden.json
"""
import json
import pathlib
import random
import sys

from tokenizers import Tokenizer, models, trainers

from golden import SNIPPETS, write

SPACE = "▁"
TEXTS = ["", " ", "  ", "   a", "Hello, world!", " Hello", "Hello ", "a  b   c", "▁", "a▁b", "▁ ▁", "line\nline\r\n\ttab", "你好，世界", "naïve café", "👍🏽 ok",
         "<s>Hello", "<s> Hello</s>", "Hello<pad>x", "a <plain> b", "a<plain>b", "x <raw> y<raw>z", "<left> a <left>", "a <right>  b",
         "<0x41><0xE4>", "the the the", "1234567", "e\u0301", "\x00\x01", "don't", "<unk>", "ab" * 30]


def random_texts(count):
    r = random.Random(5)
    pool = SNIPPETS + [" the", "the ", "<s>", "<plain>", "<raw>", SPACE, "你", "é", "ing", "er "] * 2
    return ["".join(r.choice(pool) for _ in range(r.randint(1, 9))) for _ in range(count)]


def model(byte_fallback=True, bytes_missing=(), **options):
    """A BPE of some hundred merges, and the vocabulary in SentencePiece's order: specials, bytes, pieces."""
    corpus = [SPACE + t.replace(" ", SPACE) for t in TEXTS[3:9] + ["the other thing is there and here", "she sells sea shells in winter", "don't, can't; naïve café"] * 3]
    trained = Tokenizer(models.BPE())
    trained.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=220, show_progress=False))
    spec = json.loads(trained.to_str())["model"]
    vocab = {t: i for i, t in enumerate(["<unk>", "<s>", "</s>"])}
    for b in range(256 if byte_fallback else 0):
        if b not in bytes_missing:
            vocab[f"<0x{b:02X}>"] = len(vocab)
    for piece in sorted(spec["vocab"], key=spec["vocab"].get):
        vocab.setdefault(piece, len(vocab))
    for piece in [SPACE * 2, SPACE * 4]:
        vocab.setdefault(piece, len(vocab))
    merges = [[SPACE, SPACE], [SPACE * 2, SPACE * 2]] + spec["merges"]
    return {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None, "end_of_word_suffix": None,
            "fuse_unk": True, "byte_fallback": byte_fallback, "ignore_merges": False, "vocab": vocab, "merges": merges} | options


def added(vocab, gap=False):
    flags = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=False)
    tokens = [dict(flags, content=c, special=True) for c in ("<unk>", "<s>", "</s>", "<pad>")]
    tokens += [dict(flags, content="<plain>", normalized=True), dict(flags, content="<raw>"),
               dict(flags, content="<left>", lstrip=True), dict(flags, content="<right>", rstrip=True)]
    new = len(vocab)
    for token in tokens:
        token["id"] = vocab.get(token["content"], new + (100 if gap else 0))
        new += token["content"] not in vocab
    return tokens


REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
BACK = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
PREPEND = {"type": "Prepend", "prepend": SPACE}
STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
BOS = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
       "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
       "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}}


def normalizers(*steps):
    return {"type": "Sequence", "normalizers": list(steps)}


def decoders(*steps):
    return {"type": "Sequence", "decoders": list(steps)}


def metaspace(scheme, split=True):
    return {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": split}


LLAMA = decoders(BACK, {"type": "ByteFallback"}, {"type": "Fuse"}, STRIP)
PLAIN = decoders(BACK, {"type": "ByteFallback"}, {"type": "Fuse"})
SPLIT = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}

# name, model, normalizer, pre-tokenizer, decoder, whether ids of added tokens have a gap
FAMILIES = [
    ("llama 2, legacy", model(), normalizers(PREPEND, REPLACE), None, LLAMA, False),
    ("llama 2", model(), None, metaspace("first", False), LLAMA, False),
    ("an id gap", model(), None, metaspace("first", False), LLAMA, True),
    ("mistral", model(), None, metaspace("always", False), decoders(BACK, {"type": "ByteFallback"}, {"type": "Fuse"}, STRIP), False),
    ("gemma", model(), REPLACE, SPLIT, PLAIN, False),
    ("metaspace always", model(), None, metaspace("always"), metaspace("always"), False),
    ("metaspace first", model(), None, metaspace("first"), metaspace("first"), False),
    ("metaspace never", model(), None, metaspace("never"), metaspace("never"), False),
    ("metaspace of old", model(), None, {"type": "Metaspace", "replacement": SPACE, "add_prefix_space": True},
     {"type": "Metaspace", "replacement": SPACE, "add_prefix_space": True}, False),
    ("no byte tokens", model(False), normalizers(PREPEND, REPLACE), None, LLAMA, False),
    ("unknowns apart", model(False, fuse_unk=False), normalizers(PREPEND, REPLACE), None, LLAMA, False),
    ("no unknown", model(False, unk_token=None), normalizers(PREPEND, REPLACE), None, LLAMA, False),
    ("some byte tokens", model(bytes_missing=range(0xE0, 0xE6)), normalizers(PREPEND, REPLACE), None, LLAMA, False),
    ("whole pieces", model(ignore_merges=True), None, metaspace("always"), LLAMA, False),
    ("composed", model(), normalizers({"type": "NFC"}, PREPEND, REPLACE), None, LLAMA, False),
]


def record(name, model_spec, normalizer, pre_tokenizer, decoder, gap):
    spec = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added(model_spec["vocab"], gap), "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer, "post_processor": BOS, "decoder": decoder, "model": model_spec}
    reference = Tokenizer.from_str(json.dumps(spec))
    cases = []
    for text in TEXTS + random_texts(24):
        ids = reference.encode(text, add_special_tokens=False).ids
        cases.append([text, ids, reference.decode(ids, skip_special_tokens=False), reference.decode(ids, skip_special_tokens=True)])
    r = random.Random(7)
    decodes = []
    for _ in range(30):
        ids = [r.randrange(reference.get_vocab_size()) for _ in range(r.randint(1, 8))]
        if r.random() < 0.5 and model_spec["byte_fallback"]:
            run = [model_spec["vocab"].get(f"<0x{b:02X}>", 0) for b in r.choice(["你", "é", "👍", "a"]).encode()]
            ids[r.randrange(len(ids) + 1):0] = run[:r.randint(1, len(run))]
        decodes.append([ids, reference.decode(ids, skip_special_tokens=False)])
    del spec["model"]
    # The vocabulary is the same but for a few: only what differs is written down.
    return {"name": name, "spec": spec, "model": {k: v for k, v in model_spec.items() if k not in ("vocab", "merges")},
            "vocab": sorted(model_spec["vocab"], key=model_spec["vocab"].get)[3 + sum(t.startswith("<0x") for t in model_spec["vocab"]):],
            "bytes": [b for b in range(256) if f"<0x{b:02X}>" in model_spec["vocab"]], "cases": cases, "decodes": decodes}


if __name__ == "__main__":
    families = [record(*family) for family in FAMILIES]
    pieces = families[0]["vocab"]
    for family in families:
        assert family.pop("vocab") == pieces
    write(pathlib.Path(sys.argv[1]), {"pieces": pieces, "merges": FAMILIES[0][1]["merges"], "families": families})
