"""What a JSON file must look like, said as a value and checked once, where the file enters.

A shape is one of

    int, float, str, bool     a value of that type; a float may be written as 1, and is finite
    None                      null
    object                    anything
    [shape]                   a list of values of that shape
    {str: shape}              an object with any names
    {"a": shape, "b?": shape} an object with these names, of which b may be missing; more may stand
    (shape, shape)            one or the other
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

LARGEST = 2**63  # no count, seed or step reaches it, and larger numbers are no floats
NAMES = {int: "a whole number", float: "a finite number", str: "a text", bool: "true or false"}


def check(value: Any, shape: Any, where: str, remedy: str) -> None:
    """Raises ValueError with the place in the file, the value, what it must be, and the remedy."""
    if fault := _fault(value, shape, ""):
        place, found, wanted = fault
        at = f" in {place}" if place else ""
        shown = repr(found)
        shown = shown if len(shown) <= 40 else f"{shown[:40]}.."
        raise ValueError(f"{where} has {shown}{at}, it must be {wanted}: {remedy}")


def shape_of(config: Any) -> Any:
    """The shape of a configuration: its groups of keys, and of each key the default's type. A key
    may be missing, for older versions did not have it."""
    if dataclasses.is_dataclass(config):
        fields = dataclasses.fields(config)
        return {f"{f.name}?": shape_of(getattr(config, f.name)) for f in fields}
    if isinstance(config, tuple):
        return [type(config[0]) if config else int]
    return type(config)


def _fault(value: Any, shape: Any, place: str) -> tuple[str, Any, str] | None:
    """The first place that has another shape, what stands there, and what must."""
    if isinstance(shape, tuple):
        faults = [_fault(value, one, place) for one in shape]
        return None if None in faults else (place, value, " or ".join(f[2] for f in faults if f))
    if isinstance(shape, list):
        if not isinstance(value, list):
            return place, value, "a list"
        inner = ((f"{place}[{i}]", one, shape[0]) for i, one in enumerate(value))
    elif isinstance(shape, dict):
        if not isinstance(value, dict):
            return place, value, "an object with names"
        inner = _members(value, shape, place)
    else:
        return None if _is(value, shape) else (place, value, NAMES.get(shape, "null"))
    for at, one, own in inner:
        if one is MISSING:
            return place, value, f"an object with {at.rpartition('.')[2]!r}"
        if fault := _fault(one, own, at):
            return fault
    return None


MISSING = object()


def _members(value: dict, shape: dict, place: str) -> Any:
    """(place, value, shape) of everything in an object; a value that is missing is MISSING."""
    if str in shape:
        return ((_below(place, name), one, shape[str]) for name, one in value.items())
    return (
        (_below(place, name), value.get(name, MISSING), own)
        for name, own, optional in ((n.rstrip("?"), own, n[-1] == "?") for n, own in shape.items())
        if name in value or not optional
    )


def _below(place: str, name: str) -> str:
    shown = name if name.isprintable() and len(name) <= 40 else repr(name[:40])
    return f"{place}.{shown}" if place else shown


def _is(value: Any, kind: Any) -> bool:
    if kind is object:
        return True
    if kind is None:
        return value is None
    if kind is float and type(value) is int:
        return abs(value) < LARGEST
    if kind is int:
        return type(value) is int and abs(value) < LARGEST
    return type(value) is kind and (kind is not float or math.isfinite(value))
