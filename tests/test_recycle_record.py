"""A record says who made its rows and who judged them; a result is judged anew in its place."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from recycle.__main__ import main
from recycle.run.environment import (
    commands_of,
    describe_checkout,
    describe_environment,
    describe_judge,
    note_environment,
    without_folders,
)
from recycle.show.record import TABLE, record, recorded_metrics
from recycle.studies import open_study

RESULTS = Path(__file__).parent.parent / "recycle" / "results"
RECORDS = ("two-hop-full", "two-hop-regimes", "word-math-laptop")
TINY = {
    "groups": "F",
    "parts": "main",
    "task.people": "40",
    "task.cities": "10",
    "task.triples": "6",
    "task.set_cities": "3",
    "model.width": "32",
    "model.layers": "1",
    "model.heads": "2",
    "model.kv_heads": "2",
    "model.hidden": "48",
    "pretrain.steps": "150",
    "pretrain.lr": "1e-2",
    "pretrain.rows": "8",
    "train.steps": "3",
    "train.rows": "2",
    "adapter.rank": "2",
}
SETTINGS = [word for key, value in TINY.items() for word in ("--set", f"{key}={value}")]
STUDY = ["study", "two-hop", "--quiet", "--matmul", "default", *SETTINGS]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recycle.show.drawing.Figure", None)
        assert main([*STUDY, "--run", str(folder)]) == 0
    return folder


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch):
    monkeypatch.setattr("recycle.show.drawing.Figure", None)


@pytest.fixture
def judge(run, monkeypatch):
    """The judge of the tests: a clean checkout of the run's rules, until a test changes it."""
    (environment,) = json.loads((run / "env.json").read_text())
    found = {
        "commit": environment["commit"],
        "dirty": False,
        "untracked": [],
        "rules": environment["rules"],
        "when": "2026-01-02T03:04:05+00:00",
    }
    monkeypatch.setattr("recycle.show.record.describe_judge", lambda: found)
    return found


@pytest.fixture
def copy(run, tmp_path):
    return Path(shutil.copytree(run, tmp_path / "run"))


def failing(capsys, *arguments):
    """The one line that a failing command prints."""
    capsys.readouterr()
    assert main([str(a) for a in arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


# The environment ---------------------------------------------------------------------------------


def git(folder, *arguments):
    named = ("-c", "user.name=a", "-c", "user.email=a@b.example", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *named, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path):
    """The room of a small checkout that stands for this project's."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    room = tmp_path / "project" / "recycle"
    for name in ("run/environment.py", "studies/one.py", "decide/two.py", "other.py"):
        (room / name).parent.mkdir(parents=True, exist_ok=True)
        (room / name).write_text("")
    git(room.parent, "init", "-q")
    git(room.parent, "add", ".")
    git(room.parent, "commit", "-q", "-m", "one")
    return room


def test_a_clean_checkout_has_its_commit_and_its_rules(checkout):
    first = describe_checkout(checkout)
    assert not first["dirty"] and first["untracked"] == []
    assert first["rules"].split()[0] == first["commit"] and len(first["commit"]) == 40
    (checkout / "other.py").write_text("changed = 1\n")
    assert describe_checkout(checkout)["dirty"]
    git(checkout, "commit", "-q", "-a", "-m", "two")
    second = describe_checkout(checkout)
    assert second["commit"] != first["commit"] and second["rules"] == first["rules"]
    (checkout / "decide" / "two.py").write_text("changed = 1\n")
    git(checkout, "commit", "-q", "-a", "-m", "three")
    third = describe_checkout(checkout)
    assert third["rules"].split()[0] == third["commit"] and not third["dirty"]


def test_an_untracked_module_makes_a_checkout_dirty(checkout):
    """In a new folder too; other files of nobody's are no code."""
    (checkout.parent / "notes.txt").write_text("")
    assert not describe_checkout(checkout)["dirty"]
    (checkout / "new").mkdir()
    (checkout / "new" / "a module.py").write_text("")
    found = describe_checkout(checkout)
    assert found["dirty"] and found["untracked"] == ["recycle/new/a module.py"]
    (checkout.parent / ".gitignore").write_text("new/\n")
    git(checkout.parent, "add", ".gitignore")
    git(checkout.parent, "commit", "-q", "-m", "ignored")
    assert not describe_checkout(checkout)["dirty"]


NOWHERE = {"commit": None, "dirty": None, "untracked": None, "rules": None}


def test_without_git_nothing_is_known(checkout, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert describe_checkout(checkout) == NOWHERE
    environment = describe_environment({"setting": "default"}, "study")
    assert environment["commit"] is None and environment["commands"] == ["study"]
    assert describe_judge()["when"].endswith("+00:00")


def test_another_projects_checkout_is_not_ours(checkout):
    """An installed copy may lie in a folder of somebody else's repository."""
    installed = checkout.parent / "site-packages" / "recycle"
    shutil.copytree(checkout, installed)
    assert describe_checkout(installed) == NOWHERE


def test_a_study_starts_without_git(copy, monkeypatch):
    """Something is left to do, so the environment is noted."""
    next((copy / "seed-0/standard/cells").glob("*.json")).unlink()
    monkeypatch.setenv("PATH", "")
    assert main([*STUDY, "--run", str(copy)]) == 0
    last = json.loads((copy / "env.json").read_text())[-1]
    assert last["commit"] is None and last["rules"] is None


def environment(command, **other):
    return {**describe_environment({"setting": "default"}, command), **other}


def test_every_command_of_an_environment_is_kept_in_order(tmp_path):
    for command in ("seeds 1", "seeds 1", "seeds 1 2", "seeds 1 2", "seeds 1"):
        note_environment(tmp_path, environment(command))
    (noted,) = json.loads((tmp_path / "env.json").read_text())
    assert commands_of(noted) == ["seeds 1", "seeds 1 2", "seeds 1"] and "command" not in noted
    note_environment(tmp_path, environment("elsewhere", torch="1.0"))
    note_environment(tmp_path, environment("seeds 3"))
    other, noted = json.loads((tmp_path / "env.json").read_text())
    assert commands_of(other) == ["elsewhere"] and commands_of(noted)[-1] == "seeds 3"


def test_an_older_environments_command_is_its_first(tmp_path):
    old = environment("seeds 1 2")
    del old["commands"]
    old["command"] = "seeds 1"
    (tmp_path / "env.json").write_text(json.dumps([old]))
    note_environment(tmp_path, environment("seeds 1 2"))
    (noted,) = json.loads((tmp_path / "env.json").read_text())
    assert commands_of(noted) == ["seeds 1", "seeds 1 2"]


@pytest.mark.parametrize(
    "command, kept",
    [
        ("python -m recycle study two-hop --quiet", "python -m recycle study two-hop --quiet"),
        ("study --run /tmp/ours/full --set seeds=1,2", "study --run full --set seeds=1,2"),
        (
            "study --run=/tmp/ours/full --checkpoint ../mine",
            "study --run=full --checkpoint ../mine",
        ),
        ("study --set task.base='/tmp/two words/a.json'", "study --set task.base=a.json"),
        ("study --set task.base='two words.json'", "study --set 'task.base=two words.json'"),
    ],
)
def test_a_command_is_kept_without_this_machines_folders(command, kept):
    assert without_folders(command) == kept


# Recording a run ---------------------------------------------------------------------------------


def test_a_record_names_its_judge(run, judge, tmp_path, capsys):
    file = tmp_path / "kept.json"
    assert main(["report", str(run), "--record", str(file)]) == 0
    kept = json.loads(file.read_text())
    assert kept["judged"] == judge and "rejudged" not in kept and "command" not in kept
    assert any(f"--run {run.name}" in each for each in kept["commands"])
    assert str(run.parent) not in file.read_text()
    assert kept["seeds"] == [0] and kept["replaced"] == []
    assert kept["chance"] == pytest.approx(open_study(run).chance)
    assert kept["columns"][-1] == "items"
    rows = recorded_metrics(kept).rows
    assert all(len(row.items) == row.n for row in rows)
    capsys.readouterr()
    assert main(["table", str(file)]) == 0
    assert "Judged anew" not in capsys.readouterr().out


def test_the_finished_seeds_of_a_stopped_run_are_recorded_alone(copy, judge, tmp_path, capsys):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "seeds": [0, 7]}))
    (copy / "metrics.jsonl").unlink()
    report, file = ["report", str(copy), "--record", str(tmp_path / "kept.json")], "kept.json"
    assert main(report) == 2
    assert "or name finished seeds with --seeds" in capsys.readouterr().err
    assert main([*report, "--seeds", "3"]) == 2
    assert "--seeds: no seed '3': choose from 0, 7" in capsys.readouterr().err
    assert main([*report, "--seeds", "0", "7"]) == 2 and not (tmp_path / file).exists()
    assert main([*report, "--seeds", "0"]) == 0
    kept = json.loads((tmp_path / file).read_text())
    assert kept["seeds"] == [0] and kept["left out"] == [7]
    assert {row.key.seed for row in recorded_metrics(kept).rows} == {0}
    assert "Planned seeds are left out: 7." in (copy / "report.html").read_text()


def _without_items(row):
    return {key: value for key, value in row.items() if key != "items"}


def test_an_older_run_is_recorded_with_its_command(copy, judge, tmp_path):
    (env,) = json.loads((copy / "env.json").read_text())
    env["command"] = env.pop("commands")[-1]
    (copy / "env.json").write_text(json.dumps([env]))
    for ledger in copy.rglob("made.jsonl"):  # it kept no hashes and no answers one by one
        ledger.unlink()
    lines = [json.loads(line) for line in (copy / "metrics.jsonl").read_text().splitlines()]
    (copy / "metrics.jsonl").write_text(
        "".join(json.dumps(_without_items(line)) + "\n" for line in lines)
    )
    for path in copy.rglob("cells/*.json"):
        cell = json.loads(path.read_text())
        path.write_text(json.dumps({**cell, "rows": [_without_items(row) for row in cell["rows"]]}))
    record(open_study(copy), copy, tmp_path / "kept.json")
    kept = json.loads((tmp_path / "kept.json").read_text())
    assert kept["commands"] == [without_folders(env["command"])]
    assert "items" not in kept["columns"]


@pytest.mark.parametrize(
    "judge_is, message",
    [
        ({"rules": "f" * 40 + " 2026-01-01"}, f"and these of {'f' * 10}: record it with --rejudge"),
        ({"rules": None}, "and these of unknown"),
        ({"dirty": True}, "this checkout is dirty (files differ from the commit)"),
        (
            {"dirty": True, "untracked": ["recycle/new.py"]},
            "this checkout is dirty (recycle/new.py is in no commit)",
        ),
    ],
)
def test_other_rules_record_nothing_unless_a_person_says_why(
    copy, judge, judge_is, message, tmp_path, capsys
):
    env = json.loads((copy / "env.json").read_text())
    env[0]["rules"] = "a" * 40 + " 2026-01-01"
    (copy / "env.json").write_text(json.dumps(env))
    judge |= {"rules": env[0]["rules"], **judge_is}
    file = tmp_path / "kept.json"
    line = failing(capsys, "report", copy, "--record", file)
    assert message in line and "--rejudge REASON" in line and not file.exists()
    reason = "the gate\n counted the wrong rows"
    assert main(["report", str(copy), "--record", str(file), "--rejudge", reason]) == 0
    kept = json.loads(file.read_text())
    assert kept["rejudged"] == "the gate counted the wrong rows" and kept["judged"] == judge
    capsys.readouterr()
    assert main(["table", str(file)]) == 0
    shown = capsys.readouterr().out
    beside = " and uncommitted changes" if judge["dirty"] else ""
    assert f"{beside}: the gate counted the wrong rows\n" in shown


def test_a_reason_without_a_record_is_one_line(run, judge, tmp_path, capsys):
    assert "--rejudge goes with --record FILE" in failing(capsys, "report", run, "--rejudge", "x")
    file = tmp_path / "kept.json"
    line = failing(capsys, "report", run, "--record", file, "--rejudge", " ")
    assert "an empty reason" in line and not file.exists()


# Judging a record anew ---------------------------------------------------------------------------


@pytest.fixture(params=RECORDS)
def recorded(request, tmp_path):
    return Path(shutil.copy(RESULTS / f"{request.param}.json", tmp_path))


def test_a_record_is_judged_anew_in_its_place(recorded, capsys):
    """Its rows stay byte for byte; so do its verdicts, as long as the rules do. A claim that came
    after the run is not decided by it."""
    before = recorded.read_text()
    assert main(["rejudge", str(recorded), "--reason", "to see"]) == 0
    after = recorded.read_text()
    assert after[after.index(TABLE) :] == before[before.index(TABLE) :]
    old, new = json.loads(before), json.loads(after)
    written = {"judged", "rejudged", "controls", "claims"}
    assert {k: v for k, v in old.items() if k not in written} == {
        k: v for k, v in new.items() if k not in written
    }
    assert set(new["judged"]) == {*NOWHERE, "when"} and new["rejudged"] == "to see"
    verdicts = {claim["id"]: claim["verdict"] for claim in new["claims"]}
    kept = {claim["id"]: claim["verdict"] for claim in old["claims"]}
    assert list(verdicts)[: len(kept)] == list(kept) and {**verdicts, **kept} == verdicts
    assert all(verdicts[id].startswith("not decided") for id in verdicts.keys() - kept)
    for ours, theirs in zip(new["controls"], old["controls"], strict=True):
        if theirs["where"] == "nothing measured":
            assert ours["value"] is None
        else:
            assert ours["value"] == pytest.approx(theirs["value"])
            assert ours["passes"] == theirs["passes"] and ours["low"] <= ours["value"]
    assert main(["table", str(recorded)]) == 0
    assert ": to see\n" in capsys.readouterr().out


def test_judging_twice_changes_the_reason_alone(tmp_path):
    file = Path(shutil.copy(RESULTS / "two-hop-regimes.json", tmp_path))
    seen = []
    for reason in ("to see", "once more"):
        assert main(["rejudge", str(file), "--reason", reason]) == 0
        kept = json.loads(file.read_text())
        assert kept.pop("rejudged") == reason and kept["judged"].pop("when")
        seen.append(kept)
    assert seen[0] == seen[1]


def test_a_record_that_keeps_its_chance_is_judged_by_it(tmp_path):
    file = Path(shutil.copy(RESULTS / "two-hop-full.json", tmp_path))
    file.write_text(file.read_text().replace('"task"', '"chance": 0.5,\n "task"', 1))
    assert main(["rejudge", str(file), "--reason", "to see"]) == 0
    kept = json.loads(file.read_text())
    assert kept["chance"] == 0.5 and "chance + .05 = 0.55" in kept["claims"][0]["rule"]


def test_a_run_and_its_record_are_judged_alike(run, judge, tmp_path):
    file = tmp_path / "kept.json"
    assert main(["report", str(run), "--record", str(file)]) == 0
    before = json.loads(file.read_text())
    assert main(["rejudge", str(file), "--reason", "to see"]) == 0
    after = json.loads(file.read_text())
    assert after.pop("rejudged") == "to see" and after == before


def test_a_run_and_its_record_are_no_way_apart(run, judge, tmp_path, capsys):
    file = tmp_path / f"{run.name}.json"
    assert main(["report", str(run), "--record", str(file)]) == 0
    capsys.readouterr()
    assert main(["compare", str(run), str(file)]) == 0
    said = capsys.readouterr().out
    assert f" two seeds of {run} | two seeds of {file} |" in said and " alone" not in said
    rows = [line for line in said.splitlines() if line.startswith("| ") and "shares" not in line]
    assert rows and {row.split("|")[3] for row in rows} == {" 0.000 "}


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda text: text[:1000], "is no JSON"),
        (lambda text: "", "is no JSON"),
        (lambda text: "[1, 2]", "is no recorded result: report RUN --record FILE makes one"),
        (lambda text: '{"task": "two-hop"}', "is no recorded result"),
        (lambda text: json.dumps(json.loads(text)), "is no recorded result"),
        (lambda text: text.replace('"two-hop"', '"three-hop"', 1), "the unknown task 'three-hop'"),
        (
            lambda text: text.replace('"task"', '"kind": "look", "task"', 1),
            "a record of 'look', which",
        ),
        (lambda text: text.replace("[0,0,1,2", "[0,0,1,999", 1), "its rows cannot be read"),
        (lambda text: text.replace("[0,0,1,2", "[0,0,1", 1), "its rows cannot be read"),
        (lambda text: text.replace('"malformed"', '"shapeless"', 1), "its rows cannot be read"),
    ],
)
def test_what_is_no_record_is_named_and_not_touched(change, message, tmp_path, capsys):
    file = tmp_path / "two-hop-regimes.json"
    file.write_text(change((RESULTS / file.name).read_text()))
    before = file.read_bytes()
    line = failing(capsys, "rejudge", file, "--reason", "to see")
    assert message in line and str(file) in line
    assert file.read_bytes() == before and list(tmp_path.iterdir()) == [file]


def test_bad_options_of_rejudge_change_nothing(tmp_path, capsys):
    file = Path(shutil.copy(RESULTS / "two-hop-regimes.json", tmp_path))
    before = file.read_bytes()
    assert "an empty reason" in failing(capsys, "rejudge", file, "--reason", " ")
    assert "No such file" in failing(capsys, "rejudge", tmp_path / "none.json", "--reason", "x")
    assert "required: --reason" in failing(capsys, "rejudge", file)
    assert file.read_bytes() == before
