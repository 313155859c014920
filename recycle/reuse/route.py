"""Routers: tokens (T, d_in) -> gates (T, N), one router for each layer. They know nothing of how
gates are applied.

Arrow (Ostapenko et al. 2024, arXiv 2405.11157): adapter i is stood for by the input direction that
it amplifies most, the top right singular vector v_i of B_i A_i; a token goes to the adapters whose
direction it has most of, whatever the sign.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lora import Adapter, product_core


def prototype(A: Tensor, B: Tensor) -> Tensor:
    """The unit top right singular vector of B A for A (r, d_in), B (d_out, r): (d_in,), in float64
    arithmetic, sign arbitrary."""
    _, core, Q_A = product_core(A, B)
    right = torch.linalg.svd(core).Vh[0]
    return (Q_A @ right).to(A.dtype)


@dataclass
class ArrowRouter:
    """gates = softmax over the top_k largest of |x . v_i| / temperature; the other gates are 0.

    ``seen``, where it is a list, collects the gates of every call, for looking at them.
    """

    prototypes: Tensor  # (N, d_in)
    temperature: float = 1.0
    top_k: int | None = None
    seen: list[Tensor] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        count = len(self.prototypes)
        if self.top_k is not None and not 1 <= self.top_k <= count:
            raise ValueError(
                f"top_k = {self.top_k}: the library has {count} adapters, choose from 1 to {count}"
            )
        if not self.temperature > 0:
            raise ValueError(f"temperature = {self.temperature}: must be above 0")

    def __call__(self, x: Tensor) -> Tensor:
        logits = (x @ self.prototypes.to(x.device, x.dtype).mT).abs() / self.temperature
        if self.top_k is not None and self.top_k < logits.shape[1]:
            kept = logits.topk(self.top_k, dim=1).indices
            logits = torch.full_like(logits, -torch.inf).scatter(1, kept, logits.gather(1, kept))
        gates = logits.softmax(1)
        if self.seen is not None:
            self.seen.append(gates)
        return gates


def arrow(
    adapters: Sequence[Adapter], temperature: float = 1.0, top_k: int | None = None
) -> dict[str, ArrowRouter]:
    """A router for every layer that the adapters address; they must all address the same layers."""
    if not adapters:
        raise ValueError("a router needs at least one adapter")
    if any(set(adapter.paths) != set(adapters[0].paths) for adapter in adapters):
        raise ValueError(
            "adapters that address different layers cannot be routed among: train them on the same patterns"
        )
    return {
        path: ArrowRouter(
            torch.stack([prototype(*adapter.factors[path]) for adapter in adapters]),
            temperature,
            top_k,
        )
        for path in adapters[0].paths
    }
