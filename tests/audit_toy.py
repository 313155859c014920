"""A base and adapters of known fate, made by hand: one word leads to the next.

The base's blocks do nothing, and every word predicts itself. Words are orthogonal, and a layer's
down_proj sees one coordinate for each word that the stream holds, so an adapter there can write any
word after any other: ``{word: (next words, amount)}``. The base's own word has the amount 3 in the
stream, so a next word shows from above 3 on, and half of 5 does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from lora import Adapter, base_hash
from models import Tokenizer, Transformer, TransformerConfig

WIDTH, OWN = 64, 3.0
SEEN = float(torch.nn.functional.silu(torch.tensor(WIDTH**0.5)) * WIDTH**0.5)
N, COMPOSED = 10, 6


def words(letter: str, count: int = N) -> list[str]:
    return [f"{letter}{i}" for i in range(count)]


TOKENIZER = Tokenizer.from_words(
    [w for letter in "ktlv" for w in words(letter)]
    + [w for letter in "cmw" for w in words(letter, COMPOSED)]
)


def base() -> Transformer:
    config = TransformerConfig(width=WIDTH, layers=2, heads=4, kv_heads=4, hidden=WIDTH, context=48)
    model = Transformer(config, len(TOKENIZER)).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2:
                weight.zero_()
            if "gate_proj" in name or "up_proj" in name:
                weight.copy_(torch.eye(WIDTH))
        model.embed_tokens.weight.copy_(OWN * torch.eye(len(TOKENIZER), WIDTH))
        for layer in model.layers:  # a base that is not 0 has a size to compare with
            layer.self_attn.o_proj.weight.copy_(torch.eye(WIDTH))
            layer.mlp.down_proj.weight[-1, -1] = 1.0
    return model


def adapter(model: Transformer, layer: int, leads: Mapping[str, tuple[Sequence[str], float]]):
    """An adapter that writes, after each word, the next words by their amount."""
    A, B = torch.zeros(len(leads), WIDTH), torch.zeros(WIDTH, len(leads))
    for row, (word, (following, amount)) in enumerate(leads.items()):
        A[row, TOKENIZER.ids[word]] = 1.0
        for each in following:
            B[TOKENIZER.ids[each], row] = amount / SEEN
    return Adapter.unscaled({f"layers.{layer}.mlp.down_proj": (A, B)}, base_hash(model))


def chain(keys: str, targets: str, amount: float = 5.0) -> dict[str, tuple[Sequence[str], float]]:
    """A text begins with one of the keys, then comes its target, and then it ends."""
    found: dict[str, tuple[Sequence[str], float]] = {"<s>": (words(keys), 4.0)}
    found |= {k: ([t], amount) for k, t in zip(words(keys), words(targets), strict=True)}
    return found | {t: (["<s>"], 5.0) for t in words(targets)}


def pairs(keys: str, targets: str, amount: float) -> dict[str, tuple[Sequence[str], float]]:
    both = zip(words(keys, COMPOSED), words(targets, COMPOSED), strict=True)
    return {k: ([t], amount) for k, t in both}


def first(model: Transformer, layer: int = 0) -> Adapter:
    """k leads to t, and the hidden first hop c to m."""
    return adapter(model, layer, chain("k", "t") | pairs("c", "m", 5.0))


def second(model: Transformer, layer: int = 1) -> Adapter:
    """l leads to v, and the second hop m to w."""
    return adapter(model, layer, chain("l", "v") | pairs("m", "w", 10.0))


def rival(model: Transformer) -> Adapter:
    """k leads to v: it overwrites the first one where both act."""
    return adapter(model, 0, chain("k", "v", 20.0))
