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
        ([("base", 0, 0, 7)], "output = '7': must be a text"),
        ([("base", [], 0, "7")], "id = '[]': must be a whole number"),
        ([("base", 1.0, 0, "7")], "id = '1.0': must be a whole number"),
        ([("base", 0, False, "7")], "instance = 'False': must be a whole number"),
        ([("base", -1, 0, "7")], "id = -1: must be from 0"),
        ([], "mine.jsonl holds no answers"),
    ],
)
def test_bad_answers_are_one_line(files, tmp_path, capsys, rows, message):
    assert run(files, "--answers", answers(tmp_path / "mine.jsonl", rows)) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_sound_answers_may_hold_any_character_and_end_in_an_empty_line(files, tmp_path, capsys):
    row = {"level": "P1", "id": 1, "instance": 0, "output": "so\u2028it\u0085is 1000"}
    silent = {**row, "instance": 1, "output": ""}
    text = "\n".join(json.dumps(each, ensure_ascii=False) for each in (row, silent))
    (tmp_path / "mine.jsonl").write_text(f"\ufeff{text}\r\n\n", encoding="utf-8", newline="")
    assert run(files, "--answers", tmp_path / "mine.jsonl") == 0
    assert "P1    0.500 [" in capsys.readouterr().out


def test_one_file_is_not_of_two_levels(files, capsys):
    assert main(["gsm", "--base", str(files["base"]), "--p1", str(files["base"])]) == 2
    assert "base.jsonl is named for base and for P1" in capsys.readouterr().err


def test_missing_and_broken_files_are_one_line(files, tmp_path, capsys):
    assert main(["gsm"]) == 2
    assert "name at least one file" in capsys.readouterr().err
    assert run(files, "--p2", tmp_path / "none") == 2
    assert "cannot be read" in capsys.readouterr().err
    (tmp_path / "mine.jsonl").write_text("{")
    assert run(files, "--answers", tmp_path / "mine.jsonl") == 2
    assert "line 1 is no JSON" in capsys.readouterr().err
    assert run(files, "--answers", tmp_path / "none.jsonl") == 2
    assert "none.jsonl" in capsys.readouterr().err
