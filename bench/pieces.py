"""The pieces of a block between its linear layers, stock and ours: RMSNorm, rotary positions,
SwiGLU and grouped-query attention, forward and backward.

`stock` puts stock pieces into models.transformer for a while, so that a whole step can be timed
with any of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.protocol import Arm, Clock, Row, clear, race, saved_bytes
from bench.steps import agree, result
from models import TransformerConfig
from models.functions import attend, rms_norm, rotate, stock_rotate, stock_swiglu, swiglu
from models.transformer import attention_bias, rotary_tables

Formula = Callable[..., Tensor]
EPS = 1e-5


def stock_rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return F.rms_norm(x, weight.shape, weight, eps)


def stock_attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Two batched products around a softmax, with keys and values copied for every query head."""
    b, h, length, d = q.shape
    groups = h // k.shape[1]
    k, v = (t.repeat_interleave(groups, dim=1).flatten(0, 1) for t in (k, v))
    scores = torch.baddbmm(bias, q.reshape(b * h, length, d), k.mT, alpha=1 / math.sqrt(d))
    return torch.bmm(scores.softmax(-1), v).view(b, h, length, d)


OURS: dict[str, Formula] = {
    "rms_norm": rms_norm,
    "rotate": rotate,
    "swiglu": swiglu,
    "attend": attend,
}
STOCK: dict[str, Formula] = {
    "rms_norm": stock_rms_norm,
    "rotate": stock_rotate,
    "swiglu": stock_swiglu,
    "attend": stock_attend,
}
TITLES = {
    "rms_norm": "RMSNorm",
    "rotate": "rotary positions",
    "swiglu": "SwiGLU",
    "attend": "attention",
}


def stock(names: Iterable[str]) -> AbstractContextManager[Any]:
    """Inside the block the transformer computes these pieces by the stock formulas."""
    formulas: dict[str, Any] = {name: STOCK[name] for name in names}
    return patch.multiple("models.transformer", **formulas)


def piece(
    name: str, config: TransformerConfig, rows: int, length: int, device: str, budget: float
) -> list[Row]:
    """Stock and ours, forward and backward, on what the projections of that many tokens give.
    Attention is measured with its rotary positions, for they settle in which order q and k lie."""
    generator = torch.Generator().manual_seed(0)
    d, h, n = config.head_width, config.heads, config.kv_heads

    def drawn(*shape: int) -> Tensor:
        return torch.randn(rows, length, *shape, generator=generator).to(device)

    inputs = {
        "rms_norm": lambda: [drawn(config.width)],
        "rotate": lambda: [drawn(h, d)],
        "swiglu": lambda: [drawn(config.hidden), drawn(config.hidden)],
        "attend": lambda: [drawn(h, d), drawn(n, d), drawn(n, d)],
    }[name]()
    weight = 1 + 0.1 * torch.randn(config.width, generator=generator).to(device)
    cos, sin = (table[:length].to(device) for table in rotary_tables(config))
    bias = attention_bias(0, length, None, inputs[0])

    def computed(formulas: dict[str, Formula], *leaves: Tensor) -> Tensor:
        """From the projections' layout to the next product's, as a block goes."""
        if name == "rms_norm":
            return formulas[name](*leaves, weight, EPS)
        if name == "swiglu":
            return formulas[name](*leaves)
        q, *others = (leaf.transpose(1, 2) for leaf in leaves)
        q = formulas["rotate"](q, cos, sin)
        if name == "rotate":
            return q.reshape(rows * h, length, d)
        k, v = others
        y = formulas["attend"](q, formulas["rotate"](k, cos, sin), v, bias)
        return y.transpose(1, 2).flatten(-2)

    arms: dict[str, Arm] = {}
    values: dict[str, Tensor] = {}
    for arm, formulas in {"stock": STOCK, "ours": OURS, "ours again": OURS}.items():
        leaves = [t.clone().requires_grad_() for t in inputs]
        arms[arm] = Arm(_forward_backward(partial(computed, formulas, *leaves)), {"x": leaves})
        y = arms[arm].step().detach()
        gradients = [leaf.grad for leaf in leaves if leaf.grad is not None]
        values[arm] = torch.cat([t.flatten() for t in (y, *gradients)])
        clear(arms[arm])
    for arm, value in values.items():
        agree(TITLES[name], arm, value, values["ours"])
    kept = {arm: saved_bytes(a, [weight, bias]) for arm, a in arms.items()}

    def clear_all() -> None:
        for a in arms.values():
            clear(a)

    steps = {arm: a.step for arm, a in arms.items()}
    timings = race(steps, clear_all, "ours", Clock(device), budget)
    found = result(TITLES[name], f"{rows} x {length}", timings, rows * length)
    return [row | {"saved MiB": round(kept[row["arm"]] / 2**20, 3)} for row in found]


def _forward_backward(forward: Callable[[], Tensor]) -> Callable[[], Tensor]:
    with torch.no_grad():
        y = forward()
    upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y)

    def step() -> Tensor:
        y = forward()
        y.backward(upstream)
        return y

    return step
