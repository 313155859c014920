"""How often a true claim would be called violated: `python -m theory alarms`.

A run on fresh seeds alarms where an observation lies outside of what its claim allows. Every claim
is checked on one block of seeds after another, each block as large as that of `python -m theory`.
So a block is a run that somebody could have made, and the blocks together say how often such a run
alarms by chance. Sampled equalities have a z; under a normal law the shares of |z| above 2, 3 and 4
are .0455, .0027 and .00006. `z` counts from the end of a stated bias, so shares below these are
what a bias gives.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from theory.claim import Claim, Observation, Result, Settings, TheoryError

LIMITS = (2, 3, 4)


def blocks(settings: Settings) -> list[Settings]:
    """The settings as consecutive blocks of the usual number of seeds.

    Raises:
        TheoryError: the seeds do not fill whole blocks.
    """
    size = Settings.seeds
    if settings.seeds % size:
        raise TheoryError(
            f"--seeds {settings.seeds}: alarms are counted on blocks of {size} seeds; "
            f"use a multiple of {size}"
        )
    starts = range(settings.first, settings.first + settings.seeds, size)
    return [Settings(size, settings.full, first) for first in starts]


@dataclass
class Alarms:
    """What was counted so far: observations, the |z| of sampled equalities, those outside of what
    their claim allows, and for each block whether it has such a one."""

    observations: int = 0
    z: list[float] = field(default_factory=list)
    broken: list[tuple[Claim, Observation]] = field(default_factory=list)
    alarmed: list[bool] = field(default_factory=list)

    def add(self, results: Iterable[Result]) -> None:
        """Count the results of one block."""
        before = len(self.broken)
        for result in results:
            self.observations += result.n
            if result.claim.relation == "==":  # an inequality may stand far on its right side
                self.z += [abs(o.z) for o in result.observations if o.z is not None]
            self.broken += [
                (result.claim, o) for o in result.observations if not result.claim.holds(o)
            ]
        self.alarmed.append(len(self.broken) > before)


def expected(limit: float) -> float:
    """The share of a normal law beyond +- limit standard errors."""
    return math.erfc(limit / math.sqrt(2))


def lines(found: Alarms) -> Iterator[str]:
    """The rate, each alarm, and how the sampled observations spread."""
    yield (
        f"{len(found.broken)} of {found.observations} observations lie outside of what their claim "
        f"allows; {sum(found.alarmed)} of {len(found.alarmed)} runs of {Settings.seeds} seeds alarm"
    )
    for claim, o in found.broken:
        z = "" if o.z is None else f", z = {o.z:+.1f}"
        yield (
            f"  {claim.id} ({claim.kind}): {o.case}, seed {o.seed}: {o.observed:.4g} "
            f"{claim.relation} {o.bound:.4g} within {claim.allowed(o):.2g}{z}"
        )
    if found.z:
        yield (
            f"{len(found.z)} sampled equalities:"
            + "".join(
                f" |z| > {limit} in {share(found.z, limit):.2g} (normal: {expected(limit):.2g});"
                for limit in LIMITS
            )
            + f" largest {max(found.z):.1f}"
        )


def share(z: Sequence[float], limit: float) -> float:
    return sum(value > limit for value in z) / len(z)
