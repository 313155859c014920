"""A study, top to bottom.

    world(seed) -> texts -> base -> {expert: trained adapter} -> {merge | router}(library)
    -> greedy answers to held-out questions -> scores -> rows -> claims -> report

Everything finished is on disk and is not made again (recycle/run/folder.py says where). A cell's
numbers depend on its own configuration and seed alone, so adding cells or seeds changes no others.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lora import Adapter
from recycle.measure.cell import measure
from recycle.measure.inside import look_inside
from recycle.plan import BaseSpec, Cell, Expert, Library
from recycle.run import progress
from recycle.run.disk import write_text
from recycle.run.environment import note_environment
from recycle.run.folder import base_folder, claim_folder, keep_config, ledger_head
from recycle.run.ledger import Ledger
from recycle.run.processes import processes
from recycle.studies import Study
from recycle.train.base import Device, is_pretrained
from recycle.train.experts import train_library, untrained


def run(
    study: Study,
    folder: Path,
    environment: dict[str, Any],
    quiet: bool = False,
    device: Device = "cpu",
) -> None:
    """Make whatever of the study is not in the folder yet, then metrics.jsonl. Seeds whose bases
    fail their gates are replaced, until the spare ones are used up.

    Under torchrun every process makes its share of the bases, each with its experts and cells, and
    the first process waits for all of them."""
    with processes() as team:
        if team.rank == 0:
            claim_folder(study.config, folder)
        team.wait()
        while True:
            settled = study.settled(folder)
            mine = share_out(settled, team.count)[team.rank]
            tokens = sum(work(settled, folder, *base) for base in mine)
            with progress.showing(tokens, quiet or team.rank > 0):
                for base in mine:
                    make(settled, folder, base, environment, device)
            team.wait()
            if study.settled(folder) == settled:
                break
        if team.rank == 0:
            collect(settled, folder)
            keep_config(study.config, folder)


def make(
    study: Study,
    folder: Path,
    of: tuple[int, BaseSpec],
    environment: dict[str, Any],
    device: Device = "cpu",
) -> None:
    """One seed's base, the experts on it, the cells that ask them, and looks inside."""
    seed, spec = of
    todo, unseen = left_to_do(study, folder, seed, spec)
    if not todo and not unseen and is_whole(study, folder, seed, spec):
        return
    note_environment(folder, environment)
    ledger = Ledger(base_folder(folder, seed, spec.name))
    ledger.begin(seed, spec.name, ledger_head(study.config))
    base = study.open_base(seed, spec, folder, device)
    experts = train_library(base, study.passes(spec.name))
    for cell in todo:
        progress.current().say(f"{base.label}: {cell.slug}")
        ledger.write_json(f"cells/{cell.slug}.json", measure(cell, base, experts).to_json())
        progress.current().advance(progress.CELL_TOKENS)
    for library in unseen:
        progress.current().say(f"{base.label}: inside {library.group}")
        slugs = [expert.slug for expert in singles(study, library)]
        adapters = {s: made for s in slugs if isinstance(made := experts[s], Adapter)}
        seen = look_inside(library, base, adapters)
        ledger.write_json(f"inside/{library.group}.json", seen)


def collect(study: Study, folder: Path) -> None:
    """metrics.jsonl: every cell's rows, in the order of the study."""
    rows = [row for cell in study.cells for row in study.read_cell(folder, cell)["rows"]]
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


def is_whole(study: Study, folder: Path, seed: int, spec: BaseSpec) -> bool:
    """Whether a base and its experts are on disk, with the records of their training."""
    home = base_folder(folder, seed, spec.name)
    experts = [expert for each in study.passes(spec.name).values() for expert in each]
    return _has_base(study, home) and not untrained(home, experts)


def _has_base(study: Study, home: Path) -> bool:
    return bool(study.config.checkpoint) or is_pretrained(home)


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
    if not todo and not unseen and is_whole(study, folder, seed, spec):
        return 0.0
    home, config = base_folder(folder, seed, spec.name), study.config
    pretraining = config.pretrain.steps * config.pretrain.tokens
    training = config.train.steps * config.train.tokens
    experts = [expert for each in study.passes(spec.name).values() for expert in each]
    tokens = 0 if _has_base(study, home) else pretraining
    return tokens + len(untrained(home, experts)) * training + len(todo) * progress.CELL_TOKENS
