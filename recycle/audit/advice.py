"""One sentence of advice with its reason, out of what was measured and of nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from recycle.audit.composition import KEPT
from recycle.audit.retention import ENOUGH

MEASURED = "This audit reports what it measured on these texts and questions."
NOT_PREDICTED = (
    "It makes no prediction for other questions: none that was fitted to merges of known fate has "
    "passed the test that adapters like these need (recycle/results, audit-prediction)."
)
PREDICTED = (
    "The recall that an adapter would keep on questions about what it learned is predicted, with "
    "its 95 % interval, by a fit to merges of known fate that passed its test on adapters like "
    "these (recycle/results, audit-prediction)."
)


def scope(report: Mapping[str, Any]) -> str:
    """What the report can say, and what it cannot."""
    predicted = any(row["predicted"] for row in report["retention"])
    return f"{MEASURED} {PREDICTED if predicted else NOT_PREDICTED}"


def advise(report: Mapping[str, Any]) -> dict[str, Any]:
    """The advice for an audit's report: {"method": the advised one or None, "text": a sentence}.

    An adapter counts as kept where its share in the evidence is >= KEPT: its recall on the probes
    that it answers alone, where it has such probes, else the kept share of its own texts. Of merges
    that keep all adapters, one that composes comes first, then the one whose worst adapter is best.
    """
    names = [each["adapter"] for each in report["adapters"]]
    if len(names) < 2:
        return _said(None, "One adapter: there is nothing to merge.")
    if weak := undecided(report, names):
        return _said(None, f"Not decided: {weak}.")
    ranked = {family: by_worst(report, family) for family in ("merge", "router")}
    merges, routers = ranked["merge"], ranked["router"]
    best = {family: rows[0] for family, rows in ranked.items() if rows}
    keeping = [row for row in merges if _worst(row)["mean"] >= KEPT]
    if keeping:
        chosen = next((row for row in keeping if row["says"] == "composes"), keeping[0])
        text = f"Merge by {named(chosen)}: it {_keeps(chosen)}"
        return _said(chosen, f"{text}{_composition(chosen, ranked)}.")
    routing = [row for row in routers if _worst(row)["mean"] >= KEPT]
    if routing:
        chosen = next((row for row in routing if row["says"] == "composes"), routing[0])
        other = f"; {_falls(best['merge'])}" if merges else "; no merge could be made"
        text = f"Do not merge: route by {named(chosen)}, which {_keeps(chosen)}{other}"
        return _said(chosen, f"{text}{_composition(chosen, ranked)}.")
    if not best:
        return _said(
            None, "None of the methods could put these adapters together: retrain jointly."
        )
    top = max(best.values(), key=lambda row: _worst(row)["mean"])
    return _said(
        None,
        f"Retrain jointly: none of the {len(merges) + len(routers)} methods tried keeps every "
        f"adapter at >= {KEPT:g} of itself; {_falls(top)}.",
    )


def undecided(report: Mapping[str, Any], names: Sequence[str]) -> str:
    """Why nothing can be said about one of the adapters; empty where there is no reason."""
    for name in names:
        own = [row for row in report["retention"] if row["adapter"] == name]
        alone = next((row for row in own if row["method"] == "alone"), None)
        if alone is None or evidence(alone) is not None:
            continue
        return (
            f"the texts that {name} writes by itself hold {alone['written']['changed']} tokens "
            f"that it changes, of {ENOUGH} needed, and no probe shows what it does: bring "
            "--probes that it answers"
        )
    return ""


def evidence(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """What says how much of an adapter a method keeps: recall on probes, else its own texts; None
    where both say too little."""
    if row["recall kept"] is not None:
        return {**row["recall kept"], "of": "its probes"}
    if row["written"]["kept"] is not None and row["written"]["changed"] >= ENOUGH:
        return {**row["written"]["kept"], "of": "its own texts"}
    return None


def by_worst(report: Mapping[str, Any], family: str) -> list[dict[str, Any]]:
    """The methods of a family that could be measured, the one with the best worst adapter first;
    of equals the one that was tried first."""
    found = []
    for method in report["methods"]:
        if method["family"] == family and method["refused"] is None:
            shares = {
                row["adapter"]: evidence(row)
                for row in report["retention"]
                if row["method"] == method["method"]
            }
            says = next(
                (r["says"] for r in report["composition"] if r["method"] == method["method"]), None
            )
            found.append({**method, "shares": shares, "says": says})
    return sorted(found, key=lambda row: -_worst(row)["mean"])


def _worst(row: Mapping[str, Any]) -> dict[str, Any]:
    name, share = min(row["shares"].items(), key=lambda item: item[1]["mean"])
    return {"adapter": name, **share}


def named(row: Mapping[str, Any]) -> str:
    weight = row["weight"]
    return row["method"] if weight is None else f"{row['method']} (each at weight {weight:g})"


def amount(share: Mapping[str, Any]) -> str:
    return f"{share['mean']:.2f} [{share['low']:.2f}, {share['high']:.2f}] (n {share['n']:g})"


def _keeps(row: Mapping[str, Any]) -> str:
    worst = _worst(row)
    return (
        f"keeps each adapter at >= {KEPT:g} of itself, the least {worst['adapter']} at "
        f"{amount(worst)} of {worst['of']}"
    )


def _falls(row: Mapping[str, Any]) -> str:
    worst = _worst(row)
    kind = {"merge": "merge", "router": "router"}[row["family"]]
    return (
        f"the best {kind}, {named(row)}, keeps {worst['adapter']} at {amount(worst)} of "
        f"{worst['of']}"
    )


def _composition(chosen: Mapping[str, Any], ranked: Mapping[str, Any]) -> str:
    """What the questions for several adapters add to the advice, where there are any."""
    if chosen["says"] is None:
        return ""
    if chosen["says"] == "composes":
        return ", and it composes"
    others = [row for rows in ranked.values() for row in rows if row["says"] == "composes"]
    if others:
        return (
            f", but on the composed questions it {chosen['says']}; {others[0]['method']} composes"
        )
    return (
        f", but on the composed questions it {chosen['says']}, as no method composes: "
        "retrain jointly for those"
    )


def _said(chosen: Mapping[str, Any] | None, text: str) -> dict[str, Any]:
    return {"method": chosen and chosen["method"], "text": text}
