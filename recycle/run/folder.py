"""A run's folder: where everything in it lies, and who may write into it.

config.json, env.json           the configuration, and the environments that made the run
seed-0/standard/made.jsonl      what made this base and all that stands on it, with hashes
seed-0/standard/preserved/      texts that the base wrote for its experts
seed-0/standard/model.pt        the base, with the curve of its training in curve.json
seed-0/standard/library/        its experts, a folder each; passes/ has their curves
seed-0/standard/cells/          the rows and some answers of each cell
seed-0/standard/inside/         looks inside the merges, by group
metrics.jsonl, claims.json, report.html, minutes.json
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recycle.run.disk import read_json, write_json
from recycle.run.ledger import Ledger
from recycle.run.schema import shape_of

WIDENED = ("seeds", "groups", "parts")
RESTORE = "restore it from a copy, or name a new folder with --run"
_ENVIRONMENT = {
    "commit": (str, None),
    "dirty": (bool, None),
    "rules?": (str, None),
    "python": str,
    "torch": str,
    "threads": int,
    "device?": str,
    "matmul": {"setting": str},
    "ways?": {str: str},
    "command?": str,
    "commands?": [str],
}


def base_folder(run: Path, seed: int, base: str) -> Path:
    return run / f"seed-{seed}" / base


def read_config(run: Path, config: Any = None) -> dict[str, Any]:
    """The configuration that a run folder was made with, as JSON has it, in the shape of ``config``
    where one is given.

    Raises ValueError where the folder is no run, or the file is damaged."""
    path = run / "config.json"
    if not path.exists():
        raise ValueError(f"{run} is no run folder: there is no config.json in it")
    return read_json(path, {str: object} if config is None else shape_of(config), RESTORE)


def read_environments(run: Path) -> list[dict[str, Any]]:
    """The environments that made the run; none where env.json is missing."""
    path = run / "env.json"
    remedy = "restore it, or delete it: the next study command begins it anew"
    return read_json(path, [_ENVIRONMENT], remedy) if path.exists() else []


def claim_folder(config: Any, run: Path) -> None:
    """Take the folder for this configuration, or say by which key another one made it.

    A run may be widened: seeds, groups and parts may be added, for they change nothing of what
    stands there. Its config.json is widened at the end (`keep_config`), so that a run whose
    widening was stopped is what it was before. Raises ValueError where the configuration differs,
    where nothing says which one made what stands there, or where nothing can be written."""
    if (run / "config.json").exists():
        _same(config, read_config(run, config), run)
    elif unknown := [made for made in _made(run) if made.head is None]:
        raise ValueError(
            f"{run} has no config.json that says what made {unknown[0].folder}: {RESTORE}"
        )
    check_ledgers(config, run)
    if not (run / "config.json").exists():
        keep_config(config, run)


def keep_config(config: Any, run: Path) -> None:
    """Write config.json where it says something else. Raises ValueError where nothing can be
    written."""
    mine = _as_json(config)
    if (run / "config.json").exists() and _completed(read_config(run), config) == mine:
        return
    try:
        write_json(run / "config.json", mine)
    except OSError as error:
        raise ValueError(
            f"{run} cannot be written ({error.strerror}): name another folder with --run"
        ) from None


def check_ledgers(config: Any, run: Path) -> None:
    """Raises ValueError where a base's ledger names another configuration, seed or base."""
    for ledger in _made(run):
        if (head := ledger.head) is not None:
            if ledger.folder != base_folder(run, head["seed"], head["base"]):
                raise ValueError(
                    f"{ledger.path} is of seed {head['seed']} and base {head['base']!r}: "
                    "the folder was moved, move it back or delete it"
                )
            _same(config, {**head["configuration"], **_widest(config)}, run)


def _made(run: Path) -> list[Ledger]:
    """The ledgers, written or not, of the folders that hold a base."""
    return [Ledger(folder) for folder in sorted(run.glob("seed-*/*")) if folder.is_dir()]


def ledger_head(config: Any) -> dict[str, Any]:
    """The configuration as a base's ledger names it: without what widens a run."""
    return {key: value for key, value in _as_json(config).items() if key not in WIDENED}


def _widest(config: Any) -> dict[str, Any]:
    return {key: list(getattr(config, key)) for key in WIDENED}


def _as_json(config: Any) -> dict[str, Any]:
    # Through JSON and back: tuples become lists, as they are on disk.
    return json.loads(json.dumps(dataclasses.asdict(config)))


def _same(config: Any, theirs: dict[str, Any], run: Path) -> None:
    """Raises ValueError where a folder's configuration is another one, and no narrower one."""
    compared = _compare(_as_json(config), _completed(theirs, config))
    different = [key for key, a, b in compared if a != b and not _widens(key, a, b)]
    if different:
        more = f", and {len(different) - 1} more" if len(different) > 1 else ""
        raise ValueError(
            f"{run} was made with another configuration ({different[0]} differs{more}): "
            "name a new folder with --run, or delete this one"
        )


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
    return key in WIDENED and set(theirs) <= set(mine)


def _compare(mine: Any, theirs: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(mine, dict) and isinstance(theirs, dict):
        for key in [*mine, *(k for k in theirs if k not in mine)]:
            yield from _compare(mine.get(key), theirs.get(key), f"{prefix}{key}.")
    else:
        yield prefix[:-1], mine, theirs
