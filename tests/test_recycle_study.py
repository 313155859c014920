"""One real study in miniature, through the command line: made, killed, gone on with, reported, and
used afterwards."""

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

from lora import Mix, load_adapter
from recycle.__main__ import main
from recycle.decide.metrics import Metrics
from recycle.measure.cell import asked_together
from recycle.reuse.method import Stage
from recycle.reuse.methods import EVERY, MAIN
from recycle.show.figures import growth
from recycle.show.record import recorded_metrics
from recycle.studies import Study
from recycle.studies.two_hop import TWO_HOP
from recycle.study import share_out

ROOT = Path(__file__).parent.parent
TINY = [
    "groups=F",
    "parts=main,references,identity",
    "task.people=40",
    "task.cities=10",
    "task.triples=6",
    "task.set_cities=3",
    "model.width=32",
    "model.layers=1",
    "model.heads=2",
    "model.kv_heads=2",
    "model.hidden=48",
    "pretrain.steps=200",
    "pretrain.lr=1e-2",
    "pretrain.rows=16",
    "train.steps=40",
    "train.rows=4",
    "train.lr=1e-2",
    "adapter.rank=4",
]
STUDY = ["study", "two-hop", "--quiet", *(word for pair in TINY for word in ("--set", pair))]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished study; tests that change it work on a copy."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    assert main([*STUDY, "--run", str(folder)]) == 0
    return folder


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch):
    """The fixture's own report has them all; drawing them again for every test would take most of
    the time."""
    monkeypatch.setattr("recycle.show.drawing.Figure", None)


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


def test_training_changed_something(run):
    """Not only that it ran: the base's loss fell, and the experts'."""
    base = json.loads((run / "seed-0/standard/curve.json").read_text())["curve"]
    assert base[-1]["loss"][0] < 0.7 * base[0]["loss"][0]
    curve = json.loads((run / "seed-0/standard/passes/main-standard-F.json").read_text())["curve"]
    assert sum(curve[-1]["loss"]) < 0.9 * sum(curve[0]["loss"])


def test_failed_controls_leave_every_claim_undecided(run):
    """So small a base cannot compose: the claims must say so and name the control."""
    decided = json.loads((run / "claims.json").read_text())
    assert decided["controls"][0]["id"] == "experts-recall" and len(decided["controls"]) == 7
    failed = [c for c in decided["controls"] if not c["passes"]]
    assert failed
    assert [c["id"] for c in decided["claims"]] == ["C1", "C2", "C3", "C4", "C5", "C6", "C7"]
    for claim in decided["claims"]:
        assert claim["verdict"].startswith("not decided")
        if claim["id"] in ("C1", "C7"):
            assert all(f"control {c['id']} at {c['value']:.2f}" in claim["verdict"] for c in failed)


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
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*.pt")} | {
        p: p.stat().st_mtime_ns for p in run.rglob("cells/*")
    }
    assert main([*STUDY, "--run", str(run)]) == 0
    assert before == {p: p.stat().st_mtime_ns for p in before}


def test_a_killed_study_goes_on_to_the_same_numbers(run, tmp_path):
    """kill -9 once the base stands, and again among the cells: the same command ends with the same
    metrics."""
    folder = tmp_path / "killed"
    command = [sys.executable, "-m", "recycle", *STUDY, "--run", str(folder)]
    for landmark in ("seed-0/standard/model.pt", "seed-0/standard/cells/F.joint.alone.json"):
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while not (folder / landmark).exists() and process.poll() is None:
            time.sleep(0.01)
        assert process.poll() is None, "the study ended before it could be killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
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
        (["--preset", "huge"], "no preset 'huge': choose quick, laptop, full, growth"),
        (["--set", "train.speed=3"], "train.speed: no such key; known here: steps, rows"),
        (["--set", "train.steps=many"], "train.steps=many: must be of type int, as"),
        (["--set", "train.steps=1.5"], "must be of type int"),
        (["--set", "train"], "write key=value"),
        (["--set", "train=3"], "a group of keys: train.steps"),
        (["--set", "seeds.a=3"], "seeds is a single value"),
        (["--set", "groups=Q"], "groups = Q: choose from F, H, R, K"),
        (["--set", "seeds=-1"], "none below 0"),
        (["--set", "seeds=1,1"], "each once"),
        (["--set", "model.width=33"], "model.width = 33"),
        (["--set", "adapter.rank=999"], "rank = 999: layer layers.0"),
        (["--set", "adapter.patterns=nose"], "no linear layer fits the pattern 'nose'"),
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
    assert "model.pt cannot be read" in failing(capsys, "eval", copy, "hop2-F", "--group", "F")
    assert base.stat().st_size == 1000


def test_train_merge_route_and_eval(copy, capsys):
    library = copy / "seed-0/standard/library"
    assert (
        main(
            [
                "train",
                str(copy),
                "--reads",
                "hop1",
                "--group",
                "F",
                "--name",
                "mine",
                "--set",
                "train.steps=3",
                "--quiet",
            ]
        )
        == 0
    )
    assert load_adapter(library / "mine").origin == {
        "task": "two-hop",
        "seed": 0,
        "reads": "hop1",
        "group": "F",
        "recipe": "standard",
        "base": "standard",
    }
    assert (
        main(
            [
                "merge",
                str(copy),
                "mine",
                "hop2-F",
                "--method",
                "weighted_sum",
                "--weights",
                "1",
                "0.5",
                "--out",
                "both",
            ]
        )
        == 0
    )
    merged, parts = (
        load_adapter(library / "both"),
        [load_adapter(library / n) for n in ("mine", "hop2-F")],
    )
    path = merged.paths[0]
    torch.testing.assert_close(
        merged.delta(path), parts[0].delta(path) + 0.5 * parts[1].delta(path)
    )
    capsys.readouterr()
    assert main(["route", str(copy), "mine", "hop2-F", "--group", "F", "--top-k", "1"]) == 0
    assert "layers.0.self_attn.q_proj" in capsys.readouterr().out
    for arguments in (
        ["both"],
        ["mine", "hop2-F", "--order", "factors"],
        [str(library / "both"), "--show", "1"],
    ):
        assert main(["eval", str(copy), *arguments, "--group", "F"]) == 0
        assert re.search(r"cot +\d\.\d\d \[", capsys.readouterr().out)


def test_the_eval_command_gives_the_studys_numbers(run, capsys):
    assert main(["eval", str(run), "hop1-F", "hop2-F", "--group", "F"]) == 0
    printed = dict(re.findall(r"^(\w+) .*right (\d+)", capsys.readouterr().out, re.M))
    rows = [
        r
        for r in metrics(run)
        if (r["group"], r["library"], r["method"]) == ("F", "2-combination", "arrow")
    ]
    assert {r["form"]: str(r["right"]) for r in rows} == printed


def test_forms_stand_in_one_batch_where_the_adapters_act_alike():
    one, other = Mix({"a": 1.0}), Mix({"a": 1.0})
    stages = {
        "x": (Stage(one),),
        "y": (Stage(other),),
        "z": (Stage(one),),
        "cot": (Stage(one, "."), Stage(one)),
    }
    assert asked_together(stages) == [["x", "z"], ["y"], ["cot"]]


def test_bad_commands_on_a_run_are_one_line(copy, tmp_path, capsys):
    cases = [
        (["eval", copy, "nobody", "--group", "F"], "no adapter 'nobody' in"),
        (
            ["eval", copy, "hop1-F", "hop2-F", "--group", "F", "--top-k", "3"],
            "top_k = 3: the library has 2 adapters",
        ),
        (["eval", copy, "hop1-F", "--group", "F", "--top-k", "1"], "one adapter is not routed"),
        (["eval", tmp_path, "hop1-F", "--group", "F"], "is no run folder"),
        (
            ["eval", copy, "hop1-F", "--group", "F", "--seed", "9"],
            "no finished base 'standard' for seed 9",
        ),
        (
            ["merge", copy, "hop1-F", "hop2-F", "--method", "plain_sum", "--out", "hop1-F"],
            "exists: choose another --out",
        ),
        (
            ["merge", copy, "hop1-F", "--method", "weighted_sum", "--out", "x"],
            "--weights goes with",
        ),
        (
            [
                "merge",
                copy,
                "hop1-F",
                "--method",
                "weighted_sum",
                "--weights",
                "1",
                "2",
                "--out",
                "x",
            ],
            "1 adapters and 2 weights",
        ),
        (
            ["train", copy, "--reads", "hop1", "--group", "F", "--set", "model.width=3"],
            "the base is trained already",
        ),
        (["eval", copy, "hop1-F", "--group", "Q"], "--group Q: choose from F, H, R, K"),
        (["eval", copy, "hop1-F", "--group", "F", "--base", "none"], "no finished base 'none'"),
        (
            ["train", copy, "--reads", "hop3", "--group", "F"],
            "no expert reads 'hop3': choose hop1, hop2",
        ),
        (["report", tmp_path], "is no run folder"),
    ]
    for arguments, message in cases:
        assert message in failing(capsys, *arguments)
    origin = copy / "seed-0/standard/library/hop1-F/origin.json"
    origin.write_text(json.dumps({**json.loads(origin.read_text()), "base": "0123456789abcdef"}))
    assert "was made for the base 0123456789abcdef" in failing(
        capsys, "eval", copy, "hop1-F", "--group", "F"
    )


def test_a_run_is_recorded_and_its_tables_are_made_from_the_record(copy, tmp_path, capsys):
    assert main(["report", str(copy), "--record", str(tmp_path / "kept.json")]) == 0
    capsys.readouterr()
    assert main(["table", str(tmp_path / "kept.json")]) == 0
    table = capsys.readouterr().out
    kept = json.loads((tmp_path / "kept.json").read_text())
    assert str(copy) not in (tmp_path / "kept.json").read_text()
    rows = recorded_metrics(kept).rows
    for ours, theirs in zip(rows, metrics(copy), strict=True):
        assert ours.to_json() == pytest.approx(theirs, abs=1e-3)
    row = next(
        r for r in rows if (r.key.base, r.key.library, r.form) == ("standard", "joint", "hop1")
    )
    assert f"| joint | {row.right / row.n:.2f} /" in table
    env = json.loads((copy / "env.json").read_text())
    (copy / "env.json").write_text(json.dumps([*env, {**env[0], "commit": "other"}]))
    assert "made under 2 environments" in failing(
        capsys, "report", copy, "--record", tmp_path / "kept.json"
    )


def test_a_base_of_another_shape_is_named(copy, capsys):
    torch.save({"x": torch.zeros(1)}, copy / "seed-0/standard/model.pt")
    assert "is no base of this configuration" in failing(
        capsys, "eval", copy, "hop1-F", "--group", "F"
    )


def test_the_environment_is_recorded(run):
    (environment,) = json.loads((run / "env.json").read_text())
    assert (
        environment["torch"] == torch.__version__
        and environment["threads"] == torch.get_num_threads()
    )
    assert re.fullmatch(r"[0-9a-f]{40}", environment["commit"] or "0" * 40)
    assert environment["matmul"]["setting"] in ("default", "oneDNN")


def test_a_wider_study_finds_what_a_narrower_one_made(copy):
    """Seeds and parts may be added to a run: what stands is kept, byte for byte."""
    before = (copy / "metrics.jsonl").read_text().splitlines()
    files = {p: p.stat().st_mtime_ns for p in (copy / "seed-0").rglob("*.json")}
    assert (
        main(
            [
                *STUDY,
                "--set",
                "seeds=0,1",
                "--set",
                "parts=main,references,identity,preservation",
                "--run",
                str(copy),
            ]
        )
        == 0
    )
    after = (copy / "metrics.jsonl").read_text().splitlines()
    assert set(before) < set(after) and files == {p: p.stat().st_mtime_ns for p in files}
    assert {json.loads(line)["seed"] for line in after} == {0, 1}


BASES = ("standard", "dose-50", "dose-0", "identity")


def test_processes_share_the_bases_out():
    full = Study(TWO_HOP, TWO_HOP.preset("full"))
    for processes in (1, 2, 3, 40):
        shares = share_out(full, processes)
        named = [(seed, spec.name) for share in shares for seed, spec in share]
        assert sorted(named) == sorted((seed, base) for seed in (1, 2, 3, 4, 5) for base in BASES)
        assert len(shares) == processes
    assert share_out(full, 5)[0][0][1].name == "standard"


def test_two_processes_make_the_same_study(run, tmp_path):
    """torchrun gives each process one thread here as in the one-process run (conftest), so the
    numbers are the same."""
    folder = tmp_path / "shared"
    command = [sys.executable, "-m", "recycle", *STUDY, "--processes", "2", "--run", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (folder / "metrics.jsonl").read_text() == (run / "metrics.jsonl").read_text()
    assert done.stdout.count("report:") == 1


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
    made = [
        dataclasses.replace(row, key=row.key._replace(base=library.base.name, library=library.name))
        for library in grown.libraries
        if library.axes
        for row in rows
    ]
    figure = growth(grown, Metrics(made))
    titles = {ax.get_title() for ax in figure.axes}
    assert {
        f"direct by {axis}" for axis in ("rank", "experts", "facts", "width", "layers")
    } <= titles
