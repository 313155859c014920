"""How cost grows with rank, tokens, width, adapters and the size of the base: one sweep for each
axis, and all other sizes as in the standard case.

The sweep over the base's size takes a whole model: forward and backward of its loss over the linear
layers' own products, and what it costs to put an adapter on and take it off.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from bench import steps
from bench.layers import Draw, gated, one_adapter, together
from bench.protocol import Clock, Row, dtype_name, measure, race
from lora import Adapter, Mix, attach, base_hash, detach, extract
from models import Transformer, TransformerConfig, completion_loss

STANDARD = {
    "cpu": {"M": 2048, "width": 256, "r": 8, "N": 8, "K": 8},
    "cuda": {"M": 8192, "width": 2048, "r": 16, "N": 8, "K": 8},
}
SWEEPS: dict[str, tuple[int, ...]] = {
    "r": (4, 8, 16, 32, 64, 128),
    "M": (1, 16, 128, 512, 2048, 8192),
    "width": (64, 128, 256, 512, 1024),
    "N": (2, 4, 8, 16, 32),
    "K": (2, 4, 8, 16, 32),
    "base": (0, 1, 2, 3),  # of SIZES
}
TITLES = {
    "r": "rank r",
    "M": "tokens M",
    "width": "width k = n",
    "N": "N adapters, gated",
    "K": "K adapters, trained together",
    "base": "millions of weights in the base",
}
SIZES = ((2, 128), (4, 256), (8, 512), (12, 768))  # (layers, width) of whole models
ROWS, LENGTH = 4, 64
PRODUCTS = "products"  # the arm that the sweep over the base's size is measured against
GROUPS = {f"growth with {axis}": axis for axis in SWEEPS}  # groups of rows, by axis


def sweep(axis: str, value: int, dtype: torch.dtype, device: str, budget: float) -> list[Row]:
    """The rows of one point of one sweep."""
    if axis == "base":
        layers, width = SIZES[value]
        return whole_model(layers, width, device, budget)
    sizes = {**STANDARD[device], axis: value}
    M, width, r = sizes["M"], sizes["width"], sizes["r"]
    if axis == "N":
        case = gated(M, width, width, r, value, dtype, device)
    elif axis == "K":
        case = together(M, width, width, r, value, dtype, device)
    else:
        case = one_adapter(M, width, width, r, dtype, device)
    return measure(replace(case, group=f"growth with {axis}", name=str(value)), device, budget)


def whole_model(layers: int, width: int, device: str, budget: float) -> list[Row]:
    """Forward and backward of a model's loss with one adapter on all its linear layers, in fp32,
    over the time of the linear layers' products alone, y and dx."""
    heads = max(2, width // 64)
    config = TransformerConfig(width, layers, heads, heads, 2 * width, context=LENGTH)
    base = steps.base_model(config, device)
    adapter = steps.random_adapter(base, 1)
    tokens = steps.random_tokens(ROWS, LENGTH + 1).to(device)
    ours = steps.attached(base, {"a": adapter})
    steps.set_mode(ours, Mix({"a": 1.0}))
    shapes = [linear.weight.shape for linear in base.modules() if isinstance(linear, nn.Linear)]
    models = {"naive": steps.naive_model(base, adapter, stock=False), "ours": ours}
    losses = {name: partial(_loss, model, tokens) for name, model in models.items()}
    weights = sum(n * k for n, k in shapes)
    group, case = "growth with base", f"{weights / 1e6:.2g}"
    steps.agree(group, "naive", losses["naive"](), losses["ours"]())
    runs: dict[str, Callable[[], object]] = {PRODUCTS: _products(shapes, device), **losses}
    timings = race(runs, lambda: None, PRODUCTS, Clock(device), budget)
    beside = 1.5 * steps.RANK * sum(n + k for n, k in shapes)  # of 1 for each weight
    on_and_off = _on_and_off(base, adapter)
    return [
        {
            "group": group,
            "case": case,
            "layers": layers,
            "width": width,
            "tokens": ROWS * LENGTH,
            "dtype": dtype_name(torch.float32),
            "arm": arm,
            "ms": round(timing.seconds * 1e3, 3),
            "ratio": round(timing.ratio, 3),
            "spread": round(timing.spread, 3),
            "floor": 1.0 if arm == PRODUCTS else round(1 + beside / weights, 3),
            **(on_and_off if arm == "ours" else {}),
        }
        for arm, timing in timings.items()
    ]


def _loss(model: Transformer, tokens: Tensor) -> Tensor:
    """The loss of all tokens but the first, after its gradients were computed."""
    learned = torch.ones_like(tokens, dtype=torch.bool)
    model.zero_grad(set_to_none=True)
    loss = completion_loss(model, tokens, learned, 1)
    loss.sum().backward()
    return loss.detach()


def _products(shapes: Sequence[torch.Size], device: str) -> Callable[[], object]:
    """y = x W^T and dx = dy W of every linear layer, into memory that is there already."""
    draw, M = Draw(torch.float32, device), ROWS * LENGTH
    made: dict[torch.Size, tuple[Tensor, ...]] = {}
    for shape in dict.fromkeys(shapes):
        n, k = shape
        W, x, dy = draw(n, k), draw(M, k), draw(M, n)
        made[shape] = (x, W, torch.empty_like(dy), dy, torch.empty_like(x))

    def run() -> None:
        for shape in shapes:
            x, W, y, dy, dx = made[shape]
            torch.mm(x, W.T, out=y)
            torch.mm(dy, W, out=dx)

    return run


def _on_and_off(base: Transformer, adapter: Adapter) -> dict[str, float]:
    """The milliseconds of attach, extract and detach: medians of three. The adapter names its base,
    as one that was trained does."""
    adapter = Adapter(adapter.factors, adapter.alpha, base=base_hash(base))
    taken: dict[str, list[float]] = {"attach ms": [], "extract ms": [], "detach ms": []}
    calls = (
        lambda: attach(base, {"a": adapter}),
        lambda: extract(base, "a", adapter),
        lambda: detach(base),
    )
    for _ in range(3):
        for name, call in zip(taken, calls, strict=True):
            started = time.perf_counter()
            call()
            taken[name].append(1e3 * (time.perf_counter() - started))
    return {name: round(statistics.median(each), 3) for name, each in taken.items()}
