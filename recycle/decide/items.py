"""What item outcomes allow: questions paired with themselves, and gates question by question.

A row's items say which of its questions were answered right, in the order of the world's questions.
Forms of one group ask about the same things in the same order, so rows of a seed and a group can be
compared question by question: two methods, two libraries, or a composition with its hops.

An interval over several seeds is the widest of three: the two-stage cluster bootstrap (seeds drawn
with replacement, then questions within each; Davison and Hinkley 1997, section 3.8; percentile),
Student's t over the seeds' means, and the score interval of all questions pooled. The bootstrap
alone covers too little with few seeds that differ, the other two hold it up
(tests/test_recycle_items.py simulates that). For one seed the score interval stands alone: Wilson's
for a share, Tango's (Statistics in Medicine 17, 1998, 891-908) for a paired difference, which needs
no draws and has a width where no question differs.

scipy.stats.bootstrap draws on one level only, and scipy.stats.permutation_test goes through all 2^n
swaps; both are a few lines here, and exact where counts are enough.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from recycle.decide.metrics import Row
from recycle.decide.statistics import LEVEL, Estimate, normal_quantile, t_half_width, wilson

DRAWS = 2000  # of the bootstrap, for each comparison that shares the error
SWAPS = 9999  # random swaps, where they are too many to count
COUNTED = 100_000  # patterns of swaps that are counted one by one

Right = NDArray[np.bool_]


def right(items: str) -> Right:
    """Which questions are answered right, of a row's items: (n,)."""
    return np.frombuffer(items.encode("ascii"), dtype=np.uint8) == ord("0")


def paired(*cells: Iterable[Row]) -> list[dict[int, Right]]:
    """For each cell the right answers by seed, its groups one after another: entry i of a seed is
    the same question in every cell.

    Raises ValueError where rows have no items, where a cell asks a seed's group twice, or where the
    cells were not asked the same seeds, groups and numbers of questions."""
    places = [_by_place(rows) for rows in cells]
    first = places[0]
    for other in places[1:]:
        if lone := sorted(first.keys() ^ other.keys()):
            seed, group = lone[0]
            raise ValueError(
                f"questions cannot be paired: one cell lacks group {group} of seed {seed}"
            )
        for (seed, group), asked in first.items():
            if len(asked) != len(other[seed, group]):
                raise ValueError(
                    f"questions cannot be paired: {len(asked)} and {len(other[seed, group])} of "
                    f"group {group}, seed {seed}"
                )
    return [_by_seed(found) for found in places]


def _by_place(rows: Iterable[Row]) -> dict[tuple[int, str], Right]:
    """{(seed, group): right answers} of one cell's rows in one form."""
    found: dict[tuple[int, str], Right] = {}
    for row in rows:
        place = row.key.seed, row.key.group
        if not row.items:
            raise ValueError(
                f"rows of {row.key.library}: {row.key.method} have no item outcomes: an older "
                "version made them"
            )
        if place in found:
            raise ValueError(
                f"two rows for group {row.key.group} of seed {row.key.seed}: name one cell and form"
            )
        found[place] = right(row.items)
    if not found:
        raise ValueError("no rows to estimate from")
    return found


def _by_seed(places: Mapping[tuple[int, str], Right]) -> dict[int, Right]:
    """The groups of each seed one after another, in the order of their names."""
    seeds: dict[int, list[Right]] = {}
    for seed, group in sorted(places):
        seeds.setdefault(seed, []).append(places[seed, group])
    return {seed: np.concatenate(parts) for seed, parts in seeds.items()}


# Estimates ---------------------------------------------------------------------------------------


def share(rows: Iterable[Row], among: int = 1) -> Estimate:
    """The share of right answers in a cell and form: the mean of the seeds' shares."""
    return _share(paired(rows)[0], among)


def paired_difference(first: Iterable[Row], second: Iterable[Row], among: int = 1) -> Estimate:
    """The share right in the first cell minus that in the second, question by question."""
    ours, theirs = paired(first, second)
    return _difference(ours, theirs, among)


def excess_over_product(
    composed: Iterable[Row], *components: Iterable[Row], among: int = 1
) -> Estimate:
    """mean(composed - product of the components) over questions: how much more often a question is
    answered than all of its components are. The mean of the products is not the product of the
    means, which errors that fall on the same questions raise."""
    whole, *parts = paired(composed, *components)
    product = {seed: np.logical_and.reduce([part[seed] for part in parts]) for seed in whole}
    return _difference(whole, product, among)


def as_one_group(rows: Iterable[Row]) -> list[Row]:
    """The same rows under one group's name, so that groups that are asked the same questions in the
    same order can be paired."""
    return [replace(row, key=row.key._replace(group="")) for row in rows]


def some_of_the_questions(rows: Iterable[Row], keep: Callable[[int], bool]) -> list[Row]:
    """Rows about those questions alone whose place in the row ``keep`` names. Their only outcome is
    "right"; a row of which nothing is left is left out."""
    found = []
    for row in rows:
        items = "".join(item for place, item in enumerate(row.items) if keep(place))
        if items:
            counts = {"right": items.count("0")}
            found.append(Row(row.key, row.form, len(items), counts, items=items))
    return found


def double_gate(
    rows: Iterable[Row],
    form: str,
    components: Sequence[str] = ("hop1", "hop2"),
    also: Sequence[Iterable[Row]] = (),
    among: int = 1,
) -> Estimate | None:
    """The share right in ``form`` among the questions whose components are all right in the same
    cell, that is after the merge, and right in each of ``also`` (each expert alone, say).

    ``rows`` are a cell's, of every form, over seeds and groups; each of ``also`` is one cell in one
    form. ``n`` counts the questions that pass; seeds without one are left out. None where no
    question passes."""
    own = list(rows)
    of_form = {f: [row for row in own if row.form == f] for f in (form, *components)}
    for component in components:
        if {row.key for row in of_form[component]} != {row.key for row in of_form[form]}:
            raise ValueError(f"rows of {form} and {component} are not of the same cells")
    answered, *gates = paired(*of_form.values(), *also)
    passing = {
        seed: found[np.logical_and.reduce([gate[seed] for gate in gates])] if gates else found
        for seed, found in answered.items()
    }
    passing = {seed: found for seed, found in passing.items() if len(found)}
    return _share(passing, among) if passing else None


def _share(found: Mapping[int, Right], among: int) -> Estimate:
    pooled = np.concatenate(list(found.values()))
    low, high = _interval(
        list(found.values()), wilson(int(pooled.sum()), len(pooled), among), among
    )
    mean = fmean(float(own.mean()) for own in found.values())
    return Estimate(mean, max(0.0, low), min(1.0, high), len(pooled), len(found))


def _difference(first: Mapping[int, Right], second: Mapping[int, Right], among: int) -> Estimate:
    gaps = {seed: first[seed].astype(int) - second[seed] for seed in first}
    pooled = np.concatenate(list(gaps.values()))
    won, lost = int((pooled > 0).sum()), int((pooled < 0).sum())
    low, high = _interval(list(gaps.values()), tango(won, lost, len(pooled), among), among)
    mean = fmean(float(own.mean()) for own in gaps.values())
    return Estimate(mean, max(-1.0, low), min(1.0, high), len(pooled), len(gaps))


def _interval(
    values: Sequence[NDArray], pooled: tuple[float, float], among: int
) -> tuple[float, float]:
    """The widest of the pooled score interval and, for several seeds, bootstrap and t."""
    if len(values) == 1:
        return pooled
    means = [float(own.mean()) for own in values]
    half = t_half_width(means, among)
    low, high = cluster_bootstrap(values, among)
    return min(low, pooled[0], fmean(means) - half), max(high, pooled[1], fmean(means) + half)


def cluster_bootstrap(
    values: Sequence[NDArray], among: int = 1, draws: int = DRAWS, seed: int = 0
) -> tuple[float, float]:
    """Percentile limits of the mean of the clusters' means, at 95 % for all of ``among``: clusters
    are drawn with replacement, then values within each. ``values`` has one array a cluster; there
    are ``draws`` draws for each of ``among``, so that rarer tails have as many."""
    generator, draws = np.random.default_rng(seed), draws * among
    slots = len(values)
    chosen = generator.integers(slots, size=(draws, slots))
    means = np.empty((draws, slots))
    for cluster, own in enumerate(values):
        kinds, counts = np.unique(own, return_counts=True)
        here = chosen == cluster
        # Drawing n values with replacement is drawing how often each kind comes.
        drawn = generator.multinomial(len(own), counts / len(own), size=int(here.sum()))
        means[here] = drawn @ kinds.astype(float) / len(own)
    tail = (1 - LEVEL) / (2 * among)
    low, high = np.quantile(means.mean(1), [tail, 1 - tail])
    return float(low), float(high)


def tango(won: int, lost: int, n: int, among: int = 1) -> tuple[float, float]:
    """Tango's score interval of a paired difference (won - lost) / n: ``won`` pairs of n are right
    in the first alone, ``lost`` in the second alone.

    Its limits are the differences D at which the score statistic
    (won - lost - n D) / sqrt(n (2 q + D (1 - D))) is z or -z. There q is the likeliest share of
    lost pairs given D: the larger root of 2 n q^2 + (-won - lost + (2 n - won + lost) D) q
    - lost D (1 - D) = 0."""
    if min(won, lost) < 0 or won + lost > n or n == 0:
        raise ValueError(f"{won} won and {lost} lost of {n}: no paired answers")
    z = normal_quantile(among)

    def score(gap: float) -> float:
        b = -won - lost + (2 * n - won + lost) * gap
        q = (math.sqrt(b * b + 8 * n * lost * gap * (1 - gap)) - b) / (4 * n)
        variance = n * (2 * q + gap * (1 - gap))
        return (won - lost - n * gap) / math.sqrt(max(variance, 1e-300))

    def limit(inside: float, outside: float, reached: float) -> float:
        """Where the score passes a value, by bisection to machine precision."""
        while (middle := (inside + outside) / 2) not in (inside, outside):
            if abs(score(middle)) < reached:
                inside = middle
            else:
                outside = middle
        return outside

    mean = (won - lost) / n
    return limit(mean, -1.0, z), limit(mean, 1.0, z)


def swap_test(first: Iterable[Row], second: Iterable[Row], draws: int = SWAPS) -> float:
    """The two-sided p value of a paired difference under the null that either cell could have given
    either of a question's two outcomes: they are swapped question by question, and p is the share
    of swaps with a difference at least as large.

    Only questions that differ matter, and of those only how many are swapped in each seed, so the
    share is counted exactly (for seeds of one size it is McNemar's exact test); where that takes
    over COUNTED patterns, ``draws`` random swaps and the real one stand for all (the +1 of Phipson
    and Smyth 2010)."""
    ours, theirs = paired(first, second)
    gaps = [ours[seed].astype(int) - theirs[seed] for seed in ours]
    seen = abs(sum(own.mean() for own in gaps)) - 1e-9  # equal up to rounding counts as equal
    differing: dict[int, int] = {}  # seeds of one size act as one
    for own in gaps:
        differing[len(own)] = differing.get(len(own), 0) + int(np.abs(own).sum())
    if math.prod(k + 1 for k in differing.values()) <= COUNTED:
        totals, weights = np.zeros(1), np.ones(1)
        for n, k in differing.items():
            swapped = np.arange(k + 1)
            chances = np.array([math.comb(k, int(i)) / 2**k for i in swapped])
            totals = np.add.outer(totals, (k - 2 * swapped) / n).ravel()
            weights = np.multiply.outer(weights, chances).ravel()
        return min(1.0, float(weights[np.abs(totals) >= seen].sum()))
    generator = np.random.default_rng(0)
    drawn = sum((k - 2 * generator.binomial(k, 0.5, draws)) / n for n, k in differing.items())
    return float((1 + (np.abs(drawn) >= seen).sum()) / (1 + draws))
