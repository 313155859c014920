"""A study as one value: what is compared in a world, at which sizes, and what is claimed of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from recycle.decide.claims import Judged, Rules, chosen_seeds
from recycle.decide.metrics import Metrics, Row, parse_row
from recycle.plan import BaseSpec, Cell, Expert, Library, Settings
from recycle.run.disk import AGAIN
from recycle.run.folder import RESTORE, base_folder
from recycle.run.ledger import Ledger
from recycle.run.names import unknown
from recycle.run.schema import check, shape_of
from recycle.train.base import Base, Device, build_world, open_base
from recycle.train.settings import StudyConfig, change, rebuild
from tasks import World

_ANSWER = {"prompt": str, "right": str, "said": str, "outcome": str}
COST = {"seconds": float, "bytes": int, "flops": int}  # older versions kept none
_ACTING = {"share": float, "rounding": float, "questions": int, "answers": int}
CELL = {
    "rows": [{str: object}],
    "examples": {str: [_ANSWER]},
    "cost?": COST,
    "interaction?": {str: _ACTING},
}


@dataclass(frozen=True)
class Headline:
    """The figure of a study's main finding: a panel for each base, a place for each method, a bar
    for each library; one group and form of question. ``reference`` is a library alone."""

    title: str
    group: str
    form: str
    bases: tuple[str, ...]
    libraries: tuple[str, ...]
    methods: tuple[str, ...]
    reference: str


@dataclass(frozen=True)
class Design:
    """What one file in recycle/studies/ says: a world, libraries, presets, claims.

    ``parts`` are what libraries belong to, the first is "main"; ``settings`` are those of every
    preset, ``presets`` further settings by name. Without a ``headline`` the main figure shows the
    libraries that are looked into, by method."""

    name: str
    world: type[World]
    libraries: tuple[Library, ...]
    parts: tuple[str, ...]
    presets: Mapping[str, Settings]
    rules: Rules
    settings: Settings = field(default_factory=dict)
    headline: Headline | None = None

    @property
    def default(self) -> StudyConfig:
        plain = StudyConfig(self.name, self.world.Config(), tuple(self.world.groups))
        return change(plain, self.settings)

    def preset(self, name: str) -> StudyConfig:
        """Raises ValueError for a preset that this study does not have."""
        if name not in self.presets:
            raise ValueError(f"--preset: {unknown('preset', name, self.presets)}")
        return change(self.default, self.presets[name])

    def base(self, name: str) -> BaseSpec:
        specs = {library.base.name: library.base for library in self.libraries}
        if name not in specs:
            raise ValueError(f"--base: {unknown('base', name, specs)}")
        return specs[name]


@dataclass(frozen=True)
class Study:
    """A design at one configuration. Everything that is made, measured and decided follows.

    ``replaced`` are planned seeds that failed a gate and in whose place spare seeds stand,
    ``left_out`` planned seeds that are not looked at."""

    design: Design
    config: StudyConfig
    replaced: tuple[int, ...] = ()
    left_out: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        known = {"groups": self.design.world.groups, "parts": self.design.parts}
        for name, choices in known.items():
            for each in getattr(self.config, name):
                if each not in choices:
                    raise ValueError(f"{name}: {unknown(name[:-1], each, choices)}")

    @cached_property
    def libraries(self) -> tuple[Library, ...]:
        """Those of the chosen parts and groups; the questions to the base itself always."""
        groups = ("base", *self.config.groups)
        return tuple(
            library
            for library in self.design.libraries
            if library.part in self.config.parts and library.group in groups
        )

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        return tuple(
            Cell(seed, library, method)
            for seed in self.config.seeds
            for library in self.libraries
            for method in library.methods
        )

    def settled(self, run: Path) -> Study:
        """The study with spare seeds in the place of those whose bases fail their gates, as far as
        the run's cells on disk tell. A seed that was not asked yet counts as passing."""

        def keeps(seed: int) -> bool:
            rows = [
                row
                for library in self.libraries
                if not library.experts
                for method in library.methods
                if (run / Cell(seed, library, method).path).exists()
                for row in self.read_cell(run, Cell(seed, library, method))["rows"]
            ]
            return self.design.rules.keeps(self.read_metrics(rows))

        planned = self.config
        if not (planned.spare_seeds and self.design.rules.base_gates):
            return self  # no seed can be replaced: nothing is read for it
        candidates = (*planned.seeds, *planned.spare_seeds)
        seeds, replaced = chosen_seeds(candidates, keeps, len(planned.seeds))
        spare = tuple(seed for seed in planned.spare_seeds if seed not in (*seeds, *replaced))
        config = replace(planned, seeds=tuple(seeds), spare_seeds=spare)
        return replace(self, config=config, replaced=tuple(replaced))

    def of_seeds(self, seeds: Sequence[int]) -> Study:
        """The study of some of its seeds, in its own order. Raises ValueError for a seed that it
        does not have."""
        planned = self.config.seeds
        for seed in seeds:
            if seed not in planned:
                raise ValueError(f"--seeds: {unknown('seed', str(seed), map(str, planned))}")
        kept = tuple(seed for seed in planned if seed in seeds)
        left_out = tuple(seed for seed in planned if seed not in seeds)
        return replace(self, config=replace(self.config, seeds=kept), left_out=left_out)

    @property
    def bases(self) -> list[tuple[int, BaseSpec]]:
        """A base for each seed and spec."""
        specs = {library.base.name: library.base for library in self.libraries}
        return [(seed, spec) for seed in self.config.seeds for spec in specs.values()]

    @property
    def opened(self) -> list[Library]:
        """Libraries whose merges are looked into."""
        return [library for library in self.libraries if library.inside]

    def passes(self, base: str) -> dict[str, list[Expert]]:
        """A base's experts by the pass that trains them: one for each part, recipe and group,
        whatever else is wanted."""
        found: dict[str, list[Expert]] = {}
        known: set[Expert] = set()
        for library in self.libraries:
            for expert in library.experts:
                if expert.base.name == base and expert not in known:
                    known.add(expert)
                    name = f"{library.part}-{expert.recipe.name}-{expert.group}"
                    found.setdefault(name, []).append(expert)
        return found

    def world(self, seed: int) -> World:
        return build_world(self.design.world, self.config.task, seed)

    def open_base(self, seed: int, spec: BaseSpec, run: Path, device: Device = "cpu") -> Base:
        """Pretrained now if it is not in the run's folder."""
        return open_base(self.design.world, self.config, (seed, spec), run, device)

    @property
    def chance(self) -> float:
        """Accuracy of the best constant answer, in the groups that the claims speak of."""
        claimed = [group for group in self.config.groups if group in self.design.rules.groups]
        world = self.world(self.config.seeds[0])
        return max(world.chance(group) for group in claimed or self.config.groups)

    def judge(self, metrics: Metrics) -> Judged:
        return self.design.rules.judge(metrics, self.chance)

    def read_cell(self, run: Path, cell: Cell) -> dict[str, Any]:
        """A cell's file: {"rows": records, "examples": {form: answers}, "cost": what it cost,
        "interaction": {form: that of two experts}}.

        Raises ValueError where it is not what the run wrote, or its rows are not the cell's own:
        one for each form."""
        ledger = Ledger(base_folder(run, cell.seed, cell.library.base.name))
        found = ledger.read_json(f"cells/{cell.slug}.json", CELL)
        try:
            rows = [self._parsed(record) for record in found["rows"]]
        except ValueError as error:
            raise ValueError(f"{run / cell.path}: {error}: {AGAIN}") from None
        if [(row.key, row.form) for row in rows] != [
            (cell.key, f) for f in self.design.world.forms
        ]:
            raise ValueError(f"{run / cell.path} holds the rows of another cell: {AGAIN}")
        return found

    def read_metrics(self, records: list[dict[str, Any]]) -> Metrics:
        """Rows from the records of metrics.jsonl."""
        return Metrics(map(self._parsed, records))

    def _parsed(self, record: Mapping[str, Any]) -> Row:
        world = self.design.world
        return parse_row(record, world.outcomes, self._notes)

    @cached_property
    def _notes(self) -> Sequence[str]:
        return self.world(self.config.seeds[0]).note_names


def rebuilt(designs: Mapping[str, Design], values: Mapping[str, Any], where: str) -> Study:
    """The study of a run's config.json. Raises ValueError for what another version made, and for
    what no study can be made of."""
    name = values.get("name")
    if not isinstance(name, str) or name not in designs:
        raise ValueError(f"{where} is of the unknown task {name!r}: another version made this run")
    default = designs[name].default
    check(values, shape_of(default), where, RESTORE)
    try:
        return Study(designs[name], rebuild(default, values, where))
    except ValueError as error:
        said = str(error)
        raise ValueError(said if where in said else f"{where}: {said}: {RESTORE}") from None
