"""How far two experts act on one another, beside the accuracy of their merges.

A run's cells keep it (recycle/measure/interaction.py), and older runs have none. In a report and in
a record it is

    {base: {group: {form: {"bound": share right or null,
                           "of": {library: {method: {"share": .., "rounding": ..}}}}}}}

with means over the seeds. The bound speaks of two new hops: where the base knows one there is none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from recycle.decide.metrics import Metrics, Row
from recycle.decide.statistics import estimate
from recycle.measure.interaction import additive_bound
from recycle.reuse.methods import weight_of
from recycle.show.tables import Line, lines_of, rows_of, title_of
from recycle.studies import Design, Study

ABOUT = (
    "Interaction: the rms of l(12) - l(1) - l(2) + l(0) over that of l(12) - l(0), l the logits at "
    "the end of a question with the experts named, each at its weight in the sum; 0 where logits "
    "add up. At most, if none: the largest share right that logits which add up allow, in the mean "
    "over worlds. A share right above it proves that the adapters act on one another; in one world "
    "alone it is a hint."
)
HEADS = ("interaction", "at most, if none")
Acting = Mapping[str, Mapping[str, Mapping[str, Any]]]
NONE: Acting = {}  # an older run's


def interactions_of(study: Study, run: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """What the run's cells measured; empty where no cell did."""
    measured: dict[tuple[str, str, str, str, str], list[dict[str, Any]]] = {}
    for cell in study.cells:
        if len(cell.library.experts) == 2 and weight_of(cell.method, 2) is not None:
            for form, seen in study.read_cell(run, cell).get("interaction", {}).items():
                base, group, library, method = cell.key[1:]
                measured.setdefault((base, group, form, library, method), []).append(seen)
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for (base, group, form, library, method), seeds in measured.items():
        bound = None
        if group in study.design.rules.groups:
            bound = fmean(additive_bound(seen["questions"], seen["answers"]) for seen in seeds)
        of_form = found.setdefault(base, {}).setdefault(group, {})
        of = of_form.setdefault(form, {"bound": bound, "of": {}})["of"].setdefault(library, {})
        of[method] = {key: fmean(seen[key] for seen in seeds) for key in ("share", "rounding")}
    return found


def rounded(found: Acting) -> Any:
    """As a record keeps it: shares to 4 digits, their rounding to 2 that count."""
    if isinstance(found, Mapping):
        return {
            key: float(f"{value:.2g}") if key == "rounding" else rounded(value)
            for key, value in found.items()
        }
    return round(found, 4) if isinstance(found, float) else found


def forms_of(found: Acting, group: str) -> list[str]:
    """The forms of a group's questions of which something was measured."""
    return list(dict.fromkeys(form for of in found.values() for form in of.get(group, {})))


def beside(found: Acting, group: str, form: str, line: Line, rows: Sequence[Row]) -> list[str]:
    """What stands beside one share of a table: the interaction, and the bound where there is none.
    A merge that is no weighted sum has a bound alone; other lines have neither."""
    own, bound = _of_line(found, group, form, line)
    passed = " passed" if _passes(bound, rows) else ""
    return ["-" if own is None else _share(**own), "-" if bound is None else f"{bound:.2f}{passed}"]


def _of_line(
    found: Acting, group: str, form: str, line: Line
) -> tuple[Mapping[str, float] | None, float | None]:
    """A line's interaction and bound, where it has them."""
    seen = found.get(line.base, {}).get(group, {}).get(form)
    if not seen or line.family != "merge" or line.library not in seen["of"]:
        return None, None
    return seen["of"][line.library].get(line.method), seen["bound"]


def _passes(bound: float | None, rows: Sequence[Row]) -> bool:
    """Whether the share right lies above the largest one without interaction, by its lower
    limit."""
    return bound is not None and bool(rows) and estimate(rows).low > bound


def _share(share: float, rounding: float) -> str:
    """Two digits; where rounding alone may have made it, what it is less than."""
    return f"< {rounding:.2f}" if share < rounding and rounding >= 0.005 else f"{share:.2f}"


def interactions_markdown(design: Design, metrics: Metrics, found: Acting) -> list[str]:
    """A table for each group of which something was measured: the merges whose interaction was, and
    those that passed the bound."""
    out: list[str] = []
    for group in metrics.groups:
        for form in forms_of(found, group):
            out += ["", f"Interaction of two experts, {form}, {design.world.titles[group]}.", ""]
            out += [f"| library: method | {form} | {' | '.join(HEADS)} |", "|---|---|---|---|"]
            for line in lines_of(metrics, group):
                rows = rows_of(metrics, group, line).get(form, [])
                own, bound = _of_line(found, group, form, line)
                if rows and (own is not None or _passes(bound, rows)):
                    cells = beside(found, group, form, line, rows)
                    shares = f"{estimate(rows).mean:.2f} | {' | '.join(cells)}"
                    out.append(f"| {title_of(design, line)} | {shares} |")
    return [*out, "", ABOUT] if out else []
