"""Routers beside Arrow: spectr, hard, constant gates, and gates by chance.

All are `Router`s of one layer, tokens (T, d_in) -> gates (T, N), and are looked at in the same way.
A router that is learned later is a `ScoreRouter` too: it says its scores and keeps the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from lora import Adapter
from recycle.reuse.core import checked
from recycle.reuse.route import ScoreRouter


@dataclass
class SpectrRouter(ScoreRouter):
    """A `ScoreRouter` by ||dW_i x||, the length of what expert i would add to the layer's output.

    With dW_i = U S V^T the score is ||S V^T x||, so a token costs as much as the x A_i^T of all
    experts. A larger adapter scores higher: the score is not normalised. Raises ValueError as
    `check` does.
    """

    rows: Tensor  # (R, d_in): the S_i V_i^T one above the other
    ranks: Sequence[int]  # how many of the rows are expert i's; 0 where dW_i is 0
    absent: Tensor  # (N,) bool: the experts that do not address the layer
    temperature: float = 1.0
    top_k: int | None = None
    seen: list[Tensor] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.check()
        owners = [i for i, rank in enumerate(self.ranks) for _ in range(rank)]
        self._lacking = bool(self.absent.any())  # a question to the device: not at every token
        self._owner = torch.tensor(owners, dtype=torch.long, device=self.rows.device)

    @property
    def count(self) -> int:
        return len(self.ranks)

    @property
    def read_by(self) -> Tensor:
        return self.rows

    def scored(self, products: Tensor) -> Tensor:
        none = products.new_zeros(len(products), len(self.ranks))
        scores = none.index_add(1, self._owner.to(products.device), products.square()).sqrt()
        if self._lacking:
            scores = scores.masked_fill(self.absent.to(products.device), -torch.inf)
        return scores

    def stacked(self, others: Sequence[SpectrRouter], like: Tensor) -> SpectrRouter:
        routers = (self, *others)
        return replace(
            self,
            rows=torch.cat([router.rows for router in routers]).to(like),
            ranks=[rank for router in routers for rank in router.ranks],
            absent=torch.cat([router.absent for router in routers]).to(like.device),
            seen=None,
        )


def spectr(
    adapters: Sequence[Adapter], temperature: float = 1.0, top_k: int | None = None
) -> dict[str, SpectrRouter]:
    """{layer path: router} for every layer that an adapter addresses.

    Raises ValueError for no adapters and for factors that hold NaN.
    """
    checked(adapters)
    routers = {}
    for path in dict.fromkeys(path for adapter in adapters for path in adapter.paths):
        width = next(a.factors[path][0].shape[1] for a in adapters if path in a.factors)
        rows = [_rows(adapter, path, width) for adapter in adapters]
        absent = torch.tensor([path not in adapter.factors for adapter in adapters])
        ranks = [len(own) for own in rows]
        routers[path] = SpectrRouter(torch.cat(rows), ranks, absent, temperature, top_k)
    return routers


def _rows(adapter: Adapter, path: str, width: int) -> Tensor:
    if path not in adapter.factors:
        return torch.zeros(0, width)
    _, S, V = adapter.svd(path)
    exact = torch.promote_types(adapter.factors[path][0].dtype, torch.float32)
    return (S[:, None] * V.mT).to(exact)


@dataclass
class Constant:
    """The same gates (N,) for every token."""

    gates: Tensor
    seen: list[Tensor] | None = field(default=None, repr=False)

    @property
    def constant(self) -> Tensor:
        return self.gates

    def __call__(self, x: Tensor) -> Tensor:
        gates = self.gates.to(x).expand(len(x), -1)
        if self.seen is not None:
            self.seen.append(gates)
        return gates


@dataclass
class ByChance:
    """One of ``count`` experts for each token, drawn afresh in every call."""

    count: int
    generator: torch.Generator
    seen: list[Tensor] | None = field(default=None, repr=False)

    def __call__(self, x: Tensor) -> Tensor:
        chosen = torch.randint(self.count, (len(x),), generator=self.generator).to(x.device)
        gates = torch.nn.functional.one_hot(chosen, self.count).to(x.dtype)
        if self.seen is not None:
            self.seen.append(gates)
        return gates
