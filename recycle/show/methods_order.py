"""C11: does the order of methods on the toy predict their order on a checkpoint?

The rule was fixed before either record had the part "methods". It lays two records side by side, so
no study decides it alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import permutations
from statistics import NormalDist

import numpy as np

from recycle.decide.claims import INCONCLUSIVE, NOTHING, REFUTED, SUPPORTED, Claim, not_decided
from recycle.decide.metrics import Metrics
from recycle.decide.statistics import LEVEL, estimate
from recycle.studies.methods_claims import DATA_FREE, PART
from recycle.studies.two_hop_claims import HOPS, PAIR

COUNTED = 8  # up to so many methods, all n! orders are counted
DRAWS = 9_999  # random orders for more methods
FEWEST = 3  # two methods are in the same order, or in the other one
PREDICTS = 0.5  # of rho: a quarter of the variance of the ranks


def mean_ranks(values: Sequence[float]) -> np.ndarray:
    """The rank of each value from 0 on; equal values share the mean of their ranks: (n,)."""
    own = np.array(values, dtype=float)
    greater, equal = (f(own[:, None], own).sum(1) for f in (np.greater, np.equal))
    return greater + (equal - 1) / 2


def order_correlation(
    first: Sequence[float], second: Sequence[float]
) -> tuple[float, float] | None:
    """Spearman's rho between two lists of n numbers, and its two-sided permutation p: the share of
    all orders of the second whose |rho| is at least as large.

    All n! orders are counted up to n = COUNTED; beyond, DRAWS random orders and the real one stand
    for all (the +1 of Phipson and Smyth 2010). None for n below FEWEST, and where all numbers of a
    list are equal: there is no order then."""
    x, y = (mean_ranks(values) - (len(values) - 1) / 2 for values in (first, second))
    if len(x) < FEWEST or not x.any() or not y.any():
        return None
    size = float(np.sqrt((x @ x) * (y @ y)))
    rho, n = float(x @ y) / size, len(y)
    if n <= COUNTED:
        orders, beside = np.array(list(permutations(range(n)))), 0
    else:
        generator = np.random.default_rng(0)
        orders, beside = generator.permuted(np.tile(np.arange(n), (DRAWS, 1)), axis=1), 1
    reached = int((np.abs(y[orders] @ x) >= (abs(rho) - 1e-9) * size).sum())
    return rho, (reached + beside) / (len(orders) + beside)


def upper_limit(rho: float, n: int) -> float:
    """The 95 % upper limit of Spearman's rho of n pairs: Fisher's z with the error
    sqrt((1 + rho^2 / 2) / (n - 3)) (Bonett and Wright 2000, Psychometrika 65, 23-28)."""
    if n <= 3 or rho >= 1:
        return 1.0
    error = math.sqrt((1 + rho * rho / 2) / (n - 3))
    z = math.atanh(max(rho, -1 + 1e-12))
    return math.tanh(z + NormalDist().inv_cdf(1 - (1 - LEVEL) / 2) * error)


def order_predicts(toy: Metrics, checkpoint: Metrics, groups: Sequence[str]) -> Claim:
    """C11 over these groups together, on the standard base of both."""

    def weakest(metrics: Metrics, method: str) -> float | None:
        hops = [metrics.where(group=groups, library=PAIR, method=method, form=hop) for hop in HOPS]
        return min(estimate(rows).mean for rows in hops) if all(hops) else None

    both = [(weakest(toy, name), weakest(checkpoint, name)) for name in DATA_FREE]
    measured = [(one, other) for one, other in both if one is not None and other is not None]
    verdict, evidence = not_decided(f"a record lacks the part {PART}"), NOTHING
    if len(measured) == len(DATA_FREE):
        found = order_correlation(*zip(*measured, strict=True))
        verdict, evidence = not_decided("all methods keep the same"), "no order"
        if found:
            (rho, p), high = found, upper_limit(found[0], len(measured))
            verdict = REFUTED if high < PREDICTS else INCONCLUSIVE
            if rho >= PREDICTS and p < 1 - LEVEL:
                verdict = SUPPORTED
            evidence = f"rho {rho:.2f}, upper limit {high:.2f}, p {p:.4f}, {len(measured)} methods"
    return Claim(
        "C11",
        "the order of methods on the toy predicts their order on the checkpoint",
        f"Spearman's rho of the weaker hop of {len(DATA_FREE)} merges and routers that need no "
        f"data is >= {PREDICTS} with a permutation p < .05; refuted if its 95 % upper limit is "
        f"< {PREDICTS}",
        verdict,
        evidence,
    )
