"""An adapter as a value: its factors, how they are scaled, where they came from, and arithmetic.

merged = sum(adapters) / len(adapters)      the mean of the updates, exactly
edited = model_edit - 0.5 * unwanted        delta_W of the result is this combination of deltas
U, S, V = adapter.svd(path)                 of s B A, which is never written out
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

FACTOR_TYPES = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
_LARGEST = torch.finfo(torch.float32).max


@dataclass(frozen=True, eq=False)
class Adapter:
    """Low-rank updates of named linear layers: ``delta_W = s B A`` with s = alpha / r (Hu et al.
    2021, arXiv 2106.09685), or s = alpha / sqrt(r) with ``rslora`` (Kalajdzievski 2023, arXiv
    2312.03732).

    ``factors`` maps a module path to (A (r, d_in), B (d_out, r)). The rank r may differ from path
    to path, and ``alphas`` overrides ``alpha`` for single paths. ``base`` is the hash of the model
    that the adapter was made for. ``origin`` is the adapter's record: task, seed and role, or the
    formula and weights of a combination.

    ``a + b``, ``a - b``, ``-a``, ``w * a``, ``a / w`` and ``sum(adapters)`` combine the updates
    exactly, as `combine` says. ``a == b`` compares contents: every factor bit for bit, and all the
    rest. Raises ValueError where there is no layer, where two factors do not fit or hold no numbers
    with a fraction, and for an alpha that is not finite.
    """

    factors: Mapping[str, tuple[Tensor, Tensor]]
    alpha: float
    rslora: bool = False
    alphas: Mapping[str, float] = field(default_factory=dict)
    base: str | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.factors:
            raise ValueError("an adapter needs at least one layer, this one has none")
        for path, (A, B) in self.factors.items():
            if A.dim() != 2 or B.dim() != 2 or A.shape[0] != B.shape[1] or A.shape[0] < 1:
                raise ValueError(
                    f"{path}: A {tuple(A.shape)} and B {tuple(B.shape)} do not fit "
                    "as (r, d_in) and (d_out, r)"
                )
            if not {A.dtype, B.dtype} <= FACTOR_TYPES:
                raise ValueError(
                    f"{path}: A is {A.dtype} and B {B.dtype}: factors are numbers of 16 to 64 bits "
                    "with a fraction, convert them"
                )
        for alpha in (self.alpha, *self.alphas.values()):
            if isinstance(alpha, bool) or not -_LARGEST <= alpha <= _LARGEST:
                raise ValueError(f"alpha = {str(alpha)[:40]}: it must be a finite number")

    @classmethod
    def unscaled(
        cls,
        factors: Mapping[str, tuple[Tensor, Tensor]],
        base: str | None = None,
        origin: Mapping[str, Any] | None = None,
    ) -> Adapter:
        """The adapter whose update is B A itself: alpha is the rank of each layer, so s = 1."""
        ranks = {path: A.shape[0] for path, (A, _) in factors.items()}
        alpha = next(iter(ranks.values()), 1)
        alphas = {path: rank for path, rank in ranks.items() if rank != alpha}
        return cls(factors, alpha, alphas=alphas, base=base, origin=dict(origin or {}))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Adapter):
            return NotImplemented
        return self is other or (
            self._plain_values() == other._plain_values()
            and self.factors.keys() == other.factors.keys()
            and all(
                _same_tensor(one, another)
                for path in self.paths
                for one, another in zip(self.factors[path], other.factors[path], strict=True)
            )
        )

    def __hash__(self) -> int:
        """Equal adapters have equal hashes: over the shapes and scalings, which are at hand."""
        shapes = frozenset((path, A.shape, B.shape) for path, (A, B) in self.factors.items())
        return hash((shapes, self.alpha, self.rslora, self.base))

    def _plain_values(self) -> tuple[Any, ...]:
        """Everything but the factors."""
        return self.alpha, self.rslora, dict(self.alphas), self.base, dict(self.origin)

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(self.factors)

    def rank(self, path: str) -> int:
        return self.factors[path][0].shape[0]

    def scale(self, path: str) -> float:
        rank = self.rank(path)
        return self.alphas.get(path, self.alpha) / (math.sqrt(rank) if self.rslora else rank)

    def delta(self, path: str) -> Tensor:
        """The update s B A of one layer, written out: (d_out, d_in)."""
        A, B = self.factors[path]
        common = torch.promote_types(A.dtype, B.dtype)
        return self.scale(path) * (B.to(common) @ A.to(common))

    def svd(self, path: str) -> tuple[Tensor, Tensor, Tensor]:
        """The thin singular value decomposition of one layer's update, without forming the update.

        Returns U (d_out, k), S (k,) and V (d_in, k) in float64 with s B A = U diag(S) V^T. k is the
        rank of the product: directions below the rounding of the stored factors are dropped, so
        the update of a fresh adapter has k = 0.
        """
        A, B = self.factors[path]
        Q_B, core, Q_A = product_core(A, B, self.scale(path))
        U, S, Vh = torch.linalg.svd(core, full_matrices=False)
        above = S > S[0] * max(len(Q_A), len(Q_B)) * torch.finfo(A.dtype).eps
        return Q_B @ U[:, above], S[above], Q_A @ Vh[above].mT

    def norm(self, path: str) -> float:
        """The Frobenius norm of one layer's update, from its r x r core in float64."""
        _, core, _ = product_core(*self.factors[path], self.scale(path))
        return float(core.norm())

    def __add__(self, other: Adapter) -> Adapter:
        return combine((self, other), (1.0, 1.0)) if isinstance(other, Adapter) else NotImplemented

    def __radd__(self, other: int) -> Adapter:
        """0 + a is a: sum() begins with 0."""
        return self if isinstance(other, int) and other == 0 else NotImplemented

    def __sub__(self, other: Adapter) -> Adapter:
        return combine((self, other), (1.0, -1.0)) if isinstance(other, Adapter) else NotImplemented

    def __neg__(self) -> Adapter:
        return combine((self,), (-1.0,))

    def __mul__(self, weight: float) -> Adapter:
        return combine((self,), (weight,)) if isinstance(weight, int | float) else NotImplemented

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> Adapter:
        if not isinstance(divisor, int | float):
            return NotImplemented
        _check_weight(divisor)
        return combine((self,), (1 / divisor,))


def combine(adapters: Sequence[Adapter], weights: Sequence[float]) -> Adapter:
    """delta_W = sum_i w_i s_i B_i A_i, exactly: A = [A_1; ..; A_N], B = [w_1 s_1 B_1 | .. | w_N s_N
    B_N], of rank sum r_i and scaling 1.

    Where that rank is above the layer's own, min(d_in, d_out), one factor is the product B A and
    the other the identity. Adapters may differ in rank, scaling and layers; a layer that only some
    of them address gets the sum over those. The result's ``origin`` holds the formula, the weights
    and the origins of the parts.

    Raises ValueError for no adapter, another number of weights, a weight that is not finite,
    different bases, or updates of different shapes; TypeError for a weight that is no number.
    """
    if not adapters:
        raise ValueError("a merge needs at least one adapter")
    if len(adapters) != len(weights):
        raise ValueError(
            f"{len(adapters)} adapters and {len(weights)} weights: give one weight for each"
        )
    for weight in weights:
        _check_weight(weight)
    base = common_base(adapters)
    factors = {}
    for path in dict.fromkeys(path for adapter in adapters for path in adapter.paths):
        parts = [
            (*adapter.factors[path], weight * adapter.scale(path))
            for adapter, weight in zip(adapters, weights, strict=True)
            if path in adapter.factors
        ]
        shapes = list(dict.fromkeys((len(B), A.shape[1]) for A, B, _ in parts))
        if len(shapes) > 1:
            raise ValueError(
                f"{path}: updates of shapes {shapes[0]} and {shapes[1]} cannot be added: "
                "they were made for different models"
            )
        factors[path] = _concatenated(parts)
    record = {
        "formula": "sum_i w_i s_i B_i A_i",
        "weights": list(weights),
        "of": [dict(adapter.origin) for adapter in adapters],
    }
    return Adapter.unscaled(factors, base, record)


def _concatenated(parts: Sequence[tuple[Tensor, Tensor, float]]) -> tuple[Tensor, Tensor]:
    """Factors of sum_i c_i B_i A_i for parts (A_i, B_i, c_i) of one layer.

    They have the type that holds all factors, and are rounded to it once: 16-bit factors are
    calculated with in float32.
    """
    types = [factor.dtype for A, B, _ in parts for factor in (A, B)]
    common = reduce(torch.promote_types, types)
    exact = torch.promote_types(common, torch.float32)
    A = torch.cat([A.to(exact) for A, _, _ in parts])
    B = torch.cat([c * B.to(exact) for _, B, c in parts], dim=1)
    d_out, d_in = len(B), A.shape[1]
    full_rank = min(d_out, d_in)
    if len(A) > full_rank:
        identity = torch.eye(full_rank, dtype=exact, device=A.device)
        A, B = (B @ A, identity) if d_out == full_rank else (identity, B @ A)
    return A.to(common), B.to(common)


def _check_weight(weight: float) -> None:
    if not isinstance(weight, int | float):
        raise TypeError(f"an adapter's weight is a number, not {weight!r}")
    if not math.isfinite(weight):
        raise ValueError(f"an adapter's weight is {weight}: it must be finite")


def common_base(adapters: Sequence[Adapter]) -> str | None:
    """The hash of the one base that the adapters were made for, None where no adapter names one.

    Raises ValueError where adapters name different bases.
    """
    bases = sorted({adapter.base for adapter in adapters if adapter.base})
    for one, other in combinations(bases, 2):
        # An old name, of one hash, says nothing about a new one: attach() asks the model itself.
        if ("-" in one) == ("-" in other) and not same_base(one, other):
            raise ValueError(f"adapters of different bases cannot be merged: {one}, {other}")
    return bases[-1] if bases else None


def same_base(one: str, other: str) -> bool:
    """Whether two names of `lora.base_hash` are of one base, be it in another precision: they share
    one of their hashes."""
    return not set(one.split("-")).isdisjoint(other.split("-"))


def _same_tensor(one: Tensor, other: Tensor) -> bool:
    same_kind = (one.dtype, one.device, one.shape) == (other.dtype, other.device, other.shape)
    return one is other or (same_kind and torch.equal(one, other))


def product_core(A: Tensor, B: Tensor, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """s B A = Q_B C Q_A^T for A (r, d_in) and B (d_out, r): a small core C between two matrices
    with orthonormal columns.

    With A^T = Q_A R_A and B = Q_B R_B the core is C = s R_B R_A^T, at most r x r. C has the norm
    and the singular values of s B A, and Q_B and Q_A carry the singular vectors of C to those of
    s B A. The arithmetic is in float64, because singular vectors are ill-conditioned where two
    singular values are close.

    Returns Q_B (d_out, min(r, d_out)), C, and Q_A (d_in, min(r, d_in)).
    """
    Q_A, R_A = torch.linalg.qr(A.double().mT)
    Q_B, R_B = torch.linalg.qr(B.double())
    return Q_B, scale * R_B @ R_A.mT, Q_A
