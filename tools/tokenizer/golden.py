#!/usr/bin/env python3
"""Records what the reference makes of hard texts, for the tests of src/text.

    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install tokenizers==0.23.3
    /tmp/venv/bin/python tools/tokenizer/golden.py tests/fixtures/tokenizers

boundaries.golden.json: the splits of five published families, seen through a made-up vocabulary in which every pair
    of bytes merges (formula in pair_model), so that a piece that begins one byte off changes its ids. Some texts with
    their ids, and a hash of the ids for each block of code points.
options.json, options.golden.json: a small tokenizer with every flag of added tokens and a template, in the form that
    `baton verify --tokenizer` reads.
"""
import json
import pathlib
import random
import sys

from tokenizers import Tokenizer

BLOCK = 1024
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
DEEPSEEK_V3 = [r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+",
               r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
               r"""| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""]
DEEPSEEK_V2 = ["[\r\n]",
               "\\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗ"
               "Ａ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+",
               "\\s?[!-/:-~！-／：-～‘-‟　-。]+", "\\s+$", "[一-龥ࠀ-一가-퟿]+"]


def split(pattern):
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def sequence(*steps):
    return {"type": "Sequence", "pretokenizers": list(steps)}


FAMILIES = [
    ("llama3", None, sequence(split(LLAMA3), BYTE_LEVEL)),
    ("qwen2", {"type": "NFC"}, sequence(split(LLAMA3.replace("{1,3}", "")), BYTE_LEVEL)),
    ("deepseek_v3", {"type": "Sequence", "normalizers": []}, sequence(*map(split, DEEPSEEK_V3), BYTE_LEVEL)),
    ("deepseek_v2", None, sequence(*map(split, DEEPSEEK_V2), {"type": "Digits", "individual_digits": True}, BYTE_LEVEL)),
    ("gpt2", None, dict(BYTE_LEVEL, add_prefix_space=True, use_regex=True)),
]

SNIPPETS = ["'s", "'S", "'ll", "'LL", "'\u017f", "'re", "don't", " ", "  ", "   ", "\n", "\r\n", "\n\n", " \n", "\t", "\u180e", "\u00a0",
            "\u3000", "\u200b", "\u2028", "\u0085", "\u00ad", "\ufeff", "\x00", "\x0b", "\x1f", "123", "1234567", "٣٤", "½", "Ⅷ", "①", "中文",
            "ひらがな", "カタカナー", "한국어", "العربية", "हिन्दी", "ไทย", "русский", "Ελληνικά", "עברית", "e\u0301", "\u0301", "q\u0316\u0301",
            "q\u0301\u0316", "\u1100\u1161\u11a8", "가각", "Å", "K", "ﬁ", "ß", "İ", "👍🏽", "👨\u200d👩\u200d👧", "🇩🇪", "🫨", "\U00031350",
            "\U00011935\U00011930", "a\u08ca\u0301", "...", "!?", "#$%", "=>", "/*", "_x_", "camelCase", "the", " of", "Hello", " world", "x", "é"]


def alphabet():
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    other = [b for b in range(256) if b not in own]
    return {b: chr(b) for b in own} | {b: chr(256 + i) for i, b in enumerate(other)}


def tokenizer_json(vocab, merges, normalizer, pre_tokenizer, added=(), post_processor=None):
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": list(added), "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer, "post_processor": post_processor, "decoder": BYTE_LEVEL,
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                      "vocab": vocab, "merges": merges}}


def pair_model():
    """Bytes are ids 0 to 255; the merge of rank k has id 256 + k and makes the pair (k * 40503 + 12345) mod 65536."""
    character = alphabet()
    vocab = {character[b]: b for b in range(256)}
    merges = []
    for k in range(65536):
        pair = (k * 40503 + 12345) % 65536
        parts = [character[pair >> 8], character[pair & 255]]
        vocab["".join(parts)] = 256 + k
        merges.append(parts)
    return vocab, merges


def fnv1a(ids):
    value = 0xCBF29CE484222325
    for i in ids:
        for byte in i.to_bytes(4, "little"):
            value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return "%016x" % value


def code_points():
    """All that is assigned outside the private planes, and its unassigned neighbours."""
    return [c for c in [*range(0x32400), *range(0xE0000, 0xE0200)] if not 0xD800 <= c <= 0xDFFF]


def in_context(c):
    return "a%s1 %s%s\n" % (c, c, c)


def random_texts(seed, count, extra=()):
    r = random.Random(seed)
    pool = SNIPPETS + list(extra) * 3
    some = code_points()
    for _ in range(count):
        parts = [chr(r.choice(some)) if r.random() < 0.15 else r.choice(pool) for _ in range(r.randint(2, 12))]
        yield "".join(parts)


def boundaries():
    vocab, merges = pair_model()
    texts = sorted(set(random_texts(1, 120)))
    points = code_points()
    families = []
    for name, normalizer, pre_tokenizer in FAMILIES:
        spec = tokenizer_json(vocab, merges, normalizer, pre_tokenizer)
        reference = Tokenizer.from_str(json.dumps(spec))
        encode = lambda text: reference.encode(text, add_special_tokens=False).ids  # noqa: E731
        blocks = []
        for i in range(0, len(points), BLOCK):
            ids = []
            for c in points[i:i + BLOCK]:
                ids += encode(in_context(chr(c)))
            blocks.append(fnv1a(ids))
        families.append({"name": name, "normalizer": normalizer, "pre_tokenizer": pre_tokenizer,
                         "ids": [encode(t) for t in texts], "blocks": blocks})
    return {"texts": texts, "block": BLOCK, "families": families}


def options():
    character = alphabet()
    vocab = {character[b]: b for b in range(256)}
    merges = []
    words = ["the", "Ġthe", "my", "name", "ĠĠ", "in", "ing", "Ġx", "ÃŃ", "ab"]
    for word in words:
        for end in range(2, len(word) + 1):
            if word[:end] not in vocab:
                vocab[word[:end]] = len(vocab)
                merges.append([word[:end - 1], word[end - 1]])
    added = []
    def add(content, **flags):
        base = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=False)
        added.append(dict(id=vocab.get(content, len(vocab) + sum(a["content"] not in vocab for a in added)), content=content,
                          **(base | flags)))
    add("<s>", special=True)
    add("</s>", special=True)
    add("<mask>", lstrip=True, special=True)
    add("<end>", rstrip=True, special=True)
    add("<both>", lstrip=True, rstrip=True)
    add("word", single_word=True)
    add("né", normalized=True)
    add("A\u030a", normalized=True)
    add("<|a|>")
    add("<|a|>b")
    add("x y")
    added.sort(key=lambda a: a["id"])
    template = {"type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                           {"SpecialToken": {"id": "</s>", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {t: {"id": t, "ids": [next(a["id"] for a in added if a["content"] == t)], "tokens": [t]}
                                   for t in ("<s>", "</s>")}}
    spec = tokenizer_json(vocab, merges, {"type": "NFC"}, sequence(split(LLAMA3), BYTE_LEVEL), added,
                          {"type": "Sequence", "processors": [BYTE_LEVEL, template]})
    reference = Tokenizer.from_str(json.dumps(spec))
    contents = [a["content"] for a in added]
    texts = {left + c + right for c in contents for left in ("", " ", "  ", "x", "é", "_") for right in ("", " ", "\n ", "y", "\u0301")}
    texts |= {a + s + b for a in contents[-9:] for b in contents[:7] for s in ("", " ")}
    texts |= set(random_texts(2, 80, contents))
    cases = []
    for text in sorted(texts):
        ids = reference.encode(text, add_special_tokens=False).ids
        cases.append({"text": text, "ids": ids, "ids_special": reference.encode(text, add_special_tokens=True).ids,
                      "decoded": reference.decode(ids, skip_special_tokens=False),
                      "decoded_skip_special": reference.decode(ids, skip_special_tokens=True)})
    return spec, cases


def write(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
    print(path, path.stat().st_size, "bytes")


if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[1])
    spec, cases = options()
    write(folder / "options.json", spec)
    write(folder / "options.golden.json", cases)
    write(folder / "boundaries.golden.json", boundaries())
