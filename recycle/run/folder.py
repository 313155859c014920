"""A run's folder: where everything in it lies, and who may write into it.

config.json, env.json           the configuration, and the environments that made the run
seed-0/standard/model.pt        a base, with the curve of its training in curve.json
seed-0/standard/library/        its experts, a folder each; passes/ has their curves
seed-0/standard/cells/          the rows and some answers of each cell
seed-0/standard/inside/         looks inside the merges, by group
metrics.jsonl, claims.json, report.html
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recycle.run.disk import read_json, write_json

WIDENED = ("seeds", "groups", "parts")


def base_folder(run: Path, seed: int, base: str) -> Path:
    return run / f"seed-{seed}" / base


def read_config(run: Path) -> dict[str, Any]:
    """The configuration that a run folder was made with, as JSON has it.

    Raises ValueError where the folder is no run."""
    if not (run / "config.json").is_file():
        raise ValueError(f"{run} is no run folder: there is no config.json in it")
    values = read_json(run / "config.json")
    if not isinstance(values, dict):
        raise ValueError(f"{run}/config.json holds no configuration: another program wrote it")
    return values


def claim_folder(config: Any, run: Path) -> None:
    """Take the folder for this configuration, or say by which key another one made it.

    A run may be widened: seeds, groups and parts may be added, for they change nothing of what
    stands there. Raises ValueError where the configuration differs or nothing can be written."""
    # Through JSON and back: tuples become lists, as they are on disk.
    mine = json.loads(json.dumps(dataclasses.asdict(config)))
    if (run / "config.json").exists():
        theirs = _completed(read_config(run), config)
        different = [
            key for key, a, b in _compare(mine, theirs) if a != b and not _widens(key, a, b)
        ]
        if different:
            more = f", and {len(different) - 1} more" if len(different) > 1 else ""
            raise ValueError(
                f"{run} was made with another configuration ({different[0]} differs{more}): "
                "name a new folder with --run, or delete this one"
            )
        if mine == theirs:
            return
    try:
        write_json(run / "config.json", mine)
    except OSError as error:
        raise ValueError(
            f"{run} cannot be written ({error.strerror}): name another folder with --run"
        ) from None


def _completed(theirs: dict[str, Any], config: Any) -> dict[str, Any]:
    """A configuration of an earlier version, with the defaults of keys that came later."""
    full = dict(theirs)
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value) and isinstance(theirs.get(f.name), dict):
            full[f.name] = _completed(theirs[f.name], value)
        elif f.name not in theirs and f.default is not dataclasses.MISSING:
            full[f.name] = f.default
    return full


def _widens(key: str, mine: Any, theirs: Any) -> bool:
    return key in WIDENED and set(theirs or ()) <= set(mine)


def _compare(mine: Any, theirs: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(mine, dict) and isinstance(theirs, dict):
        for key in [*mine, *(k for k in theirs if k not in mine)]:
            yield from _compare(mine.get(key), theirs.get(key), f"{prefix}{key}.")
    else:
        yield prefix[:-1], mine, theirs
