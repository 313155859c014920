"""Rows of known fate, out of the files of `audit-runs` and of audits with probes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recycle.audit.predict import features
from recycle.plan import STANDARD_RECIPE
from recycle.run.disk import read_json

PEERS = "peers.json"
SAID = {"versions": {str: str}, "pairs": {str: {"gradience": object, "mergelens": object}}}
QUESTIONS = 10  # that an adapter must answer alone, for a row to count


@dataclass(frozen=True)
class Row:
    """One adapter after one method, in one library. ``read`` and ``own`` are the features on the
    two kinds of texts, None where they show nothing; ``y`` is the recall kept."""

    library: str
    task: str
    run: str
    seed: int
    checkpoint: bool
    standard: bool
    method: str
    reads: str
    y: float
    base_recall: float
    read: Mapping[str, float] | None
    own: Mapping[str, float] | None


def read_rows(folder: Path) -> tuple[list[Row], dict[str, Any]]:
    """The rows of every library in a folder of `audit-runs`, and what the peers said of the pairs.
    A library that two runs share counts once, or it would be fitted on and tested on. Audits of
    adapters on a checkpoint, with probes, may stand beside the runs (NAME/audit.json).

    Raises ValueError where there are no rows, and for a damaged file."""
    rows: list[Row] = []
    met: set[str] = set()
    for file in sorted(folder.glob("*/*/*/*.json")):
        made = read_json(file, _SHAPE)
        same = repr(made["geometry"])
        if same not in met:
            met.add(same)
            rows += _rows_of(made, file.relative_to(folder))
    for file in sorted(folder.glob("*/audit.json")):
        rows += _rows_of_audit(read_json(file), file.parent.name)
    if not rows:
        raise ValueError(f"{folder} holds no rows: python -m recycle audit-runs RUN --out {folder}")
    file = folder / PEERS
    said = read_json(file, SAID) if file.exists() else {"versions": {}, "pairs": {}}
    return rows, said


_SHAPE = {
    "run": str,
    "task": str,
    "checkpoint": bool,
    "seed": int,
    "geometry": object,
    "rows": [{str: object}],
}


def _rows_of(made: Mapping[str, Any], name: Path) -> Iterator[Row]:
    experts = {each["adapter"]: each for each in made["experts"]}
    weights = {each["method"]: each["weight"] for each in made["methods"]}
    standard = all(each["recipe"] == STANDARD_RECIPE.name for each in made["experts"])
    for row in made["rows"]:
        expert = experts[row["adapter"]]
        if row["method"] == "base" or row["n"] < QUESTIONS:
            continue
        read, own = (
            features(row[source], row["adapter"], made["geometry"], weights[row["method"]])
            for source in ("read", "written")
        )
        yield Row(
            name.as_posix(),
            made["task"],
            made["run"],
            made["seed"],
            made["checkpoint"],
            standard,
            row["method"],
            expert["reads"],
            row["right"] / row["n"],
            expert["base right"] / expert["asked"],
            read,
            own,
        )


def _rows_of_audit(report: Mapping[str, Any], name: str) -> Iterator[Row]:
    weights = {each["method"]: each["weight"] for each in report["methods"]}
    of_base = {
        row["adapter"]: row["recall"] for row in report["retention"] if row["method"] == "base"
    }
    for row in report["retention"]:
        adapter, kept = row["adapter"], row["recall kept"]
        if row["method"] not in weights or kept is None or kept["n"] < QUESTIONS:
            continue
        seen = features(row["written"], adapter, report["geometry"], weights[row["method"]])
        own = report["openings"][adapter] == "written"
        yield Row(
            name,
            "audit",
            name,
            report["seed"],
            True,
            False,
            row["method"],
            adapter,
            kept["mean"],
            of_base[adapter]["mean"],
            None if own else seen,
            seen if own else None,
        )
