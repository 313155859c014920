"""The table of methods: what each keeps, how far it comes towards the oracle, and what it costs.

A line is a method of one library; a library that grows gives a column for each number of experts.
Both are made from rows and from the costs that cells keep beside them, {library: {method: cost}},
so a record and a report show the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from recycle.decide.metrics import Metrics, Row
from recycle.decide.statistics import Estimate, estimate
from recycle.plan import STANDARD_BASE, Library
from recycle.reuse.methods import ALONE, BY_NAME, ORACLE
from recycle.show.markup import e, folded, table
from recycle.show.tables import Line
from recycle.studies import Design, Study

PARTS = ("methods", "peft", "crowds")  # their libraries have the table
CROWD = "crowd"  # the axis of libraries that grow
ENOUGH = 0.1  # an oracle that answers fewer is no measure of others
Costs = Mapping[str, Mapping[str, Mapping[str, float]]]
Held = dict[str, list[Row]]  # rows by form


@dataclass(frozen=True)
class MethodLine:
    """A method of a library in one group: the ``weakest`` component's share, each form's share and
    its percent of the ``oracle``'s (None where that answers too few), and the cost, if known."""

    name: str
    family: str
    needed: str
    weakest: float
    shares: Mapping[str, Estimate]
    percent: Mapping[str, float | None]
    n: int
    cost: Mapping[str, float] | None


# What is read ------------------------------------------------------------------------------------


def costs_of(study: Study, run: Path) -> dict[str, dict[str, dict[str, float]]]:
    """The costs of the cells in the libraries of PARTS on the standard base: the mean seconds over
    seeds and groups, the bytes and FLOPs of the dearest. Empty where the study has no such part."""
    names = {library.name for library in study.libraries if library.part in PARTS}
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    for cell in study.cells:
        library = cell.library
        if library.name in names and library.base == STANDARD_BASE:
            cost = study.read_cell(run, cell).get("cost")
            kept = found.setdefault(library.name, {}).setdefault(cell.method.name, [])
            kept += [cost] if cost else []
    return {
        library: {method: _mean_cost(costs) for method, costs in of.items() if costs}
        for library, of in found.items()
    }


def _mean_cost(costs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    largest = {name: max(cost[name] for cost in costs) for name in ("bytes", "flops")}
    return {"seconds": round(fmean(cost["seconds"] for cost in costs), 3), **largest}


# The lines ---------------------------------------------------------------------------------------


def method_lines(
    design: Design, metrics: Metrics, group: str, library: str, costs: Costs
) -> list[MethodLine]:
    """Every method of the library in the group, the best weakest component first."""
    world = design.world
    rows = _by_method(metrics, group, library)
    reference = rows.get(ORACLE.name) or _alone(metrics, group, world.components)
    lines = []
    for name, own in rows.items():
        shares = {form: estimate(own[form]) for form in world.forms}
        method = BY_NAME.get(name)
        lines.append(
            MethodLine(
                name,
                Line(STANDARD_BASE.name, library, name).family,
                method.needed if method else "-",
                min(shares[form].mean for form in world.components),
                shares,
                {form: _percent(shares[form], reference.get(form)) for form in world.forms},
                sum(row.n for row in own[world.forms[0]]),
                costs.get(library, {}).get(name),
            )
        )
    harder = [form for form in world.forms if form not in world.components]
    return sorted(lines, key=lambda x: (-x.weakest, *(-x.shares[f].mean for f in harder[::-1])))


def _by_method(metrics: Metrics, group: str, library: str) -> dict[str, Held]:
    found: dict[str, Held] = {}
    for row in metrics.where(group=group, library=library):
        found.setdefault(row.key.method, {}).setdefault(row.form, []).append(row)
    return found


def _alone(metrics: Metrics, group: str, components: Sequence[str]) -> Held:
    """The group's own expert alone, the only one: the measure where the library has no oracle."""
    libraries = [name for name in components if metrics.where(group=group, library=name)]
    if len(libraries) != 1:
        return {}
    return _by_method(metrics, group, libraries[0]).get(ALONE.name, {})


def _percent(share: Estimate, reference: Sequence[Row] | None) -> float | None:
    if not reference or (most := estimate(reference).mean) < ENOUGH:
        return None
    return 100 * share.mean / most


def tables_of(design: Design, metrics: Metrics, costs: Costs) -> Iterator[tuple[str, str]]:
    """(library, group) of every table: those libraries that do not grow, where several methods were
    asked."""
    for library in costs:
        if library not in grown(design):
            for group in metrics.groups:
                if len(_by_method(metrics, group, library)) > 1:
                    yield library, group


def grown(design: Design) -> dict[str, int]:
    """The libraries that grow, with their numbers of experts."""
    found: dict[str, Library] = {x.name: x for x in design.libraries if CROWD in x.axes}
    return {name: library.axes[CROWD] for name, library in found.items()}


def growth_lines(
    design: Design, metrics: Metrics, costs: Costs
) -> tuple[list[int], list[tuple[str, list[str]]]]:
    """The numbers of experts, and for each method the weakest component and the target form at each
    of them, in words; the best in the largest library first."""
    world = design.world
    sizes = {n: name for name, n in grown(design).items() if name in costs}
    found: dict[str, dict[int, Held]] = {}
    for n, library in sizes.items():
        for group in metrics.groups:
            for method, own in _by_method(metrics, group, library).items():
                found.setdefault(method, {})[n] = own

    def weakest(own: Held) -> Estimate:
        return min((estimate(own[form]) for form in world.components), key=lambda x: x.mean)

    def said(own: Held | None) -> str:
        return f"{weakest(own)} / {estimate(own[world.forms[-1]])}" if own else "-"

    def rank(at: Mapping[int, Held]) -> float:
        return -weakest(at[max(at)]).mean

    ordered = sorted(found.items(), key=lambda each: rank(each[1]))
    return sorted(sizes), [(m, [said(at.get(n)) for n in sorted(sizes)]) for m, at in ordered]


# As Markdown and as HTML -------------------------------------------------------------------------

COSTS = ("data", "seconds", "extra MB", "extra MFLOPs a token")


def _heads(design: Design) -> list[str]:
    return ["method", "weakest hop", *design.world.forms, "n", *COSTS]


def _cost(line: MethodLine) -> list[str]:
    if line.cost is None:
        return [line.needed, "-", "-", "-"]
    size, flops = (f"{line.cost[name] / 1e6:.3g}" for name in ("bytes", "flops"))
    return [line.needed, f"{line.cost['seconds']:.2f}", size, flops]


def _share(line: MethodLine, form: str) -> str:
    percent = line.percent[form]
    return f"{line.shares[form]}" + ("" if percent is None else f", {percent:.0f} %")


def _about(reference: str) -> str:
    return (
        "Share right with its 95 % interval, and percent of what the "
        f"{reference} answers (where it answers {ENOUGH:.0%} or more). Seconds are those of the "
        "merge or router on the machine of the run; MB and FLOPs are those of adapters and routers "
        "held apart from the base, into which a merged adapter may also be folded at no cost. A "
        "method that learns from examples is asked fewer questions."
    )


def _reference(lines: Sequence[MethodLine]) -> str:
    return "oracle" if any(line.name == ORACLE.name for line in lines) else "group's expert alone"


def _growth_about(design: Design) -> str:
    return f"Weakest hop / {design.world.forms[-1]}, by the number of experts in the library."


def methods_markdown(design: Design, metrics: Metrics, costs: Costs) -> list[str]:
    """The tables as lines of Markdown; none where no cell has such a part."""
    out: list[str] = []
    for library, group in tables_of(design, metrics, costs):
        lines = method_lines(design, metrics, group, library, costs)
        heads = _heads(design)
        title = f"Methods of {library}, {design.world.titles[group]}."
        out += ["", f"{title} {_about(_reference(lines))}", ""]
        out += [f"| {' | '.join(heads)} |", "|---|" + "---|" * (len(heads) - 1)]
        for line in lines:
            shares = [_share(line, form) for form in design.world.forms]
            cells = [line.name, f"{line.weakest:.2f}", *shares, str(line.n), *_cost(line)]
            out.append(f"| {' | '.join(cells)} |")
    sizes, grew = growth_lines(design, metrics, costs)
    if grew:
        out += ["", _growth_about(design), ""]
        out += [f"| method | {' | '.join(map(str, sizes))} |", "|---|" + "---|" * len(sizes)]
        out += [f"| {method} | {' | '.join(cells)} |" for method, cells in grew]
    return out


def methods_html(study: Study, run: Path, metrics: Metrics) -> list[str]:
    """The tables as a section of the report; nothing where the study has no such part."""
    design, costs = study.design, costs_of(study, run)
    out: list[str] = []
    for library, group in tables_of(design, metrics, costs):
        lines = method_lines(design, metrics, group, library, costs)
        rows = [
            f"<tr data-family={line.family}><td>{e(line.name)}<td>{line.weakest:.2f}"
            + "".join(f"<td>{e(_share(line, form))}" for form in design.world.forms)
            + f"<td>{line.n}"
            + "".join(f"<td>{e(text)}" for text in _cost(line))
            + "</tr>\n"
            for line in lines
        ]
        caption = f"{library}: the best weakest hop first"
        shown = [f"<p><small>{e(_about(_reference(lines)))}</small></p>"]
        shown.append(table(caption, _heads(design), rows))
        out.append(folded(design.world.titles[group], shown, is_open=not out))
    sizes, grew = growth_lines(design, metrics, costs)
    if grew:
        heads = ["method", *(f"{n} experts" for n in sizes)]
        rows = [
            f"<tr data-family={Line('', '', method).family}><td>{e(method)}"
            + "".join(f"<td>{e(cell)}" for cell in cells)
            + "</tr>\n"
            for method, cells in grew
        ]
        out.append(table(_growth_about(design), heads, rows))
    return ["<h2>What each method keeps and costs</h2>", *out] if out else []
