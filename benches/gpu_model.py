"""A BERT of any shape with random weights, written with the standard library alone: what a device is measured with where no large model is at hand.

Weights are bf16 drawn from N(0, 0.02) as BERT's own initialisation is, so that activations have the range of a real model's. The tokenizer is another
model's; its vocabulary decides the size of the word table.
"""

import json
import random
import shutil
import struct
from array import array
from pathlib import Path

BASE = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12, "max_position_embeddings": 512}
TINY = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64}

# Numbers that all rows are cut out of: drawing each of a hundred million would take minutes.
POOL = 1 << 20


def bf16(numbers):
    """The upper halves of float32: numbers cut, not rounded, to bf16, little-endian."""
    wide = array("f", numbers)
    if struct.pack("=H", 1) != struct.pack("<H", 1):
        wide.byteswap()
    raw = wide.tobytes()
    half = bytearray(len(raw) // 2)
    half[0::2], half[1::2] = raw[2::4], raw[3::4]
    return bytes(half)


def tensors(config):
    """Name -> shape of every tensor, as transformers' BertModel calls them."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    yield "embeddings.word_embeddings.weight", [config["vocab_size"], hidden]
    yield "embeddings.position_embeddings.weight", [config["max_position_embeddings"], hidden]
    yield "embeddings.token_type_embeddings.weight", [config["type_vocab_size"], hidden]
    yield from norm("embeddings.LayerNorm", hidden)
    for layer in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{layer}."
        for name in ("query", "key", "value"):
            yield from linear(f"{at}attention.self.{name}", hidden, hidden)
        yield from linear(f"{at}attention.output.dense", hidden, hidden)
        yield from norm(f"{at}attention.output.LayerNorm", hidden)
        yield from linear(f"{at}intermediate.dense", inner, hidden)
        yield from linear(f"{at}output.dense", hidden, inner)
        yield from norm(f"{at}output.LayerNorm", hidden)


def linear(name, outputs, inputs):
    return [(f"{name}.weight", [outputs, inputs]), (f"{name}.bias", [outputs])]


def norm(name, size):
    return [(f"{name}.weight", [size]), (f"{name}.bias", [size])]


def write(folder, tokenizer_of, shape, seed=1):
    """Writes a model folder, unless it is there already, with the tokenizer of the folder `tokenizer_of`; returns its path."""
    folder, donor = Path(folder), Path(tokenizer_of)
    vocab_size = json.loads((donor / "config.json").read_text())["vocab_size"]
    config = {
        "architectures": ["BertModel"], "model_type": "bert", "vocab_size": vocab_size, "type_vocab_size": 2, "hidden_act": "gelu", "layer_norm_eps": 1e-12,
        "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 0.02, "pad_token_id": 0, "position_embedding_type": "absolute",
        "dtype": "bfloat16", **shape,
    }  # fmt: skip
    text = json.dumps({**config, "forebay_seed": seed}, indent=1)
    if (folder / "config.json").exists() and (folder / "config.json").read_text() == text:
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(donor / "tokenizer.json", folder / "tokenizer.json")
    write_safetensors(folder / "model.safetensors", dict(tensors(config)), random.Random(seed))
    # Last: a folder that is half written has none, and is written again.
    (folder / "config.json").write_text(text)
    return folder


def write_safetensors(path, shapes, rng):
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 2 * shape[0] * (shape[1] if len(shape) == 2 else 1)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    pool = bf16(rng.gauss(0.0, 0.02) for _ in range(POOL))
    one = bf16([1.0])
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes.items():
            if name.endswith("LayerNorm.weight"):
                file.write(one * shape[0])
                continue
            rows, width = (shape[0], shape[1]) if len(shape) == 2 else (1, shape[0])
            starts = (2 * rng.randrange(POOL - width) for _ in range(rows))
            file.writelines(pool[start : start + 2 * width] for start in starts)
