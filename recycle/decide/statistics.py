"""Shares of answers over seeds, with intervals.

For one seed an interval is Wilson's for the pooled answers. For several it is the wider of
Student's t over the seeds' shares and Wilson's for all answers pooled: seeds that agree exactly
(all 0, say) must not make an interval of no width. Differences are paired by seed: t over the
seeds' differences, and never narrower than Newcombe's interval of the pooled shares (1998, method
10), which counts the pairs as independent. Many comparisons at once share their error by
Bonferroni's ``among``. Where rows have item outcomes, recycle/decide/items.py pairs by question.

Wilson's interval and Student's quantile come from scipy where it is installed (the extra "stats");
without it, 30 lines below stand in, which a test holds to scipy's values within 1e-9. They stay,
because a study must run on torch and numpy alone and verdicts must not depend on an extra.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist, fmean, stdev
from typing import Any

from recycle.decide.metrics import Row

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A share of answers, or a difference of shares: the mean over seeds and its interval, of n
    answers in all."""

    mean: float
    low: float
    high: float
    n: int
    seeds: int

    def __str__(self) -> str:
        return f"{self.mean:.2f} [{self.low:.2f}, {self.high:.2f}]"


def estimate(
    rows: Iterable[Row], outcome: str | Sequence[str] = "right", among: int = 1
) -> Estimate:
    """The share of answers with an outcome (or one of several); ``among`` estimates are looked at
    together."""
    counts = by_seed(rows, outcome)
    shares = [hits / n for hits, n in counts.values()]
    hits, n = (sum(part) for part in zip(*counts.values(), strict=True))
    low, high = wilson(hits, n, among)
    if len(shares) > 1:
        half = t_half_width(shares, among)
        low, high = min(low, fmean(shares) - half), max(high, fmean(shares) + half)
    return Estimate(fmean(shares), max(0.0, low), min(1.0, high), n, len(shares))


def difference(
    first: Iterable[Row],
    second: Iterable[Row],
    outcome: str | Sequence[str] = "right",
    among: int = 1,
) -> Estimate:
    """The share in the first rows minus that in the second, paired by seed."""
    ours, theirs = by_seed(first, outcome), by_seed(second, outcome)
    if set(ours) != set(theirs):
        raise ValueError(
            f"seeds {sorted(ours)} and {sorted(theirs)} cannot be paired: finish the study"
        )
    gaps = [ours[seed][0] / ours[seed][1] - theirs[seed][0] / theirs[seed][1] for seed in ours]
    pooled = [
        [sum(part) for part in zip(*counts.values(), strict=True)] for counts in (ours, theirs)
    ]
    (p, (low_p, high_p)), (q, (low_q, high_q)) = (
        (hits / n, wilson(hits, n, among)) for hits, n in pooled
    )
    low = p - q - math.hypot(p - low_p, high_q - q)
    high = p - q + math.hypot(high_p - p, q - low_q)
    if len(gaps) > 1:
        half = t_half_width(gaps, among)
        low, high = min(low, fmean(gaps) - half), max(high, fmean(gaps) + half)
    return Estimate(fmean(gaps), max(-1.0, low), min(1.0, high), pooled[0][1], len(gaps))


def over_seeds(
    rows: Iterable[Row], value: Callable[[list[Row]], float], spread: Estimate, among: int = 1
) -> Estimate:
    """Any number computed from each seed's rows: mean and t interval, never narrower than
    ``spread``, the interval of the share that it is made of (and that interval's width alone for
    one seed)."""
    found: dict[int, list[Row]] = {}
    for row in rows:
        found.setdefault(row.key.seed, []).append(row)
    values = [value(own) for own in found.values()]
    below, above = spread.mean - spread.low, spread.high - spread.mean
    if len(values) > 1:
        half = t_half_width(values, among)
        below, above = max(below, half), max(above, half)
    mean = fmean(values)
    return Estimate(mean, mean - below, mean + above, spread.n, len(values))


def by_seed(
    rows: Iterable[Row], outcome: str | Sequence[str] = "right"
) -> dict[int, tuple[int, int]]:
    """{seed: (answers with the outcome, answers)}."""
    outcomes = (outcome,) if isinstance(outcome, str) else tuple(outcome)
    counts: dict[int, tuple[int, int]] = {}
    for row in rows:
        hits, n = counts.get(row.key.seed, (0, 0))
        counts[row.key.seed] = (hits + sum(map(row.count, outcomes)), n + row.n)
    if not counts:
        raise ValueError("no rows to estimate from")
    return counts


@cache
def scipy_stats() -> Any:
    """scipy.stats, or None where it is not installed. It is loaded at first use: that takes half a
    second, which commands that estimate nothing are spared."""
    try:
        from scipy import stats
    except ImportError:
        return None
    return stats


@cache
def wilson(successes: int, n: int, among: int = 1) -> tuple[float, float]:
    """The Wilson score interval of a proportion (Wilson 1927), at 95 % for all of ``among``
    together."""
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"{successes} successes of {n}: no proportion")
    if stats := scipy_stats():
        level = 1 - (1 - LEVEL) / among
        interval = stats.binomtest(successes, n).proportion_ci(level, method="wilson")
        return float(interval.low), float(interval.high)
    return wilson_by_hand(successes, n, among)


def wilson_by_hand(successes: int, n: int, among: int = 1) -> tuple[float, float]:
    """Wilson's interval without scipy."""
    z = normal_quantile(among)
    p = successes / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # The limits at 0 and n are exactly 0 and 1; rounding must not put them inside.
    return (0.0 if successes == 0 else middle - half), (1.0 if successes == n else middle + half)


def normal_quantile(among: int = 1) -> float:
    """How many standard errors a two-sided interval reaches, at 95 % for all of ``among``."""
    return NormalDist().inv_cdf(1 - (1 - LEVEL) / (2 * among))


def t_half_width(values: Sequence[float], among: int = 1) -> float:
    """Half the width of Student's interval of a mean, for two values or more."""
    return (
        t_quantile(1 - (1 - LEVEL) / (2 * among), len(values) - 1)
        * stdev(values)
        / math.sqrt(len(values))
    )


@cache
def t_quantile(probability: float, freedom: int) -> float:
    """Where Student's t distribution reaches a probability above 1/2."""
    if stats := scipy_stats():
        return float(stats.t.ppf(probability, freedom))
    return t_quantile_by_hand(probability, freedom)


def t_quantile_by_hand(probability: float, freedom: int) -> float:
    """Student's quantile without scipy: by bisection to machine precision."""
    low, high = 0.0, 1.0
    while t_below(high, freedom) < probability:
        high *= 2
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if t_below(middle, freedom) < probability else (low, middle)
    return middle


def t_below(t: float, freedom: int) -> float:
    """P(T < t) for t >= 0 and whole degrees of freedom: a finite sum (Abramowitz and Stegun 26.7.3
    and 26.7.4)."""
    angle = math.atan(t / math.sqrt(freedom))
    cosine = math.cos(angle)
    odd = freedom % 2
    term, total = (cosine, 0.0) if odd else (1.0, 0.0)
    for k in range(1 + odd, freedom, 2):
        total += term
        term *= cosine**2 * k / (k + 1)
    inside = 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
    return 0.5 + inside / 2
