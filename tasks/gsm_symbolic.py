"""Reads a user's own copy of GSM-Symbolic (Mirzadeh et al. 2024, arXiv 2410.05229).

No text of GSM-Symbolic is part of this project, for its licence forbids derivatives. It has two
formats. The problems are JSON lines, one file for each level, with these fields:

    id                    the number of the template
    instance              the number of the instance among the template's instances
    question, answer      texts; an answer ends in "#### n"
    original_id           the number of the GSM8K problem that the template was made from; the
                          levels share it
    original_question, original_answer, canary      texts that are not used here

A template is a JSON file with question and answer as in GSM8K, id_orig and id_shuffled,
answer_annotated, and question_annotated: the question with {name, default} placeholders, then three
sections.

    {who, Ann} has {n, 3} cups and buys {m, 4} more . How many has she ?
    #init:
    - who = sample(names)
    - $n = range(2, 9)
    - $m = range(2, 9)
    #conditions:
    - n + m < 12
    #answer: n + m

Sections are read and never evaluated. Every fault of a file is a ValueError of one line that names
the file, the line, the field, its value, and the remedy.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from tasks import numerals
from tasks.json_lines import read_object, read_rows, read_text

LEVELS = ("base", "P1", "P2")
# The fields that are used.
FIELDS = {"id": int, "instance": int, "question": str, "answer": str, "original_id": int}
TEMPLATE_FIELDS = {
    "question": str,
    "answer": str,
    "id_orig": int,
    "id_shuffled": int,
    "question_annotated": str,
    "answer_annotated": str,
}
_FINAL = re.compile(r"####[ \t]*([^\s#][^\n#]{0,60}?)\s*$")
# One way to match each character: blanks around a default are stripped afterwards.
_PLACEHOLDER = re.compile(r"\{\s*([A-Za-z_]\w*)\s*,([^{}]*)\}")
_SECTIONS = ("#init:", "#conditions:", "#answer:")


@dataclass(frozen=True)
class Problem:
    """One instance of a template. ``number`` is the exact final number of the answer."""

    level: str
    template: int
    instance: int
    original: int
    question: str
    answer: str
    number: Fraction


@dataclass(frozen=True)
class Template:
    """An annotated question: its text with placeholders, their defaults, and its three sections.

    The sections ``init`` and ``conditions`` are lines, and ``result`` is the expression after
    "#answer:"; none of them is evaluated.
    """

    template: int
    original: int
    question: str
    answer: str
    text: str
    answer_text: str
    defaults: Mapping[str, str]
    init: tuple[str, ...]
    conditions: tuple[str, ...]
    result: str


def load_problems(path: str | Path, level: str) -> list[Problem]:
    """All problems of one JSON-lines file, in its order; blank lines are skipped.

    Raises ValueError for a level that is not in LEVELS, and for a file that is not as described
    above or holds an instance twice.
    """
    if level not in LEVELS:
        raise ValueError(f"level = {level!r}: choose {', '.join(LEVELS)}")
    problems: list[Problem] = []
    lines: dict[tuple[int, int], int] = {}
    for n, where, row in read_rows(path, FIELDS):
        final = _FINAL.search(row["answer"])
        if final is None or (number := numerals.number(final[1])) is None:
            raise ValueError(
                f"{where}: answer ends in {row['answer'][-30:]!r}: "
                "it must end in '#### n', n a number"
            )
        template, instance = row["id"], row["instance"]
        if (first := lines.setdefault((template, instance), n)) != n:
            raise ValueError(
                f"{where}: id = {template}, instance = {instance} stands in line {first} too: "
                "delete one of the two lines"
            )
        original, question, answer = row["original_id"], row["question"], row["answer"]
        problems.append(Problem(level, template, instance, original, question, answer, number))
    if not problems:
        raise ValueError(f"{path} holds no problems: name a file of JSON lines")
    return problems


def by_original(problems: Iterable[Problem]) -> dict[int, dict[str, list[Problem]]]:
    """{original id: {level: problems}}.

    The problems of one original tell the same story; P1 adds one clause to it and P2 two.
    """
    grouped: dict[int, dict[str, list[Problem]]] = {}
    for problem in problems:
        grouped.setdefault(problem.original, {}).setdefault(problem.level, []).append(problem)
    return grouped


def load_template(path: str | Path) -> Template:
    """Read one template file. Raises ValueError where the file is not as described above."""
    row = read_object(read_text(path), TEMPLATE_FIELDS, str(path))
    where, annotated = f"{path}: question_annotated", row["question_annotated"]
    text, *sections = re.split("|".join(_SECTIONS), annotated)
    if re.findall("|".join(_SECTIONS), annotated) != list(_SECTIONS):
        raise ValueError(
            f"{where} must have the sections {', '.join(_SECTIONS)} once each, in this order: "
            "add or move them"
        )
    init = _items(sections[0], f"{where}, {_SECTIONS[0]}")
    conditions = _items(sections[1], f"{where}, {_SECTIONS[1]}")
    defaults: dict[str, str] = {}
    for name, written in _PLACEHOLDER.findall(text):
        default = written.strip()
        if defaults.setdefault(name, default) != default:
            raise ValueError(
                f"{where}: {{{name}, {default}}} has the default {defaults[name]!r} before: "
                "give it one default"
            )
    if not defaults:
        raise ValueError(
            f"{where} = {text.strip()[:60]!r} has no placeholder: "
            "write {name, default} where a value varies"
        )
    if not (result := sections[2].strip()):
        raise ValueError(
            f"{where}: nothing stands after #answer: write the expression of the final number there"
        )
    return Template(
        template=row["id_shuffled"],
        original=row["id_orig"],
        question=row["question"],
        answer=row["answer"],
        text=text.strip(),
        answer_text=row["answer_annotated"],
        defaults=defaults,
        init=init,
        conditions=conditions,
        result=result,
    )


def _items(section: str, where: str) -> tuple[str, ...]:
    lines = [line.strip() for line in section.split("\n") if line.strip()]
    for line in lines:
        if not line.startswith("- "):
            raise ValueError(f"{where}: the line {line[:60]!r} must begin with '- '")
    return tuple(line[2:].strip() for line in lines)
