"""What a claim's check would notice: `python -m theory power`.

A check that holds says little unless it would have failed on a wrong theory. Every stored
observation is judged again against altered bounds: the bound times 1.1, times 0.9, and the bounds
of wrong formulas of the same shape, which observations carry as `rivals`. No check runs twice.

    notices    the smallest relative error of all bounds at once that would break the claim, in the
               direction that it notices less; a one-sided claim can notice one direction only
    shift      the same for claims whose bounds are all 0: what must be added to them
    cases      how many cases notice 10 % by themselves, of those whose bound is not 0

Where a claim has sampled cases, `notices` is theirs: its exact cases (a share of 0 or 1) would
notice any error and say nothing about the formula.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from theory.claim import Claim, Observation, Result

STEP = 0.1  # the error of a bound that every claim should notice


@dataclass(frozen=True)
class Power:
    """What one claim notices. `least` is relative, or a shift where every bound is 0. `rivals` maps
    the wrong formulas to whether the claim would break under them."""

    claim: Claim
    least: float
    is_shift: bool
    cases: dict[str, bool]
    rivals: dict[str, bool]

    @property
    def sharp(self) -> bool:
        """An error of 10 % (or a shift of 0.1) and every rival would break the claim."""
        return self.least <= STEP and all(self.rivals.values())


def power(result: Result) -> Power:
    """What the observations of a verified claim would notice."""
    claim, observations = result.claim, result.observations
    is_shift = all(o.bound == 0 for o in observations)
    by_case: dict[str, list[Observation]] = {}
    for o in observations:
        by_case.setdefault(o.case, []).append(o)
    judged = [o for o in observations if o.error and (is_shift or o.bound)] or observations
    cases = {
        case: smallest(claim, group, is_shift) <= STEP
        for case, group in by_case.items()
        if is_shift or any(o.bound for o in group)
    }
    names = sorted({name for o in observations for name in o.rivals})
    rivals = {name: beaten(claim, observations, name) for name in names}
    return Power(claim, smallest(claim, judged, is_shift), is_shift, cases, rivals)


def smallest(claim: Claim, observations: Sequence[Observation], is_shift: bool) -> float:
    """The smallest error of the bounds that these observations would notice, in the direction that
    they notice less; a looser one-sided bound is as true as the bound itself."""
    sides = [up for up in (True, False) if claim.relation != ("<=" if up else ">=")]
    return max(min(noticed(claim, o, up, is_shift) for o in observations) for up in sides)


def noticed(claim: Claim, observation: Observation, up: bool, is_shift: bool) -> float:
    """By how much the bound must grow (`up`) or shrink, as a share of itself or as a shift, for
    this observation to break the claim; infinite if it never does."""
    scale = 1.0 if is_shift else abs(observation.bound)
    if not scale or math.isnan(observation.observed):
        return math.inf
    ahead = observation.observed - observation.bound
    if observation.bound < 0:
        ahead = -ahead
    return max(claim.allowed(observation) + (ahead if up else -ahead), 0.0) / scale


def beaten(claim: Claim, observations: Sequence[Observation], rival: str) -> bool:
    """Does the claim break if this wrong formula sets the bounds?"""
    altered = (replace(o, bound=o.rivals[rival]) for o in observations if rival in o.rivals)
    return not all(map(claim.holds, altered))


ROW = "{:<26} {:<12} {:>14} {:>9}  {}"
HEADER = ROW.format("claim", "kind", "notices", "cases", "wrong formulas (! not noticed)")


def line(found: Power) -> str:
    """One row of the table; what the claim would not notice is marked with an exclamation mark."""
    least = f"shift {found.least:.1g}" if found.is_shift else f"{100 * found.least:.2g} %"
    names = ", ".join(name if caught else f"! {name}" for name, caught in found.rivals.items())
    mark = "" if found.least <= STEP else "! "
    cases = f"{sum(found.cases.values())} of {len(found.cases)}"
    return ROW.format(found.claim.id, found.claim.kind, mark + least, cases, names).rstrip()


def summary(found: Sequence[Power]) -> str:
    """How many claims notice an error of 10 %, and how many wrong formulas are noticed."""
    caught = [c for one in found for c in one.rivals.values()]
    return (
        f"{sum(one.least <= STEP for one in found)} of {len(found)} claims notice 10 %, "
        f"{sum(caught)} of {len(caught)} wrong formulas are noticed"
    )
