"""Runs straight-line Python that only assigns and calculates, so that a model's program can be
scored without trusting it.

    apples = 5 ; pears = apples + 3 ; answer = pears        ->  5, 8, 8

Nothing is ever handed to Python to execute. The text is parsed to a syntax tree, and the tree may
hold names, whole numbers, + - * // % and a leading minus; there is no power, so a number has at
most one digit more for each character of the program. Everything else (calls, attributes,
subscripts, imports, strings, ...) ends the run. The work is bounded before it is done: by the
length of the text, its statements, its depth, and the size of every number.
"""

from __future__ import annotations

import ast
import operator
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

MAX_LENGTH = 2_000  # characters of a program; a longer one is not read at all
MAX_STATEMENTS = 64
MAX_DEPTH = 20  # of brackets and of operations within each other
MAX_NUMBER = 10**12

OPERATORS: Mapping[type, tuple[str, Callable[[int, int], int]]] = {
    ast.Add: ("+", operator.add),
    ast.Sub: ("-", operator.sub),
    ast.Mult: ("*", operator.mul),
    ast.FloorDiv: ("//", operator.floordiv),
    ast.Mod: ("%", operator.mod),
}


@dataclass(frozen=True)
class Assignment:
    """One executed statement: what it assigns, its operators and operands in reading order, and the
    value. The value is None where the statement is well formed but has none: a name without a
    value, a division by zero, a number too large."""

    name: str
    operators: tuple[str, ...]
    operands: tuple[str | int, ...]
    value: int | None


class _Refused(Exception):
    """A statement that is no assignment of an arithmetic expression."""


def run(program: str) -> tuple[list[Assignment], bool]:
    """The statements in order, and whether all of them were executed; the first that cannot be ends
    the run."""
    if len(program) > MAX_LENGTH or not program.isascii():
        return [], False
    statements = [s for part in re.split(r"[;\n]", program) if (s := part.strip())]
    values: dict[str, int] = {}
    done: list[Assignment] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "1if" is worth a warning to Python
        for statement in statements[:MAX_STATEMENTS]:
            try:
                done.append(_assign(statement, values))
            except _Refused:
                return done, False
            if (value := done[-1].value) is None:
                return done, False
            values[done[-1].name] = value
    return done, len(statements) <= MAX_STATEMENTS


def _assign(statement: str, values: Mapping[str, int]) -> Assignment:
    depth = 0
    for character in statement:  # before Python's own parser sees them
        depth += (character in "([{") - (character in ")]}")
        if depth > MAX_DEPTH:
            raise _Refused
    try:
        body = ast.parse(statement).body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise _Refused from None
    if len(body) != 1 or not isinstance(node := body[0], ast.Assign) or len(node.targets) != 1:
        raise _Refused
    if not isinstance(target := node.targets[0], ast.Name):
        raise _Refused
    operators: list[str] = []
    operands: list[str | int] = []
    value = _value(node.value, values, operators, operands, MAX_DEPTH)
    return Assignment(target.id, tuple(operators), tuple(operands), value)


def _value(
    node: ast.expr,
    values: Mapping[str, int],
    operators: list[str],
    operands: list[str | int],
    depth: int,
) -> int | None:
    """The expression's value, None where it has none; notes what it meets in reading order."""
    if depth == 0:
        raise _Refused
    value: int | None
    if isinstance(node, ast.Constant) and type(node.value) is int:  # bool is an int to isinstance
        operands.append(value := node.value)
    elif isinstance(node, ast.Name):
        operands.append(node.id)
        value = values.get(node.id)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        operators.append("-")
        inner = _value(node.operand, values, operators, operands, depth - 1)
        value = None if inner is None else -inner
    elif isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        sign, calculate = OPERATORS[type(node.op)]
        left = _value(node.left, values, operators, operands, depth - 1)
        operators.append(sign)
        right = _value(node.right, values, operators, operands, depth - 1)
        undefined = left is None or right is None or (right == 0 and sign in ("//", "%"))
        value = None if undefined else calculate(left, right)  # type: ignore[arg-type]
    else:
        raise _Refused
    return None if value is None or abs(value) > MAX_NUMBER else value
