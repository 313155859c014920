"""Where the minutes of a study went, from what its folder keeps.

curve.json and passes/ say how long a base and its experts were trained, runs that were stopped
included; made.jsonl says of every other file how long it took. Nothing says what files of older
versions took, and the table says how many these are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from recycle.run.disk import write_json
from recycle.run.ledger import Ledger
from recycle.train.base import read_curve
from recycle.train.experts import read_pass

NAME = "minutes.json"
FILES = {"preserved texts": "preserved", "asking": "cells", "inside": "inside"}  # a folder each


@dataclass(frozen=True)
class Spent:
    """What a part of a study took: ``seconds`` for ``measured`` of the ``made`` things."""

    seconds: float
    measured: int
    made: int


def minutes(run: Path, report: float) -> dict[str, Spent]:
    """What each part of a study took, ``report`` the seconds of drawing its report. A part without
    a file is left out. Raises ValueError for a damaged file."""
    ledgers = [Ledger(folder) for folder in sorted(run.glob("seed-*/*")) if folder.is_dir()]
    files = {part: _spent(_of_files(ledgers, folder)) for part, folder in FILES.items()}
    found = {
        "bases": _spent(_of_bases(ledgers)),
        "preserved texts": files.pop("preserved texts"),
        "experts": _of_experts(ledgers),
        **files,
        "report": _spent([report]),
    }
    return {part: spent for part, spent in found.items() if spent.made}


def _spent(seconds: Iterable[float | None]) -> Spent:
    """The sum of what each thing took, None where nothing says it."""
    each = list(seconds)
    known = [one for one in each if one is not None]
    return Spent(round(sum(known), 2), len(known), len(each))


def _of_bases(ledgers: Sequence[Ledger]) -> Iterator[float]:
    for ledger in ledgers:
        if (ledger.folder / "curve.json").exists():
            yield read_curve(ledger)["seconds"]


def _of_experts(ledgers: Sequence[Ledger]) -> Spent:
    passes = [
        read_pass(ledger, path.stem)
        for ledger in ledgers
        for path in sorted((ledger.folder / "passes").glob("*.json"))
    ]
    count = sum(len(each["names"]) for each in passes)
    return Spent(round(sum(each["seconds"] for each in passes), 2), count, count)


def _of_files(ledgers: Sequence[Ledger], folder: str) -> Iterator[float | None]:
    for ledger in ledgers:
        for path in sorted((ledger.folder / folder).glob("*.json")):
            yield ledger.seconds(f"{folder}/{path.name}")


def keep_minutes(run: Path, spent: Mapping[str, Spent]) -> None:
    """minutes.json: {part: {"seconds", "measured", "made"}}."""
    write_json(run / NAME, {part: asdict(own) for part, own in spent.items()})


def minutes_table(spent: Mapping[str, Spent]) -> str:
    """The parts with their minutes and shares, a line each."""
    whole = sum(own.seconds for own in spent.values())
    lines = ["minutes of all processes together, runs that were stopped included:"]
    for part, own in spent.items():
        lines.append(f"  {part:<16}{_minutes(own.seconds, whole)}  {_counted(own)}".rstrip())
    return "\n".join([*lines, f"  {'together':<16}{_minutes(whole, whole)}"])


def _minutes(seconds: float, whole: float) -> str:
    return f"{seconds / 60:>7.1f}{seconds / max(whole, 1e-9):>6.0%}"


def _counted(own: Spent) -> str:
    if own.measured == own.made:
        return f"{own.made:,}" if own.made > 1 else ""
    return f"{own.made:,}, of which {own.made - own.measured:,} by a version that did not measure"
