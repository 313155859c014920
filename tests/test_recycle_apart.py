"""How far two results of one study lie apart: planted distances, and a run beside its record."""

import shutil
from pathlib import Path

import pytest

from recycle.__main__ import main
from recycle.decide.metrics import Metrics, Row
from recycle.plan import Key
from recycle.show.apart import apart
from recycle.show.carry_over import Recorded
from recycle.studies import DESIGNS

RESULTS = Path(__file__).parent.parent / "recycle" / "results"


def result(title, shares, study="two-hop", items=True):
    """Of (seed, method): so many of ten questions right."""
    rows = []
    for (seed, method), right in shares.items():
        key = Key(seed, "standard", "F", "2-combination", method)
        counted = {"right": right, "other text": 10 - right}
        said = "0" * right + "1" * (10 - right) if items else ""
        rows.append(Row(key, "hop1", 10, counted, items=said))
    return Recorded(title, {}, Metrics(rows), DESIGNS[study])


ONE = result("one", {(1, "arrow"): 4, (2, "arrow"): 8, (1, "plain_sum"): 5, (1, "oracle"): 10})


def cells(text, start):
    return [cell.strip() for cell in text.split(start)[1].splitlines()[0].split("|")][1:-1]


def test_distances_shifts_and_seeds_are_what_was_planted():
    other = result("two", {(1, "arrow"): 6, (2, "arrow"): 7, (3, "arrow"): 0, (1, "oracle"): 10})
    said = apart(ONE, other)
    assert said.startswith("3 shares right in both (seeds 1, 2), 1 in one alone, 1 in two alone.")
    merged, others = said.split("| all others ")
    # |+.2| and |-.1|; of 20 questions three have another outcome; the seeds: .4 and .1 apart.
    expected = ["2", "0.150", "0.20", "+0.050", "0.85", "0.400", "0.100"]
    assert cells(merged, "| hop1 ") == expected
    assert cells(others, "| hop1 ") == ["1", "0.000", "0.00", "+0.000", "1.00", "-", "-"]


def test_a_result_without_items_tells_no_outcomes():
    bare = result("bare", {(1, "arrow"): 4}, items=False)
    assert cells(apart(ONE, bare), "| hop1 ") == ["1", "0.000", "0.00", "+0.000", "-", "-", "-"]


@pytest.mark.parametrize(
    "other, message",
    [
        (result("two", {(1, "arrow"): 4}, "history"), "one is a result of two-hop, two of history"),
        (result("two", {(5, "arrow"): 4}), "one and two share no seed and cell"),
    ],
)
def test_what_cannot_be_compared_is_said(other, message):
    with pytest.raises(ValueError, match=message):
        apart(ONE, other)


def test_a_record_is_no_way_from_itself(capsys, tmp_path):
    copied = shutil.copy(RESULTS / "word-math-laptop.json", tmp_path / "again.json")
    assert main(["compare", str(copied), str(RESULTS / "word-math-laptop.json")]) == 0
    said = capsys.readouterr().out
    rows = [line for line in said.splitlines() if line.startswith("| ") and "shares" not in line]
    assert rows and {tuple(row.split("|")[3:6]) for row in rows} == {
        (" 0.000 ", " 0.00 ", " +0.000 ")
    }
    assert " alone" not in said and f" two seeds of {copied} " in said


@pytest.mark.parametrize(
    "named, message",
    [
        ("audit-prediction.json", "is a record of 'audit prediction'"),
        ("README.md", "recycle: "),
        ("no-such.json", "No such file"),
        ("", "no run folder"),
    ],
)
def test_what_is_no_result_is_named_in_one_line(named, message, capsys):
    arguments = [str(RESULTS / "word-math-laptop.json"), str(RESULTS / named)]
    assert main(["compare", *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
