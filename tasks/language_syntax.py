"""Five small languages for straight-line programs, written, read and run.

The same program, which adds all values and takes the first away, calls the helper total in each:

    ada    t = total ( a , b ) ; t = total ( t , c ) ; r = t - a ; give r
    bob    let t be call total a b . let t be call total t c . let r be sub t a . give back r .
    cyd    a b : total > t | t c : total > t | t a less > r | r !
    dan    do total with a b gives t / do total with t c gives t / t cut a gives r / the end is r
    eve    t is total from a and b , t is total from t and c , r is t minus a , show r ,

No two have a sign's word or a mark in common. The first four have four orders: the name that is
assigned comes first or last, the sign before, between or after its values. Eve orders as ada does,
in words and marks of its own.

A text is read by the patterns below, statement by statement, and written again as the assignments
that tasks/arithmetic.py runs; Python never executes it. Helpers are no functions of a model's own:
total and gather are two names of one addition.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tasks.arithmetic import run

HELPERS = ("total", "gather")
MAX_COMPLETION = 2_000  # characters; a longer program is not read
MAX_STATEMENTS = 24
_NAME = "[a-z]"


class Statement(NamedTuple):
    """``name`` is ``left does right``; ``does`` is a sign, or the name of a helper."""

    name: str
    does: str
    left: str
    right: str


class Program(NamedTuple):
    statements: tuple[Statement, ...]
    result: str  # the name whose value is given back


class Language(NamedTuple):
    """The forms of a statement with a sign, of a call and of the end; the mark between statements,
    and whether it stands after the end too; the words of the signs."""

    calculation: str
    call: str
    end: str
    mark: str
    closes: bool
    signs: Mapping[str, str]

    def write(self, program: Program) -> str:
        parts = []
        for statement in program.statements:
            form = self.call if statement.does in HELPERS else self.calculation
            parts.append(
                form.format(**statement._replace(does=self._word(statement.does))._asdict())
            )
        parts.append(self.end.format(result=program.result))
        closing = f" {self.mark}" if self.closes else ""
        return f" {self.mark} ".join(parts) + closing

    def _word(self, does: str) -> str:
        return does if does in HELPERS else self.signs[does]

    def read(self, text: str) -> Program | None:
        """The program that a whole text is; None where it is none."""
        if len(text) > MAX_COMPLETION:
            return None
        parts = text.strip(" ").split(f" {self.mark}")
        if self.closes and parts.pop().strip(" "):
            return None
        *before, last = (part.strip(" ") for part in parts or [""])
        end = re.fullmatch(_pattern(self.end, {"result": _NAME}), last)
        statements = [self._statement(part) for part in before]
        if end is None or len(statements) > MAX_STATEMENTS or None in statements:
            return None
        return Program(tuple(each for each in statements if each), end["result"])

    def _statement(self, text: str) -> Statement | None:
        names = dict.fromkeys(("name", "left", "right"), _NAME)
        meaning = {word: sign for sign, word in self.signs.items()} | {h: h for h in HELPERS}
        for form, words in ((self.call, HELPERS), (self.calculation, self.signs.values())):
            does = "|".join(map(re.escape, words))
            if found := re.fullmatch(_pattern(form, {**names, "does": does}), text):
                return Statement(**{**found.groupdict(), "does": meaning[found["does"]]})
        return None


def _pattern(form: str, parts: Mapping[str, str]) -> str:
    """The pattern of a form, each of its fields as a group; ``parts`` say what may stand there."""
    pattern = re.escape(form)
    for name, part in parts.items():
        pattern = pattern.replace(re.escape(f"{{{name}}}"), f"(?P<{name}>{part})")
    return pattern


LANGUAGES: Mapping[str, Language] = {
    "ada": Language(
        "{name} = {left} {does} {right}",
        "{name} = {does} ( {left} , {right} )",
        "give {result}",
        ";",
        False,
        {"+": "+", "-": "-", "*": "*"},
    ),
    "bob": Language(
        "let {name} be {does} {left} {right}",
        "let {name} be call {does} {left} {right}",
        "give back {result}",
        ".",
        True,
        {"+": "add", "-": "sub", "*": "mul"},
    ),
    "cyd": Language(
        "{left} {right} {does} > {name}",
        "{left} {right} : {does} > {name}",
        "{result} !",
        "|",
        False,
        {"+": "plus", "-": "less", "*": "by"},
    ),
    "dan": Language(
        "{left} {does} {right} gives {name}",
        "do {does} with {left} {right} gives {name}",
        "the end is {result}",
        "/",
        False,
        {"+": "join", "-": "cut", "*": "grow"},
    ),
    "eve": Language(
        "{name} is {left} {does} {right}",
        "{name} is {does} from {left} and {right}",
        "show {result}",
        ",",
        True,
        {"+": "more", "-": "minus", "*": "times"},
    ),
}


def result(program: Program, given: Mapping[str, int]) -> int | None:
    """What a program gives back for these values; None where it has no value."""
    signs = dict.fromkeys(HELPERS, "+")
    lines = [
        f"{name} = {left} {signs.get(does, does)} {right}"
        for name, does, left, right in program.statements
    ]
    done, whole = run("\n".join([*lines, f"answer = {program.result}"]), given)
    return done[-1].value if whole and done else None


def results(program: Program, inputs: Sequence[Mapping[str, int]]) -> list[int | None]:
    return [result(program, given) for given in inputs]
