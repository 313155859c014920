"""Controls and claims: sentences with decision rules, fixed before anything was measured, and the rows that decide them.

A claim is decided only where every control passes; else it reads "not decided" and names the control and its value.
Limits are 95 % Wilson intervals of the pooled answers for one seed, and t intervals of the seeds' means for several.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from recycle.evaluate import wilson
from recycle.methods import CONTROLS

Row = dict
# Two-sided 97.5 % quantiles of Student's t for 1, 2, .. degrees of freedom, two decimals more than they are used to.
_T = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622)


@dataclass(frozen=True)
class Estimate:
    """A share of answers: mean over seeds of each seed's pooled share, and its 95 % interval."""

    mean: float
    low: float
    high: float
    n: int
    seeds: int

    def __str__(self) -> str:
        return f"{self.mean:.2f} [{self.low:.2f}, {self.high:.2f}]"


def estimate(rows: Iterable[Row], outcome: str | Sequence[str] = "right") -> Estimate:
    """The share of answers with an outcome (or one of several) among rows."""
    outcomes = (outcome,) if isinstance(outcome, str) else tuple(outcome)
    counts: dict[int, list[int]] = {}
    for row in rows:
        count = counts.setdefault(row["seed"], [0, 0])
        count[0] += sum(row[o] for o in outcomes)
        count[1] += row["n"]
    if not counts:
        raise ValueError("no rows to estimate from")
    shares = [hits / n for hits, n in counts.values()]
    mean, total = sum(shares) / len(shares), sum(n for _, n in counts.values())
    if len(shares) == 1:
        hits, n = next(iter(counts.values()))
        return Estimate(mean, *wilson(hits, n), n, 1)
    deviation = math.sqrt(sum((share - mean) ** 2 for share in shares) / (len(shares) - 1))
    half = _T[min(len(shares) - 2, len(_T) - 1)] * deviation / math.sqrt(len(shares))
    return Estimate(mean, max(0.0, mean - half), min(1.0, mean + half), total, len(shares))


@dataclass(frozen=True)
class Control:
    id: str
    statement: str
    threshold: float
    value: float
    where: str

    @property
    def passes(self) -> bool:
        return self.value >= self.threshold


@dataclass(frozen=True)
class Claim:
    id: str
    statement: str
    rule: str
    verdict: str
    evidence: str


class Metrics:
    """Rows of metrics.jsonl, to be asked for by their keys."""

    def __init__(self, rows: Sequence[Row]):
        self.rows = list(rows)

    def where(self, **wanted: str | Sequence[str]) -> list[Row]:
        def fits(row: Row) -> bool:
            return all(row[k] == v if isinstance(v, str) else row[k] in v for k, v in wanted.items())

        return [row for row in self.rows if fits(row)]

    @property
    def sets(self) -> list[str]:
        return [s for s in dict.fromkeys(row["fact_set"] for row in self.rows) if s != "base"]

    def methods(self, library: str) -> list[str]:
        """The methods that claims speak of: all but the negative controls."""
        return [m for m in dict.fromkeys(row["method"] for row in self.where(library=library)) if m not in CONTROLS]


def controls(metrics: Metrics) -> list[Control]:
    """P1-P4. Where a control speaks of several sets or experts, its value is the lowest of them."""

    def lowest(cases: Iterable[tuple[str, list[Row]]]) -> tuple[float, str]:
        values = [(estimate(rows).mean, name) for name, rows in cases if rows]
        return min(values) if values else (0.0, "nothing measured")

    def alone(library: str, form: str, sets: Sequence[str]) -> list[tuple[str, list[Row]]]:
        return [(f"{library} expert, set {s}", metrics.where(fact_set=s, library=library, form=form)) for s in sets]

    new_names = [s for s in metrics.sets if s in ("F", "H")] or metrics.sets
    return [
        Control("P1", "each one-hop expert alone answers its own facts", 0.95,
                *lowest(alone("hop1", "hop1", metrics.sets) + alone("hop2", "hop2", metrics.sets))),
        Control("P2", "the base composes held-out real people with a chain of thought", 0.90,
                *lowest([("base", metrics.where(fact_set="base", form="cot"))])),
        Control("P3", "one adapter trained on both hops composes unseen entities with a chain of thought", 0.90,
                *lowest(alone("joint", "cot", new_names))),
        Control("P4", "an A->C expert on the same entities answers them", 0.95,
                *lowest(alone("target", "direct", metrics.sets))),
    ]  # fmt: skip


def decide(metrics: Metrics, chance: float) -> tuple[list[Control], list[Claim]]:
    """All controls, and every claim with its verdict. ``chance``: accuracy of the best constant answer."""
    checked = controls(metrics)
    failed = [control for control in checked if not control.passes]
    claims = []
    for rule in (_c1, _c2, _c3, _c4, _c5, _c7):
        id, statement, text, verdict, evidence = rule(metrics, chance)
        if not set(metrics.sets) & set(_NEW):
            verdict = "not decided: the study has neither set F nor set H"
        elif failed:
            verdict = "not decided: " + ", ".join(f"control {c.id} at {c.value:.2f}" for c in failed)
        claims.append(Claim(id, statement, text, verdict, evidence))
    return checked, claims


def _below(cases: dict[str, Estimate], limit: float) -> str:
    """supported where every upper limit is below the bound, refuted where a lower limit is above it."""
    if any(e.low > limit for e in cases.values()):
        return "refuted"
    return "supported" if all(e.high < limit for e in cases.values()) else "inconclusive"


def _worst(cases: dict[str, Estimate]) -> str:
    if not cases:
        return "nothing measured"
    name, worst = max(cases.items(), key=lambda item: item[1].high)
    return f"highest of {len(cases)}: {name} {worst}, n = {worst.n}"


def _by_method(metrics: Metrics, library: str, form: str, sets: Sequence[str]) -> dict[str, Estimate]:
    found = {m: metrics.where(library=library, method=m, form=form, fact_set=sets) for m in metrics.methods(library)}
    return {method: estimate(rows) for method, rows in found.items() if rows}


_NEW = ("F", "H")


def _c1(metrics: Metrics, chance: float):
    cases = _by_method(metrics, "2-combination", "direct", _NEW)
    return ("C1", "2-combination libraries stay at chance on direct two-hop questions (F and H pooled)",
            f"for every method, upper limit < chance + .05 = {chance + .05:.2f}; refuted if a lower limit is above it",
            _below(cases, chance + 0.05), _worst(cases))  # fmt: skip


def _c2(metrics: Metrics, chance: float):
    cases = {}
    for s in (s for s in metrics.sets if s in _NEW):
        for method in metrics.methods("2-combination"):
            where = {"library": "2-combination", "method": method, "fact_set": s}
            recall = [estimate(metrics.where(form=hop, **where)).mean for hop in ("hop1", "hop2")]
            if min(recall) >= 0.9:
                cases[f"{method} on {s}"] = estimate(metrics.where(form="direct", **where))
    rule = f"as C1, over the methods and sets that keep both hops >= .9 after the merge; limit {chance + 0.05:.2f}"
    statement = "C1 holds where one-hop recall survives the merge: the failure is of composition, not of scale"
    if not cases:
        return "C2", statement, rule, "not decided: no method keeps both hops at 0.9", "see one-hop recall in the table"
    return "C2", statement, rule, _below(cases, chance + 0.05), _worst(cases)


def _c3(metrics: Metrics, chance: float):
    cases = {s: estimate(metrics.where(library="joint", form="direct", fact_set=s)) for s in metrics.sets if s in _NEW}
    return ("C3", "joint training on both hops is at chance on direct questions too: the limit is not merging alone",
            f"for F and H, upper limit < chance + .05 = {chance + .05:.2f}; refuted if a lower limit is above it",
            _below(cases, chance + 0.05), _worst(cases))  # fmt: skip


def _c4(metrics: Metrics, chance: float):
    best = {}
    for s in (s for s in metrics.sets if s in _NEW):
        by_method = _by_method(metrics, "3-combination", "direct", (s,))
        name, found = max(by_method.items(), key=lambda item: item[1].mean)
        best[f"{name} on {s}"] = found
    verdict = (
        "supported"
        if all(e.low > chance + 0.05 for e in best.values())
        else "refuted"
        if any(e.high < chance + 0.05 for e in best.values())
        else "inconclusive"
    )
    return ("C4", "a 3-combination library with the A->C expert on the same entities answers directly, by memory",
            f"for F and H, the best method's lower limit > chance + .05 = {chance + .05:.2f}; refuted if an upper limit is "
            "below it", verdict, "; ".join(f"{name} {e}" for name, e in best.items()))  # fmt: skip


def _c5(metrics: Metrics, chance: float):
    statement = (
        "with a shared chain-of-thought template, accuracy is the product of the one-hop accuracies after the merge"
    )
    rule = "for F and H and every method the product lies in the interval; refuted if an upper limit is more than .1 below it"
    gaps = {}
    for s in (s for s in metrics.sets if s in _NEW):
        for method in metrics.methods("2-combination"):
            where = {"library": "2-combination", "method": method, "fact_set": s}
            product = math.prod(estimate(metrics.where(form=hop, **where)).mean for hop in ("hop1", "hop2"))
            gaps[f"{method} on {s}"] = (product, estimate(metrics.where(form="cot", **where)))
    if not gaps:
        return "C5", statement, rule, "inconclusive", "nothing measured"
    name, (product, cot) = max(gaps.items(), key=lambda item: item[1][0] - item[1][1].mean)
    within = [cot.low <= product <= cot.high for product, cot in gaps.values()]
    far = [cot.high < product - 0.1 for product, cot in gaps.values()]
    verdict = "supported" if all(within) else "refuted" if any(far) else "inconclusive"
    evidence = f"{sum(within)} of {len(gaps)} within; widest gap: {name}, product {product:.2f}, found {cot}"
    return "C5", statement, rule, verdict, evidence


def _c7(metrics: Metrics, chance: float):
    rows = metrics.where(library="2-combination", form="direct", fact_set=_NEW)
    wrong = [{**row, "n": row["n"] - row["right"]} for row in rows if row["n"] > row["right"]]
    statement = "wrong direct answers are mostly the bridge or another city"
    rule = "their share among wrong answers of all 2-combination methods has a lower limit > .5; refuted if the upper is below"
    if not wrong:
        return "C7", statement, rule, "not decided: no wrong answers", "every answer is right"
    share, bridge = estimate(wrong, ("bridge", "wrong city")), estimate(wrong, "bridge")
    verdict = "supported" if share.low > 0.5 else "refuted" if share.high < 0.5 else "inconclusive"
    return "C7", statement, rule, verdict, f"{share}, n = {share.n}; the bridge alone {bridge}"


def to_json(checked: Sequence[Control], claims: Sequence[Claim]) -> dict:
    return {
        "controls": [{**asdict(c), "passes": c.passes} for c in checked],
        "claims": [asdict(c) for c in claims],
    }


__all__ = ["Claim", "Control", "Estimate", "Metrics", "controls", "decide", "estimate", "to_json"]
