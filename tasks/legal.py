"""Which values a setting may have. Each configuration declares it beside its fields, in LEGAL:

    LEGAL: ClassVar = {"people": whole(4, 10_000), "dose": SHARE}

A rule is a test of a value, and the words that say what passes it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

Legal = tuple[Callable[[Any], bool], str]


def whole(least: int, most: int) -> Legal:
    return lambda value: least <= value <= most, f"a whole number from {least} to {most:,}"


def number(least: float, most: float) -> Legal:
    return lambda value: least <= value <= most, f"a number from {least:g} to {most:g}"


def above(least: float, most: float = math.inf) -> Legal:
    """``least`` is left out, and so is infinity."""
    bound = "" if most == math.inf else f", at most {most:g}"
    return (
        lambda v: least < v <= most and math.isfinite(v),
        f"a finite number above {least:g}{bound}",
    )


def one_of(known: Iterable[str]) -> Legal:
    names = tuple(known)
    return lambda value: value in names, f"choose {' or '.join(names)}"


def some_of(known: Iterable[str]) -> Legal:
    names = tuple(known)

    def holds(value: tuple[str, ...]) -> bool:
        return 0 < len(value) == len(set(value)) and set(value) <= set(names)

    return holds, f"one or more of {', '.join(names)}, each once"


COUNT = whole(1, 1_000_000)
SHARE = number(0, 1)
INNER_SHARE: Legal = (lambda value: 0 < value < 1, "a share between 0 and 1")
SHARE_BELOW_1: Legal = (lambda value: 0 <= value < 1, "a share from 0 to below 1")
# How often a kind of text is drawn, beside the other kinds.
READING_SHARE: Legal = (
    lambda value: value == 0 or 1e-6 <= value <= 1_000,
    "a share of texts, in any unit: 0, or from 1e-6 to 1000",
)


def check(kind: Any, values: Mapping[str, Any], prefix: str = "") -> None:
    """Raise ValueError for the first value that ``kind.LEGAL`` does not allow, with its key."""
    for name, value in values.items():
        holds, words = kind.LEGAL.get(name, (lambda _: True, ""))
        if not holds(value):
            raise ValueError(f"{prefix}{name} = {value!r}: {words}")
