"""The lines of tables: which rows stand in each, and what each is called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from recycle.decide.metrics import Metrics, Row
from recycle.decide.statistics import Estimate, difference, estimate
from recycle.plan import STANDARD_BASE, STANDARD_RECIPE, Library
from recycle.reuse.method import Family
from recycle.reuse.methods import ALONE, BY_NAME
from recycle.studies import Design, Study

FEW_NOTES = 3  # a world with more notes than that has a table of their own


class Line(NamedTuple):
    """One line of a table, by names: a library on a base, answered by a method."""

    base: str
    library: str
    method: str

    @property
    def family(self) -> Family:
        return BY_NAME[self.method].family if self.method in BY_NAME else "single"


def lines_of(metrics: Metrics, group: str) -> list[Line]:
    """In the order of the study, other bases last."""
    keys = (row.key for row in metrics.rows if row.key.group == group)
    lines = dict.fromkeys(Line(key.base, key.library, key.method) for key in keys)
    return sorted(lines, key=lambda line: metrics.bases.index(line.base))


def rows_of(metrics: Metrics, group: str, line: Line) -> dict[str, list[Row]]:
    """The rows of a table's line, by form."""
    found: dict[str, list[Row]] = {}
    for row in metrics.where(group=group, **line._asdict()):
        found.setdefault(row.form, []).append(row)
    return found


def title_of(design: Design, line: Line) -> str:
    """What people read: library, method, and the base where it has a title or is another than the
    standard one."""
    library = next((str(lib) for lib in design.libraries if lib.name == line.library), line.library)
    method = "" if line.method == ALONE.name else f": {line.method}"
    title = base_title(design, line.base)
    plain = "" if line.base == STANDARD_BASE.name else f" (base {line.base})"
    return f"{library}{method}{plain if title == line.base else f' ({title})'}"


def base_title(design: Design, name: str) -> str:
    """What people read for a base; its name where this version does not have it."""
    titles = {library.base.name: str(library.base) for library in design.libraries}
    return titles.get(name, name)


def condition_titles(design: Design) -> dict[str, str]:
    """Of each expert that is looked into, by slug: what it reads, whatever its group."""
    experts = (expert for library in design.libraries for expert in library.experts)
    return {
        e.slug: e.reads if e.recipe == STANDARD_RECIPE else f"{e.reads}, {e.recipe}"
        for e in experts
    }


def notes_of(metrics: Metrics, forms: Sequence[str]) -> list[tuple[str, str]]:
    """(form, note): what else is counted about an answer, in the order of the forms."""
    notes = dict.fromkeys((row.form, note) for row in metrics.rows for note in row.notes)
    return sorted(notes, key=lambda each: forms.index(each[0]))


def of_known(rows: Sequence[Row]) -> list[Row]:
    """Right answers among the questions whose components are all answered right."""
    return [
        replace(row, n=row.known, outcomes={**row.outcomes, "right": row.right_of_known or 0})
        for row in rows
        if row.known
    ]


@dataclass(frozen=True)
class Gain:
    """Right answers beyond those of the best single: the base, or one of the library's experts."""

    gain: Estimate
    best: str


def reuse_gains(study: Study, metrics: Metrics, group: str) -> dict[Line, dict[str, Gain]]:
    """For each merged or routed library of the group, the gain by harder form, paired by seed."""
    world = study.design.world
    harder = [form for form in world.forms if form not in world.components]
    libraries = [library for library in study.libraries if library.group == group]
    alone = {
        (library.base, library.experts): library
        for library in libraries
        if len(library.experts) < 2 and not library.context
    }

    def best_single(library: Library, form: str) -> tuple[str, list[Row]] | None:
        singles = [alone.get((library.base, e)) for e in ((), *((x,) for x in library.experts))]
        measured = []
        for single in filter(None, singles):
            line = Line(single.base.name, single.name, ALONE.name)
            if rows := rows_of(metrics, group, line).get(form):
                measured.append((str(single), rows))
        # Of equals the last: an expert rather than the base.
        return max(reversed(measured), key=lambda each: estimate(each[1]).mean, default=None)

    gains: dict[Line, dict[str, Gain]] = {}
    for library in libraries:
        best = {form: best_single(library, form) for form in harder}
        for method in library.methods:
            if len(library.experts) < 2 or method.family == "control":
                continue
            line = Line(library.base.name, library.name, method.name)
            rows = rows_of(metrics, group, line)
            gains[line] = {
                form: Gain(difference(rows[form], single[1]), single[0])
                for form in harder
                if (single := best[form]) and form in rows
            }
    return gains
