"""Chosen lines of a recorded result, with intervals, or as differences from one of them.

What is pooled are the groups that the study's claims speak of. Differences are paired question by
question where the record has item outcomes, else by seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from recycle.decide.items import paired_difference
from recycle.decide.metrics import Metrics, Row
from recycle.decide.statistics import Estimate, difference, estimate
from recycle.run.names import did_you_mean, listing
from recycle.show.tables import Line, title_of
from recycle.studies import Design

Groups = dict[str, tuple[str, ...]]  # a title, and the groups that are pooled under it


def lines_markdown(
    design: Design, metrics: Metrics, wanted: Sequence[str], minus: str | None = None
) -> str:
    """A table of the lines whose titles fit one of the patterns ``wanted``: in each group and form
    the share right, or with ``minus``, the title of one line, the difference from that line.

    Raises ValueError for a pattern that fits no line, and for a ``minus`` that fits none or
    several."""
    keys = dict.fromkeys(
        (row.key.base, row.key.library, row.key.method)
        for row in metrics.rows
        if row.key.group != "base"
    )
    titles = {title_of(design, line): line for line in (Line(*key) for key in keys)}
    chosen = [title for pattern in wanted for title in _fitting(pattern, titles)]
    reference = None
    if minus is not None:
        found = _fitting(minus, titles)
        if len(found) > 1:
            raise ValueError(f"--minus {minus!r} fits {len(found)} lines: {listing(found, most=4)}")
        reference = titles[found[0]]
    what = "share right" if minus is None else f"share right, less that of {found[0]}"
    out = [f"| library: method | group | form | {what} | n |", "|---|---|---|---|---|"]
    for title in dict.fromkeys(chosen):
        for name, groups in _groups(design, metrics).items():
            for form in design.world.forms:
                value = _value(metrics, groups, form, titles[title], reference)
                if value is not None:
                    sign = "" if minus is None else "+"
                    limits = f"{value.low:{sign}.2f}, {value.high:{sign}.2f}"
                    shown = f"{value.mean:{sign}.3f} [{limits}]"
                    out.append(f"| {title} | {name} | {form} | {shown} | {value.n} |")
    return "\n".join(out) + "\n"


def _fitting(pattern: str, titles: Sequence[str] | dict[str, Line]) -> list[str]:
    found = [title for title in titles if fnmatchcase(title, pattern)]
    if not found and pattern in titles:  # a title with brackets is no pattern
        found = [pattern]
    if not found:
        raise ValueError(
            f"no line {pattern!r}{did_you_mean(pattern, list(titles))}: name one as the table "
            "does, or many as in '*: plain_sum'"
        )
    return found


def _groups(design: Design, metrics: Metrics) -> Groups:
    """Each group by itself, and those that claims speak of together."""
    found: Groups = {group: (group,) for group in metrics.groups}
    claimed = tuple(group for group in metrics.groups if group in design.rules.groups)
    return {**found, ", ".join(claimed): claimed} if len(claimed) > 1 else found


def _value(
    metrics: Metrics, groups: tuple[str, ...], form: str, line: Line, reference: Line | None
) -> Estimate | None:
    """None where the line, or the reference, was not asked in all of these groups."""
    own = _rows(metrics, groups, form, line)
    if reference is None or not own:
        return estimate(own) if own else None
    others = _rows(metrics, groups, form, reference)
    if not others or line == reference:
        return None
    itemised = all(row.items for row in (*own, *others))
    return (paired_difference if itemised else difference)(own, others)


def _rows(metrics: Metrics, groups: tuple[str, ...], form: str, line: Line) -> list[Row]:
    rows = metrics.where(group=groups, form=form, **line._asdict())
    return rows if {row.key.group for row in rows} == set(groups) else []
