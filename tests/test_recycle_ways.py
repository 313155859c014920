"""The ways of adapted layers in a study: measured once on a machine, kept with the run, never
changed under a run."""

import json
from argparse import Namespace

import pytest
import torch

from lora import use_ways
from lora.ways import ADDED, Shape, ways_in_use
from recycle.commands import adapters, runs
from recycle.run import processor
from recycle.run import ways as machine_ways
from recycle.run.environment import describe_environment, note_environment
from recycle.run.folder import read_environments
from recycle.run.processes import Team
from recycle.run.ways import cache_file, choose_ways
from recycle.studies import DESIGNS, Study
from recycle.studies.shapes import adapted_shapes
from recycle.train.settings import change

MATMUL = {"setting": "default"}
SHAPES = [Shape(512, 128, 128, 16, 12), Shape(512, 128, 256, 16, 12)]
FIRST, SECOND = (shape.kind for shape in SHAPES)
ENVIRONMENT = describe_environment(MATMUL, "study")


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """The classes that were measured, which all take the plain way."""
    classes = []

    def measure(shapes, known):
        new = {shape.kind: "plain" for shape in shapes if shape.kind not in known}
        classes.extend(new)
        return new

    monkeypatch.setattr(machine_ways, "measure_ways", measure)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield classes
    use_ways({})


def test_a_new_run_measures_what_the_machine_has_not_yet(measured, tmp_path):
    run = tmp_path / "run"
    assert choose_ways("auto", SHAPES[:1], run, MATMUL) == {FIRST: "plain"} == ways_in_use()
    assert choose_ways("auto", SHAPES, run, MATMUL) == {FIRST: "plain", SECOND: "plain"}
    assert choose_ways("auto", SHAPES[:1], run, MATMUL) == {FIRST: "plain"}
    assert measured == [FIRST, SECOND]
    choose_ways("auto", SHAPES[:1], run, {"setting": "oneDNN"})
    assert measured == [FIRST, SECOND, FIRST]  # another matrix product is another machine
    assert choose_ways("default", SHAPES, run, MATMUL) == {} == ways_in_use()
    assert not run.exists()


@pytest.mark.parametrize("text", ["{", "[]", '{"a": {"b": 1}}'])
def test_a_damaged_cache_is_measured_again(measured, tmp_path, text):
    cache_file().parent.mkdir(parents=True)
    cache_file().write_text(text)
    assert choose_ways("auto", SHAPES, tmp_path / "run", MATMUL)
    assert measured == [FIRST, SECOND] and FIRST in cache_file().read_text()


def test_ways_of_another_version_in_the_cache_are_measured_again(measured, tmp_path):
    choose_ways("auto", SHAPES, tmp_path / "run", MATMUL)
    cache_file().write_text(cache_file().read_text().replace("plain", "forgotten"))
    assert choose_ways("auto", SHAPES, tmp_path / "run", MATMUL)[FIRST] == "plain"
    assert measured == [FIRST, SECOND] * 2


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(measured, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert choose_ways("auto", SHAPES, tmp_path / "run", MATMUL)[FIRST] == "plain"


def test_a_run_goes_on_with_its_own_table_or_with_none(measured, tmp_path):
    with_table, without = tmp_path / "with", tmp_path / "without"
    note_environment(with_table, {**ENVIRONMENT, "ways": {FIRST: ADDED}})
    note_environment(without, ENVIRONMENT)  # as older versions wrote it
    for choice in ("auto", "default"):
        assert choose_ways(choice, SHAPES, with_table, MATMUL) == {FIRST: ADDED}
        assert choose_ways(choice, SHAPES, without, MATMUL) == {}
    assert measured == []


def test_another_table_is_another_environment(tmp_path):
    note_environment(tmp_path, ENVIRONMENT)
    note_environment(tmp_path, {**ENVIRONMENT, "ways": {}})
    assert len(read_environments(tmp_path)) == 1
    note_environment(tmp_path, {**ENVIRONMENT, "ways": {FIRST: "plain"}})
    note_environment(tmp_path, {**ENVIRONMENT, "ways": {FIRST: "plain"}, "commands": ["again"]})
    assert [each.get("ways") for each in read_environments(tmp_path)] == [{}, {FIRST: "plain"}]


def test_a_run_whose_table_is_damaged_is_refused(measured, tmp_path):
    note_environment(tmp_path, ENVIRONMENT)
    for ways, words in (({FIRST: 5}, "must be a text"), ({FIRST: "fast"}, "no way 'fast'")):
        (tmp_path / "env.json").write_text(json.dumps([{**ENVIRONMENT, "ways": ways}]))
        with pytest.raises(ValueError, match=words):
            choose_ways("auto", SHAPES, tmp_path, MATMUL)


def test_the_shapes_of_a_study_are_those_that_it_trains():
    design = DESIGNS["two-hop"]
    settings = {"model.width": 32, "model.hidden": 48, "model.heads": 2, "model.kv_heads": 1}
    config = change(design.preset("quick"), {**settings, "train.rows": 3, "train.length": 20})
    shapes = adapted_shapes(Study(design, config))
    assert {(s.k, s.n) for s in shapes} == {(32, 32), (32, 16), (32, 48), (48, 32)}
    assert {s.tokens for s in shapes} == {60} and all(s.together >= 1 for s in shapes)
    assert config.adapter.rank in {s.rank for s in shapes} and len(set(shapes)) == len(shapes)


def test_the_shapes_of_adapters_that_take_turns_are_those_of_a_turn():
    config = DESIGNS["two-hop"].preset("quick")
    passes = Study(DESIGNS["two-hop"], config).passes("standard")
    assert max(map(len, passes.values())) > 2
    settings = {"train.micro_batch": 2, "train.rows": 3, "train.length": 20}
    shapes = adapted_shapes(Study(DESIGNS["two-hop"], change(config, settings)))
    assert {(s.together, s.tokens) for s in shapes} <= {(2, 20), (1, 40)}


def test_every_process_takes_the_first_ones_table(measured, tmp_path):
    made = Study(DESIGNS["two-hop"], DESIGNS["two-hop"].preset("quick"))
    arguments = (made, tmp_path, "auto", MATMUL)

    class Second(Team):
        def wait(self, word=""):
            assert word == "{}"
            return [json.dumps({FIRST: ADDED}), word]

    first = runs._agreed_ways(*arguments, Team(), torch.device("cpu"))
    assert first and set(first.values()) == {"plain"}
    assert runs._agreed_ways(*arguments, Second(1, 2), torch.device("cpu")) == {FIRST: ADDED}
    assert ways_in_use() == {FIRST: ADDED}
    assert runs._agreed_ways(*arguments, Team(), torch.device("cuda", 0)) == {}


def test_a_later_expert_is_trained_as_the_run_was(measured, tmp_path, monkeypatch):
    note_environment(tmp_path, {**ENVIRONMENT, "ways": {FIRST: ADDED}})

    class Opened:
        config = DESIGNS["two-hop"].preset("quick")
        bases = [(seed, spec) for seed in config.seeds for spec in [Namespace(name="standard")]]
        design = Namespace(base=lambda name: None)

        def open_base(self, *arguments):
            return ways_in_use()

    monkeypatch.setattr(adapters, "open_study", lambda run: Opened())
    monkeypatch.setattr(adapters, "is_pretrained", lambda folder: True)
    options = Namespace(
        device="cpu", run=tmp_path, seed=None, base="standard", matmul="default", dtype=None
    )
    assert adapters.open_named(options) == {FIRST: ADDED}


def test_the_processor_is_named(monkeypatch, tmp_path):
    here = processor.describe_processor()
    assert here["processor"] and here["flags"][-1] == torch.backends.cpu.get_cpu_capability()
    text = "processor : 0\nmodel name\t: A CPU\nflags\t\t: fpu avx2 avx512f\n\nmodel name : B\n"
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "cpuinfo")
    found = processor.describe_processor()
    assert found["processor"] == "A CPU" and found["flags"][:-1] == ["avx2", "avx512f"]
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "none")
    assert processor.describe_processor()["processor"]
