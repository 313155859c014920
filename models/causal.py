"""A pretrained language model: the transformer with what checkpoints have otherwise, under the
names that checkpoints use.

A checkpoint names its weights ``model.layers.0.self_attn.q_proj.weight`` and ``lm_head.weight``,
and PEFT addresses adapters by the same paths. `CausalLM` holds its parts under these names, so
state-dict keys and adapter paths need no translation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from models.transformer import Cache, RMSNorm, Transformer, TransformerConfig, rotary_tables


@dataclass(frozen=True)
class RopeScaling:
    """Rotary frequencies stretched for a longer context.

    All are divided by ``factor`` (linear). With ``original``, the context that was pretrained, only
    pairs that turn few times within it are (Llama 3.1): fully below ``low`` turns, not at all above
    ``high``, and in part between.
    """

    factor: float
    low: float = 1.0
    high: float = 4.0
    original: int | None = None

    def __call__(self, frequencies: Tensor) -> Tensor:
        if self.original is None:
            return frequencies / self.factor
        turns = self.original * frequencies / (2 * math.pi)
        kept = ((turns - self.low) / (self.high - self.low)).clamp(0, 1)
        return (1 - kept) * frequencies / self.factor + kept * frequencies


_KEYS = {  # of config.json
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "hidden": "intermediate_size",
    "context": "max_position_embeddings",
    "rope_base": "rope_theta",
}


@dataclass(frozen=True)
class CheckpointConfig(TransformerConfig):
    """The shape of a checkpoint. ``head_width`` times ``heads`` may differ from ``width``.

    ``own_head`` is True where the logits have a matrix of their own, not the embeddings.
    """

    head_width: int = 64
    eps: float = 1e-5
    qkv_bias: bool = False
    qk_norm: bool = False
    rope_scaling: RopeScaling | None = None
    own_head: bool = False

    def called(self, name: str) -> str:
        return _KEYS.get(name, name)

    def check_head_width(self) -> None:
        if self.head_width < 1 or self.head_width % 2:
            raise ValueError(f"head_dim = {self.head_width}: rotary positions need an even width")

    def frequencies(self) -> Tensor:
        # 1 / base^(2i/d), not base^(-2i/d): rounded as the trainers of the checkpoint rounded it.
        pairs = torch.arange(0, self.head_width, 2, dtype=torch.float32, device="cpu")
        plain = 1.0 / self.rope_base ** (pairs / self.head_width)
        return plain if self.rope_scaling is None else self.rope_scaling(plain)


class CausalLM(nn.Module):
    """Token ids (b, l) -> logits (b, l, vocabulary): a `Transformer` as ``model``, and a matrix of
    its own for the logits as ``lm_head`` where ``config.own_head`` says so.

    It answers all of `LanguageModel` and `Trainable`.
    """

    def __init__(self, config: CheckpointConfig, vocabulary: int):
        super().__init__()
        self.model = Transformer(config, vocabulary)
        if config.own_head:
            self.lm_head = nn.Linear(config.width, vocabulary, bias=False)

    @classmethod
    def planned(cls, config: CheckpointConfig, vocabulary: int, dtype: torch.dtype) -> CausalLM:
        """A model whose weights have names and shapes and take no memory yet, nor do its rotary
        tables."""
        with torch.device("meta"):
            made = cls(replace(config, context=1), vocabulary).to(dtype)
        made.model.config = config
        return made

    def allocate(self, device: str | torch.device) -> CausalLM:
        """Give a planned model its memory. The weights hold anything until they are filled."""
        dtype = self.embed_tokens.weight.dtype
        self.to_empty(device=device)
        tables = rotary_tables(self.config)
        self.model.cos, self.model.sin = (table.to(device, dtype) for table in tables)
        return self

    @property
    def config(self) -> TransformerConfig:
        return self.model.config

    @property
    def embed_tokens(self) -> nn.Embedding:
        return self.model.embed_tokens

    @property
    def layers(self) -> nn.ModuleList:
        return self.model.layers

    @property
    def norm(self) -> RMSNorm:
        return self.model.norm

    def forward(self, tokens: Tensor, cache: Any = None, real: Tensor | None = None) -> Tensor:
        """Token ids (b, l) -> logits (b, l, vocabulary), as `Transformer.forward` says."""
        return self.unembed(self.hidden_states(tokens, cache, real))

    def hidden_states(
        self, tokens: Tensor, cache: Any = None, real: Tensor | None = None
    ) -> Tensor:
        """The residual stream after the last layer, normalised: (b, l, width)."""
        return self.model.hidden_states(tokens, cache, real)

    def new_cache(self, rows: int, length: int) -> Cache:
        """An empty cache of that many rows, with room for that many tokens each."""
        return self.model.new_cache(rows, length)

    def unembed(self, states: Tensor) -> Tensor:
        """States (..., width) -> logits (..., vocabulary)."""
        return self.lm_head(states) if hasattr(self, "lm_head") else self.model.unembed(states)
