"""Merges: pure functions from adapters and weights to one adapter. Each has a name and a formula.

They obey, and the tests check: identical adapters with weights that sum to one change nothing; the
order of the adapters does not matter; w and -w cancel; the result is the formula's explicit sum to
rounding. The product of means alone depends on how each update is factored (replacing (A, B) by (Q
A, B Q^T) moves it).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from lora import Adapter


def weighted_sum(
    adapters: Sequence[Adapter], weights: Sequence[float], method: str = "weighted_sum"
) -> Adapter:
    """delta_W = sum_i w_i s_i B_i A_i, exactly: A = [A_1; ..; A_N], B = [w_1 s_1 B_1 | .. | w_N s_N
    B_N], rank sum r_i. Where that is above the layer's own rank, min(d_in, d_out), one factor is
    the product B A and the other the identity.

    Adapters may differ in rank, scaling and layers; a layer that only some of them address gets the
    sum over those.
    """
    _check(adapters, weights)
    factors = {}
    for path in dict.fromkeys(path for adapter in adapters for path in adapter.paths):
        having = [
            (w, adapter)
            for w, adapter in zip(weights, adapters, strict=True)
            if path in adapter.factors
        ]
        A = torch.cat([adapter.factors[path][0] for _, adapter in having])
        B = torch.cat(
            [w * adapter.scale(path) * adapter.factors[path][1] for w, adapter in having], dim=1
        )
        if A.shape[0] > min(A.shape[1], B.shape[0]):
            product, identity = (
                B @ A,
                torch.eye(min(A.shape[1], B.shape[0]), dtype=A.dtype, device=A.device),
            )
            A, B = (product, identity) if len(B) == len(identity) else (identity, product)
        factors[path] = (A, B)
    return _merged(factors, adapters, weights, method, "sum_i w_i s_i B_i A_i")


def mean_of_products(adapters: Sequence[Adapter]) -> Adapter:
    """delta_W = (1/N) sum_i s_i B_i A_i."""
    return weighted_sum(
        adapters, [1 / len(adapters)] * len(adapters) if adapters else [], "mean_of_products"
    )


def plain_sum(adapters: Sequence[Adapter]) -> Adapter:
    """delta_W = sum_i s_i B_i A_i."""
    return weighted_sum(adapters, [1.0] * len(adapters), "plain_sum")


def product_of_means(adapters: Sequence[Adapter]) -> Adapter:
    """delta_W = s mean(B) mean(A) = (s / N^2) (sum_i B_i A_i + sum_{i != j} B_i A_j), of the
    adapters' own rank.

    The factors are averaged, so all adapters must have one rank, one scaling and the same layers.
    Breaks invariance under refactoring.
    """
    weights = [1 / len(adapters)] * len(adapters) if adapters else []
    _check(adapters, weights)
    factors = {}
    for path in adapters[0].paths:
        parts = [adapter.factors.get(path) for adapter in adapters]
        scales = {adapter.scale(path) for adapter in adapters if path in adapter.factors}
        ranks = [part[0].shape[0] for part in parts if part is not None]
        if len(ranks) < len(adapters) or any(a.paths != adapters[0].paths for a in adapters):
            raise ValueError(
                "product_of_means averages factors: all adapters must address the same layers"
            )
        if len(set(ranks)) > 1 or len(scales) > 1:
            raise ValueError(
                f"product_of_means averages factors: {path} has ranks {ranks} and scalings {sorted(scales)}, "
                "which must be equal; use mean_of_products"
            )
        A = torch.stack([part[0] for part in parts if part is not None]).mean(0)
        B = torch.stack([part[1] for part in parts if part is not None]).mean(0)
        factors[path] = (A, scales.pop() * B)
    return _merged(factors, adapters, weights, "product_of_means", "s mean(B) mean(A)")


MERGES: dict[str, Callable[[Sequence[Adapter]], Adapter]] = {
    "mean_of_products": mean_of_products,
    "product_of_means": product_of_means,
    "plain_sum": plain_sum,
}


def _check(adapters: Sequence[Adapter], weights: Sequence[float]) -> None:
    if not adapters:
        raise ValueError("a merge needs at least one adapter")
    if len(adapters) != len(weights):
        raise ValueError(
            f"{len(adapters)} adapters and {len(weights)} weights: give one weight for each"
        )
    if len(bases := {adapter.base for adapter in adapters if adapter.base}) > 1:
        raise ValueError(
            f"adapters of different bases cannot be merged: {', '.join(sorted(bases))}"
        )


def _merged(factors, adapters, weights, method: str, formula: str) -> Adapter:
    """The scalings stand in the factors already, so alpha = rank makes s = 1."""
    ranks = {path: A.shape[0] for path, (A, _) in factors.items()}
    alpha = next(iter(ranks.values()))
    record = {
        "merge": method,
        "formula": formula,
        "weights": list(weights),
        "of": [dict(a.origin) for a in adapters],
    }
    alphas = {path: rank for path, rank in ranks.items() if rank != alpha}
    return Adapter(
        factors,
        alpha,
        alphas=alphas,
        base=next((a.base for a in adapters if a.base), None),
        origin=record,
    )
