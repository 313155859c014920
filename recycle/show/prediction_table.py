"""The record of the audit's prediction as Markdown: what it was tested on, and beside what."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from recycle.audit.predict import FEATURES
from recycle.audit.validate import KIND, NULLS
from recycle.run.environment import commands_of


def as_record(found: Mapping[str, Any], environment: Mapping[str, Any]) -> dict[str, Any]:
    """The record; numbers have four digits, those of the fit eight."""
    fitted = found["prediction"]
    rounded = json.loads(json.dumps(found), parse_float=lambda text: float(f"{float(text):.4g}"))
    exact = json.loads(json.dumps(fitted), parse_float=lambda text: float(f"{float(text):.8g}"))
    return {
        "kind": KIND,
        "task": "audit",
        **environment,
        "inside": {},
        **rounded,
        "prediction": exact,
    }


def tables(recorded: Mapping[str, Any]) -> str:
    commands = ", then ".join(f"`{command}`" for command in commands_of(recorded))
    out = [
        f"{commands} (torch {recorded['torch']}):",
        "",
        "Can an audit tell the recall that an adapter keeps after a merge, without any question "
        f"to it? {recorded['rows']} rows (adapter, method, library) of {recorded['libraries']} "
        f"libraries; {recorded['without texts']} without texts that show anything. The features, "
        "the sets, the nulls and the rule (recycle/audit/validate.py) were fixed first. "
        f"{_verdict(recorded)}",
        "",
        *_sets(recorded),
        *_bins(recorded),
        *_weights(recorded),
        *_peers(recorded),
    ]
    return "\n".join(out) + "\n"


def _verdict(recorded: Mapping[str, Any]) -> str:
    yes = [name for name, offered in recorded["offered"].items() if offered]
    no = [name for name, offered in recorded["offered"].items() if not offered]
    said = []
    if yes:
        said.append(f"It is offered for: {', '.join(yes)}.")
    if no:
        said.append(
            f"It is not offered for: {', '.join(no)}; there the audit says what it measured."
        )
    return " ".join(said)


def _interval(rho: Mapping[str, float]) -> str:
    return f"{rho['mean']:.2f} [{rho['low']:.2f}, {rho['high']:.2f}]"


def _sets(recorded: Mapping[str, Any]) -> list[str]:
    """Spearman's rho and mean distance of every predictor on every set, then the nulls."""
    sets = {name: each for name, each in recorded["sets"].items() if each}
    out = [
        "Spearman's rho with its 95 % interval over libraries; after it the mean distance between "
        "predicted and measured, and the mean of rho within each method.",
        "",
        "| predicted by | " + " | ".join(sets) + " |",
        "|---|" + "---|" * len(sets),
    ]
    ways = [line["by"] for line in next(iter(sets.values()))["lines"]]
    for i, way in enumerate(ways):
        cells = []
        for each in sets.values():
            line = each["lines"][i]
            own = line["within methods"]
            inside = "-" if own is None else f"{own:.2f}"
            cells.append(f"{_interval(line['rho'])}; {line['off']:.2f}; {inside}")
        title = f"**{way}**" if way == "prediction" else way
        out.append(f"| {title} | " + " | ".join(cells) + " |")
    for i, null in enumerate(NULLS):
        cells = [_interval(each["nulls"][i]) for each in sets.values()]
        out.append(f"| null: exchanged {null} | " + " | ".join(cells) + " |")
    numbers = (f"{each['rows']} rows, {each['libraries']} libraries" for each in sets.values())
    out.append("| n | " + " | ".join(numbers) + " |")
    covered = (f"{each['covered']:.2f}" for each in sets.values())
    out.append("| measured inside the 95 % interval | " + " | ".join(covered) + " |")
    passes = (
        f"{'yes' if each['passes'] else 'no'} (limit {each['limit']:.2f})" for each in sets.values()
    )
    out.append("| passes the rule | " + " | ".join(passes) + " |")
    if lacking := [name for name, each in recorded["sets"].items() if not each]:
        out += ["", f"Not tested, for want of rows: {', '.join(lacking)}."]
    return [*out, ""]


def _bins(recorded: Mapping[str, Any]) -> list[str]:
    sets = {name: each for name, each in recorded["sets"].items() if each}
    edges = list(
        dict.fromkeys(
            (b["from"], b["to"]) for each in sets.values() for b in each["bins"]
        )
    )  # fmt: skip
    out = [
        "Measured recall where so much was predicted (rows):",
        "",
        "| predicted | " + " | ".join(sets) + " |",
        "|---|" + "---|" * len(sets),
    ]
    for low, high in sorted(edges):
        cells = []
        for each in sets.values():
            found = next((b for b in each["bins"] if b["from"] == low), None)
            cells.append("-" if found is None else f"{found['measured']:.2f} ({found['rows']})")
        out.append(f"| {low:g} to {high:g} | " + " | ".join(cells) + " |")
    return [*out, ""]


def _weights(recorded: Mapping[str, Any]) -> list[str]:
    fitted = recorded["prediction"]
    out = [
        "The fit on all toy rows; a weight is that of the feature divided by its spread.",
        "",
        "| feature | what it is | weight | fitted from | to |",
        "|---|---|---|---|---|",
    ]
    columns = (fitted[key] for key in ("names", "weights", "low", "high"))
    for name, weight, low, high in zip(*columns, strict=True):
        out.append(f"| {name} | {FEATURES[name]} | {weight:+.2f} | {low:.2f} | {high:.2f} |")
    return [*out, ""]


def _peers(recorded: Mapping[str, Any]) -> list[str]:
    if not recorded["peers"]:
        return ["The peers were not asked."]
    out = [
        "Peers, of pairs of adapters of toys: how their scores go with the mean recall that a pair "
        "keeps over all methods, beside the prediction's means for the same pairs (another library "
        "left out in turn). Gradience's score is an overlap, so a negative rho is its right sign.",
        "",
        "| peer | pairs | verdicts | strategies | rho of its score | rho of the prediction |",
        "|---|---|---|---|---|---|",
    ]
    for each in recorded["peers"]:
        verdicts, strategies = (
            ", ".join(f"{name} {count}" for name, count in each[key].items())
            for key in ("verdicts", "strategies")
        )
        refused = f", refused: {each['refused']}" if each["refused"] else ""
        out.append(
            f"| {each['peer']} {each['version']} | {each['scored']} of {each['pairs']}{refused} | "
            f"{verdicts} | {strategies} | {_interval(each['rho'])} | {_interval(each['ours'])} |"
        )
        out += [
            f"| within {own['task']} | {own['pairs']} | | | {_interval(own['rho'])} | "
            f"{_interval(own['ours'])} |"
            for own in each["within"]
        ]
    return out
