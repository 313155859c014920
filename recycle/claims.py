"""Controls, claims, and the rows that decide them. What is claimed of a task stands in a file of
its own: rules_<task>.py, sentences with decision rules, fixed and committed before the study that
decides them is run.

A claim is decided only where every control passes; else it reads "not decided" and names the
control and its value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass

from recycle.methods import CONTROLS
from recycle.statistics import Estimate, Row, estimate

NOTHING = "nothing measured"


@dataclass(frozen=True)
class Control:
    """A share that must be at least (positive control) or at most (negative control) a threshold,
    wherever it is taken."""

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
    def state(self) -> str:
        return "not measured" if self.where == NOTHING else "passes" if self.passes else "FAILS"

    @property
    def needs(self) -> str:
        return f"{'<=' if self.at_most else '>='} {self.threshold:.2f}"


@dataclass(frozen=True)
class Claim:
    id: str
    statement: str
    rule: str
    verdict: str
    evidence: str


class Metrics:
    """Rows of metrics.jsonl, to be asked for by their keys; on the standard base unless another is
    named."""

    def __init__(self, rows: Sequence[Row]):
        self.rows = list(rows)

    def where(self, base: str = "standard", **wanted: str | Sequence[str]) -> list[Row]:
        def fits(row: Row) -> bool:
            return all(
                row[k] == v if isinstance(v, str) else row[k] in v for k, v in wanted.items()
            )

        return [row for row in self.rows if row["base"] == base and fits(row)]

    @property
    def groups(self) -> list[str]:
        return [
            group for group in dict.fromkeys(row["group"] for row in self.rows) if group != "base"
        ]

    @property
    def bases(self) -> list[str]:
        return list(dict.fromkeys(row["base"] for row in self.rows))

    def methods(self, library: str, base: str = "standard") -> list[str]:
        """The methods that claims speak of: all but the negative controls."""
        found = dict.fromkeys(row["method"] for row in self.where(base=base, library=library))
        return [method for method in found if method not in CONTROLS]


Rule = Callable[[Metrics, float], Claim]


def decide(
    controls: Sequence[Control], rules: Sequence[Rule], metrics: Metrics, chance: float
) -> list[Claim]:
    """Every claim with its verdict. ``chance``: accuracy of the best constant answer."""
    failed = [control for control in controls if not control.passes]
    claims = []
    for rule in rules:
        claim = rule(metrics, chance)
        if failed and not claim.verdict.startswith("not decided"):
            at = ", ".join(f"control {c.id} at {c.value:.2f}" for c in failed)
            claim = Claim(
                claim.id, claim.statement, claim.rule, f"not decided: {at}", claim.evidence
            )
        claims.append(claim)
    return claims


def extreme(cases: Iterable[tuple[str, list[Row]]], pick: Callable = min) -> tuple[float, str]:
    """The lowest (or highest) share of right answers among cases, and where."""
    values = [(estimate(rows).mean, name) for name, rows in cases if rows]
    return pick(values) if values else (0.0 if pick is min else 1.0, NOTHING)


@dataclass(frozen=True)
class Case:
    """A share of one method at 95 %, and at the level where the claim's cases share their error
    (for "refuted")."""

    name: str
    own: Estimate
    shared: Estimate


def cases(rows: dict[str, list[Row]], outcome: str = "right") -> list[Case]:
    found = {name: own for name, own in rows.items() if own}
    return [
        Case(name, estimate(own, outcome), estimate(own, outcome, len(found)))
        for name, own in found.items()
    ]


def below(found: Sequence[Case], limit: float) -> str:
    """supported where every upper limit is below the bound; refuted where a lower limit is above
    it, after Bonferroni."""
    if not found:
        return "not decided: nothing measured"
    if any(case.shared.low > limit for case in found):
        return "refuted"
    return "supported" if all(case.own.high < limit for case in found) else "inconclusive"


def worst(found: Sequence[Case]) -> str:
    if not found:
        return NOTHING
    case = max(found, key=lambda case: case.own.high)
    return f"highest of {len(found)}: {case.name} {case.own}, n = {case.own.n}"


def to_json(controls: Sequence[Control], claims: Sequence[Claim]) -> dict:
    return {
        "controls": [
            {**asdict(control), "needs": control.needs, "passes": control.passes}
            for control in controls
        ],
        "claims": [asdict(claim) for claim in claims],
    }
