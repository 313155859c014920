"""Routers: tokens (T, d_in) -> gates (T, N), one router for each layer.

A router does not know how its gates are applied. Arrow (Ostapenko et al. 2024, arXiv 2405.11157)
represents adapter i by the input direction that the adapter amplifies most, the top right singular
vector v_i of B_i A_i. A token goes to the adapters with the largest |x . v_i|.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from lora import Adapter, product_core

_COLD = 1e-3  # temperatures under which logits of usual size are shifted before the division
_COLDEST = torch.finfo(torch.float32).tiny  # what is below divides as this: a choice


def prototype(A: Tensor, B: Tensor) -> Tensor:
    """The unit top right singular vector of B A, (d_in,), for A (r, d_in) and B (d_out, r).

    It is calculated in float64 and returned in A's type. Its sign is arbitrary.
    """
    _, core, Q_A = product_core(A, B)
    right = torch.linalg.svd(core).Vh[0]
    return (Q_A @ right).to(A.dtype)


class Router(Protocol):
    """One layer's router: tokens (T, d_in) -> gates (T, N). Tokens of padding get gates too.

    Where ``seen`` is a list, the router appends the gates of every call to it."""

    seen: list[Tensor] | None

    def __call__(self, x: Tensor, /) -> Tensor: ...


def check_scoring(count: int, temperature: float, top_k: int | None) -> None:
    """Raises ValueError for a top_k outside 1 to ``count``, the number of adapters, and for a
    temperature that is not finite and above 0."""
    if top_k is not None and not 1 <= top_k <= count:
        raise ValueError(
            f"top_k = {top_k}: the library has {count} adapters, choose from 1 to {count}"
        )
    if not 0 < temperature < torch.inf:
        raise ValueError(f"temperature = {temperature}: must be finite and above 0")


class ScoreRouter:
    """gates = softmax over the top_k largest scores / temperature; the other gates are 0.

    A router of this kind has the fields below and says what its ``scores`` are. Tokens of 16 bits
    are scored in float32; their gates have their type. One expert alone (top_k = 1) has the gate 1.
    """

    temperature: float
    top_k: int | None
    seen: list[Tensor] | None

    def scores(self, x: Tensor) -> Tensor:
        """Tokens (T, d_in) in float32 or wider -> (T, N); -inf for an adapter that does not address
        the layer."""
        raise NotImplementedError

    def check(self, count: int) -> None:
        """Raises ValueError as `check_scoring` does."""
        check_scoring(count, self.temperature, self.top_k)

    def __call__(self, x: Tensor) -> Tensor:
        logits = self.scores(x.to(torch.promote_types(x.dtype, torch.float32)))
        if self.top_k is not None and self.top_k < logits.shape[1]:
            largest = logits.topk(self.top_k, dim=1)
            others = torch.full_like(logits, -torch.inf)
            logits = others.scatter(1, largest.indices, largest.values)
        if self.temperature < _COLD:  # quotients could overflow; softmax is blind to a shift
            logits = logits - logits.amax(1, keepdim=True)
        gates = (logits / max(self.temperature, _COLDEST)).softmax(1).to(x.dtype)
        if self.seen is not None:
            self.seen.append(gates)
        return gates


@dataclass
class ArrowRouter(ScoreRouter):
    """A `ScoreRouter` by |x . v_i|. Only the adapters that address the layer compete for its
    tokens; a lone one has the gate 1. Raises ValueError as `check` does."""

    prototypes: Tensor  # (N, d_in); all 0 for an adapter that does not address the layer
    temperature: float = 1.0
    top_k: int | None = None
    seen: list[Tensor] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.check(len(self.prototypes))

    def scores(self, x: Tensor) -> Tensor:
        logits = (x @ self.prototypes.to(x.device, x.dtype).mT).abs()
        absent = ~self.prototypes.any(1)
        if bool(absent.any()):
            logits = logits.masked_fill(absent.to(x.device), -torch.inf)
        return logits


def arrow(
    adapters: Sequence[Adapter], temperature: float = 1.0, top_k: int | None = None
) -> dict[str, ArrowRouter]:
    """{layer path: router} for every layer that an adapter addresses.

    Raises ValueError for no adapters.
    """
    if not adapters:
        raise ValueError("a router needs at least one adapter")
    return {
        path: ArrowRouter(_prototypes(path, adapters), temperature, top_k)
        for path in dict.fromkeys(path for adapter in adapters for path in adapter.paths)
    }


def _prototypes(path: str, adapters: Sequence[Adapter]) -> Tensor:
    """(N, d_in): a prototype of each adapter in one layer, 0 where the adapter lacks the layer."""
    having = [adapter.factors.get(path) for adapter in adapters]
    width = next(factors[0].shape[1] for factors in having if factors)
    own = [prototype(*factors) if factors else torch.zeros(width) for factors in having]
    return torch.stack(own)


def on_all_layers(adapters: Mapping[str, Adapter]) -> dict[str, Adapter]:
    """Adapters that all address every layer that one of them addresses, with updates of 0 where
    they had none: what gates per token need. The same objects where nothing is missing."""
    paths = dict.fromkeys(path for adapter in adapters.values() for path in adapter.paths)
    return {
        name: adapter
        if set(adapter.paths) == set(paths)
        else replace(adapter, factors={p: _factors(p, adapter, adapters.values()) for p in paths})
        for name, adapter in adapters.items()
    }


def _factors(path: str, adapter: Adapter, others: Iterable[Adapter]) -> tuple[Tensor, Tensor]:
    """The adapter's factors of a layer, or zeros of another's shape at the adapter's own rank."""
    if path in adapter.factors:
        return adapter.factors[path]
    A, B = next(other.factors[path] for other in others if path in other.factors)
    rank = adapter.rank(adapter.paths[0])
    return A.new_zeros(rank, A.shape[1]), B.new_zeros(B.shape[0], rank)
