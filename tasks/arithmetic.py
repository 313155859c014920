"""An evaluator of straight-line Python that only assigns and calculates.

It scores a model's program without trusting the program.

    apples = 5 ; pears = apples + 3 ; answer = pears        ->  5, 8, 8

Python never executes the text. The text is parsed to a syntax tree, and the tree may hold names,
whole numbers, + - * // % & | ^ and a leading minus. There is neither power nor shift, so a number
has at most one digit more for each character of the program. Everything else (calls, attributes,
subscripts, imports, strings, ...) ends the run. Limits on the length of the text, on its
statements, on its depth and on the size of every number bound the work before it begins.
"""

from __future__ import annotations

import ast
import operator
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
    ast.BitAnd: ("&", operator.and_),
    ast.BitOr: ("|", operator.or_),
    ast.BitXor: ("^", operator.xor),
}


@dataclass(frozen=True)
class Assignment:
    """One statement: the assigned name, its operators and operands in reading order, the value.

    The value is None where a well-formed statement has none: a name without a value, a division by
    zero, a number above MAX_NUMBER.
    """

    name: str
    operators: tuple[str, ...]
    operands: tuple[str | int, ...]
    value: int | None


class _Refused(Exception):
    """A statement that is no assignment of an arithmetic expression."""


def run(program: str, given: Mapping[str, int] | None = None) -> tuple[list[Assignment], bool]:
    """Run a program: its statements in order, and whether all of them have a value. ``given`` are
    the values of names that the program may use.

    The run ends with the first statement that has no value, and before the first that is no
    assignment of an arithmetic expression. It also ends where Python's own parser would: at an
    indented line, and at an empty statement before a semicolon. A comment ends it too. A text that
    is too long or not ASCII has no statements. Nothing is raised, whatever the text.
    """
    if len(program) > MAX_LENGTH or not program.isascii():
        return [], False
    statements = _statements(program)
    values = dict(given or {})
    assignments: list[Assignment] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python's parser warns of "1if"
        for statement in statements[:MAX_STATEMENTS]:
            try:
                assignment = _assign(statement, values)
            except _Refused:
                return assignments, False
            assignments.append(assignment)
            if assignment.value is None:
                return assignments, False
            values[assignment.name] = assignment.value
    return assignments, len(statements) <= MAX_STATEMENTS


def _statements(program: str) -> list[str]:
    """The statements of all lines; an empty one, which is refused, where Python's parser ends."""
    found = []
    for line in program.split("\n"):
        if not (code := line.strip(" \t")):
            continue
        if line[0] != code[0]:  # indented
            found.append("")
        *before, last = (part.strip(" \t") for part in code.split(";"))
        found += [*before, last] if last else before
    return found


def _assign(statement: str, values: Mapping[str, int]) -> Assignment:
    # Deep nesting could exhaust Python's own parser, so brackets are counted before it is called.
    depth = 0
    if "#" in statement:  # what Python leaves out may not be run as a further statement
        raise _Refused
    for character in statement:
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
    """The expression's value, or None where it has none.

    Appends the operators and operands that it meets to the two lists, in reading order.
    """
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
