"""Routers: tokens (T, d_in) -> gates (T, N), one router for each layer.

A router does not know how its gates are applied. Arrow (Ostapenko et al. 2024, arXiv 2405.11157)
represents adapter i by the input direction that the adapter amplifies most, the top right singular
vector v_i of B_i A_i. A token goes to the adapters with the largest |x . v_i|.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lora import Adapter, product_core


def prototype(A: Tensor, B: Tensor) -> Tensor:
    """The unit top right singular vector of B A, (d_in,), for A (r, d_in) and B (d_out, r).

    It is calculated in float64 and returned in A's type. Its sign is arbitrary.
    """
    _, core, Q_A = product_core(A, B)
    right = torch.linalg.svd(core).Vh[0]
    return (Q_A @ right).to(A.dtype)


@dataclass
class ArrowRouter:
    """gates = softmax over the top_k largest of |x . v_i| / temperature; the other gates are 0.

    Where ``seen`` is a list, the router appends the gates of every call to it. Raises ValueError
    for a top_k outside 1 to N and for a temperature that is not above 0.
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
            largest = logits.topk(self.top_k, dim=1)
            others = torch.full_like(logits, -torch.inf)
            logits = others.scatter(1, largest.indices, largest.values)
        gates = logits.softmax(1)
        if self.seen is not None:
            self.seen.append(gates)
        return gates


def arrow(
    adapters: Sequence[Adapter], temperature: float = 1.0, top_k: int | None = None
) -> dict[str, ArrowRouter]:
    """{layer path: router} for every layer that the adapters address.

    Raises ValueError for no adapters and for adapters that address different layers.
    """
    if not adapters:
        raise ValueError("a router needs at least one adapter")
    if any(set(adapter.paths) != set(adapters[0].paths) for adapter in adapters):
        raise ValueError(
            "adapters that address different layers cannot be routed among: "
            "train them on the same patterns"
        )
    routers = {}
    for path in adapters[0].paths:
        prototypes = torch.stack([prototype(*adapter.factors[path]) for adapter in adapters])
        routers[path] = ArrowRouter(prototypes, temperature, top_k)
    return routers
