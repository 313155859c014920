"""What each adapter would lose, and which adapters conflict, in sentences out of what was measured.

Two adapters conflict where their sum at full weight, without any other adapter, leaves one of them
less than KEPT of itself. Overlaps of their spaces say nothing of that by themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from recycle.audit.advice import amount, by_worst, evidence, named
from recycle.audit.composition import KEPT
from recycle.reuse.methods import PLAIN_SUM


def losses(report: Mapping[str, Any]) -> list[str]:
    """A sentence an adapter, about the advised method, else about the one whose worst adapter is
    best; none where nothing was merged."""
    found = _chosen(report)
    if found is None:
        return []
    return [
        f"{name} {_loss(share)} under {named(found)}."
        if share
        else f"{name}: not known under {named(found)}, its texts and probes say too little."
        for name, share in found["shares"].items()
    ]


def _chosen(report: Mapping[str, Any]) -> dict[str, Any] | None:
    if any(evidence(row) is None for row in report["retention"] if row["method"] == "alone"):
        told: list[dict[str, Any]] = []  # adapters that show too little cannot be ranked
    else:
        told = [row for family in ("merge", "router") for row in by_worst(report, family)]
    advised = report["advice"]["method"]
    return next((row for row in told if row["method"] == advised), told[0] if told else None)


def _loss(share: Mapping[str, Any]) -> str:
    """From the share kept, with its interval."""
    lost, least, most = (round(100 * (1 - share[end])) for end in ("mean", "high", "low"))
    if lost <= 0:
        return f"loses nothing that was seen of {share['of']} (at most {most} %)"
    return f"loses {lost} % ({least} to {most} %) of {share['of']}"


def conflicts(report: Mapping[str, Any]) -> list[str]:
    """A sentence a pair, the worst first, and one about all of them together."""
    found = sorted(_pairs(report), key=lambda each: each[1]["mean"])
    lines = [f"{' and '.join(pair)} {_verdict(worst)}." for pair, worst in found]
    together = _seen([r for r in report["retention"] if r["method"] == PLAIN_SUM.name])
    if len(found) > 1 and together and all(worst["mean"] >= KEPT for _, worst in found):
        name, share = min(together.items(), key=lambda item: item[1]["mean"])
        if share["mean"] < KEPT:
            lines.append(
                "No two conflict by themselves; it is their number that costs: where all are "
                f"summed, {name} keeps {amount(share)} of {share['of']}."
            )
    return lines


def _pairs(report: Mapping[str, Any]) -> Iterator[tuple[list[str], dict[str, Any]]]:
    """Each pair that was summed, with what is left of the one that keeps less."""
    summed = report["pairs"]
    if len(report["adapters"]) == 2:
        rows = [row for row in report["retention"] if row["method"] == PLAIN_SUM.name]
        summed = [{"pair": [row["adapter"] for row in rows], "rows": rows}] if rows else []
    for each in summed:
        if len(seen := _seen(each["rows"])) == 2:
            name, share = min(seen.items(), key=lambda item: item[1]["mean"])
            yield each["pair"], {"adapter": name, **share}


def _seen(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What is kept of each adapter of which enough is seen."""
    shares = {row["adapter"]: evidence(row) for row in rows}
    return {name: share for name, share in shares.items() if share}


def _verdict(worst: Mapping[str, Any]) -> str:
    if worst["mean"] == 1:
        return f"get along: in the sum of the two each keeps all of {worst['of']} that was seen"
    kept = f"keeps {amount(worst)} of {worst['of']}"
    if worst["mean"] >= KEPT:
        return f"get along: in the sum of the two {worst['adapter']}, which keeps less, {kept}"
    how = "conflict" if worst["high"] < KEPT else "may conflict"
    return f"{how}: in the sum of the two {worst['adapter']} {kept}"
