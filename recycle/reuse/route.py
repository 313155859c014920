"""Routers: tokens (T, d_in) -> gates (T, N), one router for each layer.

A router does not know how its gates are applied. Arrow (Ostapenko et al. 2024, arXiv 2405.11157)
represents adapter i by the input direction that the adapter amplifies most, the top right singular
vector v_i of B_i A_i. A token goes to the adapters with the largest |x . v_i|.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

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

    Where ``seen`` is a list, the router appends the gates of every call to it. What else `Gated`
    says of routers, ``constant`` and ``joined``, a router may have or lack."""

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

    @property
    def count(self) -> int:
        """N."""
        raise NotImplementedError

    @property
    def read_by(self) -> Tensor | None:
        """Rows v_j (S, d_in), where the scores depend on the products x . v_j alone, else None."""
        return None

    def scored(self, products: Tensor) -> Tensor:
        """Products x . v_j (T, S) -> scores (T, N)."""
        raise NotImplementedError

    def scores(self, x: Tensor) -> Tensor:
        """Tokens (T, d_in) in float32 or wider -> (T, N); -inf for an adapter that does not address
        the layer."""
        assert self.read_by is not None
        return self.scored(x @ self.read_by.to(x.device, x.dtype).mT)

    def stacked(self, others: Sequence[Any], like: Tensor) -> ScoreRouter:
        """A router whose scores are this one's and those of others of its class, side by side, on
        the device and in the type of ``like``. A class whose scores of an adapter depend on nothing
        else of its router has this, and each subclass has its own or none."""
        raise NotImplementedError

    def check(self) -> None:
        """Raises ValueError as `check_scoring` does."""
        check_scoring(self.count, self.temperature, self.top_k)

    @property
    def constant(self) -> Tensor | None:
        """The gates (N,) where they are the same for every token: those of a lone adapter."""
        return torch.ones(1) if self.count == 1 else None

    def joined(self, others: Sequence[Any], like: Tensor) -> JoinedScores | None:
        """This router and those of other layers as one, for tokens like these; None for routers of
        several kinds."""
        routers = (self, *others)
        if "stacked" not in type(self).__dict__ or any(self._differs(other) for other in others):
            return None
        return JoinedScores(routers, self.stacked(others, _wide(like[:0])))

    def _differs(self, other: Any) -> bool:
        if type(other) is not type(self):
            return True
        mine, theirs = ((r.count, r.temperature, r.top_k) for r in (self, other))
        return mine != theirs

    def gates(self, scores: Tensor) -> Tensor:
        """Scores (.., N) -> gates (.., N)."""
        if self.top_k is not None and self.top_k < scores.shape[-1]:
            largest = scores.topk(self.top_k, dim=-1)
            others = torch.full_like(scores, -torch.inf)
            scores = others.scatter(-1, largest.indices, largest.values)
        if self.temperature < _COLD:  # quotients could overflow; softmax is blind to a shift
            scores = scores - scores.amax(-1, keepdim=True)
        if self.temperature != 1:
            scores = scores / max(self.temperature, _COLDEST)
        return scores.softmax(-1)

    def __call__(self, x: Tensor) -> Tensor:
        gates = self.gates(self.scores(_wide(x))).to(x.dtype)
        if self.seen is not None:
            self.seen.append(gates)
        return gates


def _wide(x: Tensor) -> Tensor:
    """x in float32 or wider."""
    return x.float() if x.element_size() < 4 else x


@dataclass
class JoinedScores:
    """The routers of L layers that read one input: tokens (T, d_in) -> gates (T, L, N)."""

    routers: Sequence[ScoreRouter]
    stacked: ScoreRouter

    @property
    def rows(self) -> Tensor | None:
        return self.stacked.read_by

    def of_products(self, products: Tensor) -> Tensor:
        """The gates for products of tokens with ``rows``, (T, S)."""
        return self._gates(self.stacked.scored(products), products.dtype)

    def __call__(self, x: Tensor) -> Tensor:
        return self._gates(self.stacked.scores(_wide(x)), x.dtype)

    def _gates(self, scores: Tensor, dtype: torch.dtype) -> Tensor:
        layers, count = len(self.routers), self.routers[0].count
        gates = self.stacked.gates(scores.view(-1, layers, count)).to(dtype)
        for layer, router in enumerate(self.routers):
            if router.seen is not None:
                router.seen.append(gates[:, layer])
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
        self.check()
        absent = ~self.prototypes.any(1)
        self._absent = absent if bool(absent.any()) else None

    @property
    def count(self) -> int:
        return len(self.prototypes)

    @property
    def read_by(self) -> Tensor:
        return self.prototypes

    def scored(self, products: Tensor) -> Tensor:
        logits = products.abs()
        if self._absent is not None:
            logits = logits.masked_fill(self._absent.to(products.device), -torch.inf)
        return logits

    def stacked(self, others: Sequence[ArrowRouter], like: Tensor) -> ArrowRouter:
        prototypes = torch.cat([router.prototypes for router in (self, *others)])
        return replace(self, prototypes=prototypes.to(like), seen=None)


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
