"""Where the minutes of a study went: what its folder keeps, and the table."""

import json

import pytest

from recycle.run.ledger import Ledger
from recycle.show.minutes import Spent, minutes, minutes_table
from tests.tiny import go_on, make_run


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run")


def files(run, folder):
    return sorted(path.relative_to(run).as_posix() for path in run.glob(f"seed-*/*/{folder}"))


def test_the_folder_keeps_what_each_part_took(run):
    kept = json.loads((run / "minutes.json").read_text())
    made = {part: own["made"] for part, own in kept.items()}
    asked, opened = len(files(run, "cells/*.json")), len(files(run, "inside/*.json"))
    experts = len(files(run, "library/*"))
    counted = {"bases": 1, "experts": experts, "asking": asked, "inside": opened, "report": 1}
    assert made == {part: count for part, count in counted.items() if count} and asked > 4
    assert all(own["seconds"] >= 0 and own["measured"] == own["made"] for own in kept.values())
    trained = json.loads((run / "seed-0/standard/curve.json").read_text())["seconds"]
    assert kept["bases"]["seconds"] == pytest.approx(trained, abs=0.01)


def test_what_was_measured_stays_when_a_run_goes_on(run):
    before = minutes(run, 0.0)
    metrics = (run / "metrics.jsonl").read_bytes()
    lost = run / files(run, "cells/*.json")[0]
    lost.unlink()
    (run / "minutes.json").unlink()
    go_on(run)
    kept = json.loads((run / "minutes.json").read_text())
    assert kept["asking"]["made"] == before["asking"].made
    assert kept["asking"]["seconds"] >= before["asking"].seconds
    assert kept["experts"]["seconds"] == before["experts"].seconds
    assert (run / "metrics.jsonl").read_bytes() == metrics


def test_a_run_of_an_older_version_has_a_table_of_what_it_kept(run):
    """Its ledger has no seconds, or there is none. A cell that is made again is measured."""
    (ledger,) = run.glob("seed-*/*/made.jsonl")
    head, *lines = map(json.loads, ledger.read_text().splitlines())
    older = [{key: line[key] for key in ("name", "hash")} for line in lines]
    ledger.write_text("".join(json.dumps(line) + "\n" for line in (head, *older)))
    cells = len(files(run, "cells/*.json"))
    spent = minutes(run, 30.0)
    assert spent["asking"] == Spent(0, 0, cells) and spent["bases"].measured == 1
    text = minutes_table(spent)
    assert f"{cells}, of which {cells} by a version that did not measure" in text
    name = files(run, "cells/*.json")[0].partition("standard/")[2]
    value = json.loads((ledger.parent / name).read_text())
    for seconds in (2.0, 3.0):
        Ledger(ledger.parent).write_json(name, value, seconds)
    assert minutes(run, 30.0)["asking"] == Spent(5.0, 1, cells)
    ledger.unlink()
    assert minutes(run, 30.0)["asking"] == Spent(0, 0, cells)


def test_seconds_of_all_processes_are_summed(tmp_path, monkeypatch):
    """Each has a ledger of its own. A line whose seconds are no number is no line."""
    home = tmp_path / "seed-0" / "standard"
    Ledger(home).begin(0, "standard", {})
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        Ledger(home).write_json(f"cells/{rank}.json", {}, 1.5)
        Ledger(home).write_json(f"inside/{rank}.json", {}, 0.5)
    with open(home / "made.1.jsonl", "a") as file:
        file.write('{"name": "cells/0.json", "hash": "0", "seconds": "long"}\n')
    assert minutes(tmp_path, 1.0) == {
        "asking": Spent(3.0, 2, 2),
        "inside": Spent(1.0, 2, 2),
        "report": Spent(1.0, 1, 1),
    }


def test_the_table_has_a_line_for_each_part():
    spent = {"bases": Spent(90.0, 1, 1), "asking": Spent(30.0, 1_200, 1_200)}
    assert minutes_table(spent).splitlines() == [
        "minutes of all processes together, runs that were stopped included:",
        "  bases               1.5   75%",
        "  asking              0.5   25%  1,200",
        "  together            2.0  100%",
    ]


def test_a_study_that_is_not_quiet_ends_with_the_table(run, capsys):
    go_on(run, quiet=False)
    out = capsys.readouterr().out
    assert out.rstrip().splitlines()[-1].startswith("  together")
    assert out.count("minutes of all processes together") == 1
