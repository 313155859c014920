"""Seeds whose bases fail a gate, and the spare seeds that stand in for them."""

import dataclasses
from functools import partial

import pytest

from recycle.decide.claims import Rules, gate
from recycle.run.folder import base_folder
from recycle.run.jobs import Job
from recycle.run.ledger import Ledger
from recycle.run.processes import Team
from recycle.show.page import _replaced
from recycle.studies import Study
from recycle.studies.two_hop import TWO_HOP
from recycle.study import run as run_study
from recycle.train.settings import change

N = 100


def controls(metrics):
    """One gate of the bases, and one of what their experts do."""
    base = [("base", metrics.where(group="F", library="none", form="direct"))]
    merged = [("sum", metrics.where(group="F", library="pair", form="direct"))]
    return [gate("composes", "the base composes", 0.7, base), gate("kept", "it stays", 0.7, merged)]


@pytest.fixture
def make(monkeypatch):
    """Cells without any training: every base answers .9 of the questions, the bases of seeds in the
    returned set none; experts fail everywhere. The list says which seeds were made."""
    failing, made = set(), []

    def write_cells(study, folder, seed, spec):
        made.append(seed)
        for cell in cells_of(study, seed, spec):
            right = 90 if not cell.library.experts and seed not in failing else 0
            world = study.design.world
            counts = dict.fromkeys(world.outcomes, 0) | {"right": right, "malformed": N - right}
            rows = [{**cell.key._asdict(), "form": form, "n": N, **counts} for form in world.forms]
            ledger = Ledger(base_folder(folder, seed, spec.name))
            ledger.write_json(f"cells/{cell.slug}.json", {"rows": rows, "examples": {}})

    def jobs(study, folder, device):
        for seed, spec in study.bases:
            paths = [folder / cell.path for cell in cells_of(study, seed, spec)]
            yield Job(
                name=f"{seed} {spec.name}",
                place=(seed, spec),
                stage=0,
                cost=1.0,
                needs=frozenset(),
                is_made=lambda paths=paths: all(path.exists() for path in paths),
                make=partial(write_cells, study, folder, seed, spec),
            )

    monkeypatch.setattr("recycle.study.jobs", jobs)
    monkeypatch.setattr("recycle.study.note_environment", lambda *_: None)
    return failing, made


def cells_of(study, seed, spec):
    return [cell for cell in study.cells if (cell.seed, cell.library.base) == (seed, spec)]


def run(study, folder):
    run_study(study, folder, {}, Team(), quiet=True)


def study(base_gates=("composes",), **settings):
    design = dataclasses.replace(TWO_HOP, rules=Rules(("F",), controls, (), base_gates=base_gates))
    return Study(design, change(design.default, {"groups": ("F",), **settings}))


def seeds_of(folder):
    return sorted({int(path.parts[-4].split("-")[1]) for path in folder.rglob("cells/*.json")})


def test_a_seed_whose_base_fails_is_replaced_by_the_next_spare(make, tmp_path):
    failing, made = make
    failing |= {2, 9}
    planned = study(seeds=(1, 2, 3), spare_seeds=(9, 8, 7))
    run(planned, tmp_path)
    settled = planned.settled(tmp_path)
    assert settled.config.seeds == (1, 3, 8) and settled.replaced == (2, 9)
    assert settled.config.spare_seeds == (7,)
    assert 7 not in made and {2, 9} <= set(seeds_of(tmp_path))
    rows = (tmp_path / "metrics.jsonl").read_text()
    assert [f'"seed": {seed},' in rows for seed in (1, 2, 3, 8, 9)] == [1, 0, 1, 1, 0]
    assert _replaced(settled) == " (in the place of 2, 9, whose bases fail their gates)"


def test_the_same_command_goes_on_with_the_same_seeds(make, tmp_path):
    failing, _ = make
    failing.add(1)
    planned = study(seeds=(1,), spare_seeds=(5,))
    for _ in range(2):
        run(planned, tmp_path)
        assert planned.settled(tmp_path).config.seeds == (5,)


def test_no_seed_is_replaced_for_what_its_experts_do(make, tmp_path):
    """The experts fail everywhere, which the gate "kept" would see."""
    planned = study(base_gates=("composes", "kept"), seeds=(1, 2), spare_seeds=(3,))
    run(planned, tmp_path)
    assert planned.settled(tmp_path) == planned and seeds_of(tmp_path) == [1, 2]


def test_seeds_that_fail_stay_when_the_spare_ones_are_used_up(make, tmp_path):
    failing, _ = make
    failing |= {1, 2, 3}
    planned = study(seeds=(1, 2), spare_seeds=(3,))
    run(planned, tmp_path)
    settled = planned.settled(tmp_path)
    assert settled.config.seeds == (1, 2) and settled.replaced == (3,)


def test_a_study_without_gates_of_its_bases_keeps_every_seed(make, tmp_path):
    failing, _ = make
    failing.add(1)
    planned = study(base_gates=(), seeds=(1,), spare_seeds=(2,))
    run(planned, tmp_path)
    assert planned.settled(tmp_path) == planned


def test_spare_seeds_are_read_and_checked():
    assert study(spare_seeds="7,8").config.spare_seeds == (7, 8)
    for spare in ((0,), (5, 5), (-1,)):
        with pytest.raises(ValueError, match="spare_seeds = .*none among the seeds"):
            study(seeds=(0, 1), spare_seeds=spare)
