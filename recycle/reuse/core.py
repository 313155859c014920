"""The updates of one layer, as full matrices or in the small space that they span.

N updates dW_i = s_i B_i A_i of rank r_i live in a space of at most R x R numbers, R = sum_i r_i:

    dW_i = U M_i V^T,   U = orth [s_1 B_1 | .. | s_N B_N],   V = orth [A_1; ..; A_N]^T

Whatever is linear in the dW_i, and whatever only asks for singular values and vectors, gives the
same result on the M_i as on the dW_i, in a fraction of the time (Core Space, Panariello et al.
2025, arXiv 2509.17786, section 4). An elementwise rule does not: it gives one result on the
matrices and another one in the core, whose axes are the left singular vectors of [s_i B_i] and of
[A_i]^T, as in the paper's code. Here the scalings are folded into the B_i.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from lora import Adapter, common_base

Factors = tuple[Tensor, Tensor]  # A (r, d_in) and B (d_out, r), of scaling 1


@dataclass(frozen=True)
class Core:
    """dW_i = U M_i V^T in float64: U (d_out, p) and V (d_in, q) have orthonormal columns, M is
    (N, p, q), and ``energies`` (p,) are the singular values of [s_1 B_1 | .. | s_N B_N]."""

    U: Tensor
    M: Tensor
    V: Tensor
    energies: Tensor

    def factors(self, M: Tensor) -> Factors:
        """U M V^T for M (p, q), at rank min(p, q)."""
        if M.shape[0] <= M.shape[1]:
            return M @ self.V.mT, self.U
        return self.V.mT, self.U @ M


@dataclass(frozen=True)
class Layer:
    """N updates of one layer. An adapter that does not address the layer has the rank 0 there."""

    path: str
    A: Sequence[Tensor]  # (r_i, d_in)
    B: Sequence[Tensor]  # (d_out, r_i)
    scales: Sequence[float]

    @property
    def ranks(self) -> list[int]:
        return [len(A) for A in self.A]

    @property
    def dtype(self) -> torch.dtype:
        """The smallest type that holds all factors."""
        return reduce(torch.promote_types, [factor.dtype for factor in (*self.A, *self.B)])

    @property
    def exact(self) -> torch.dtype:
        """The type to calculate in: float32 or wider."""
        return torch.promote_types(self.dtype, torch.float32)

    @property
    def rounding(self) -> float:
        """Singular values below this share of the largest one are rounding of the factors."""
        return max(len(self.B[0]), self.A[0].shape[1]) * torch.finfo(self.dtype).eps

    def matrices(self) -> Tensor:
        """All dW_i, written out: (N, d_out, d_in), in float32 or wider."""
        parts = zip(self.A, self.B, self.scales, strict=True)
        return torch.stack([s * (B.to(self.exact) @ A.to(self.exact)) for A, B, s in parts])

    def core(self) -> Core:
        scaled = [s * B.double() for B, s in zip(self.B, self.scales, strict=True)]
        U, energies = _span(torch.cat(scaled, dim=1))
        V, _ = _span(torch.cat([A.double() for A in self.A]).mT)
        pairs = zip(scaled, self.A, strict=True)
        return Core(U, torch.stack([(U.mT @ B) @ (A.double() @ V) for B, A in pairs]), V, energies)


def _span(columns: Tensor) -> tuple[Tensor, Tensor]:
    """The left singular vectors of a matrix (d, k) that is not 0 along them: (d, p), and (p,)."""
    Q, R = torch.linalg.qr(columns)
    left, values, _ = torch.linalg.svd(R, full_matrices=False)
    above = values > values[:1] * max(columns.shape) * torch.finfo(values.dtype).eps
    return Q @ left[:, above], values[above]


def written_out(dW: Tensor) -> Factors:
    """A full matrix (d_out, d_in) as an adapter, exactly: one factor is the matrix, and the other
    is the identity of its own rank, min(d_out, d_in)."""
    identity = torch.eye(min(dW.shape), dtype=dW.dtype, device=dW.device)
    return (dW, identity) if dW.shape[0] == len(identity) else (identity, dW)


def at_norm(direction: Tensor, updates: Tensor, rounding: float) -> Tensor:
    """``direction`` at the mean Frobenius norm of ``updates`` (N, p, q).

    A direction below ``rounding`` times the updates' norms has no length to rescale: it becomes 0.
    """
    size, norms = direction.norm(), updates.flatten(1).norm(dim=1)
    if not size > rounding * norms.sum():
        return torch.zeros_like(direction)
    return direction * (norms.mean() / size)


def layers(adapters: Sequence[Adapter]) -> Iterator[Layer]:
    """The layers that any of the adapters addresses, one after the other. Raises ValueError as
    `checked` does."""
    checked(adapters)
    for path in dict.fromkeys(path for adapter in adapters for path in adapter.paths):
        first_A, first_B = next(a.factors[path] for a in adapters if path in a.factors)
        absent = first_A[:0], first_B[:, :0]
        pairs = [adapter.factors.get(path, absent) for adapter in adapters]
        scales = [a.scale(path) if path in a.factors else 1.0 for a in adapters]
        yield Layer(path, [A for A, _ in pairs], [B for _, B in pairs], scales)


def checked(adapters: Sequence[Adapter]) -> Sequence[Adapter]:
    """The adapters. Raises ValueError for none, for different bases, for updates of one layer that
    have different shapes, and for factors that hold NaN or infinity."""
    if not adapters:
        raise ValueError("a merge needs at least one adapter")
    common_base(adapters)
    shapes: dict[str, tuple[int, int]] = {}
    for number, adapter in enumerate(adapters, 1):
        for path, (A, B) in adapter.factors.items():
            shape = (len(B), A.shape[1])
            if shapes.setdefault(path, shape) != shape:
                raise ValueError(
                    f"{path}: updates of shapes {shapes[path]} and {shape} cannot be merged: "
                    "they were made for different models"
                )
            if not bool(A.isfinite().all() and B.isfinite().all()):
                raise ValueError(
                    f"{path}: adapter {number} of {len(adapters)} holds NaN or infinity: its "
                    "training diverged, train it again"
                )
    return adapters
