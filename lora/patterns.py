"""Keys of PEFT's rank_pattern and alpha_pattern: regular expressions for a path or its end.

A key fits a path where ``re.fullmatch(rf"(.*\\.)?({key})", path)`` does. The first key that fits
decides. The expressions come from strangers, and Python's matcher tries the ways to fit one by one,
so their number is bounded first. A repeat of one character takes some of the path's n characters;
q such repeats share them in at most C(n + q, q) ways. An alternative or an optional group doubles
the number. Repeats of groups, which make it exponential in n, are refused.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Collection, Mapping
from typing import TypeVar

Value = TypeVar("Value")

_MOST_WAYS = 10**8  # of one file's keys on all its paths: some seconds
_LONGEST_KEY = 1000
_UNBOUNDED = re.compile(r"\)[*+{]|\\[1-9]|\(\?(?![:=!])")  # repeats of groups, and rare syntax


def anchored(path: str) -> str:
    """The key that fits this path, and no other path that ends like it."""
    return "^" + re.escape(path)


def values_of(pattern: Mapping[str, Value], paths: Collection[str]) -> dict[str, Value]:
    """{path: value of the first key that fits it}, without the paths that no key fits.

    Raises ValueError for a key that is no regular expression, and for keys that may take too long.
    """
    own_keys = {anchored(path): path for path in paths}
    values: dict[str, Value] = {}
    ways = 0
    for key, value in pattern.items():
        if key in own_keys:
            values.setdefault(own_keys[key], value)
            continue
        compiled = _compiled(key)
        for path in paths:
            ways += _ways(key, path)
            if ways > _MOST_WAYS:
                raise ValueError(
                    f"{key[:60]!r} may take too long to match: name the layers instead"
                )
            starts = (0, *(dot.end() for dot in re.finditer(r"\.", path)))
            if path not in values and any(compiled.fullmatch(path, start) for start in starts):
                values[path] = value
    return values


def _compiled(key: str) -> re.Pattern[str]:
    if len(key) > _LONGEST_KEY or _UNBOUNDED.search(key):
        raise ValueError(
            f"{key[:60]!r} may take too long to match: it repeats groups, uses flags or "
            f"references, or has over {_LONGEST_KEY} characters"
        )
    try:
        with warnings.catch_warnings():  # about syntax of a stranger's that is odd and legal
            warnings.simplefilter("ignore")
            re.compile(rf"(.*\.)?({key})$")  # as PEFT does
            return re.compile(key)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{key[:60]!r} is no regular expression ({error})") from None


def _ways(key: str, path: str) -> int:
    """An upper bound for the ways that the matcher tries. A character that only looks like a
    quantifier or an alternative counts too."""
    plain = re.sub(r"\(\?[:=!]|(?<=[*+?])\?", "", key)  # without (?: and the ? of lazy quantifiers
    repeats = len(re.findall(r"[*+?{]", plain))
    choices = plain.count("|") + plain.count(")?")
    if "(?" in key:
        choices += repeats  # characters that a look ahead takes are there for the rest again
    starts = path.count(".") + 1
    return starts * math.comb(len(path) + repeats, repeats) * 2**choices
