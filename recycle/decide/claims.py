"""Controls, claims, and what decides them.

The claims of a study stand in its file in recycle/studies/: sentences with rules, fixed and
committed before the study that decides them is run. A claim is decided only where the controls that
its logic needs pass (every control, unless the study's ``gates`` say otherwise); else its verdict
is "not decided", and it names the control and its value.

A control is judged by the mean of its worst place, or, where its study says so before the run, by
that place's confidence limit: a mean beside a bound passes about half of the time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import Enum
from typing import Any

import numpy as np

from recycle.decide.metrics import Metrics, Row
from recycle.decide.statistics import LEVEL, Estimate, by_seed, estimate, t_quantile, wilson

NOTHING = "nothing measured"
UNREACHABLE = "unreachable"  # what it means that training itself does not reach a target


Counts = tuple[tuple[int, int], ...]  # (right answers, answers) of each seed


@dataclass(frozen=True)
class Control:
    """A share that must be at least (positive control) or at most (negative control) a threshold,
    wherever it is taken. ``value`` is the worst of all places, ``where`` names that place,
    ``interval`` and ``counts`` are that place's estimate and its answers by seed.

    With ``by_limit`` a positive control passes by its lower confidence limit and a negative one by
    its upper. ``base`` is the base that it speaks of. ``failing`` says in a word what it means for
    a claim that the control fails, as UNREACHABLE."""

    id: str
    statement: str
    threshold: float
    value: float
    where: str
    interval: Estimate | None = None
    counts: Counts = ()
    at_most: bool = False
    by_limit: bool = False
    base: str = "standard"
    failing: str = ""

    @property
    def decisive(self) -> float:
        """The number that is held against the threshold."""
        if not self.by_limit or self.interval is None:
            return self.value
        return self.interval.high if self.at_most else self.interval.low

    @property
    def passes(self) -> bool:
        if self.by_limit and self.interval is None:
            return False
        if self.at_most:
            return self.decisive <= self.threshold
        return self.decisive >= self.threshold

    @property
    def measured(self) -> bool:
        return self.where != NOTHING

    @property
    def state(self) -> str:
        return "not measured" if not self.measured else "passes" if self.passes else "FAILS"

    @property
    def bound(self) -> str:
        """What is asked, in words."""
        asked = f"{'<=' if self.at_most else '>='} {self.threshold:.2f}"
        return f"{'upper' if self.at_most else 'lower'} limit {asked}" if self.by_limit else asked

    @property
    def said(self) -> str:
        """What was found, in words."""
        return f"at {self.amount}" if self.measured else "not measured"

    @property
    def reason(self) -> str:
        """Why a claim that needs this control is not decided where the control fails."""
        meaning = f"{self.failing}: " if self.failing and self.measured else ""
        return f"{meaning}control {self.id} {self.said}"

    @property
    def amount(self) -> str:
        """The worst place's share, with its interval where the limit decides."""
        if not self.measured:
            return "-"
        return str(self.interval) if self.by_limit and self.interval else f"{self.value:.2f}"


def gate(
    id: str,
    statement: str,
    threshold: float,
    cases: Iterable[tuple[str, list[Row]]],
    *,
    at_most: bool = False,
    by_limit: bool = True,
    base: str = "standard",
    failing: str = "",
) -> Control:
    """A control of all the places where it is taken, as (place, rows) each."""
    worst = extreme(cases, max if at_most else min, by_limit)
    return Control(
        id,
        statement,
        threshold,
        *worst,
        at_most=at_most,
        by_limit=by_limit,
        base=base,
        failing=failing,
    )


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
    """``needs`` are the ids of the controls that the claim's logic rests on; None: all of them.

    ``by_reaching`` says that the claim is supported only where a merge solves the target itself. It
    is then within reach, whatever training reached: no control that fails as "unreachable" speaks
    against the claim's support, though it does against its refutation."""

    id: str
    statement: str
    rule: str
    verdict: Verdict
    evidence: str
    needs: tuple[str, ...] | None = None
    by_reaching: bool = False

    def is_decided_without(self, control: Control) -> bool:
        """Whether the verdict stands though this control fails."""
        reached = self.by_reaching and self.verdict.state is State.SUPPORTED
        return reached and control.failing == UNREACHABLE


Rule = Callable[[Metrics, float], Claim]
Judged = tuple[list[Control], list[Claim]]


@dataclass(frozen=True)
class Rules:
    """What a study claims: its controls, its claims' rules, and the groups they speak of. ``rules``
    take the metrics and chance, the accuracy of the best constant answer in those groups.

    ``gates`` name for each claim the controls that it needs; None: every control gates every claim.
    ``base_gates`` are the controls that each single seed has to pass, or a spare seed replaces it:
    they speak of bases alone, so whether a seed stays does not depend on what its experts do.
    """

    groups: tuple[str, ...]
    controls: Callable[[Metrics], list[Control]]
    rules: tuple[Rule, ...]
    gates: Mapping[str, tuple[str, ...]] | None = None
    base_gates: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.gates is not None:  # a rule carries its gate, so nobody can decide without it
            gated = tuple(_gated(rule, self.gates) for rule in self.rules)
            object.__setattr__(self, "rules", gated)

    def judge(self, metrics: Metrics, chance: float) -> Judged:
        controls = self.controls(metrics)
        return controls, decide(controls, self.rules, metrics, chance)

    def keeps(self, seed: Metrics) -> bool:
        """Whether one seed's rows pass every gate of its bases that was measured."""
        asked = [control for control in self.controls(seed) if control.id in self.base_gates]
        return all(control.passes for control in asked if control.measured)


def _gated(rule: Rule, gates: Mapping[str, tuple[str, ...]]) -> Rule:
    def judged(metrics: Metrics, chance: float) -> Claim:
        claim = rule(metrics, chance)
        if claim.id not in gates:
            raise ValueError(f"claim {claim.id} has no gate: name its controls, or an empty tuple")
        return replace(claim, needs=tuple(gates[claim.id]))

    return judged


def decide(
    controls: Sequence[Control], rules: Sequence[Rule], metrics: Metrics, chance: float
) -> list[Claim]:
    """Every claim with its verdict: not decided where a control that it needs fails.

    Raises ValueError where two controls share an id, or where a claim needs a control that there is
    not."""
    by_id = {control.id: control for control in controls}
    if len(by_id) < len(controls):
        ids = [control.id for control in controls]
        raise ValueError(f"two controls are called {max(ids, key=ids.count)!r}: give each an id")
    claims = []
    for claim in (rule(metrics, chance) for rule in rules):
        needs = list(by_id) if claim.needs is None else claim.needs
        if unknown := [name for name in needs if name not in by_id]:
            raise ValueError(
                f"claim {claim.id} needs the control {unknown[0]!r}: choose {', '.join(by_id)}"
            )
        failing = [by_id[name] for name in needs if not by_id[name].passes]
        failed = [control for control in failing if not claim.is_decided_without(control)]
        own = ""
        if claim.verdict.state is State.NOT_DECIDED:
            # Whoever adds what the study lacks would still ask for what nobody reaches.
            own = claim.verdict.reason
            failed = [each for each in failed if each.failing == UNREACHABLE and each.measured]
        if failed:
            reason = ", ".join(control.reason for control in failed)
            claim = replace(claim, verdict=not_decided("; ".join(filter(None, (reason, own)))))
        claims.append(claim)
    return claims


Extreme = tuple[float, str, Estimate | None, Counts]


def extreme(
    cases: Iterable[tuple[str, list[Row]]], pick: Callable = min, by_limit: bool = False
) -> Extreme:
    """The lowest (or highest) share of right answers among cases, its place, its interval, and its
    counts by seed. ``by_limit``: the case with the lowest lower (or highest upper) limit."""

    def rank(case: tuple[float, str, Estimate, Counts]) -> tuple[float, str]:
        mean, place, interval, _ = case
        return (interval.low if pick is min else interval.high) if by_limit else mean, place

    measured = []
    for place, rows in cases:
        if rows:
            interval = estimate(rows)
            measured.append((interval.mean, place, interval, tuple(by_seed(rows).values())))
    if not measured:
        return (0.0 if pick is min else 1.0), NOTHING, None, ()
    return pick(measured, key=rank)


# How sure a gate is ------------------------------------------------------------------------------

STUDIES = 10_000  # that are drawn to see how many pass a gate


def pass_again(control: Control) -> float | None:
    """The probability that a new study of as many seeds and answers passes this control.

    A seed's true share is drawn from Normal(m, s), cut at 0 and 1, and its right answers from a
    binomial: m is the mean of the seen shares, s^2 their variance less what their binomial noise
    alone makes of it, mean(p (1 - p) / (n - 1)), and at least 0 (the method of moments). The drawn
    studies are then judged as the control is. The seen m counts as true, and only the worst place
    is drawn, so the probability is rather too high than too low. None for fewer than two seeds,
    whose spread nobody has seen."""
    if len(control.counts) < 2:
        return None
    hits, n = np.array(control.counts).T
    shares = hits / n
    noise = (shares * (1 - shares) / np.maximum(n - 1, 1)).mean()
    spread = np.sqrt(max(0.0, shares.var(ddof=1) - noise))
    generator = np.random.default_rng(0)
    true = generator.normal(shares.mean(), spread, (STUDIES, len(n))).clip(0, 1)
    drawn = generator.binomial(n, true)
    decisive = (drawn / n).mean(1)
    if control.by_limit:
        decisive = _limits(drawn, n, upper=control.at_most)
    sign = -1 if control.at_most else 1
    return float((sign * (decisive - control.threshold) >= -1e-9).mean())


def _limits(hits: np.ndarray, n: np.ndarray, upper: bool) -> np.ndarray:
    """The lower or upper limits of many studies at once, as ``estimate`` has them: hits (studies,
    seeds), n (seeds,)."""
    side = 1 if upper else -1
    shares = hits / n
    pooled, place = np.unique(hits.sum(1), return_inverse=True)
    by_wilson = np.array([wilson(int(k), int(n.sum()))[int(upper)] for k in pooled])[place]
    half = t_quantile(1 - (1 - LEVEL) / 2, len(n) - 1) * shares.std(1, ddof=1) / np.sqrt(len(n))
    widest = side * np.maximum(side * by_wilson, side * shares.mean(1) + half)
    return widest.clip(0, 1)


def chosen_seeds(
    candidates: Sequence[int], passed: Callable[[int], bool], count: int
) -> tuple[list[int], list[int]]:
    """The first ``count`` candidates that pass a gate, and those before the last of them that do
    not: they are replaced, by an order that stands before the run. Where too few pass, the first
    that fail stay, and the claims' own gates will see them. ``passed`` is asked of one candidate
    after another and of no more than are needed.

    Raises ValueError where a candidate stands twice."""
    if count < 1 or len(set(candidates)) < len(candidates):
        raise ValueError(f"{count} of the seeds {list(candidates)}: at least 1, each seed once")
    chosen: list[int] = []
    failed: list[int] = []
    for seed in candidates:
        (chosen if passed(seed) else failed).append(seed)
        if len(chosen) == count:
            break
    lacking = count - len(chosen)
    stay = {*chosen, *failed[:lacking]}
    return [seed for seed in candidates if seed in stay], failed[lacking:]


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
    """What was decided, as plain JSON. A control that was never measured has no value."""
    return {
        "controls": [_control_json(control) for control in controls],
        "claims": [_claim_json(claim) for claim in claims],
    }


def _control_json(control: Control) -> dict[str, Any]:
    found: dict[str, Any] = {
        "id": control.id,
        "statement": control.statement,
        "threshold": control.threshold,
        "value": control.value if control.measured else None,
        "where": control.where,
        "at_most": control.at_most,
        "by_limit": control.by_limit,
        "base": control.base,
        "needs": control.bound,
        "passes": control.passes if control.measured else None,
    }
    if control.interval is not None:
        found |= asdict(control.interval)
        del found["mean"]
    if (again := pass_again(control)) is not None:
        found["again"] = round(again, 3)
    return found


def _claim_json(claim: Claim) -> dict[str, Any]:
    found = {**vars(claim), "verdict": str(claim.verdict)}
    needs = found.pop("needs")
    return found if needs is None else {**found, "needs": list(needs)}
