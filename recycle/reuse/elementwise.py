"""Merges that look at single entries: ties, dare_linear, dare_ties, magnitude_prune, breadcrumbs.

Each is one rule on N matrices (N, m, n) -> (m, n), and comes in two forms with two names. ``ties``
acts on the full matrices dW_i, and its result has full rank: the adapter carries it exactly, as
the matrix and an identity. ``ties_core`` acts on the M_i of `Core`, and its result has at most the
rank sum_i r_i. The two differ, because the entries of M_i are those of dW_i in other axes.

Laws. All five give one adapter back unchanged at density 1, and identical ones at any number of
them. Below density 1 all five change even one adapter. The order of the adapters does not matter
where nothing is drawn. dW and -dW give 0 in ties, magnitude_prune and breadcrumbs. The full forms
see dW_i alone, so other factors of it change nothing. The core forms stand turns (Q A, B Q^T), but
not (Q A, B Q^-1) for every Q, because the axes of the core depend on the factors.

"Entries" are those of one layer, as in PEFT and mergekit; the paper of TIES trims over all layers
of a model together. Entries as large as the smallest kept one are all kept, so no order of equal
entries decides, and at least one entry is kept.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recycle.reuse.core import Factors, Layer, written_out
from recycle.reuse.layerwise import Merge, by_layer, check_share, check_weight


def trimmed(updates: Tensor, density: float) -> Tensor:
    """Each matrix with its ceil(density m n) largest entries, by magnitude; the others are 0."""
    kept = math.ceil(density * updates[0].numel())
    return updates.where(updates.abs() >= _largest(updates, kept), 0)


def _largest(updates: Tensor, k: int) -> Tensor:
    """The k-th largest magnitude in each matrix (N, m, n): (N, 1, 1)."""
    place = updates[0].numel() - k
    found = [np.partition(one.abs().flatten().cpu().numpy(), place)[place] for one in updates]
    return updates.new_tensor(np.array(found))[:, None, None]


def disjoint_mean(updates: Tensor) -> Tensor:
    """At each place, the mean of the entries whose sign is that of their sum; 0 where the sum is 0.

    A sum that is rounding beside the largest entry counts as 0: opposite entries elect no sign.
    (PEFT and mergekit elect + there, so that dW and -dW merge into the positive part of both.)
    """
    total = updates.sum(0)
    rounding = 8 * len(updates) * torch.finfo(updates.dtype).eps * updates.abs().max()
    elected = total.sign().where(total.abs() > rounding, 0)
    agrees = updates * elected > 0
    return updates.where(agrees, 0).sum(0) / agrees.to(updates.dtype).sum(0).clamp(min=1)


def ties(updates: Tensor, *, density: float = 0.2) -> Tensor:
    """trim the dW_i, elect a sign at each place by their sum, average what has that sign."""
    check_share("density", density)
    return disjoint_mean(trimmed(updates, density))


def dropped(updates: Tensor, density: float, generator: torch.Generator) -> Tensor:
    """Each entry stays with probability ``density`` and is divided by it, else it is 0."""
    check_share("density", density)
    stays = torch.rand(updates.shape, generator=generator, dtype=torch.float32) < density
    return updates.where(stays.to(updates.device), 0) / density


def dare_linear(
    updates: Tensor,
    *,
    density: float = 0.8,
    weight: float | None = None,
    generator: torch.Generator,
) -> Tensor:
    """w sum_i drop(dW_i); the mean over draws is w sum_i dW_i. w is 1/N unless it is given."""
    return _weight(weight, updates) * dropped(updates, density, generator).sum(0)


def dare_ties(updates: Tensor, *, density: float = 0.8, generator: torch.Generator) -> Tensor:
    """ties with drop instead of trim, as in PEFT and mergekit."""
    return disjoint_mean(dropped(updates, density, generator))


def magnitude_prune(
    updates: Tensor, *, density: float = 0.2, weight: float | None = None
) -> Tensor:
    """w sum_i trim(dW_i). w is 1/N unless it is given."""
    check_share("density", density)
    return _weight(weight, updates) * trimmed(updates, density).sum(0)


def breadcrumbs(
    updates: Tensor, *, density: float = 0.9, gamma: float = 0.01, weight: float | None = None
) -> Tensor:
    """w sum_i of the ceil(density m n) entries after the floor(gamma m n) largest ones.

    Where density + gamma is above 1, fewer of the largest entries go, so that the density holds.
    """
    check_share("density", density)
    if isinstance(gamma, bool) or not isinstance(gamma, int | float) or not 0 <= gamma < 1:
        raise ValueError(f"gamma = {gamma}: choose a share from 0 to below 1, as in gamma=0.01")
    entries = updates[0].numel()
    kept = math.ceil(density * entries)
    outliers = min(int(gamma * entries), entries - kept)
    size = updates.abs()
    inside = (size <= _largest(updates, outliers + 1)) & (
        size >= _largest(updates, outliers + kept)
    )
    return _weight(weight, updates) * updates.where(inside, 0).sum(0)


def _weight(weight: float | None, updates: Tensor) -> float:
    if weight is None:
        return 1 / len(updates)
    check_weight("weight", weight)
    return weight


Rule = Callable[..., Tensor]


def _on_matrices(rule: Rule) -> Callable[..., Factors]:
    def of_layer(layer: Layer, **options: Any) -> Factors:
        return written_out(rule(layer.matrices(), **options))

    return of_layer


def _in_core(rule: Rule) -> Callable[..., Factors]:
    def of_layer(layer: Layer, **options: Any) -> Factors:
        core = layer.core()
        updates = core.M.to(layer.exact)  # its rounding is that of the factors
        merged = rule(updates, **options) if updates.numel() else updates[0]
        return core.factors(merged.double())

    return of_layer


def _forms(rule: Rule, formula: str, source: str) -> list[Merge]:
    """The rule on full matrices, and the same rule in the core."""
    made = []
    for form, ending, where in ((_on_matrices, "", "dW_i"), (_in_core, "_core", "M_i of the core")):
        function = functools.wraps(rule)(form(rule))
        function.__signature__ = inspect.signature(rule)  # type: ignore[attr-defined]
        function.__name__ = rule.__name__ + ending
        core_source = f"{source}; core: arXiv 2509.17786" if ending else source
        made.append(by_layer(formula.replace("X_i", where), core_source)(function))
    return made


TIES, DARE = "Yadav et al. 2023, arXiv 2306.01708", "Yu et al. 2023, arXiv 2311.03099"
ELEMENTWISE: tuple[Merge, ...] = tuple(
    form
    for rule, formula, source in (
        (ties, "mean of the entries of trimmed X_i that have the sign of their sum", TIES),
        (dare_linear, "w sum_i drop(X_i) / density, w = 1/N", DARE),
        (dare_ties, "mean of the entries of drop(X_i) / density that have the sum's sign", DARE),
        (magnitude_prune, "w sum_i trim(X_i), w = 1/N", "PEFT's magnitude_prune"),
        (
            breadcrumbs,
            "w sum_i X_i without its largest and smallest entries, w = 1/N",
            "Davari and Belilovsky 2023, arXiv 2312.06795",
        ),
    )
    for form in _forms(rule, formula, source)
)
