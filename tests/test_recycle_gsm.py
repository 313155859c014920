"""The door to a user's GSM-Symbolic, on files of our own in its format."""

import json

import pytest

from recycle.__main__ import main


@pytest.fixture
def files(tmp_path):
    paths = {}
    for level, templates in (("base", 3), ("P1", 2)):
        rows = [
            {
                "id": t,
                "instance": i,
                "question": f"{t} boxes of {i} pens ?",
                "answer": f"{t} * {i}\n#### {1000 * t + i:,}",
                "original_id": 10 + t,
                "original_question": "q",
                "original_answer": "a",
                "canary": "c",
            }
            for t in range(templates)
            for i in range(4)
        ]
        paths[level] = tmp_path / f"{level}.jsonl"
        paths[level].write_text("\n".join(map(json.dumps, rows)))
    return paths


def answers(path, rows):
    names = ("level", "id", "instance", "output")
    lines = [json.dumps(dict(zip(names, row, strict=True))) for row in rows]
    path.write_text("\n".join(lines))
    return str(path)


def run(files, *more):
    return main(["gsm", "--base", str(files["base"]), "--p1", str(files["P1"]), *map(str, more)])


def test_files_are_described(files, capsys):
    assert run(files) == 0
    out = capsys.readouterr().out
    assert "base  12 problems of 3 templates, 3 stories" in out
    assert "stories at every level: 2" in out


def test_answers_are_scored_by_their_last_number(files, tmp_path, capsys):
    rows = [
        ("base", 2, 1, "2 boxes, so 2,001"),
        ("base", 1, 3, "1003 or 1004"),
        ("base", 0, 2, "no"),
        ("P1", 1, 0, "#### 1000"),
    ]
    assert run(files, "--answers", answers(tmp_path / "mine.jsonl", rows)) == 0
    out = capsys.readouterr().out
    assert "base  0.333 [" in out and "of 3 answered (12 asked)" in out and "P1    1.000 [" in out


@pytest.mark.parametrize(
    "rows, message",
    [
        (
            [("P2", 0, 0, "1")],
            "line 1: no problem ('P2', 0, 0) in the files given; levels are base, P1",
        ),
        (
            [("base", 0, 0, "1"), ("base", 0, 0, "2")],
            "line 2: the problem ('base', 0, 0) is answered twice",
        ),
        ([("base", 0, 0, 7)], "output = 7: must be a text"),
        ([("base", [], 0, "7")], "is no answer"),
    ],
)
def test_bad_answers_are_one_line(files, tmp_path, capsys, rows, message):
    assert run(files, "--answers", answers(tmp_path / "mine.jsonl", rows)) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_missing_and_broken_files_are_one_line(files, tmp_path, capsys):
    assert main(["gsm"]) == 2
    assert "name at least one file" in capsys.readouterr().err
    assert run(files, "--p2", tmp_path / "none") == 2
    assert "cannot be read" in capsys.readouterr().err
    (tmp_path / "mine.jsonl").write_text("{")
    assert run(files, "--answers", tmp_path / "mine.jsonl") == 2
    assert "line 1 is no answer" in capsys.readouterr().err
    assert run(files, "--answers", tmp_path / "none.jsonl") == 2
    assert "none.jsonl" in capsys.readouterr().err
