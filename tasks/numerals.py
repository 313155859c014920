"""Reads written numbers as a person does: 1,234.50 and 1'000, -$5 and .5, 1e5; 1,2,3 is three."""

from __future__ import annotations

import re
from fractions import Fraction

# A blank that stands within a number is a narrow one, or one that does not break a line.
_NARROW = "\u00a0\u2009\u202f"
_MINUS = "-\u2010\u2011\u2012\u2013\u2212"
_MONEY = "$\u00a3\u20ac"
# Groups of three digits share one mark. All bounds keep numbers small, and the search short. The
# patterns take [0-9] and not \d, which takes the digits of all scripts.
_WHOLE = rf"[0-9]{{1,3}}(?:(?P<mark>[,'\u2019{_NARROW}])[0-9]{{3}}(?:(?P=mark)[0-9]{{3}}){{0,12}})"
_NUMBER = re.compile(
    rf"(?:(?<![\w)])(?P<minus>[{_MINUS}]))?[{_MONEY}]?"
    rf"(?:(?<![0-9.])(?P<grouped>{_WHOLE})(?![0-9])|(?P<whole>[0-9]{{1,41}})|(?<!\w)(?=\.[0-9]))"
    r"(?:\.(?P<part>[0-9]{1,20}))?"
    r"(?:[eE](?P<power>[-+]?[0-9]{1,3})(?![\w]))?"
)


def numbers(text: str) -> list[Fraction]:
    """Every number of a text, exactly. A minus after a letter, a digit or a bracket is no sign."""
    return [_value(found) for found in _NUMBER.finditer(text)]


def last_number(text: str) -> Fraction | None:
    """The last number of a text; None where there is none."""
    return found[-1] if (found := numbers(text)) else None


def number(text: str) -> Fraction | None:
    """The number that a whole text is; None where it is none."""
    found = _NUMBER.fullmatch(text)
    return _value(found) if found else None


def _value(found: re.Match[str]) -> Fraction:
    digits = re.sub(r"[^0-9]", "", found["grouped"] or found["whole"] or "0")
    value = Fraction(f"{digits}.{found['part'] or '0'}") * Fraction(10) ** int(found["power"] or 0)
    return -value if found["minus"] else value
