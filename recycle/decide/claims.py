"""Controls, claims, and what decides them.

The claims of a study stand in its file in recycle/studies/: sentences with rules, fixed and
committed before the study that decides them is run. A claim is decided only where every control
passes; else its verdict is "not decided", and it names the control and its value."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import Enum

from recycle.decide.metrics import Metrics, Row
from recycle.decide.statistics import Estimate, estimate

NOTHING = "nothing measured"


@dataclass(frozen=True)
class Control:
    """A share that must be at least (positive control) or at most (negative control) a threshold,
    wherever it is taken. ``value`` is the worst of all places, ``where`` names that place."""

    id: str
    statement: str
    threshold: float
    value: float
    where: str
    at_most: bool = False

    @property
    def passes(self) -> bool:
        return self.value <= self.threshold if self.at_most else self.value >= self.threshold

    @property
    def measured(self) -> bool:
        return self.where != NOTHING

    @property
    def state(self) -> str:
        return "not measured" if not self.measured else "passes" if self.passes else "FAILS"

    @property
    def bound(self) -> str:
        return f"{'<=' if self.at_most else '>='} {self.threshold:.2f}"


class State(Enum):
    SUPPORTED = "supported"
    REFUTED = "refuted"
    INCONCLUSIVE = "inconclusive"
    NOT_DECIDED = "not decided"


@dataclass(frozen=True)
class Verdict:
    """What a rule says of a claim; a claim that is not decided has a reason."""

    state: State
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.state.value}: {self.reason}" if self.reason else self.state.value


SUPPORTED = Verdict(State.SUPPORTED)
REFUTED = Verdict(State.REFUTED)
INCONCLUSIVE = Verdict(State.INCONCLUSIVE)


def not_decided(reason: str) -> Verdict:
    return Verdict(State.NOT_DECIDED, reason)


@dataclass(frozen=True)
class Claim:
    id: str
    statement: str
    rule: str
    verdict: Verdict
    evidence: str


Rule = Callable[[Metrics, float], Claim]


@dataclass(frozen=True)
class Rules:
    """What a study claims: its controls, its claims' rules, and the groups they speak of. ``rules``
    take the metrics and chance, the accuracy of the best constant answer in those groups."""

    groups: tuple[str, ...]
    controls: Callable[[Metrics], list[Control]]
    rules: tuple[Rule, ...]


def decide(
    controls: Sequence[Control], rules: Sequence[Rule], metrics: Metrics, chance: float
) -> list[Claim]:
    """Every claim with its verdict."""
    failed = [control for control in controls if not control.passes]
    at = ", ".join(f"control {c.id} at {c.value:.2f}" for c in failed)
    claims = [rule(metrics, chance) for rule in rules]
    return [
        replace(claim, verdict=not_decided(at))
        if failed and claim.verdict.state is not State.NOT_DECIDED
        else claim
        for claim in claims
    ]


def extreme(cases: Iterable[tuple[str, list[Row]]], pick: Callable = min) -> tuple[float, str]:
    """The lowest (or highest) share of right answers among cases, and its place."""
    values = [(estimate(rows).mean, name) for name, rows in cases if rows]
    return pick(values) if values else (0.0 if pick is min else 1.0, NOTHING)


@dataclass(frozen=True)
class Case:
    """A share of one method: its own 95 % limits, and the limits at the level where the claim's
    cases share their error, which "refuted" asks for."""

    name: str
    own: Estimate
    shared: Estimate


def cases(rows: Mapping[str, list[Row]], outcome: str = "right") -> list[Case]:
    """A case for each name that has rows."""
    measured = {name: own for name, own in rows.items() if own}
    return [
        Case(name, estimate(own, outcome), estimate(own, outcome, len(measured)))
        for name, own in measured.items()
    ]


def below(measured: Sequence[Case], limit: float) -> Verdict:
    """Supported where every upper limit is below the bound; refuted where a lower limit is above
    it, after Bonferroni."""
    if not measured:
        return not_decided(NOTHING)
    if any(case.shared.low > limit for case in measured):
        return REFUTED
    return SUPPORTED if all(case.own.high < limit for case in measured) else INCONCLUSIVE


def worst(measured: Sequence[Case]) -> str:
    """The case with the highest upper limit, in words."""
    if not measured:
        return NOTHING
    case = max(measured, key=lambda case: case.own.high)
    return f"highest of {len(measured)}: {case.name} {case.own}, n = {case.own.n}"


def to_json(controls: Sequence[Control], claims: Sequence[Claim]) -> dict:
    return {
        "controls": [
            {**asdict(control), "needs": control.bound, "passes": control.passes}
            for control in controls
        ],
        "claims": [{**vars(claim), "verdict": str(claim.verdict)} for claim in claims],
    }
