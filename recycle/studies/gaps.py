"""Claims about paired differences: each case must be above a bound, question by question.

Three studies compare alike what a merge does to a target that needs several experts: operations,
languages, and word problems on a checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from recycle.decide.claims import INCONCLUSIVE, NOTHING, REFUTED, SUPPORTED, Verdict, not_decided
from recycle.decide.items import as_one_group, paired_difference
from recycle.decide.metrics import Metrics, Row
from recycle.decide.statistics import Estimate, estimate
from recycle.reuse.claimed import CLAIMED
from recycle.reuse.methods import ALONE, BY_NAME

PAPERS, SUM = ("mean_of_products", "arrow"), "plain_sum"
CLEAR = 0.10  # a difference that counts
# Whose template the second expert has in a mismatched library.
OTHER = {"prose": "python", "markdown": "prose", "python": "prose"}
# A learner of weights from 20 questions of the target, and the same on noise.
LEARNERS = tuple((name, f"random_pool_{name}") for name in ("lorahub_20", "cat_20"))
# One expert at other weights than its own: what scale does without a second expert.
RESCALED = tuple(f"rescaled_single_{weight}" for weight in (0.5, 0.75, 1.25, 1.5))
WEIGHTED = (ALONE, *(BY_NAME[name] for name in RESCALED))
LEARNED = tuple(BY_NAME[name] for pair in LEARNERS for name in pair)
# Every method that papers claim: merges, routers and one expert at other weights; those that learn
# stand in a part of their own.
PUBLISHED = tuple(
    method for method in CLAIMED if method not in LEARNED and method.family != "oracle"
)
LACKING = not_decided("the study lacks a library, a group or a method")


@dataclass(frozen=True)
class Gap:
    """A paired difference: its own 95 % limits, and those that all cases of a claim share."""

    own: Estimate
    shared: Estimate


def gap(first: Sequence[Row], second: Sequence[Row], among: int) -> Gap | None:
    """None where one of the two was not measured."""
    if not first or not second:
        return None
    return Gap(paired_difference(first, second), paired_difference(first, second, among))


def said(gaps: Mapping[str, Gap | None]) -> str:
    return "; ".join(f"{name} {found.own}" for name, found in gaps.items() if found) or NOTHING


def above(gaps: Mapping[str, Gap | None], least: float) -> Verdict:
    """Supported where every lower limit is above ``least``; refuted where an upper limit is below
    it, after Bonferroni; not decided where a case is missing."""
    found = [each for each in gaps.values() if each]
    if len(found) < len(gaps) or not found:
        return LACKING
    if all(each.own.low > least for each in found):
        return SUPPORTED
    return REFUTED if any(each.shared.high < least for each in found) else INCONCLUSIVE


# What is compared --------------------------------------------------------------------------------


def answers(
    metrics: Metrics, group: str | Sequence[str], library: str, form: str, method: str = "alone"
) -> list[Row]:
    return metrics.where(group=group, library=library, method=method, form=form)


def places(
    metrics: Metrics, groups: Sequence[str], library: str, form: str, method: str = "alone"
) -> list[tuple[str, list[Row]]]:
    """The places where a control is taken: one in each group."""
    return [
        (f"{library} in {group}, {form}", answers(metrics, group, library, form, method))
        for group in groups
    ]


def best_single(singles: Mapping[str, list[Row]]) -> tuple[str, list[Row]]:
    """The name and the rows of the best of those that were measured; ("single", []) without one."""
    measured = {name: rows for name, rows in singles.items() if rows}
    best = max(measured, key=lambda name: estimate(measured[name]).mean, default="single")
    return best, measured.get(best, [])


Asked = Callable[[str, str], list[Row]]  # the rows of the target, of a library under a method


def singles_to_beat(
    asked: Asked, singles: Sequence[str], rescaled: Sequence[str] = ()
) -> list[tuple[str, list[Row]]]:
    """The name and the rows of the best of ``singles`` alone; and, where some are to be
    ``rescaled``, of the best of these at another weight than its own."""
    found = [best_single({name: asked(name, "alone") for name in singles})]
    if rescaled:
        weighted = {f"{name} {by}": asked(name, by) for name in rescaled for by in RESCALED}
        found.append(best_single(weighted))
    return found


def over_others(
    asked: Asked, methods: Sequence[str], singles: Sequence[str], rescaled: Sequence[str] = ()
) -> dict[str, Gap | None]:
    """Matched minus mismatched, and matched minus each of the singles to beat, under every
    method."""
    to_beat = singles_to_beat(asked, singles, rescaled)
    gaps, among = {}, len(methods) * (1 + len(to_beat))
    for method in methods:
        ours = asked("matched", method)
        gaps[f"{method} - mismatched"] = gap(ours, asked("mismatched", method), among)
        for name, rows in to_beat:
            gaps[f"{method} - {name}"] = gap(ours, rows, among)
    return gaps


def between_groups(
    metrics: Metrics, groups: tuple[str, str], library: str, form: str, methods: Sequence[str]
) -> dict[str, Gap | None]:
    """The first group minus the second, which is asked the same questions, under every method."""

    def cell(group: str, method: str) -> list[Row]:
        return as_one_group(answers(metrics, group, library, form, method))

    first, second = groups
    return {
        method: gap(cell(first, method), cell(second, method), len(methods)) for method in methods
    }


def over_noise(
    metrics: Metrics, groups: Sequence[str], library: str, form: str
) -> dict[str, Gap | None]:
    """Each learner minus the same on noise of the experts' norms."""
    return {
        name: gap(
            answers(metrics, groups, library, form, name),
            answers(metrics, groups, library, form, pool),
            len(LEARNERS),
        )
        for name, pool in LEARNERS
    }
