"""A study, top to bottom.

    world(seed) -> texts -> base -> {expert: trained adapter} -> {merge | router}(library)
    -> greedy answers to held-out questions -> scores -> rows -> claims -> report

Everything finished is on disk and is not made again (recycle/run/folder.py says where). A cell's
numbers depend on its own configuration and seed alone, so adding cells or seeds changes no others.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lora import Adapter
from recycle.measure.cell import measure
from recycle.measure.inside import look_inside
from recycle.measure.work import cell_tokens
from recycle.plan import BaseSpec, Cell, Expert, Library
from recycle.run import progress
from recycle.run.disk import look_again, write_text
from recycle.run.environment import note_environment
from recycle.run.folder import base_folder, claim_folder, keep_config, ledger_head
from recycle.run.jobs import Job, work_through
from recycle.run.ledger import Ledger
from recycle.run.processes import Team
from recycle.studies import Study
from recycle.train.base import Base, Device, is_pretrained, preserved_path, written_by_base
from recycle.train.experts import Trained, open_expert, train_pass, untrained
from recycle.train.settings import change

PRETRAIN, PRESERVE, TRAIN, ASK = range(4)  # stages: each needs what those before it make
INSIDE_TOKENS = 20 * progress.CELL_TOKENS  # what a look inside a library counts as

Place = tuple[int, BaseSpec]  # a base of a seed


def run(
    study: Study,
    folder: Path,
    environment: dict[str, Any],
    team: Team,
    quiet: bool = False,
    device: Device = "cpu",
) -> None:
    """Make whatever of the study is not in the folder yet, then metrics.jsonl. Seeds whose bases
    fail their gates are replaced, until the spare ones are used up.

    The processes of a team share the jobs of the study, or do all of them in step; the first one
    also does what is done once."""
    if team.rank == 0:
        claim_folder(study.config, folder)
    environments = team.wait(json.dumps(environment))
    while True:
        look_again(folder)
        settled = study.settled(folder)
        left = [job for job in jobs(settled, folder, device) if not job.is_made()]
        if team.rank == 0 and left:
            for each in environments:
                note_environment(folder, json.loads(each))
            for seed, spec in {job.place for job in left}:
                home = Ledger(base_folder(folder, seed, spec.name))
                home.begin(seed, spec.name, ledger_head(study.config))
        team.wait()
        tokens = sum(job.cost for job in left)
        count = team.worked if team.shares else None
        with progress.showing(tokens, quiet or team.rank > 0, count):
            work_through(left, team, folder)
        if study.settled(folder) == settled:
            break
    if team.rank == 0:
        for seed, spec in settled.bases:  # everything is trained
            for stale in base_folder(folder, seed, spec.name).glob("*checkpoint.pt"):
                stale.unlink(missing_ok=True)
        collect(settled, folder)
        keep_config(study.config, folder)


def is_finished(study: Study, folder: Path) -> bool:
    """Whether everything is made but metrics.jsonl, which is written anew."""
    return all(job.is_made() for job in jobs(study.settled(folder), folder))


def collect(study: Study, folder: Path) -> None:
    """metrics.jsonl: every cell's rows, in the order of the study."""
    rows = [row for cell in study.cells for row in study.read_cell(folder, cell)["rows"]]
    write_text(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


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


# The jobs ----------------------------------------------------------------------------------------


def jobs(study: Study, folder: Path, device: Device = "cpu") -> Iterator[Job]:
    """Everything that the study makes in a folder, whether it is made or not."""
    desk = Desk(study, folder, device)
    for place in study.bases:
        yield from _jobs_of_base(study, folder, place, desk)


def _jobs_of_base(study: Study, folder: Path, place: Place, desk: Desk) -> Iterator[Job]:
    """The base, texts that it writes for its experts, passes of experts, cells, looks inside."""
    seed, spec = place
    home, config = base_folder(folder, seed, spec.name), change(study.config, spec.settings)
    label, passes = f"seed-{seed}/{spec.name}", study.passes(spec.name)
    missing = set(untrained(home, [expert for each in passes.values() for expert in each]))

    def job(
        name: str,
        stage: int,
        cost: float,
        needs: set[str],
        is_made: Callable[[], bool],
        make: Callable[[], object],
    ) -> Job:
        return Job(name, place, stage, cost, frozenset(needs), is_made, make)

    on_base = {f"{label}/base"}
    if not config.checkpoint:
        yield job(
            f"{label}/base",
            PRETRAIN,
            config.pretrain.steps * config.pretrain.tokens,
            set(),
            partial(is_pretrained, home),
            partial(desk.base, place),
        )
    texts, pass_of = dict[str, str](), dict[Expert, str]()  # the jobs that make them
    for name, together in passes.items():
        own, left = change(config, together[0].recipe.settings), missing & set(together)
        source = written_by_base(own.adapter)
        if source and source not in texts and left:
            texts[source] = f"{label}/preserved/{source}"
            yield job(
                texts[source],
                PRESERVE,
                progress.CELL_TOKENS,
                on_base,
                preserved_path(home, source).exists,
                partial(desk.preserve, place, source),
            )
        pass_of |= dict.fromkeys(together, f"{label}/passes/{name}")
        yield job(
            f"{label}/passes/{name}",
            TRAIN,
            len(left) * own.train.steps * own.train.tokens,
            on_base | ({texts[source]} if source in texts else set()),
            partial(_all_trained, home, together),
            partial(desk.train, place, name),
        )
    world = study.world(study.config.seeds[0])  # all seeds ask as much
    for cell in study.cells:
        if (cell.seed, cell.library.base) == place:
            tokens = cell_tokens(world, cell.library.group, cell.method)
            yield job(
                f"{label}/cells/{cell.slug}",
                ASK,
                tokens,
                on_base | {pass_of[expert] for expert in cell.library.experts},
                (folder / cell.path).exists,
                partial(desk.ask, cell, tokens),
            )
    for library in study.opened:
        if library.base == spec:
            yield job(
                f"{label}/inside/{library.group}",
                ASK,
                INSIDE_TOKENS,
                on_base | {pass_of[e] for e in (*library.experts, *singles(study, library))},
                inside_path(folder, seed, library).exists,
                partial(desk.look, place, library),
            )


def _all_trained(home: Path, experts: Sequence[Expert]) -> bool:
    return not untrained(home, experts)


class Desk:
    """What a process works on: one base at a time, with the experts on it that are trained."""

    def __init__(self, study: Study, folder: Path, device: Device):
        self._study, self._folder, self._device = study, folder, device
        self._place: Place | None = None
        self._experts: dict[str, Any] = {}

    def base(self, place: Place) -> Base:
        """Pretrained now, where its job has not been done."""
        if self._place != place:
            self._place, self._experts = None, {}
            self._base = self._study.open_base(*place, self._folder, self._device)
            self._place = place
        return self._base

    def experts(self, place: Place, wanted: Sequence[Expert]) -> Trained:
        """Those that are wanted, with all that are on disk by now."""
        base, passes = self.base(place), self._study.passes(place[1].name)
        every = [expert for together in passes.values() for expert in together]
        if not self._experts or any(expert.slug not in self._experts for expert in wanted):
            missing = set(untrained(base.folder, every))
            for expert in every:
                if expert not in missing and expert.slug not in self._experts:
                    self._experts[expert.slug] = open_expert(base, expert)
        return self._experts

    def preserve(self, place: Place, source: str) -> None:
        base = self.base(place)
        progress.current().say(f"{base.label}: texts that the base writes")
        base.preserved(source)
        progress.current().advance(progress.CELL_TOKENS)

    def train(self, place: Place, name: str) -> None:
        train_pass(self.base(place), name, self._study.passes(place[1].name)[name])

    def ask(self, cell: Cell, tokens: float) -> None:
        begun, place = time.monotonic(), (cell.seed, cell.library.base)
        base, experts = self.base(place), self.experts(place, cell.library.experts)
        progress.current().say(f"{base.label}: {cell.slug}")
        measured = measure(cell, base, experts).to_json()
        took = time.monotonic() - begun
        Ledger(base.folder).write_json(f"cells/{cell.slug}.json", measured, took)
        progress.current().advance(tokens)

    def look(self, place: Place, library: Library) -> None:
        begun, wanted = time.monotonic(), singles(self._study, library)
        base, experts = self.base(place), self.experts(place, [*library.experts, *wanted])
        progress.current().say(f"{base.label}: inside {library.group}")
        adapters = {e.slug: made for e in wanted if isinstance(made := experts[e.slug], Adapter)}
        seen = look_inside(library, base, adapters)
        took = time.monotonic() - begun
        Ledger(base.folder).write_json(f"inside/{library.group}.json", seen, took)
        progress.current().advance(INSIDE_TOKENS)
