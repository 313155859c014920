"""A decoder-only transformer in one file: RMSNorm, rotary positions, grouped-query attention,
SwiGLU.

Parameters have the names that the Llama and Qwen2 families use inside ``model.``, such as
``layers.0.self_attn.q_proj`` (models/layout.py). Axes: b batch, l query positions, s key positions,
h heads, d head width. models/functions.py has the formulas between the linear layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.functions import attend, rms_norm, rotate, swiglu
from models.layout import WRITERS

LONGEST = 2**24  # tokens of a sequence: from there on fp32 cannot tell each position from the next


@dataclass(frozen=True)
class TransformerConfig:
    """Shape of a transformer.

    ``hidden`` is the SwiGLU width and ``context`` the longest sequence. ``init`` is the standard
    deviation of the first weights; a small model needs about 1 / sqrt(width) to look things up in
    its context (LOG.md). Raises ValueError for a shape that does not work out.
    """

    # What each value may be: a test, and the words that say what passes it.
    LEGAL: ClassVar[Mapping[str, tuple[Callable[[Any], bool], str]]] = {
        **dict.fromkeys(
            ("width", "heads", "kv_heads", "hidden"),
            (lambda n: 1 <= n <= 65_536, "a whole number from 1 to 65,536"),
        ),
        "layers": (lambda n: 1 <= n <= 1_000, "a whole number from 1 to 1,000"),
        "context": (lambda n: 1 <= n <= LONGEST, f"a whole number from 1 to {LONGEST:,}"),
        "rope_base": (lambda x: 1 <= x <= 1e12, "a number from 1 to 1e12"),
        "init": (lambda x: 0 < x <= 10, "the deviation of the first weights, above 0, at most 10"),
    }
    width: int = 128
    layers: int = 2
    heads: int = 4
    kv_heads: int = 4
    hidden: int = 256
    context: int = 128
    rope_base: float = 10_000.0
    init: float = 0.02

    def __post_init__(self) -> None:
        for name, (holds, words) in self.LEGAL.items():
            if not holds(value := getattr(self, name)):
                raise ValueError(f"{self.called(name)} = {value!r}: {words}")
        self.check_head_width()
        if self.heads % self.kv_heads:
            raise ValueError(
                f"model.heads = {self.heads} must be a multiple of model.kv_heads = {self.kv_heads}"
            )

    # What a checkpoint may have otherwise (models/causal.py). A study sets none of these.

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    @property
    def eps(self) -> float:
        """Added to the mean square in every RMSNorm."""
        return 1e-6

    @property
    def qkv_bias(self) -> bool:
        """Whether q_proj, k_proj and v_proj have a bias."""
        return False

    @property
    def qk_norm(self) -> bool:
        """Whether every head's queries and keys are normalised before they are rotated."""
        return False

    def called(self, name: str) -> str:
        """What a person who gives a value calls it."""
        return f"model.{name}"

    def check_head_width(self) -> None:
        if self.width % self.heads or self.head_width % 2:
            raise ValueError(
                f"model.width = {self.width} must split into {self.heads} heads of an even width"
            )

    def frequencies(self) -> Tensor:
        """The angle between two positions for each pair i of a head: base^(-2i/d), (d / 2,)."""
        # On the CPU even where a model is planned on no device: there, arange takes seconds.
        pairs = torch.arange(0, self.head_width, 2, dtype=torch.float32, device="cpu")
        return self.rope_base ** -(pairs / self.head_width)


class Cache:
    """Keys and values of the positions read so far: (layers, b, kv_heads, capacity, d) each."""

    def __init__(self, config: TransformerConfig, rows: int, capacity: int, like: Tensor):
        shape = (config.layers, rows, config.kv_heads, capacity, config.head_width)
        self.keys, self.values = like.new_zeros(shape), like.new_zeros(shape)
        self.length, self.context = 0, config.context

    @property
    def capacity(self) -> int:
        """How many tokens each row has room for."""
        return self.keys.shape[3]

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write this step's keys and values (b, h, l, d) after the stored ones and return all that
        are stored then."""
        stop = self.length + keys.shape[2]
        self.keys[layer, :, :, self.length : stop] = keys
        self.values[layer, :, :, self.length : stop] = values
        return self.keys[layer, :, :, :stop], self.values[layer, :, :, :stop]

    def keep(self, rows: Tensor) -> None:
        """Forget all rows but these indices, as sequences end."""
        self.keys = self.keys[:, rows]  # one after the other: no more than half is held twice
        self.values = self.values[:, rows]


class SteadyCache(Cache):
    """What another cache holds, for steps of one token that are all alike: the next place (1,) is a
    tensor, and every step attends to all places, those that are not written yet masked.

    So a step has the same shapes and addresses wherever it stands, and a device can record it."""

    def __init__(self, cache: Cache):
        self.keys, self.values, self.length = cache.keys, cache.values, cache.length
        self.place = torch.tensor([cache.length], device=cache.keys.device)

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        for stored, new in ((self.keys[layer], keys), (self.values[layer], values)):
            stored.index_copy_(2, self.place, new)
        return self.keys[layer], self.values[layer]

    def bias(self, real: Tensor | None, like: Tensor) -> Tensor:
        """As `attention_bias`, for the one token at the place: (1, s) or (b, 1, 1, s)."""
        seen = (torch.arange(self.capacity, device=like.device) <= self.place)[None]
        return bias_of(seen if real is None else seen & real[:, None, None], like)


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last axis."""

    def __init__(self, width: int, eps: float = 1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


def rotary_tables(config: TransformerConfig) -> tuple[Tensor, Tensor]:
    """cos and sin (context, d) of the angles position * frequency, the two halves of each pair side
    by side."""
    positions = torch.arange(config.context, dtype=torch.float32, device="cpu")
    angles = torch.outer(positions, config.frequencies())
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


class Attention(nn.Module):
    def __init__(self, config: TransformerConfig, layer: int):
        super().__init__()
        self.layer, self.head_width = layer, config.head_width
        q_width, kv_width = (n * config.head_width for n in (config.heads, config.kv_heads))
        self.q_proj = nn.Linear(config.width, q_width, bias=config.qkv_bias)
        self.k_proj = nn.Linear(config.width, kv_width, bias=config.qkv_bias)
        self.v_proj = nn.Linear(config.width, kv_width, bias=config.qkv_bias)
        self.o_proj = nn.Linear(q_width, config.width, bias=False)
        normed = config.qk_norm
        self.q_norm = RMSNorm(config.head_width, config.eps) if normed else nn.Identity()
        self.k_norm = RMSNorm(config.head_width, config.eps) if normed else nn.Identity()

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, bias: Tensor, cache: Cache | None
    ) -> Tensor:
        # Positions before heads where they are normalised, heads before positions from there on.
        q, k, v = (
            projected.unflatten(-1, (-1, self.head_width))
            for projected in (self.q_proj(x), self.k_proj(x), self.v_proj(x))
        )
        q, k = self.q_norm(q).transpose(1, 2), self.k_norm(k).transpose(1, 2)
        q, k, v = rotate(q, cos, sin), rotate(k, cos, sin), v.transpose(1, 2)
        if cache is not None:
            k, v = cache.extend(self.layer, k, v)
        return self.o_proj(attend(q, k, v, bias).transpose(1, 2).flatten(-2))


class MLP(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.gate_proj = nn.Linear(config.width, config.hidden, bias=False)
        self.up_proj = nn.Linear(config.width, config.hidden, bias=False)
        self.down_proj = nn.Linear(config.hidden, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(swiglu(self.gate_proj(x), self.up_proj(x)))


class Block(nn.Module):
    def __init__(self, config: TransformerConfig, layer: int):
        super().__init__()
        self.input_layernorm = RMSNorm(config.width, config.eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = RMSNorm(config.width, config.eps)
        self.mlp = MLP(config)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, bias: Tensor, cache: Cache | None
    ) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, bias, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class Transformer(nn.Module):
    """Token ids (b, l) -> logits (b, l, vocabulary). Input and output embeddings are tied.

    Weights are drawn from ``generator``: they are normal with standard deviation ``init``. Matrices
    that write into the residual stream (o_proj, down_proj) get init / sqrt(2 layers), so that the
    stream's variance does not grow with depth.
    """

    cos: Tensor
    sin: Tensor

    def __init__(
        self, config: TransformerConfig, vocabulary: int, generator: torch.Generator | None = None
    ):
        super().__init__()
        self.config = config
        rows = torch.empty(vocabulary, config.width)
        self.embed_tokens = nn.Embedding.from_pretrained(rows, freeze=False)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.norm = RMSNorm(config.width, config.eps)
        cos, sin = rotary_tables(config)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2 and not parameter.is_meta:
                writes = name.endswith(tuple(f"{writer}.weight" for writer in WRITERS))
                deviation = config.init / math.sqrt(2 * config.layers) if writes else config.init
                nn.init.normal_(parameter, std=deviation, generator=generator)

    def forward(
        self, tokens: Tensor, cache: Cache | None = None, real: Tensor | None = None
    ) -> Tensor:
        """Token ids (b, l) -> logits (b, l, vocabulary).

        ``real`` (b, s) is False at padding keys; its columns are counted from the cache's start.
        Pad on the left: rotary scores depend on distances alone, so left padding shifts nothing.
        Raises ValueError for more tokens than ``context``.
        """
        return self.unembed(self.hidden_states(tokens, cache, real))

    def hidden_states(
        self, tokens: Tensor, cache: Cache | None = None, real: Tensor | None = None
    ) -> Tensor:
        """The residual stream after the last layer, normalised: (b, l, width)."""
        start = 0 if cache is None else cache.length
        stop = start + tokens.shape[1]
        if stop > self.config.context:
            raise ValueError(
                f"{stop} tokens are longer than model.context = {self.config.context}: raise it"
            )
        x = self.embed_tokens(tokens)
        if isinstance(cache, SteadyCache):
            cos, sin, bias = self.cos[cache.place], self.sin[cache.place], cache.bias(real, x)
        else:
            cos, sin = self.cos[start:stop], self.sin[start:stop]
            bias = attention_bias(start, stop, real, x)
        for block in self.layers:
            x = block(x, cos, sin, bias, cache)
        if isinstance(cache, SteadyCache):
            cache.place += 1
        elif cache is not None:
            cache.length = stop
        return self.norm(x)

    def new_cache(self, rows: int, length: int) -> Cache:
        """An empty cache of that many rows, with room for that many tokens each."""
        return Cache(self.config, rows, length, like=self.cos)  # weights may be spread

    def unembed(self, states: Tensor) -> Tensor:
        """States (..., width) -> logits (..., vocabulary)."""
        return F.linear(states, self.embed_tokens.weight)


def attention_bias(start: int, stop: int, real: Tensor | None, like: Tensor) -> Tensor:
    """0 where position start + i may look at position j, and the dtype's lowest number elsewhere:
    (l, s), or (b, 1, l, s) where ``real`` (b, s) is given."""
    causal = torch.ones(stop - start, stop, dtype=torch.bool, device=like.device).tril(start)
    return bias_of(causal if real is None else causal & real[:, None, None, :stop], like)


def bias_of(seen: Tensor, like: Tensor) -> Tensor:
    """0 where ``seen`` is True and the lowest number of ``like``'s dtype elsewhere."""
    # A finite floor, not -inf: a row of padding sees nothing, and its softmax must not be NaN.
    return torch.zeros_like(seen, dtype=like.dtype).masked_fill_(~seen, torch.finfo(like.dtype).min)
