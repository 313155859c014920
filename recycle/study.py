"""A study, top to bottom.

    world(seed) -> texts -> base -> {expert: trained adapter} -> {merge | router}(library)
    -> greedy answers to held-out questions -> scores -> rows -> claims -> report

Everything finished is on disk and is not made again (recycle/run/folder.py says where). A cell's
numbers depend on its own configuration and seed alone, so adding cells or seeds changes no others.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from lora import Adapter
from recycle.measure.cell import measure
from recycle.measure.inside import look_inside
from recycle.plan import BaseSpec, Cell, Expert, Library
from recycle.run import progress
from recycle.run.disk import read_json, write_json, write_text
from recycle.run.environment import note_environment
from recycle.run.folder import base_folder, claim_folder
from recycle.studies import Study
from recycle.train.experts import train_library


def run(study: Study, folder: Path, environment: dict[str, Any], quiet: bool = False) -> None:
    """Make whatever of the study is not in the folder yet, then metrics.jsonl. Seeds whose bases
    fail their gates are replaced, until the spare ones are used up.

    Under torchrun every process makes its share of the bases, each with its experts and cells, and
    the first process waits for all of them."""
    with processes() as (rank, count):
        if rank == 0:
            claim_folder(study.config, folder)
        wait_for_all(count)
        while True:
            settled = study.settled(folder)
            mine = share_out(settled, count)[rank]
            tokens = sum(work(settled, folder, *base) for base in mine)
            with progress.showing(tokens, quiet or rank > 0):
                for base in mine:
                    make(settled, folder, base, environment)
            wait_for_all(count)
            if study.settled(folder) == settled:
                break
        if rank == 0:
            collect(settled, folder)


def make(study: Study, folder: Path, of: tuple[int, BaseSpec], environment: dict[str, Any]) -> None:
    """One seed's base, the experts on it, the cells that ask them, and looks inside."""
    seed, spec = of
    todo, unseen = left_to_do(study, folder, seed, spec)
    if not todo and not unseen:
        return
    note_environment(folder, environment)
    base = study.open_base(seed, spec, folder)
    experts = train_library(base, study.passes(spec.name))
    for cell in todo:
        progress.current().say(f"{base.label}: {cell.slug}")
        write_json(folder / cell.path, measure(cell, base, experts).to_json())
        progress.current().advance(progress.CELL_TOKENS)
    for library in unseen:
        progress.current().say(f"{base.label}: inside {library.group}")
        slugs = [expert.slug for expert in singles(study, library)]
        adapters = {s: made for s in slugs if isinstance(made := experts[s], Adapter)}
        write_json(inside_path(folder, seed, library), look_inside(library, base, adapters))


def collect(study: Study, folder: Path) -> None:
    """metrics.jsonl: every cell's rows, in the order of the study."""
    rows = [row for cell in study.cells for row in read_json(folder / cell.path)["rows"]]
    write_text(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def left_to_do(
    study: Study, folder: Path, seed: int, spec: BaseSpec
) -> tuple[list[Cell], list[Library]]:
    """Cells of a base that are not on disk, and libraries that were not looked into."""
    own = [cell for cell in study.cells if (cell.seed, cell.library.base) == (seed, spec)]
    opened = [library for library in study.opened if library.base == spec]
    return (
        [cell for cell in own if not (folder / cell.path).exists()],
        [library for library in opened if not inside_path(folder, seed, library).exists()],
    )


def inside_path(folder: Path, seed: int, library: Library) -> Path:
    return base_folder(folder, seed, library.base.name) / "inside" / f"{library.group}.json"


def singles(study: Study, opened: Library) -> list[Expert]:
    """Experts that stand alone in a library of the opened library's group and part."""
    found = [
        library.experts[0]
        for library in study.libraries
        if (library.base, library.group, library.part) == (opened.base, opened.group, opened.part)
        and len(library.experts) == 1
    ]
    return list(dict.fromkeys(found))


# Shares of several processes ---------------------------------------------------------------------


@contextmanager
def processes() -> Iterator[tuple[int, int]]:
    """This process's rank, and the number of processes that torchrun started (else 0 and 1)."""
    rank, count = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if count > 1 and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo", timeout=timedelta(days=7))
    yield rank, count


def wait_for_all(count: int) -> None:
    if count > 1:
        torch.distributed.barrier()


def share_out(study: Study, count: int) -> list[list[tuple[int, BaseSpec]]]:
    """The bases of each process: the dearest first, each to the process that has least to do."""
    cost = {}
    reading, training = study.config.pretrain, study.config.train
    for seed, spec in study.bases:
        experts = sum(map(len, study.passes(spec.name).values()))
        rows = reading.steps * reading.rows + experts * training.steps * training.rows
        cost[seed, spec.name] = (rows, spec)
    shares: list[list[tuple[int, BaseSpec]]] = [[] for _ in range(count)]
    loads = [0] * count
    for (seed, _), (rows, spec) in sorted(cost.items(), key=lambda item: (-item[1][0], item[0])):
        least = loads.index(min(loads))
        shares[least].append((seed, spec))
        loads[least] += rows
    return shares


def work(study: Study, folder: Path, seed: int, spec: BaseSpec) -> float:
    """What is left of a base's work, in tokens, for the line of progress."""
    todo, unseen = left_to_do(study, folder, seed, spec)
    if not todo and not unseen:
        return 0.0
    home, config = base_folder(folder, seed, spec.name), study.config
    pretraining = config.pretrain.steps * config.pretrain.tokens
    training = config.train.steps * config.train.tokens
    experts = [expert for each in study.passes(spec.name).values() for expert in each]
    untrained = [e for e in experts if not (home / "library" / e.slug).is_dir()]
    tokens = 0 if (home / "model.pt").exists() else pretraining
    return tokens + len(untrained) * training + len(todo) * progress.CELL_TOKENS
