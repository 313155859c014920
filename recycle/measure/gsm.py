"""The door to real data: check a user's own copy of GSM-Symbolic, and score answers to it.

    python -m recycle gsm --base GSM_symbolic.jsonl --p1 GSM_p1.jsonl --p2 GSM_p2.jsonl \\
        --answers mine.jsonl

Each line of ``mine.jsonl`` is the answer of any model to one problem:

    {"level": "P1", "id": 0, "instance": 3, "output": "..."}

An answer is right if the last number of its output is, whose commas are removed. The toy models of
this project cannot read these problems.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

from recycle.decide.statistics import wilson
from tasks.gsm_symbolic import LEVELS, Problem, by_original, load_problems, read_rows
from tasks.numerals import last_number

ANSWER = {"level": str, "id": int, "instance": int, "output": str}


def describe(files: Mapping[str, Path], answers: Path | None = None) -> str:
    """A line for each level, the number of shared stories, and accuracies where answers are given.

    ``files`` are {level: path}. Raises ValueError without any file, for one file of two levels, and
    for a file with a fault.
    """
    if not files:
        raise ValueError(
            "name at least one file of your copy of GSM-Symbolic: --base, --p1 or --p2"
        )
    levels: dict[Path, str] = {}
    for level, path in files.items():
        if (other := levels.setdefault(path.resolve(), level)) != level:
            raise ValueError(f"{path} is named for {other} and for {level}: each has its own file")
    by_level = {level: load_problems(path, level) for level, path in files.items()}
    lines = []
    for level, problems in by_level.items():
        templates = {problem.template for problem in problems}
        stories = {problem.original for problem in problems}
        lines.append(
            f"{level:5} {len(problems)} problems of {len(templates)} templates, "
            f"{len(stories)} stories"
        )
    stories_by_level = by_original(chain.from_iterable(by_level.values()))
    shared = [levels for levels in stories_by_level.values() if len(levels) == len(by_level)]
    lines.append(f"stories at every level: {len(shared)}")
    if answers is not None:
        lines += score(by_level, answers)
    return "\n".join(lines)


def score(problems: Mapping[str, Sequence[Problem]], answers: Path) -> list[str]:
    """A line for each level with answers: the share of right ones, with Wilson's interval.

    Raises ValueError for a line that is no answer to one of these problems, and for a second answer
    to a problem.
    """
    known = {
        (level, problem.template, problem.instance): problem
        for level, level_problems in problems.items()
        for problem in level_problems
    }
    right: dict[tuple, bool] = {}
    for _, where, row in read_rows(answers, ANSWER, empty=("output",)):
        key, output = (row["level"], row["id"], row["instance"]), row["output"]
        if key not in known:
            raise ValueError(
                f"{where}: no problem {key} in the files given; levels are {', '.join(problems)}"
            )
        if key in right:
            raise ValueError(f"{where}: the problem {key} is answered twice: keep one answer")
        right[key] = last_number(output) == known[key].number
    if not right:
        raise ValueError(f"{answers} holds no answers: write a JSON line for each")
    lines = []
    for level in (level for level in LEVELS if level in problems):
        answered = [is_right for key, is_right in right.items() if key[0] == level]
        if n := len(answered):
            low, high = wilson(sum(answered), n)
            lines.append(
                f"{level:5} {sum(answered) / n:.3f} [{low:.3f}, {high:.3f}] of {n} answered "
                f"({len(problems[level])} asked)"
            )
    return lines
