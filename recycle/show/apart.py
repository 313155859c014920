"""How far two results of one study lie apart: does a rerun, another machine or another version give
the recorded figures?

Every share right that both have (the same seed, cell and form of question) is held against the
other. Beside that stands how far two seeds of one result lie apart, which is what a figure of one
seed has in it by chance.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations
from statistics import mean

from recycle.decide.metrics import Row
from recycle.reuse.methods import BY_NAME
from recycle.show.carry_over import Recorded

Asked = tuple[int, str, str, str, str, str]  # seed, base, group, library, method and form
Rows = Mapping[Asked, Row]
MIXED, OTHERS = "merges and routers", "all others"


def apart(one: Recorded, other: Recorded) -> str:
    """Markdown: of each form of question the distances between both, between two seeds of each, and
    the share of questions with the same outcome.

    Raises ValueError for results of two studies, and where they share no cell."""
    if one.design.name != other.design.name:
        raise ValueError(
            f"{one.title} is a result of {one.design.name}, {other.title} of {other.design.name}: "
            "compare two results of one study (carry-over lays a toy beside a checkpoint)"
        )
    ours, theirs = (
        {(*row.key, row.form): row for row in each.metrics.rows} for each in (one, other)
    )
    both = [key for key in ours if key in theirs]
    if not both:
        raise ValueError(
            f"{one.title} and {other.title} share no seed and cell: nothing to compare"
        )
    seeds = ", ".join(map(str, sorted({ours[key].key.seed for key in both})))
    lacking = [
        f"{len(rows) - len(both):,} in {each.title} alone"
        for each, rows in ((one, ours), (other, theirs))
        if len(rows) > len(both)
    ]
    out = [
        f"{', '.join([f'{len(both):,} shares right in both (seeds {seeds})', *lacking])}.",
        "",
        "Distances are means of the differences without sign; the shift is the mean of "
        f"{other.title} less {one.title}.",
    ]
    for kind in (MIXED, OTHERS):
        of_kind = [key for key in both if _kind(ours[key]) == kind]
        if of_kind:
            out += ["", *_table(kind, of_kind, (one, ours), (other, theirs))]
    return "\n".join(out) + "\n"


def _kind(row: Row) -> str:
    method = BY_NAME.get(row.key.method)
    return MIXED if method and method.merges_or_routes else OTHERS


def _table(kind: str, keys: list[Asked], *sides: tuple[Recorded, Rows]) -> Iterator[str]:
    (one, ours), (other, theirs) = sides
    yield (
        f"| {kind} | shares | distance | largest | shift | same outcomes "
        f"| two seeds of {one.title} | two seeds of {other.title} |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    for form in dict.fromkeys(str(key[-1]) for key in keys):
        asked = [key for key in keys if key[-1] == form]
        shifts = [_share(theirs[key]) - _share(ours[key]) for key in asked]
        same = [found for key in asked for found in _same(ours[key], theirs[key])]
        yield (
            " | ".join(
                [
                    f"| {form}",
                    str(len(asked)),
                    f"{mean(map(abs, shifts)):.3f}",
                    f"{max(map(abs, shifts)):.2f}",
                    f"{mean(shifts):+.3f}",
                    f"{mean(same):.2f}" if same else "-",
                    *(_between_seeds(rows[key] for key in asked) for rows in (ours, theirs)),
                ]
            )
            + " |"
        )


def _share(row: Row) -> float:
    return row.right / row.n


def _same(one: Row, other: Row) -> list[bool]:
    """Of each question whether its outcome is the same; none where a result does not tell."""
    if not one.items or len(one.items) != len(other.items):
        return []
    return [a == b for a, b in zip(one.items, other.items, strict=True)]


def _between_seeds(rows: Iterable[Row]) -> str:
    cells: dict[tuple[str, ...], list[float]] = {}
    for row in rows:
        cells.setdefault(tuple(row.key[1:]), []).append(_share(row))
    distances = [abs(a - b) for shares in cells.values() for a, b in combinations(shares, 2)]
    return f"{mean(distances):.3f}" if distances else "-"
