"""The loader reads small files of our own in GSM-Symbolic's formats, and names their faults."""

import json
import re
from fractions import Fraction

import pytest

from tasks.gsm_symbolic import by_original, load_problems, load_template

ROW = {
    "id": 3,
    "instance": 0,
    "question": "Ann has 3 cups and buys 1,200 more. How many has she?",
    "answer": "3 + 1200 = <<3+1200=1203>>1203\n#### 1,203",
    "original_id": 77,
    "original_question": "Ann has 3 cups and buys 4 more. How many has she?",
    "original_answer": "3 + 4 = 7\n#### 7",
    "canary": "none",
}
TEMPLATE = {
    "question": "Ann has 3 cups and buys 4 more. How many has Ann?",
    "answer": "Ann has 3 + 4 = <<3+4=7>>7.\n#### 7",
    "id_orig": 77,
    "id_shuffled": 3,
    "question_annotated": (
        "{who, Ann} has {n,3} cups and buys {m, 4} more. How many has {who,Ann}?\n\n"
        "#init:\n- who = sample(names)\n- $n, $m = range(2, 9), range(2, 9)\n\n"
        "#conditions:\n- n + m < 12\n\n#answer: n + m"
    ),
    "answer_annotated": "{who} has {n} + {m} = <<{n}+{m}={n+m}>>{n+m}.\n#### {n+m}",
}


def lines(path, *rows):
    texts = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return path


def test_problems_are_read_and_grouped_across_levels(tmp_path):
    second = {**ROW, "instance": 1, "answer": "#### -2.50"}
    base = load_problems(lines(tmp_path / "base", ROW, "", second), "base")
    assert [(p.level, p.template, p.instance, p.original, p.number) for p in base] == [
        ("base", 3, 0, 77, 1203),
        ("base", 3, 1, 77, Fraction(-5, 2)),
    ]
    assert base[0].question == ROW["question"] and base[0].answer == ROW["answer"]
    same_story, other_story = {**ROW, "id": 9}, {**ROW, "id": 10, "original_id": 5}
    harder = load_problems(lines(tmp_path / "p1", same_story, other_story), "P1")
    grouped = by_original([*base, *harder])
    assert grouped == {77: {"base": base, "P1": harder[:1]}, 5: {"P1": harder[1:]}}


def test_a_line_separator_within_a_text_splits_no_line(tmp_path):
    row = json.dumps({**ROW, "question": "Ann\u2028has\u0085cups"}, ensure_ascii=False)
    assert load_problems(lines(tmp_path / "p", row), "base")[0].question == "Ann\u2028has\u0085cups"


def without(name):
    return {key: value for key, value in ROW.items() if key != name}


@pytest.mark.parametrize(
    "bad, message",
    [
        ("{", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ('{"id": ' + "1" * 5_000 + "}", "is no JSON"),
        ("[1]", "it must be an object with id, instance, question"),
        ("{}", "has no field 'id', only none"),
        (without("answer"), "has no field 'answer', only id, instance, question"),
        ({**ROW, "id": "3"}, "id = '3': must be a whole number"),
        ({**ROW, "instance": True}, "instance = 'True': must be a whole number"),
        ({**ROW, "original_id": 7.0}, "original_id = '7.0': must be a whole number"),
        ({**ROW, "question": None}, "question = 'None': must be a text"),
        ({**ROW, "question": " "}, "question is empty"),
        ({**ROW, "answer": "seven"}, "answer ends in 'seven': it must end in '#### n'"),
        ({**ROW, "answer": "#### 7 cups"}, "it must end in '#### n'"),
        ({**ROW, "answer": "#### ٧"}, "it must end in '#### n'"),
        (ROW, "id = 3, instance = 0 stands in line 1 too"),
        (json.dumps(ROW)[:-1] + ', "id": 4}', "a field twice"),
        ({**ROW, "instance": -1}, "instance = -1: must be from 0"),
    ],
)
def test_bad_lines_are_named(tmp_path, bad, message):
    path = lines(tmp_path / "test.jsonl", ROW, "", bad)
    with pytest.raises(ValueError, match=rf"test\.jsonl, line 3.*{re.escape(message)}"):
        load_problems(path, "base")


def test_bad_files_and_levels_are_explained(tmp_path):
    with pytest.raises(ValueError, match="holds no problems"):
        load_problems(lines(tmp_path / "empty", ""), "base")
    with pytest.raises(ValueError, match=r"missing cannot be read \(No such file"):
        load_problems(tmp_path / "missing", "base")
    (tmp_path / "packed").write_bytes(b"\x1f\x8b\xff")
    with pytest.raises(ValueError, match=r"packed is no UTF-8 text \(byte 1\)"):
        load_problems(tmp_path / "packed", "base")
    with pytest.raises(ValueError, match="level = 'p1': choose base, P1, P2"):
        load_problems(tmp_path / "missing", "p1")


def test_a_template_is_read_and_not_evaluated(tmp_path):
    path = tmp_path / "0003.json"
    path.write_text(json.dumps(TEMPLATE, indent=2), encoding="utf-8")
    template = load_template(path)
    assert (template.template, template.original) == (3, 77)
    text = "{who, Ann} has {n,3} cups and buys {m, 4} more. How many has {who,Ann}?"
    assert template.text == text
    assert template.defaults == {"who": "Ann", "n": "3", "m": "4"}
    assert template.init == ("who = sample(names)", "$n, $m = range(2, 9), range(2, 9)")
    assert template.conditions == ("n + m < 12",) and template.result == "n + m"
    assert template.answer_text == TEMPLATE["answer_annotated"]


ANNOTATED = TEMPLATE["question_annotated"]


def test_lines_of_a_template_end_at_line_breaks_alone(tmp_path):
    annotated = ANNOTATED.replace("sample(names)", "sample(names)\u2028or\u0085ask")
    path = tmp_path / "0003.json"
    path.write_text(json.dumps({**TEMPLATE, "question_annotated": annotated}), encoding="utf-8")
    assert load_template(path).init[0] == "who = sample(names)\u2028or\u0085ask"


def test_twenty_thousand_blanks_are_read_like_any_others(tmp_path):
    """In one default, and after a bracket that never closes: each character is read once."""
    blanks = " " * 20_000
    annotated = ANNOTATED.replace("{who, Ann}", f"{{who,{blanks}Ann{blanks}}} {{x,{blanks}")
    path = tmp_path / "0003.json"
    path.write_text(json.dumps({**TEMPLATE, "question_annotated": annotated}), encoding="utf-8")
    assert load_template(path).defaults == {"who": "Ann", "n": "3", "m": "4"}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"id_orig": "77"}, "id_orig = '77': must be a whole number"),
        ({"question_annotated": 5}, "question_annotated = '5': must be a text"),
        (
            {"question_annotated": ANNOTATED.replace("#init:", "")},
            "must have the sections #init:, #conditions:, #answer:",
        ),
        ({"question_annotated": ANNOTATED + "#init:"}, "once each, in this order"),
        (
            {"question_annotated": ANNOTATED.replace("- who", "who")},
            "#init:: the line 'who = sample(names)' must begin with",
        ),
        (
            {"question_annotated": ANNOTATED.replace("{who,Ann}", "{who,Bo}")},
            "{who, Bo} has the default 'Ann' before",
        ),
        (
            {"question_annotated": re.sub(r"\{(\w+),[^}]*\}", r"\1", ANNOTATED)},
            "has no placeholder",
        ),
        ({"question_annotated": ANNOTATED.removesuffix("n + m")}, "nothing stands after #answer:"),
    ],
)
def test_bad_templates_are_explained(tmp_path, changes, message):
    path = tmp_path / "0003.json"
    path.write_text(json.dumps({**TEMPLATE, **changes}), encoding="utf-8")
    with pytest.raises(ValueError, match=rf"0003\.json.*{re.escape(message)}"):
        load_template(path)
