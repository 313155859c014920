"""A checkpoint in one GGUF file: its keys, weights and tokenizer in the terms of a config.json.

Such a file holds quantised weights, which are written out here in fp32, under names of its own, and
the rows of q and k in the order of another rotary layout (pairs side by side instead of halves).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from models.families import CheckpointError, renamed
from models.text_tokenizer import TextTokenizer, needed, one_line

NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
    "blk.{i}.attn_norm.weight": "model.layers.{i}.input_layernorm.weight",
    "blk.{i}.ffn_norm.weight": "model.layers.{i}.post_attention_layernorm.weight",
    "blk.{i}.attn_q.weight": "model.layers.{i}.self_attn.q_proj.weight",
    "blk.{i}.attn_k.weight": "model.layers.{i}.self_attn.k_proj.weight",
    "blk.{i}.attn_v.weight": "model.layers.{i}.self_attn.v_proj.weight",
    "blk.{i}.attn_output.weight": "model.layers.{i}.self_attn.o_proj.weight",
    "blk.{i}.ffn_gate.weight": "model.layers.{i}.mlp.gate_proj.weight",
    "blk.{i}.ffn_up.weight": "model.layers.{i}.mlp.up_proj.weight",
    "blk.{i}.ffn_down.weight": "model.layers.{i}.mlp.down_proj.weight",
}
_KEYS = {  # without the architecture before the dot: the key of config.json
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta",
    "vocab_size": "vocab_size",
}
# Keys that must agree: the widths of a head's keys and values, and of what is rotated of them.
_HEAD_WIDTHS = ("attention.key_length", "attention.value_length", "rope.dimension_count")
_CONTROL = 3  # the token type of special tokens
_TEXT, _ARRAY = 8, 9  # the types of values that are no single number; the others' struct codes:
_CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


class Stored(NamedTuple):
    """A weight in the file: our shape of it, how it is quantised, and where its bytes stand."""

    shape: tuple[int, ...]
    kind: Any
    start: int
    row_bytes: int

    @property
    def bytes(self) -> int:
        return math.prod(self.shape[:-1]) * self.row_bytes


class GgufFile:
    """Raises CheckpointError for a file that is truncated, damaged, or not of the Llama family.

    ``again`` is the remedy for a file that is not whole.
    """

    def __init__(self, path: Path, again: str = "download it again"):
        self._library = needed("gguf")
        self.path, self.where = path, str(path)
        try:
            with path.open("rb") as file:
                self._fields, self._stored = self._header(file, path.stat().st_size)
        except Exception as error:  # a cut or damaged file fails anywhere
            raise CheckpointError(
                f"{path} is no whole GGUF file ({one_line(error)}): {again}"
            ) from None
        self.config = self._config()

    def _header(self, file: BinaryIO, size: int) -> tuple[dict[str, Any], dict[str, Stored]]:
        """The file's keys, and its weights by our names. Raises ValueError and others where it is
        cut or damaged."""
        if file.read(4) != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        version, weights, keys = _unpack(file, "IQQ")
        if version not in (2, 3):
            raise ValueError(f"its version is {version}, 2 and 3 are known")
        fields = {_text(file): _value(file, *_unpack(file, "I")) for _ in range(keys)}
        listed = []
        for _ in range(weights):
            name, (axes,) = _text(file), _unpack(file, "I")
            shape = tuple(reversed(_unpack(file, f"{axes}Q")))
            listed.append((renamed(name, NAMES), shape, *_unpack(file, "IQ")))
        alignment = fields.get("general.alignment", 32)
        start = -(-file.tell() // alignment) * alignment
        stored = {}
        for name, shape, code, offset in listed:
            kind = self._library.GGMLQuantizationType(code)
            per_block, block_bytes = self._library.GGML_QUANT_SIZES[kind]
            row_bytes = shape[-1] // per_block * block_bytes
            stored[name] = Stored(shape, kind, start + offset, row_bytes)
            if (end := stored[name].start + stored[name].bytes) > size:
                raise ValueError(f"{name} ends at byte {end} of {size}")
        return fields, stored

    def _config(self) -> dict[str, Any]:
        kind = self._fields.get("general.architecture")
        if kind != "llama":
            raise CheckpointError(
                f"{self.where} has general.architecture = {kind!r}: only llama is supported in "
                "a GGUF file, use a folder of safetensors"
            )
        config: dict[str, Any] = {"model_type": kind, "rope_theta": 10_000.0}
        for key, value in self._fields.items():
            group, _, rest = key.partition(".")
            if group == kind and rest not in _HEAD_WIDTHS:
                config[_KEYS.get(rest, key)] = value  # an unknown key is refused by its own name
        widths = {
            k: self._fields[f"{kind}.{k}"] for k in _HEAD_WIDTHS if f"{kind}.{k}" in self._fields
        }
        if len(set(map(str, widths.values()))) > 1:
            raise CheckpointError(
                f"{self.where} has {widths}: only heads of one width that are rotated in full are "
                "supported, use another checkpoint"
            )
        config["head_dim"] = next(iter(widths.values()), None)
        config["tie_word_embeddings"] = "lm_head.weight" not in self._stored
        config["bos_token_id"] = self._fields.get("tokenizer.ggml.bos_token_id")
        config["eos_token_id"] = self._fields.get("tokenizer.ggml.eos_token_id")
        config.setdefault("vocab_size", len(self._fields.get("tokenizer.ggml.tokens", ())))
        return config

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every weight, by our names."""
        return {name: stored.shape for name, stored in self._stored.items()}

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every weight in fp32, one after the other."""
        heads = {
            "q_proj": self.config["num_attention_heads"],
            "k_proj": self.config.get("num_key_value_heads", self.config["num_attention_heads"]),
        }
        for name, stored in self._stored.items():
            raw = np.fromfile(self.path, np.uint8, stored.bytes, offset=stored.start)
            rows = raw.reshape(*stored.shape[:-1], stored.row_bytes)
            weight = torch.from_numpy(self._library.dequantize(rows, stored.kind))
            for layer, count in heads.items():
                if name.endswith(f"{layer}.weight"):
                    weight = rearrange(weight, "(h d two) x -> (h two d) x", h=count, two=2)
            yield name, weight

    def tokenizer(self) -> TextTokenizer:
        """The byte-level BPE of the file, split into words as SmolLM's tokenizer splits text."""
        kind = tuple(self._fields.get(f"tokenizer.ggml.{key}") for key in ("model", "pre"))
        if kind != ("gpt2", "smollm"):
            raise CheckpointError(
                f"{self.where} has a tokenizer of kind {kind}: only ('gpt2', 'smollm') is "
                "supported in a GGUF file, use a folder with tokenizer.json"
            )
        library = needed("tokenizers")
        try:
            made = self._byte_level(library)
        except Exception as error:  # the library raises plain Exception
            raise CheckpointError(
                f"{self.where} has a damaged tokenizer ({one_line(error)}): download it again"
            ) from None
        bos, eos = self.config["bos_token_id"], self.config["eos_token_id"]
        return TextTokenizer(made, self.where, bos, eos)

    def _byte_level(self, library: Any) -> Any:
        keys = ("tokens", "token_type", "merges")
        tokens, types, merges = (self._fields[f"tokenizer.ggml.{key}"] for key in keys)
        vocabulary = {token: i for i, token in enumerate(tokens)}
        pairs = [tuple(pair.split(" ")) for pair in merges]
        made = library.Tokenizer(library.models.BPE(vocab=vocabulary, merges=pairs))
        made.pre_tokenizer = library.pre_tokenizers.Sequence(
            [
                library.pre_tokenizers.Digits(individual_digits=True),
                library.pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
        made.decoder = library.decoders.ByteLevel()
        special = [t for t, kind in zip(tokens, types, strict=True) if kind == _CONTROL]
        made.add_special_tokens(special)
        return made


def _unpack(file: BinaryIO, codes: str) -> tuple[Any, ...]:
    """Numbers of these types, little-endian and without gaps."""
    form = f"<{codes}"
    return struct.unpack(form, file.read(struct.calcsize(form)))


def _text(file: BinaryIO) -> str:
    (length,) = _unpack(file, "Q")
    content = file.read(length)
    if len(content) < length:
        raise ValueError(f"a text of {length} bytes is cut")
    return content.decode()


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == _TEXT:
        return _text(file)
    if kind == _ARRAY:
        inner, count = _unpack(file, "IQ")
        return [_value(file, inner) for _ in range(count)]
    return _unpack(file, _CODES[kind])[0]
