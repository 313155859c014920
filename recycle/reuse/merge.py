"""Merges: pure functions from adapters to one adapter, each a formula. dW_i = s_i B_i A_i.

They obey, and the tests check: identical adapters with weights that sum to one change nothing; the
order of the adapters does not matter; w and -w cancel; the result is the formula's explicit sum to
rounding. The product of means alone depends on how each update is factored: replacing (A, B) by
(Q A, B Q^T) moves it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from lora import Adapter, combine, common_base


def weighted_sum(adapters: Sequence[Adapter], weights: Sequence[float]) -> Adapter:
    """sum_i w_i dW_i, exactly (`lora.combine`)."""
    return _named("weighted_sum", combine(adapters, weights))


def plain_sum(adapters: Sequence[Adapter]) -> Adapter:
    """sum_i dW_i."""
    return _named("plain_sum", combine(adapters, [1.0] * len(adapters)))


def mean_of_products(adapters: Sequence[Adapter]) -> Adapter:
    """(1/N) sum_i dW_i."""
    N = len(adapters)
    return _named("mean_of_products", combine(adapters, [1 / max(N, 1)] * N))


def product_of_means(adapters: Sequence[Adapter]) -> Adapter:
    """s mean_i(B_i) mean_i(A_i) = (s / N^2) (sum_i B_i A_i + sum_{i != j} B_i A_j), of the adapters'
    own rank.

    Raises ValueError unless all adapters have one rank, one scaling and the same layers, for it
    averages their factors."""
    if not adapters:
        raise ValueError("a merge needs at least one adapter")
    factors = {}
    for path in adapters[0].paths:
        if any(set(adapter.paths) != set(adapters[0].paths) for adapter in adapters):
            raise ValueError(
                "product_of_means averages factors: all adapters must address the same layers"
            )
        ranks = [adapter.rank(path) for adapter in adapters]
        scales = {adapter.scale(path) for adapter in adapters}
        if len(set(ranks)) > 1 or len(scales) > 1:
            raise ValueError(
                f"product_of_means averages factors: {path} has ranks {ranks} and scalings "
                f"{sorted(scales)}, which must be equal; use mean_of_products"
            )
        A, B = (
            torch.stack([adapter.factors[path][i] for adapter in adapters]).mean(0) for i in (0, 1)
        )
        factors[path] = (A, scales.pop() * B)
    origin = {
        "formula": "s mean(B) mean(A)",
        "weights": [1 / len(adapters)] * len(adapters),
        "of": [dict(adapter.origin) for adapter in adapters],
    }
    merged = Adapter.unscaled(factors, common_base(adapters), origin)
    return _named("product_of_means", merged)


def _named(merge: str, adapter: Adapter) -> Adapter:
    return replace(adapter, origin={"merge": merge, **adapter.origin})


# What the command line merges by name, without weights.
MERGES: dict[str, Callable[[Sequence[Adapter]], Adapter]] = {
    merge.__name__: merge for merge in (mean_of_products, product_of_means, plain_sum)
}
