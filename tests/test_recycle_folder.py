"""What a run folder holds is checked where it is read.

Shapes of JSON, files that are whole or absent, and ledgers: each file is what the run made there.
"""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import pytest
import torch

import recycle.train.experts
from lora import load_adapter
from recycle.__main__ import main
from recycle.decide.metrics import Metrics
from recycle.run import disk
from recycle.run.disk import read_json, write_json, write_text
from recycle.run.folder import ledger_head
from recycle.run.ledger import Ledger
from recycle.run.schema import check, shape_of
from recycle.show.drawing import panels
from recycle.show.figures import headline, sweep
from recycle.show.markup import e, figure, printable
from recycle.studies import DESIGNS, Study, open_study
from recycle.studies.composition import COMPOSITION
from recycle.studies.two_hop import TWO_HOP
from recycle.train.settings import change

TINY = {
    "groups": ("F",),
    "task.people": 40,
    "task.cities": 10,
    "task.triples": 6,
    "task.set_cities": 3,
    "model.width": 16,
    "model.layers": 1,
    "model.heads": 2,
    "model.kv_heads": 2,
    "model.hidden": 16,
    "pretrain.steps": 4,
    "pretrain.rows": 4,
    "train.steps": 2,
    "train.rows": 2,
    "adapter.rank": 2,
}
HOME = "seed-0/standard"
CELLS = f"{HOME}/cells"


def settings(**other):
    """TINY as options of the study command; other settings by name, with a dot for each "__"."""
    changed = {**TINY, **{key.replace("__", "."): value for key, value in other.items()}}
    words = {k: ",".join(map(str, v)) if isinstance(v, tuple) else v for k, v in changed.items()}
    return [f"--set={key}={value}" for key, value in words.items()]


def study(run, **other):
    return ["study", "two-hop", "--quiet", "--matmul=default", *settings(**other), f"--run={run}"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run of one group."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recycle.show.drawing.Figure", None)
        assert main(study(folder)) == 0
    return folder


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch):
    monkeypatch.setattr("recycle.show.drawing.Figure", None)


@pytest.fixture
def run(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "run"))


@pytest.fixture
def older(run):
    """The run as an older version made it: without ledgers."""
    for ledger in run.glob("seed-*/*/made.jsonl"):
        ledger.unlink()
    return run


def refused(capsys, arguments, *words):
    """The command ends with one line that has these words."""
    capsys.readouterr()
    assert main([str(a) for a in arguments]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert all(str(word) in line for word in words), line


def told(capsys, arguments):
    capsys.readouterr()
    assert main([str(a) for a in arguments]) == 0
    return capsys.readouterr().out


def edit(path, change):
    value = json.loads(path.read_text())
    path.write_text(json.dumps(change(value)))


def results(run):
    return [(run / name).read_bytes() for name in ("metrics.jsonl", "claims.json")]


# Shapes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value, shape, place",
    [
        ({"a": [{"b": True}]}, {"a": [{"b": int}]}, "True in a[0].b, it must be a whole number"),
        ({"a": float("nan")}, {"a": float}, "nan in a, it must be a finite number"),
        ({"a": 10**400}, {"a": float}, "in a, it must be a finite number"),
        ({"a": "3"}, {"a": int}, "'3' in a"),
        ({}, {"a": int}, "{}, it must be an object with 'a'"),
        (None, {"a": int}, "None, it must be an object with names"),
        ({"x\n": 1}, {str: str}, "in 'x\\n'"),
        ([1, [2]], [(int, None)], "[2] in [1], it must be a whole number or null"),
    ],
)
def test_another_shape_is_named_by_its_place(value, shape, place):
    with pytest.raises(ValueError) as caught:
        check(value, shape, "FILE", "REMEDY")
    message = str(caught.value)
    assert message.startswith("FILE has ") and message.endswith(": REMEDY")
    assert place in message and message.isprintable() and len(message) < 200


def test_a_shape_lets_through_what_fits():
    shape = {"a?": [float], "b": {str: (int, None)}}
    for value in ({"b": {}}, {"a": [1, 0.5], "b": {"x": None, "y": 2}, "more": object()}):
        check(value, shape, "FILE", "REMEDY")
    for design in DESIGNS.values():
        config = design.default
        check(ledger_head(config), shape_of(config), "FILE", "REMEDY")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000, b"1" * 5000])
def test_what_is_no_json_is_named(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(ValueError, match="x.json .*delete it, the same command makes it again"):
        read_json(tmp_path / "x.json")


@pytest.mark.parametrize(
    "name, value",
    [
        ("config.json", None),
        ("config.json", {"name": "two-hop", "groups": ["F"], "task": 5}),
        ("config.json", {"name": "two-hop", "groups": ["F"], "seeds": 0}),
        ("config.json", {"name": "two-hop", "groups": ["F"], "model": {"width": "32"}}),
        ("config.json", {"name": "two-hop", "groups": ["F"], "pretrain": {"steps": 0}}),
        ("env.json", None),
        ("env.json", [{"commit": 5}]),
        (f"{HOME}/curve.json", None),
        (f"{HOME}/passes/main-standard-F.json", {"names": "hop1-F"}),
        (f"{HOME}/inside/F.json", None),
        (f"{HOME}/inside/F.json", {"lens": {}, "knock out": {"all": {"hop1": "0.5"}}}),
        (f"{CELLS}/F.none.alone.json", None),
        (f"{CELLS}/F.none.alone.json", {"rows": [], "examples": [1]}),
    ],
)
def test_json_of_another_shape_is_one_line(older, tmp_path, capsys, name, value):
    (older / name).write_text(json.dumps(value))
    recorded = ["--record", tmp_path / "record.json", "--rejudge", "a test"]
    refused(capsys, ["report", older, *recorded], name)


def test_files_of_one_shape_that_do_not_fit_each_other_are_one_line(older, capsys):
    def cut(seen):
        for conditions in seen["lens"].values():
            conditions["base"]["targets"]["bridge"]["shuffled"].pop()
        return seen

    edit(older / HOME / "inside/F.json", cut)
    refused(capsys, ["report", older], "inside", "do not fit each other", "delete")


# Files that are whole or absent ------------------------------------------------------------------


def test_only_files_are_replaced(tmp_path):
    kept = tmp_path / "kept"
    kept.write_text("kept")
    (tmp_path / "link").symlink_to(kept)
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name, kind in {
        "link": "a link",
        "dangling": "a link",
        "folder": "a folder",
        "pipe": "a device",
    }.items():
        with pytest.raises(ValueError, match=f"{name} is {kind} and no file: name another"):
            write_text(tmp_path / name, "new")
    with pytest.raises(ValueError, match="pipe is no file"):
        read_json(tmp_path / "pipe")
    assert kept.read_text() == "kept" and not (tmp_path / "nothing").exists()
    write_text(kept, "new")
    assert kept.read_text() == "new"


def test_what_cannot_be_written_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    write_json(tmp_path / "a.json", 1)
    for step in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            error = OSError(28, "No space left on device")

            def full(*_, error=error):
                raise error

            where = disk.Path if step == "replace" else disk.os
            patch.setattr(where, step, full)
            with pytest.raises(OSError, match="No space left on device: .*a.json"):
                write_json(tmp_path / "a.json", 2)
        assert read_json(tmp_path / "a.json") == 1
        assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_planted_link_is_not_followed(tmp_path, monkeypatch):
    monkeypatch.setattr(disk.secrets, "token_hex", lambda n: "planted")
    (tmp_path / "victim").write_text("kept")
    (tmp_path / ".a.json.planted").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="a.json"):
        write_json(tmp_path / "a.json", 1)
    assert (tmp_path / "victim").read_text() == "kept"


# Each file is what the run made there ------------------------------------------------------------


def swap(folder, one, other):
    for name, to in ((one, "between"), (other, one), ("between", other)):
        (folder / name).rename(folder / to)


def another_cell(run):
    swap(run / CELLS, "F.hop1.alone.json", "F.hop2.alone.json")


def no_rows(run):
    edit(run / CELLS / "F.none.alone.json", lambda cell: {**cell, "rows": []})


def rows_twice(run):
    edit(run / CELLS / "F.none.alone.json", lambda cell: {**cell, "rows": cell["rows"] * 2})


def fraction(run):
    edit_row(run, lambda row: {**row, "right": row["right"] + 0.5})


def another_seed(run):
    edit_row(run, lambda row: {**row, "seed": 1})


def counts_that_do_not_add_up(run):
    edit_row(run, lambda row: {**row, "n": row["n"] + 1})


def too_many_known(run):
    edit_row(run, lambda row: {**row, "right of known": row["n"]})


def no_number(run):
    edit_row(run, lambda row: {**row, "log p right": float("nan")})


def edit_row(run, change):
    edit(
        run / CELLS / "F.none.alone.json",
        lambda cell: {**cell, "rows": [*cell["rows"][:-1], change(cell["rows"][-1])]},
    )


@pytest.mark.parametrize(
    "damage",
    [
        another_cell,
        no_rows,
        rows_twice,
        fraction,
        another_seed,
        counts_that_do_not_add_up,
        too_many_known,
        no_number,
    ],
)
def test_a_cell_has_its_own_rows_even_without_a_ledger(older, capsys, damage):
    damage(older)
    refused(capsys, ["report", older], "cells/F.", "delete it, the same command makes it again")
    refused(capsys, study(older), "cells/F.", "delete it")


def test_a_cell_that_was_edited_is_refused(run, capsys):
    """A count that another row could have, so that only the hash tells."""
    before = results(run)
    path = run / CELLS / "F.none.alone.json"

    def better(row):
        items = "0" + row["items"][1:] if row["items"][0] != "0" else "1" + row["items"][1:]
        counts = {name: items.count(str(i)) for i, name in enumerate(OUTCOMES)}
        return {**row, **counts, "items": items}

    OUTCOMES = open_study(run).design.world.outcomes
    edit(path, lambda cell: {**cell, "rows": [better(cell["rows"][0]), *cell["rows"][1:]]})
    refused(capsys, ["report", run], "F.none.alone.json is not what this run made", "made.jsonl")
    path.unlink()
    refused(capsys, ["report", run], "F.none.alone.json: finish the study first")
    told(capsys, study(run))
    assert results(run) == before


def test_metrics_are_those_of_the_cells(run, capsys):
    path, before = run / "metrics.jsonl", results(run)
    lines = path.read_text().splitlines(keepends=True)
    for damaged in (
        [],
        lines[:-1],
        lines + lines[-1:],
        [lines[1], lines[0], *lines[2:]],
        ["null\n", *lines[1:]],
        [lines[0].replace('"seed": 0', '"seed": false'), *lines[1:]],
        [lines[0].replace('"n": ', '"n": 1'), *lines[1:]],
    ):
        path.write_text("".join(damaged))
        refused(capsys, ["report", run], "metrics.jsonl", "the study's command writes it anew")
    told(capsys, study(run))
    assert results(run) == before


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def in_half(path):
    torch.save({name: t.half() for name, t in torch.load(path).items()}, path)


def of_nan(path):
    torch.save({name: t * torch.nan for name, t in torch.load(path).items()}, path)


def complex_numbers(path):
    torch.save({name: t + 0j for name, t in torch.load(path).items()}, path)


def one_too_few(path):
    torch.save(dict(list(torch.load(path).items())[1:]), path)


def a_list(path):
    torch.save([1], path)


@pytest.mark.parametrize("damage", [in_half, of_nan, complex_numbers, one_too_few, a_list])
def test_a_base_has_the_models_own_weights_even_without_a_ledger(older, capsys, damage):
    damage(older / HOME / "model.pt")
    question = ["eval", older, "hop1-F", "--group", "F"]
    refused(capsys, question, "model.pt is no base of this configuration", "delete it")


def test_a_flipped_bit_of_a_base_is_seen(run, capsys):
    flipped(run / HOME / "model.pt")
    (run / CELLS / "F.none.alone.json").unlink()
    for command in (study(run), ["eval", run, "hop1-F", "--group", "F"]):
        refused(capsys, command, "model.pt is not what this run made there")


@pytest.mark.parametrize("ledger", [True, False])
def test_exchanged_experts_are_seen(run, capsys, ledger):
    if not ledger:
        (run / HOME / "made.jsonl").unlink()
    swap(run / HOME / "library", "hop1-F", "hop2-F")
    (run / CELLS / "F.none.alone.json").unlink()
    refused(capsys, study(run), "hop1-F", "delete it" if ledger else "'hop2', not 'hop1'")
    if ledger:
        refused(capsys, ["eval", run, "hop1-F", "--group", "F"], "hop1-F is not what this run made")


def test_a_seeds_folder_in_anothers_place_is_seen(run, capsys):
    shutil.copytree(run / "seed-0", run / "seed-1")
    for command in (["report", run], study(run), study(run, seeds=(0, 1))):
        refused(capsys, command, "seed-1/standard/made.jsonl is of seed 0", "move it back")


def test_a_damaged_ledger_is_named(run, capsys):
    ledger, content = run / HOME / "made.jsonl", (run / HOME / "made.jsonl").read_text()
    for damaged in ("", "null\n", content[:30], content[1:]):
        ledger.write_text(damaged)
        refused(capsys, ["report", run], "made.jsonl, line 1", "restore it, or delete")
    ledger.write_text(content + '{"name": "cells/tor')  # by a stop; its file was not written
    told(capsys, ["report", run])
    Ledger(run / HOME).sign("x", "0")
    assert Ledger(run / HOME).knows("x")


# Runs of older versions, and lost files ----------------------------------------------------------


def test_an_older_run_opens_with_a_note_and_goes_on(older, capsys):
    before = results(older)
    out = told(capsys, ["report", older])
    assert out.count("no hash in a made.jsonl") == 1
    assert "no hash in a made.jsonl" in (older / "report.html").read_text()
    (older / CELLS / "F.none.alone.json").unlink()
    out = told(capsys, study(older))
    assert results(older) == before and "no hash in a made.jsonl" in out
    ledger = Ledger(older / HOME)
    assert ledger.is_older("model.pt") and ledger.knows("cells/F.none.alone.json")
    rows_twice(older)
    refused(capsys, ["report", older], "F.none.alone.json is not what this run made")


def test_a_run_without_notes_says_none(run, capsys):
    assert "Note" not in told(capsys, ["report", run])


def test_threads_that_were_mixed_are_said(run, capsys):
    edit(run / "env.json", lambda known: [*known, {**known[0], "threads": 16}])
    out = told(capsys, ["report", run])
    assert "2 environments" in out and "and 16 threads" in out
    assert "and 16 threads" in (run / "report.html").read_text()


@pytest.mark.parametrize(
    "name", [f"{HOME}/model.pt", f"{HOME}/curve.json", f"{HOME}/library/hop1-F", f"{HOME}/passes"]
)
def test_what_was_deleted_is_made_again(run, capsys, name):
    before = results(run)
    names = json.loads((run / HOME / "passes/main-standard-F.json").read_text())["names"]
    (shutil.rmtree if (run / name).is_dir() else Path.unlink)(run / name)
    told(capsys, study(run))
    assert (run / name).exists() and results(run) == before
    record = json.loads((run / HOME / "passes/main-standard-F.json").read_text())
    assert sorted(record["names"]) == sorted(names)
    assert all(len(point["loss"]) == len(names) for point in record["curve"])


# The configuration -------------------------------------------------------------------------------


def test_a_lost_configuration_is_that_of_the_ledgers(run, capsys):
    """Old results never stand under another configuration."""
    config, before = (run / "config.json").read_bytes(), results(run)
    (run / "config.json").unlink()
    refused(capsys, study(run, train__lr=1e-4), "another configuration (train.lr differs)")
    refused(capsys, study(run, task__people=50), "another configuration (task.people differs)")
    assert not (run / "config.json").exists()
    told(capsys, study(run))
    assert (run / "config.json").read_bytes() == config and results(run) == before


def test_without_any_record_a_configuration_is_not_guessed(older, capsys):
    (older / "config.json").unlink()
    refused(capsys, study(older), "has no config.json that says what made", "restore it")
    assert not (older / "config.json").exists()


def test_an_edited_configuration_is_seen(run, capsys):
    edit(run / "config.json", lambda config: {**config, "train": {**config["train"], "lr": 0.5}})
    for command in (["report", run], study(run, train__lr=0.5)):
        refused(capsys, command, "another configuration (train.lr differs)")


def test_a_widening_that_was_stopped_leaves_the_run_as_it_was(run, capsys, monkeypatch):
    before, config = results(run), (run / "config.json").read_bytes()

    def stopped(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("recycle.study.measure", stopped)
        assert main(study(run, seeds=(0, 1))) == 130
    assert (run / "seed-1/standard/model.pt").exists()
    assert (run / "config.json").read_bytes() == config
    told(capsys, ["report", run])
    told(capsys, study(run))
    assert results(run) == before
    told(capsys, study(run, seeds=(0, 1)))
    assert json.loads((run / "config.json").read_text())["seeds"] == [0, 1]
    assert set(before[0].splitlines()) < set(results(run)[0].splitlines())


def test_figures_of_what_was_not_measured_are_left_out(monkeypatch):
    """A study of one group alone has a report, though its headline speaks of another."""
    monkeypatch.undo()
    alone = Study(COMPOSITION, change(COMPOSITION.default, {"groups": ("NN-F",)}))
    assert headline(COMPOSITION, Metrics([]), 0.1) is None
    assert sweep(alone, Metrics([])) is None
    assert figure("nothing", lambda: None) == []


# Training that was stopped -----------------------------------------------------------------------


def test_a_stop_between_two_saves_loses_no_curve(run, capsys, monkeypatch):
    """Nothing is trained again, and the pass has the curves of all its experts."""
    before = results(run)
    shutil.rmtree(run / HOME / "library")
    shutil.rmtree(run / HOME / "passes")
    save, saved = recycle.train.experts.save_adapter, []

    def stopping(adapter, folder):
        if len(saved) == 1:
            raise KeyboardInterrupt
        saved.append(folder)
        save(adapter, folder)

    with monkeypatch.context() as patch:
        patch.setattr(recycle.train.experts, "save_adapter", stopping)
        assert main(study(run)) == 130
    assert load_adapter(saved[0]) and list((run / HOME).glob("*checkpoint.pt"))
    with monkeypatch.context() as patch:
        patch.setattr("recycle.train.fit.completion_loss", None)
        patch.setattr("recycle.study.measure", None)
        passes = Study(TWO_HOP, change(TWO_HOP.preset("quick"), TINY)).passes("standard")
        name, first = next(iter(passes.items()))
        base = open_study(run).open_base(0, next(iter(open_study(run).bases))[1], run)
        recycle.train.experts.train_pass(base, name, first)
    record = json.loads((run / HOME / f"passes/{name}.json").read_text())
    assert record["names"] == [expert.slug for expert in first] and record["seconds"] > 0
    told(capsys, study(run))
    assert results(run) == before and not list((run / HOME).glob("*checkpoint.pt"))


def test_a_pass_whose_rows_do_not_fit_is_trained_in_turns(run, monkeypatch):
    """Two rows in memory are two experts of one row each, then the third: the same experts, in one
    record."""
    shutil.rmtree(run / HOME / "passes")
    trained = (run / HOME / "library").rename(run / HOME / "before")
    study = open_study(run)
    base = study.open_base(0, next(iter(study.bases))[1], run)
    base = dataclasses.replace(base, config=change(base.config, {"train.micro_batch": 2}))
    name, together = next((n, e) for n, e in study.passes("standard").items() if len(e) > 2)
    fit, groups = recycle.train.experts.fit, []

    def counting(model, parameters, *rest, **options):
        groups.append(len(parameters))
        return fit(model, parameters, *rest, **options)

    monkeypatch.setattr(recycle.train.experts, "fit", counting)
    recycle.train.experts.train_pass(base, name, together)
    assert groups == [2] * (len(together) // 2) + [1] * (len(together) % 2)
    record = json.loads((run / HOME / f"passes/{name}.json").read_text())
    assert record["names"] == [expert.slug for expert in together]
    for expert in together:
        new, old = (load_adapter(home / expert.slug) for home in (run / HOME / "library", trained))
        for path in old.paths:
            for ours, theirs in zip(new.factors[path], old.factors[path], strict=True):
                torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that was stopped while its base was trained, with a checkpoint."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recycle.train.fit.CHECKPOINT_SECONDS", 0.0)
        measured = recycle.train.fit.completion_loss
        calls = iter((0, 1, 2))

        def stopping(*arguments):
            if next(calls, None) is None:
                raise KeyboardInterrupt
            return measured(*arguments)

        patch.setattr("recycle.train.fit.completion_loss", stopping)
        assert main(study(folder)) == 130
    return folder


def wrong_step(state):
    state["step"] = 10**9


def fewer_points(state):
    state["curve"].pop()


def broadcast(state):
    state["parameters"] = [p[:1] for p in state["parameters"]]


def empty_optimizer(state):
    state["optimizer"]["state"] = {}


def moments_of_nan(state):
    state["optimizer"]["state"][0]["exp_avg"].fill_(torch.nan)


@pytest.mark.parametrize(
    "damage", [wrong_step, fewer_points, broadcast, empty_optimizer, moments_of_nan]
)
@pytest.mark.parametrize("ledger", [True, False])
def test_a_checkpoint_of_another_training_is_refused(stopped, tmp_path, capsys, damage, ledger):
    run = Path(shutil.copytree(stopped, tmp_path / "run"))
    path = run / HOME / "checkpoint.pt"
    state = torch.load(path)
    damage(state)
    torch.save(state, path)
    if not ledger:
        (run / HOME / "made.jsonl").unlink()
    refused(capsys, study(run), "checkpoint.pt", "delete it")


# Text that steers --------------------------------------------------------------------------------


def test_names_from_files_steer_neither_page_nor_terminal(older, capsys):
    hostile = "</style><script>alert('x')</script>$\\frac\x1b[31m\u202e"

    def renamed(value):
        if isinstance(value, dict):
            return {hostile if k == "base" else k: renamed(v) for k, v in value.items()}
        if isinstance(value, list):
            return [renamed(one) for one in value]
        return hostile if isinstance(value, str) else value

    seen = json.loads((older / HOME / "inside/F.json").read_text())
    kept = {"members": seen["members"], "interference": seen["interference"]}
    (older / HOME / "inside/F.json").write_text(json.dumps({**renamed(seen), **kept}))
    edit(older / CELLS / "F.none.alone.json", lambda c: {**c, "examples": renamed(c["examples"])})
    out = told(capsys, ["report", older])
    page = (older / "report.html").read_text()
    assert "alert(" in page and "<script>alert" not in page
    assert not {"\x1b", "\u202e"} & {*page, *out}


def test_names_in_figures_are_no_formulas(monkeypatch, recwarn):
    monkeypatch.undo()
    pytest.importorskip("matplotlib")

    def draw():
        drawn, axes = panels(2, 1)
        axes[0, 0].set_title("$\\frac\x1b")
        return drawn

    (image,) = figure("<i>", draw)
    assert image.startswith("<h3>&lt;i&gt;</h3>") and not recwarn.list


def test_escaping_keeps_plain_text():
    assert printable("a\nb · é") == "a\nb · é"
    assert printable("\x1b[2J\u2028\ud800") == "\ufffd[2J\ufffd\ufffd"
    assert e("<a href='x'>") == "&lt;a href=&#x27;x&#x27;&gt;"
