"""The door to real data: check a user's own copy of GSM-Symbolic, and score answers to it.

    python -m recycle gsm --base GSM_symbolic.jsonl --p1 GSM_p1.jsonl --p2 GSM_p2.jsonl --answers
    mine.jsonl

Each line of ``mine.jsonl`` is one answer of whatever model was asked: {"level": "P1", "id": 0,
"instance": 3, "output": "..."}. The last number of an output, commas removed, is what counts. The
toy models of this project cannot read these problems.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from recycle.decide.statistics import wilson
from tasks.gsm_symbolic import LEVELS, Problem, by_original, last_number, load_problems


def describe(files: Mapping[str, Path], answers: Path | None = None) -> str:
    """A line for each level, what the levels share, and accuracies where answers are given."""
    if not files:
        raise ValueError(
            "name at least one file of your copy of GSM-Symbolic: --base, --p1 or --p2"
        )
    problems = {level: load_problems(path, level) for level, path in files.items()}
    out = [
        f"{level:5} {len(own)} problems of {len({p.template for p in own})} templates, {len({p.original for p in own})} stories"
        for level, own in problems.items()
    ]
    everywhere = [
        levels
        for levels in by_original(p for own in problems.values() for p in own).values()
        if len(levels) == len(problems)
    ]
    out.append(f"stories at every level: {len(everywhere)}")
    if answers is not None:
        out += score(problems, answers)
    return "\n".join(out)


def score(problems: Mapping[str, Sequence[Problem]], answers: Path) -> list[str]:
    """Right answers by the last number, for each level, with Wilson's interval."""
    known = {(level, p.template, p.instance): p for level, own in problems.items() for p in own}
    right: dict[tuple, bool] = {}
    for n, line in enumerate(answers.read_text(encoding="utf-8").splitlines(), 1):
        where = f"{answers}, line {n}"
        try:
            row = json.loads(line)
            key = (row["level"], row["id"], row["instance"])
            output, _ = row["output"], hash(key)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{where} is no answer ({error}): write level, id, instance and output"
            ) from None
        if key not in known:
            raise ValueError(
                f"{where}: no problem {key} in the files given; levels are {', '.join(problems)}"
            )
        if key in right:
            raise ValueError(f"{where}: the problem {key} is answered twice: keep one answer")
        if not isinstance(output, str):
            raise ValueError(f"{where}: output = {output!r}: must be a text")
        right[key] = last_number(output) == known[key].number
    out = []
    for level in (level for level in LEVELS if level in problems):
        own = [value for key, value in right.items() if key[0] == level]
        if own:
            low, high = wilson(sum(own), len(own))
            out.append(
                f"{level:5} {sum(own) / len(own):.3f} [{low:.3f}, {high:.3f}] of {len(own)} answered "
                f"({len(problems[level])} asked)"
            )
    return out
