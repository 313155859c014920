"""Claims about paired differences: each case must be above a bound, question by question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from recycle.decide.claims import INCONCLUSIVE, NOTHING, REFUTED, SUPPORTED, Verdict, not_decided
from recycle.decide.items import paired_difference
from recycle.decide.metrics import Row
from recycle.decide.statistics import Estimate

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
