"""Solutions read back: what a completion writes down, in each rendering, and where it first leaves
the derivation asked for."""

from __future__ import annotations

import re
from typing import NamedTuple

from tasks.arithmetic import run
from tasks.word_problem import SIGNS, Problem

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
NAMED_SIGNS = {word: sign for sign, word in SIGNS.items()}
MAX_COMPLETION = 10_000  # characters of a completion that are looked at
# How traces are read back. [0-9] and not \d, which takes the digits of all scripts; {1,9} bounds
# every number.
SENTENCE_ENDS = {
    "prose": re.compile(r" \.(?: |$)"),
    "markdown": re.compile(r"(?:^| )- (?=step|answer)"),
}
_NUMBER, _OPERAND, _SIGN = "[0-9]{1,9}", "[0-9]{1,9}|[a-z]+", "|".join(NAMED_SIGNS)
STEPS = {
    "prose": re.compile(
        rf"(?P<k>)(?P<name>[a-z]+) are (?P<left>{_OPERAND})"
        rf"(?: (?P<sign>{_SIGN}) (?P<right>{_OPERAND}) so (?P<a>{_NUMBER}) (?P<again>{_SIGN}) (?P<b>{_NUMBER})"
        rf" which is (?P<value>{_NUMBER}))?"
    ),
    "markdown": re.compile(
        rf"step (?P<k>{_NUMBER}) : (?P<name>[a-z]+) = (?P<left>{_OPERAND})"
        rf"(?: (?P<sign>[-+*]) (?P<right>{_OPERAND}) = (?P<a>{_NUMBER}) (?P<again>[-+*]) (?P<b>{_NUMBER})"
        rf" = (?P<value>{_NUMBER}))?"
    ),
}
ANSWERS = {
    "prose": re.compile(r"the answer is ([0-9]{1,9})"),
    "markdown": re.compile(r"answer : ([0-9]{1,9})"),
}
NUMBER = re.compile(r"[0-9][0-9,]{0,30}")


class Said(NamedTuple):
    """A step as a completion writes it. The value is None where a program's statement has none."""

    name: str
    signs: tuple[str, ...]
    operands: tuple[str | int, ...]
    values: tuple[int, ...]  # put in for the operands; a program puts in none
    value: int | None


class Trace(NamedTuple):
    """What a completion writes down: steps, the answer (of a program, the name it gives), and
    whether it is well formed up to its end and ends with the answer, if it gives one."""

    steps: list[Said]
    answer: str | int | None
    whole: bool


def read_trace(rendering: str, completion: str) -> Trace:
    said: list[Said] = []
    if rendering == "python":
        done, whole = run(completion)
        for i, a in enumerate(done):
            if a.name == "answer":
                return Trace(
                    said,
                    a.operands[0] if not a.operators else a.value,
                    whole and i == len(done) - 1,
                )
            said.append(Said(a.name, a.operators, a.operands, (), a.value))
        return Trace(said, None, whole)
    parts = SENTENCE_ENDS[rendering].split(completion[:MAX_COMPLETION].strip())
    # Prose ends its sentences, so nothing may stand behind the last end; Markdown begins them, so
    # nothing before the first.
    outside = parts.pop(-1 if rendering == "prose" else 0)
    for i, part in enumerate(parts):
        if answer := ANSWERS[rendering].fullmatch(part):
            return Trace(said, int(answer[1]), not outside and i == len(parts) - 1)
        step = STEPS[rendering].fullmatch(part)
        if (
            step is None
            or (outside and rendering == "markdown")
            or step["k"] not in ("", str(i + 1))
        ):
            return Trace(said, None, False)
        signs = tuple(NAMED_SIGNS.get(step[x], step[x]) for x in ("sign", "again") if step[x])
        operands = tuple(int(x) if x.isdigit() else x for x in (step["left"], step["right"]) if x)
        if not signs and isinstance(operands[0], str):
            return Trace(said, None, False)
        value = int(step["value"] if signs else step["left"])
        said.append(
            Said(step["name"], signs, operands, tuple(int(step[x]) for x in "ab" if step[x]), value)
        )
    return Trace(said, None, not outside)


def first_error(
    problem: Problem, level: str, rendering: str, completion: str
) -> tuple[int, str] | None:
    """Where a completion first leaves the level's derivation: the step, from 1 (the answer is the
    last), and the kind, one of OUTCOMES. None if it is that derivation; the operands of plus and
    times may stand in either order."""
    steps = problem.at(level)
    values: dict[str | int, int] = {step.name: step.value for step in steps}
    said, answer, whole = read_trace(rendering, completion)
    for k, (step, found) in enumerate(zip(steps, said, strict=False), 1):
        operands = (step.left, step.right) if step.sign else (step.left,)
        if found.name != step.name:
            return k, "wrong quantity"
        if set(found.signs) != ({step.sign} if step.sign else set()) or len(found.operands) != len(
            operands
        ):
            return k, "wrong operation"
        if found.operands != operands and not (
            step.sign in ("+", "*") and found.operands[::-1] == operands
        ):
            return k, "wrong quantity"
        if found.values not in ((), tuple(values.get(x, x) for x in found.operands)):
            return k, "wrong quantity"
        if found.value != step.value:
            return k, "wrong arithmetic"
    if len(said) > len(steps):
        return len(steps) + 1, "went on"
    if answer is None or len(said) < len(steps):
        return len(said) + 1, "stopped early" if whole or answer is not None else "malformed"
    if answer != (steps[-1].name if rendering == "python" else steps[-1].value):
        return len(steps) + 1, "wrong quantity"
    return None if whole else (len(steps) + 1, "went on")


def last_number(rendering: str, completion: str) -> int | None:
    """The last number of a completion, commas removed; of a program the last value, if all of it
    can be executed."""
    if rendering == "python":
        done, whole = run(completion)
        return done[-1].value if whole and done else None
    found = NUMBER.findall(completion[-MAX_COMPLETION:])
    return int(found[-1].replace(",", "")) if found else None
