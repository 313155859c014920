"""A low-rank update of one matrix as a value in float64: its factors, its core, and three merges.

Shapes: A (r, d_in), B (d_out, r). Scale alpha / r is folded into B, so every adapter here has
scale 1. `lora.Adapter` is the one that attaches to a model; this one is for algebra.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lora import product_core


@dataclass(frozen=True)
class Adapter:
    """The update B A of one matrix, kept factored."""

    a: Tensor  # (r, d_in)
    b: Tensor  # (d_out, r)

    @property
    def delta(self) -> Tensor:
        """The update written out: (d_out, d_in)."""
        return self.b @ self.a

    def __call__(self, inputs: Tensor) -> Tensor:
        """What the update adds to the outputs: (n, d_in) -> (n, d_out)."""
        return inputs @ self.a.T @ self.b.T

    def truncated(self, rank: int) -> "Adapter":
        """The nearest adapter of that rank in Frobenius norm (Eckart and Young 1936)."""
        q_b, core, q_a = product_core(self.a, self.b)
        u, s, vh = torch.linalg.svd(core)
        return Adapter(a=vh[:rank] @ q_a.T, b=q_b @ (u[:, :rank] * s[:rank]))


def least_squares(keys: Tensor, targets: Tensor) -> Adapter:
    """The smallest matrix that sends every key to its target: targets^T (Phi^+)^T, factored.

    keys Phi (f, m) with independent rows, targets (f, answers) -> A = (Phi Phi^T)^-1 Phi and
    B = targets^T.

    Raises:
        torch.linalg.LinAlgError: the keys are dependent.
    """
    gram = keys @ keys.T
    return Adapter(a=torch.cholesky_solve(keys, torch.linalg.cholesky(gram)), b=targets.T)


def total(adapters: Sequence[Adapter]) -> Adapter:
    """sum_k B_k A_k, exactly: the factors side by side, at rank sum r_k."""
    return Adapter(torch.cat([x.a for x in adapters]), torch.cat([x.b for x in adapters], dim=1))


def mean_of_products(adapters: Sequence[Adapter]) -> Adapter:
    """(1/K) sum_k B_k A_k, exactly, at rank sum r_k."""
    joined = total(adapters)
    return Adapter(joined.a, joined.b / len(adapters))


def product_of_means(adapters: Sequence[Adapter]) -> Adapter:
    """mean(B) mean(A) of adapters of one rank, at that rank.

    The result depends on how each B A was factored: it holds the cross terms B_i A_j.
    """
    return Adapter(
        torch.stack([x.a for x in adapters]).mean(0), torch.stack([x.b for x in adapters]).mean(0)
    )
