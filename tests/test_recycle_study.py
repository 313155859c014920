"""One real study in miniature, through the command line.

The tests run it, kill it, go on with it, report it, and use its folder afterwards.
"""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lora import load_adapter
from recycle.__main__ import main
from recycle.decide.metrics import Metrics
from recycle.reuse.merges import BY_NAME as MERGES
from recycle.reuse.methods import EVERY, MAIN
from recycle.show.figures import growth
from recycle.show.record import recorded_metrics
from recycle.studies import Study
from recycle.studies.two_hop import TWO_HOP

pytestmark = pytest.mark.study  # every test needs the finished study
ROOT = Path(__file__).parent.parent
TINY = """
    groups=F parts=main,references,identity
    task.people=40 task.cities=10 task.triples=6 task.set_cities=3
    model.width=32 model.layers=1 model.heads=2 model.kv_heads=2 model.hidden=48
    pretrain.steps=100 pretrain.lr=1e-2 pretrain.rows=16
    train.steps=20 train.rows=4 train.lr=1e-2 adapter.rank=4
"""
SETTINGS = [f"--set={setting}" for setting in TINY.split()]
# Numbers are compared between processes, so no process may choose its matrix product by a probe.
STUDY = ["study", "two-hop", "--quiet", "--matmul=default", *SETTINGS]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished study with all its pictures; tests that change it work on a copy."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    assert main([*STUDY, "--run", str(folder)]) == 0
    return folder


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch):
    """The report of the ``run`` fixture has all pictures. Drawing them again in every test would
    take most of the time."""
    monkeypatch.setattr("recycle.show.drawing.Figure", None)


@pytest.fixture
def command_line(tmp_path):
    """Start a study in a process of its own, for which matplotlib and scipy seem not to be
    installed: each takes a second or two to load."""
    for name in ("matplotlib", "scipy"):
        (tmp_path / f"{name}.py").write_text("raise ImportError")
    # As many threads as here: a sum over another number of threads may round differently.
    threads = str(torch.get_num_threads())
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": threads}

    def start(*arguments):
        command = [sys.executable, "-m", "recycle", *STUDY, *map(str, arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)

    return start


@pytest.fixture
def copy(run, tmp_path):
    return Path(shutil.copytree(run, tmp_path / "run"))


def metrics(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def failing(capsys, *arguments):
    """The one line that a failing command prints."""
    assert main([str(a) for a in arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


def test_every_cell_is_measured_once_and_counts_add_up(run):
    rows = metrics(run)
    main_methods, all_methods = len(MAIN), len(EVERY)
    singles = 1 + 2 * 2 + 2  # the base, both hops alone and at half, target and joint
    references, identity = main_methods + 2, main_methods + 1
    assert len(rows) == 4 * (2 + singles + 2 * all_methods + references + identity)
    keys = [(r["base"], r["group"], r["library"], r["method"], r["form"]) for r in rows]
    assert len(set(keys)) == len(rows)
    assert all(r["right"] + r["bridge"] + r["wrong city"] + r["malformed"] == r["n"] for r in rows)
    assert {r["n"] for r in rows if r["group"] == "F"} == {6}


def test_what_is_known_is_counted_triple_by_triple(run):
    for row in metrics(run):
        if row["group"] != "base":
            assert row["right of known"] <= min(row["components known"], row["right"])
            if row["form"] in ("hop1", "hop2"):
                assert row["right of known"] == row["components known"]


def test_the_losses_of_the_base_and_of_the_experts_fell(run):
    base = json.loads((run / "seed-0/standard/curve.json").read_text())["curve"]
    assert base[-1]["loss"][0] < 0.7 * base[0]["loss"][0]
    experts = run / "seed-0/standard/passes/main-standard-F.json"
    curve = json.loads(experts.read_text())["curve"]
    assert sum(curve[-1]["loss"]) < 0.9 * sum(curve[0]["loss"])


def test_failed_controls_leave_open_what_rests_on_them(run):
    """So small a base cannot compose: the claims must say so and name their own controls."""
    decided = json.loads((run / "claims.json").read_text())
    failed = {control["id"] for control in decided["controls"] if not control["passes"]}
    assert {"experts-recall", "base-composes-directly"} <= failed
    for claim in decided["claims"]:
        assert claim["verdict"].startswith("not decided")
        named = {control for control in failed if f"control {control} at" in claim["verdict"]}
        assert named <= set(claim["needs"])
        if claim["id"] in ("C1", "C7"):  # these are measured here, so a control alone stops them
            assert named == failed & set(claim["needs"])


def test_the_report_stands_alone(run):
    page = (run / "report.html").read_text()
    assert not re.search(r"(src|href)\s*=\s*['\"]?(https?:|//)", page)
    for word in (
        "F: new names",
        "2-combination: arrow_top1",
        "joint, full fine-tuning",
        "none, facts in context",
        "2-combination: plain_sum (base identity)",
        "Logit lens at the end of a direct question",
        "gates by token, cot",
        "data:image/png;base64,",
        "not decided",
        "P3",
        "Wilson",
        "environment",
    ):
        assert word in page


def test_the_report_can_be_drawn_without_matplotlib(copy, capsys):
    (copy / "report.html").unlink()
    assert main(["report", str(copy)]) == 0
    assert "plots extra" in (copy / "report.html").read_text()
    assert "2-combination" in capsys.readouterr().out


def test_a_second_run_makes_nothing_again(run):
    files = [*run.rglob("*.pt"), *run.rglob("cells/*")]
    before = [file.stat().st_mtime_ns for file in files]
    assert files and main([*STUDY, "--run", str(run)]) == 0
    assert before == [file.stat().st_mtime_ns for file in files]


def test_a_killed_study_goes_on_to_the_same_numbers(run, tmp_path, command_line):
    """kill -9 once the base stands, and again among the cells: the same command ends with the same
    metrics."""
    folder = tmp_path / "killed"
    for landmark in ("seed-0/standard/model.pt", "seed-0/standard/cells/F.joint.alone.json"):
        process = command_line("--run", folder)
        while not (folder / landmark).exists() and process.poll() is None:
            time.sleep(0.01)
        assert process.poll() is None, "the study ended before it could be killed"
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not (folder / "metrics.jsonl").exists()
    assert main([*STUDY, "--run", str(folder)]) == 0
    assert (folder / "metrics.jsonl").read_text() == (run / "metrics.jsonl").read_text()


def test_another_configuration_does_not_touch_the_run(run, capsys):
    before = (run / "config.json").read_text()
    line = failing(capsys, *STUDY, "--set", "train.lr=1e-4", "--run", run)
    assert "train.lr differs" in line and "--run" in line
    assert (run / "config.json").read_text() == before


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--preset", "huge"], "no preset 'huge': choose from quick, laptop, full, growth"),
        (["--set", "train.speed=3"], "train.speed: no key 'speed': choose from steps, rows"),
        (["--set", "train.steps=many"], "train.steps=many: must be of type int, as"),
        (["--set", "train.steps=1.5"], "must be of type int"),
        (["--set", "train"], "write key=value"),
        (["--set", "train=3"], "a group of keys: train.steps"),
        (["--set", "seeds.a=3"], "seeds is a single value"),
        (["--set", "groups=Q"], "groups: no group 'Q': choose from F, H, R, K"),
        (["--set", "seeds=-1"], "none below 0"),
        (["--set", "seeds=1,1"], "each once"),
        (["--set", "model.width=33"], "model.width = 33"),
        (["--set", "pretrain.length=128"], "must be below model.context"),
    ],
)
def test_bad_input_is_one_line(copy, capsys, arguments, message):
    shutil.rmtree(copy / "seed-0" / "standard" / "library")
    (copy / "config.json").unlink()
    (copy / "seed-0" / "standard" / "cells" / "F.none.alone.json").unlink()
    assert message in failing(capsys, *STUDY, *arguments, "--run", copy)


def test_an_unwritable_folder_is_named(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    line = failing(capsys, *STUDY, "--run", tmp_path / "file" / "run")
    assert "file/run cannot be written (Not a directory): name another folder" in line


def test_damaged_files_are_named_and_not_overwritten(copy, capsys):
    adapter = next((copy / "seed-0/standard/library/hop1-F").glob("adapter_model.*"))
    adapter.write_bytes(adapter.read_bytes()[:100])
    assert str(adapter) in failing(capsys, "eval", copy, "hop1-F", "--group", "F")
    base = copy / "seed-0/standard/model.pt"
    base.write_bytes(base.read_bytes()[:1000])
    assert "model.pt is not what this run made there" in failing(
        capsys, "eval", copy, "hop2-F", "--group", "F"
    )
    assert base.stat().st_size == 1000


def test_train_merge_route_and_eval(copy, capsys):
    library = copy / "seed-0/standard/library"

    def recycle(command, *adapters, options):
        assert main([command, str(copy), *adapters, *options.split()]) == 0
        return capsys.readouterr().out

    recycle("train", options="--reads hop1 --group F --name mine --set train.steps=3 --quiet")
    mine, hop2 = load_adapter(library / "mine"), load_adapter(library / "hop2-F")
    trained_from = {"reads": "hop1", "group": "F", "recipe": "standard", "base": "standard"}
    assert mine.origin == {"task": "two-hop", "seed": 0, **trained_from}

    weights = "--method weighted_sum --weights 1 0.5 --out both"
    recycle("merge", "mine", "hop2-F", options=weights)
    both = load_adapter(library / "both")
    path = both.paths[0]
    torch.testing.assert_close(both.delta(path), mine.delta(path) + 0.5 * hop2.delta(path))

    recycle("merge", "mine", "hop2-F", options="--method ties --set density=0.5 --out trimmed")
    trimmed = load_adapter(library / "trimmed")
    assert trimmed.origin["options"] == {"density": 0.5}
    expected = MERGES["ties"]([mine, hop2], density=0.5)
    torch.testing.assert_close(trimmed.delta(path), expected.delta(path))

    printed = recycle("route", "mine", "hop2-F", options="--group F --top-k 1")
    assert "layers.0.self_attn.q_proj" in printed
    for printed in (
        recycle("eval", "both", options="--group F"),
        recycle("eval", "mine", "hop2-F", options="--group F --order factors"),
        recycle("eval", str(library / "both"), options="--group F --show 1"),
    ):
        assert re.search(r"cot +\d\.\d\d \[", printed)


def test_the_eval_command_gives_the_studys_numbers(run, capsys):
    assert main(["eval", str(run), "hop1-F", "hop2-F", "--group", "F"]) == 0
    printed = dict(re.findall(r"^(\w+) .*right (\d+)", capsys.readouterr().out, re.M))
    routed = ("F", "2-combination", "arrow")
    rows = [r for r in metrics(run) if (r["group"], r["library"], r["method"]) == routed]
    assert {r["form"]: str(r["right"]) for r in rows} == printed


def test_bad_commands_on_a_run_are_one_line(copy, tmp_path, capsys):
    cases = {
        "eval RUN nobody --group F": "no adapter 'nobody' in",
        "eval RUN hop1-F hop2-F --group F --top-k 3": "top_k = 3: the library has 2 adapters",
        "eval RUN hop1-F --group F --top-k 1": "one adapter is not routed",
        "eval EMPTY hop1-F --group F": "is no run folder",
        "eval RUN hop1-F --group F --seed 9": "no finished base 'standard' for seed 9",
        "eval RUN hop1-F --group Q": "--group Q: no group 'Q': choose from F, H, R, K",
        "eval RUN hop1-F --group F --base none": "no finished base 'none'",
        "merge RUN hop1-F hop2-F --method plain_sum --out hop1-F": "exists: choose another --out",
        "merge RUN hop1-F --method weighted_sum --out x": "--weights goes with",
        "merge RUN hop1-F --method weighted_sum --weights 1 2 --out x": "1 adapters and 2 weights",
        "train RUN --reads hop1 --group F --set model.width=3": "the base is trained already",
        "train RUN --reads hop3 --group F": "no expert reads 'hop3': choose hop1, hop2",
        "train RUN --reads hop1 --group F --set adapter.kind=full": "this command saves an adapter",
        "train RUN --reads hop1 --group F --set adapter.rank=99": "adapter.rank = 99: layer",
        "train RUN --reads hop1 --group F --name ../x": "--name '../x': the plain name",
        "merge RUN hop1-F hop2-F --method plain_sum --out ../../x": "--out '../../x': the plain",
        "eval RUN hop1-F hop1-F --group F": "'hop1-F' is named twice",
        "eval RUN hop1-G --group F": "did you mean 'hop1-F'",
        "eval RUN hop1-F --group F --base standart": "did you mean 'standard': there are standard",
        "table RUN/config.json": "config.json is no recorded result",
        "report RUN --record RUN": "is a folder: name a plain file",
        "train RUN --reads hop1 --group F --set adapter.patterns=nose": "fits the pattern 'nose'",
        "report EMPTY": "is no run folder",
    }
    folders = {"RUN": copy, "EMPTY": tmp_path}
    for command, message in cases.items():
        words = (re.sub("RUN|EMPTY", lambda w: str(folders[w[0]]), w) for w in command.split())
        assert message in failing(capsys, *words)
    other = shutil.copytree(copy / "seed-0/standard/library/hop1-F", tmp_path / "other")
    origin = other / "origin.json"
    origin.write_text(json.dumps({**json.loads(origin.read_text()), "base": "0123456789abcdef"}))
    line = failing(capsys, "eval", copy, other, "--group", "F")
    assert "was made for the base 0123456789abcdef" in line


def test_a_run_is_recorded_and_its_tables_are_made_from_the_record(copy, tmp_path, capsys):
    file = tmp_path / "record.json"
    assert main(["report", str(copy), "--record", str(file), "--rejudge", "a test"]) == 0
    capsys.readouterr()
    assert main(["table", str(file)]) == 0
    table = capsys.readouterr().out
    assert str(copy) not in file.read_text()
    rows = recorded_metrics(json.loads(file.read_text())).rows
    for recorded, measured in zip(rows, metrics(copy), strict=True):
        assert recorded.to_json() == pytest.approx(measured, abs=1e-3)
    joint = ("standard", "joint", "hop1")
    row = next(row for row in rows if (row.key.base, row.key.library, row.form) == joint)
    assert f"| joint | {row.right / row.n:.2f} /" in table
    env = json.loads((copy / "env.json").read_text())
    (copy / "env.json").write_text(json.dumps([*env, {**env[0], "commit": "other"}]))
    line = failing(capsys, "report", copy, "--record", file, "--rejudge", "a test")
    assert "made under 2 environments" in line


def test_the_environment_is_recorded(run):
    (environment,) = json.loads((run / "env.json").read_text())
    assert environment["torch"] == torch.__version__
    assert environment["threads"] == torch.get_num_threads()
    assert re.fullmatch(r"[0-9a-f]{40}", environment["commit"] or "0" * 40)
    assert environment["matmul"] == {"setting": "default"}


def test_a_wider_study_finds_what_a_narrower_one_made(copy):
    """Seeds and parts may be added to a run: the files of the narrower run stay, byte for byte."""
    before = (copy / "metrics.jsonl").read_text().splitlines()
    times = {file: file.stat().st_mtime_ns for file in (copy / "seed-0").rglob("*.json")}
    wider = ["--set=seeds=0,1", "--set=parts=main,references,identity,preservation"]
    assert main([*STUDY, *wider, "--run", str(copy)]) == 0
    after = (copy / "metrics.jsonl").read_text().splitlines()
    assert set(before) < set(after)
    assert times == {file: file.stat().st_mtime_ns for file in times}
    assert {json.loads(line)["seed"] for line in after} == {0, 1}


def test_two_processes_make_the_same_study(run, tmp_path, command_line):
    folder = tmp_path / "shared"
    process = command_line("--processes", 2, "--run", folder)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert (folder / "metrics.jsonl").read_text() == (run / "metrics.jsonl").read_text()
    assert out.count("report:") == 1
    spent = json.loads((folder / "minutes.json").read_text())  # of both
    assert all(own["measured"] == own["made"] for own in spent.values())


def test_interference_is_measured_with_the_sum(run):
    for row in metrics(run):
        assert ("cosine" in row) == (row["method"] == "plain_sum")
        assert abs(row.get("cosine", 0)) <= 1 and row.get("input overlap", 0) <= 1


def test_growth_can_be_drawn(run, monkeypatch):
    """The rows of one library stand for those of every library that grows."""
    figures = pytest.importorskip("matplotlib.figure")
    monkeypatch.setattr("recycle.show.drawing.Figure", figures.Figure)
    grown = Study(TWO_HOP, TWO_HOP.preset("growth"))
    rows = Study(TWO_HOP, TWO_HOP.preset("quick")).read_metrics(metrics(run))
    rows = rows.where(library="2-combination", method="plain_sum", group="F")
    planted = []
    for library in (library for library in grown.libraries if library.axes):
        names = {"base": library.base.name, "library": library.name}
        planted += [dataclasses.replace(row, key=row.key._replace(**names)) for row in rows]
    titles = {ax.get_title() for ax in growth(grown, Metrics(planted)).axes}
    axes = ("rank", "experts", "facts", "width", "layers")
    assert {f"direct by {axis}" for axis in axes} <= titles


def test_a_run_that_was_looked_into_less_is_reported(copy, capsys):
    """Earlier versions looked into fewer libraries."""
    for look in copy.glob("seed-*/*/inside/*.json"):
        look.unlink()
    assert main(["report", str(copy)]) == 0
    assert "Inside the merges" not in (copy / "report.html").read_text()
