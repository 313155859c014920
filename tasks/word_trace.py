"""Reads solutions back: the steps that a completion writes down, and its first error."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from tasks import numerals
from tasks.arithmetic import run
from tasks.word_problem import WORDS, Step

OUTCOMES = (
    "right",
    "right answer, wrong trace",
    "wrong quantity",
    "wrong operation",
    "wrong arithmetic",
    "stopped early",
    "went on",
    "malformed",
)
NAMED_SIGNS = {word: sign for sign, word in WORDS.items()}
MAX_COMPLETION = 10_000  # characters; the rest of a longer completion is not read
# The patterns take [0-9] and not \d, which takes the digits of all scripts. {1,9} bounds every
# number.
SENTENCE_ENDS = {
    "prose": re.compile(r" \.(?: |$)"),
    "markdown": re.compile(r"(?:^| )- (?=step|answer)"),
}
_NUMBER, _OPERAND, _SIGN = "[0-9]{1,9}", "[0-9]{1,9}|[a-z]+", "|".join(NAMED_SIGNS)
STEPS = {
    "prose": re.compile(
        rf"(?P<k>)(?P<name>[a-z]+) are (?P<left>{_OPERAND})"
        rf"(?: (?P<sign>{_SIGN}) (?P<right>{_OPERAND})"
        rf" so (?P<a>{_NUMBER}) (?P<again>{_SIGN}) (?P<b>{_NUMBER})"
        rf" which is (?P<value>{_NUMBER}))?"
    ),
    "markdown": re.compile(
        rf"step (?P<k>{_NUMBER}) : (?P<name>[a-z]+) = (?P<left>{_OPERAND})"
        rf"(?: (?P<sign>[-+*&|^]) (?P<right>{_OPERAND})"
        rf" = (?P<a>{_NUMBER}) (?P<again>[-+*&|^]) (?P<b>{_NUMBER})"
        rf" = (?P<value>{_NUMBER}))?"
    ),
}
ANSWERS = {
    "prose": re.compile(r"the answer is ([0-9]{1,9})"),
    "markdown": re.compile(r"answer : ([0-9]{1,9})"),
}


class Said(NamedTuple):
    """A step as a completion writes it. The value is None where a program's statement has none."""

    name: str
    signs: tuple[str, ...]
    operands: tuple[str | int, ...]
    values: tuple[int, ...]  # the numbers put in for the operands; a program puts in none
    value: int | None

    def states(self, step: Step) -> bool:
        """Whether this step puts down ``step``'s operands: all signs but - take either order."""
        operands = (step.left, step.right) if step.sign else (step.left,)
        commutes = step.sign not in ("", "-")
        return self.operands == operands or (commutes and self.operands[::-1] == operands)


Answer = str | int | tuple[tuple[str, ...], tuple[str | int, ...]] | None


class Trace(NamedTuple):
    """The content of a completion.

    ``answer`` is None where the completion gives none. That of a program is the name or number that
    it gives, or the operators and operands of its last statement.
    ``whole`` says whether the completion is well formed up to its end and, where it gives an
    answer, ends with the answer.
    """

    steps: list[Said]
    answer: Answer
    whole: bool


def read_trace(rendering: str, completion: str) -> Trace:
    """Read the steps and the answer of a completion, up to its first malformed part."""
    if rendering == "python":
        return _read_program(completion)
    said: list[Said] = []
    parts = SENTENCE_ENDS[rendering].split(completion[:MAX_COMPLETION].strip())
    # Prose ends each sentence with a mark, so nothing may stand after the last mark. Markdown
    # begins each with one, so nothing may stand before the first.
    outside = parts.pop(-1 if rendering == "prose" else 0)
    for i, part in enumerate(parts):
        if answer := ANSWERS[rendering].fullmatch(part):
            return Trace(said, int(answer[1]), not outside and i == len(parts) - 1)
        step = STEPS[rendering].fullmatch(part)
        begun_well = not outside or rendering == "prose"
        if step is None or not begun_well or step["k"] not in ("", str(i + 1)):
            return Trace(said, None, False)
        signs = tuple(NAMED_SIGNS.get(step[x], step[x]) for x in ("sign", "again") if step[x])
        operands = tuple(int(x) if x.isdigit() else x for x in (step["left"], step["right"]) if x)
        if not signs and isinstance(operands[0], str):
            return Trace(said, None, False)
        values = tuple(int(step[x]) for x in "ab" if step[x])
        value = int(step["value"] if signs else step["left"])
        said.append(Said(step["name"], signs, operands, values, value))
    return Trace(said, None, not outside)


def _read_program(program: str) -> Trace:
    said: list[Said] = []
    assignments, whole = run(program)
    for i, a in enumerate(assignments):
        if a.name == "answer":
            answer: Answer = (a.operators, a.operands) if a.operators else a.operands[0]
            return Trace(said, answer, whole and i == len(assignments) - 1)
        said.append(Said(a.name, a.operators, a.operands, (), a.value))
    return Trace(said, None, whole)


def first_error(
    steps: Sequence[Step], rendering: str, completion: str, hours: int = 0
) -> tuple[int, str] | None:
    """The first place where a completion leaves a derivation: (step, kind of error).

    Steps count from 1, and the answer is the step after the last. The kind is one of OUTCOMES. The
    result is None where the completion is that derivation; operands may stand in either order, but
    those of minus. On a clock of some ``hours`` a program reduces its answer alone: "figs % 16".
    """
    values: dict[str | int, int] = {step.name: step.value for step in steps}
    said, answer, whole = read_trace(rendering, completion)
    for k, (step, stated) in enumerate(zip(steps, said, strict=False), 1):
        if stated.name != step.name:
            return k, "wrong quantity"
        signs, operands = ({step.sign}, 2) if step.sign else (set(), 1)
        if set(stated.signs) != signs or len(stated.operands) != operands:
            return k, "wrong operation"
        if not stated.states(step):
            return k, "wrong quantity"
        if stated.values not in ((), tuple(values.get(x, x) for x in stated.operands)):
            return k, "wrong quantity"
        value = stated.value
        if hours and rendering == "python" and value is not None:
            value %= hours
        if value != step.value:
            return k, "wrong arithmetic"
    if len(said) > len(steps):
        return len(steps) + 1, "went on"
    if answer is None or len(said) < len(steps):
        return len(said) + 1, "stopped early" if whole or answer is not None else "malformed"
    right: Answer = steps[-1].value
    if rendering == "python":
        right = (("%",), (steps[-1].name, hours)) if hours else steps[-1].name
    if answer != right:
        return len(steps) + 1, "wrong quantity"
    return None if whole else (len(steps) + 1, "went on")


def last_number(rendering: str, completion: str) -> Fraction | None:
    """The last number of a completion; None where there is none.

    The last number of a program is its last value, where all of the program can be executed.
    """
    if rendering != "python":
        return numerals.last_number(completion[-MAX_COMPLETION:])
    assignments, whole = run(completion)
    if not whole or not assignments or (value := assignments[-1].value) is None:
        return None
    return Fraction(value)
