"""Which way computes an adapted layer (lora.ways): measured once on a machine, kept with the run.

The ways differ in their last bits. So a run goes on with the table that its env.json has, and a run
that began without one goes on without one. New runs on one machine agree, for what was measured is
kept in a file of the user's cache: under one processor, version of torch, number of threads and
matrix product.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from lora import use_ways
from lora.tuning import measure_ways
from lora.ways import WAYS, Shape
from recycle.run.disk import read_json, write_json
from recycle.run.folder import read_environments
from recycle.run.processor import describe_processor

_CACHED = {str: {str: str}}  # machine: class of shape: way


def ways_of_run(run: Path) -> dict[str, str] | None:
    """The table with which a run was made; None where nothing of it is made yet."""
    environments = read_environments(run)
    return environments[-1].get("ways", {}) if environments else None


def ways_here(shapes: Iterable[Shape], matmul: Mapping[str, Any]) -> dict[str, str]:
    """The table of this machine for these shapes; what its file lacks is measured now and kept.
    ``matmul`` is what `choose_matmul` found."""
    file, machine = cache_file(), _machine(matmul)
    cached = _read(file)
    known = {k: way for k, way in cached.get(machine, {}).items() if way in WAYS}
    shapes = list(shapes)
    if new := measure_ways(shapes, known):
        known = {**known, **new}
        with suppress(OSError, ValueError):  # without a file, it is measured again next time
            write_json(file, {**_read(file), machine: known})
    kinds = {shape.kind for shape in shapes}
    return {kind: way for kind, way in known.items() if kind in kinds}


def choose_ways(
    choice: str, shapes: Iterable[Shape], run: Path, matmul: Mapping[str, Any]
) -> dict[str, str]:
    """Put a table in force for the study of a run's folder: the run's own, or for a new run this
    machine's. ``choice`` is --matmul's: with ``default`` a new run has none. Returns the table."""
    table = ways_of_run(run)
    if table is None:
        table = {} if choice == "default" else ways_here(shapes, matmul)
    return use_ways(table)


def cache_file() -> Path:
    folder = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(folder).expanduser() / "recycle" / "ways.json"


def _read(file: Path) -> dict[str, dict[str, str]]:
    """What is kept; nothing where the file is missing or damaged, for it can be measured again."""
    try:
        return read_json(file, _CACHED)
    except (OSError, ValueError):
        return {}


def _machine(matmul: Mapping[str, Any]) -> str:
    facts = [describe_processor(), torch.__version__, torch.get_num_threads(), matmul["setting"]]
    return json.dumps(facts)
