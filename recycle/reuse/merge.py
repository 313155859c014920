"""Merges: pure functions from adapters to one adapter, each a formula. dW_i = s_i B_i A_i.

The tests check four laws. Identical adapters with weights that sum to one give back the adapter.
The order of the adapters does not matter. Weights w and -w cancel. The result is the explicit sum
of the formula, to rounding. The product of means alone depends on how each update is factored: it
changes where (Q A, B Q^T) replaces (A, B).

Every merge raises ValueError for no adapters, for adapters of different bases or shapes, and for
factors that hold NaN or infinity.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import reduce

import torch
from torch import Tensor

from lora import Adapter, combine, common_base
from recycle.reuse.core import checked


def weighted_sum(adapters: Sequence[Adapter], weights: Sequence[float]) -> Adapter:
    """sum_i w_i dW_i, exactly (`lora.combine`). Raises ValueError unless each has its weight."""
    return _named("weighted_sum", combine(checked(adapters), weights))


def plain_sum(adapters: Sequence[Adapter]) -> Adapter:
    """sum_i dW_i (Ilharco et al. 2023, arXiv 2212.04089)."""
    return _named("plain_sum", combine(checked(adapters), [1.0] * len(adapters)))


def mean_of_products(adapters: Sequence[Adapter]) -> Adapter:
    """(1/N) sum_i dW_i (the Uniform merge of arXiv 2506.13479)."""
    N = len(adapters)
    return _named("mean_of_products", combine(checked(adapters), [1 / max(N, 1)] * N))


def product_of_means(adapters: Sequence[Adapter]) -> Adapter:
    """s mean_i(B_i) mean_i(A_i) = (s / N^2) (sum_i B_i A_i + sum_{i != j} B_i A_j).

    The merged adapter has the rank of the adapters (LoraHub's combination at equal weights, arXiv
    2307.13269). It averages factors, so it raises ValueError unless all adapters have one rank, one
    scaling and the same layers.
    """
    factors = {}
    for path in checked(adapters)[0].paths:
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
        As, Bs = zip(*(adapter.factors[path] for adapter in adapters), strict=True)
        common = reduce(torch.promote_types, (factor.dtype for factor in (*As, *Bs)))
        A, B = (_mean(several) for several in (As, Bs))
        factors[path] = (A.to(common), (scales.pop() * B).to(common))
    origin = {
        "formula": "s mean(B) mean(A)",
        "weights": [1 / len(adapters)] * len(adapters),
        "of": [dict(adapter.origin) for adapter in adapters],
    }
    merged = Adapter.unscaled(factors, common_base(adapters), origin)
    return _named("product_of_means", merged)


def _mean(factors: Sequence[Tensor]) -> Tensor:
    """Of 16-bit factors in float32: the result is rounded once."""
    stacked = torch.stack(list(factors))
    return stacked.to(torch.promote_types(stacked.dtype, torch.float32)).mean(0)


def _named(merge: str, adapter: Adapter) -> Adapter:
    return replace(adapter, origin={"merge": merge, **adapter.origin})


# The merges without weights, by the names that the command line takes.
MERGES: dict[str, Callable[[Sequence[Adapter]], Adapter]] = {
    merge.__name__: merge for merge in (mean_of_products, product_of_means, plain_sum)
}
