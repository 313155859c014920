"""What a study is made of: its cells, in order, where each is kept, and who makes which when
several processes do."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from recycle.config import StudyConfig
from recycle.methods import chosen
from tasks import TASKS, Expert, Library, Task


@dataclass(frozen=True)
class Cell:
    """One way of answering one group's questions: a library and what is done with it."""

    seed: int
    library: Library
    method: str

    @property
    def key(self) -> dict[str, Any]:
        """What tells a cell's rows from those of others."""
        made = self.library
        return {
            "seed": self.seed,
            "base": made.base,
            "group": made.group,
            "library": made.name,
            "method": self.method,
        }

    @property
    def file(self) -> Path:
        """Below the run's folder."""
        name = f"{self.library.group}.{self.library.name.replace(', ', ',').replace(' ', '_')}.{self.method}.json"
        return Path(f"seed-{self.seed}") / self.library.base / "cells" / name


@lru_cache(maxsize=32)
def world(config: StudyConfig, seed: int) -> Task:
    """Kept: building one, and checking it for leaks, takes a good part of a second."""
    return TASKS[config.name](config.task, seed)


def wanted(config: StudyConfig, seed: int) -> list[Library]:
    """The libraries of the chosen parts and groups; the base's own questions always."""
    groups = ("base", *config.groups)
    return [
        each
        for each in world(config, seed).libraries()
        if each.part in config.parts and each.group in groups
    ]


def cells(config: StudyConfig) -> list[Cell]:
    return [
        Cell(seed, library, method)
        for seed in config.seeds
        for library in wanted(config, seed)
        for method in chosen(library.methods, world(config, seed))
    ]


def derived(seed: int, name: str) -> int:
    """A seed of its own for each named use."""
    return seed * 2**32 + zlib.crc32(name.encode())


def mains(config: StudyConfig, seed: int, base: str = "standard") -> list[Library]:
    """For each group, the first library of the standard base that all methods are tried on: the one
    to look inside."""
    found: dict[str, Library] = {}
    for library in wanted(config, seed):
        if library.base == base == "standard" and "all" in library.methods:
            found.setdefault(library.group, library)
    return list(found.values())


def inside_file(seed: int, library: Library) -> Path:
    """Below the run's folder."""
    return Path(f"seed-{seed}") / library.base / "inside" / f"{library.group}.json"


def share_out(config: StudyConfig, processes: int) -> list[list[tuple[int, str]]]:
    """The (seed, base) pairs of each process: the dearest first, each to whom has least to do."""
    cost: dict[tuple[int, str], int] = {}
    for seed in config.seeds:
        libraries = wanted(config, seed)
        for base in dict.fromkeys(library.base for library in libraries):
            experts = {
                expert for library in libraries for expert in library.experts if expert.base == base
            }
            reading, training = config.pretrain, config.train
            cost[seed, base] = (
                reading.steps * reading.rows + len(experts) * training.steps * training.rows
            )
    shares: list[list[tuple[int, str]]] = [[] for _ in range(processes)]
    loads = [0] * processes
    for pair in sorted(cost, key=lambda pair: (-cost[pair], pair)):
        least = loads.index(min(loads))
        shares[least].append(pair)
        loads[least] += cost[pair]
    return shares


def passes(config: StudyConfig, seed: int, base: str) -> dict[str, list[Expert]]:
    """The experts of a base by the pass that trains them: one for each part, recipe and group,
    whatever else is wanted."""
    found: dict[str, list[Expert]] = {}
    known: set[Expert] = set()
    for library in wanted(config, seed):
        for expert in library.experts:
            if expert.base == base and expert not in known:
                known.add(expert)
                found.setdefault(f"{library.part}-{expert.recipe}-{expert.group}", []).append(
                    expert
                )
    return found
