"""A small seeded mutator for what strangers send: JSON values, texts, bytes, options; and the count
of what a program did with them.

    rng = random.Random(SEED)
    counts = Counts()
    with counts.judge(tried, ValueError, OSError, names="adapter_config.json"):
        counts.right += load(mutate_json(value, rng)) == expected

The tests that use it draw every input from one constant seed, so a failure can be repeated.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

LONGEST_LINE = 300

# Values that no program of ours writes, of every type that JSON has.
ODD_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    3,
    0.5,
    1e308,
    -0.0,
    math.nan,
    math.inf,
    -math.inf,
    10**30,
    10**400,
    "",
    "0",
    "1.5",
    "false",
    "nan",
    "null",
    "(",
    "*x",
    "../../x",
    "/abs",
    "a\nb",
    "\x1b[31m",
    "\u2028",
    "\ud800",
    "<script>alert(1)</script>",
    "x" * 5000,
    [],
    {},
    [1],
    [None],
    ["x"],
    {"x": 1},
    {"": None},
)


def nested(depth: int) -> Any:
    """A list in a list, and so on."""
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key or index) in a JSON value."""
    pairs = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, inner in list(pairs):
        yield value, key
        yield from places(inner)


def odd_variant(value: Any, rng: Random) -> Any:
    """Another value in its place: of another type, near it, or with nothing to do with it."""
    choices = [rng.choice(ODD_VALUES), [value], {"x": value}, nested(rng.choice((2, 50)))]
    if isinstance(value, bool):
        choices += [not value, str(value).lower(), int(value)]
    elif isinstance(value, int | float) and abs(value) < 1e300:
        choices += [
            -value,
            value + 1,
            value * 10**9,
            str(value),
            float(value),
            int(value),
            value > 0,
        ]
    elif isinstance(value, str):
        choices += [value + "x", value[1:], value.upper(), [*value], f"({value}", f"{value}\n"]
    elif isinstance(value, list):
        choices += [value[1:], value + value, value[::-1], value + [None]]
    elif isinstance(value, dict):
        choices += [list(value), {**value, "another": rng.choice(ODD_VALUES)}]
    return rng.choice(choices)


def mutate_json(value: Any, rng: Random) -> Any:
    """A copy in which one value is another, absent, or new, or two have changed places."""
    whole = {"root": copy.deepcopy(value)}
    container, key = rng.choice(list(places(whole)))
    action = rng.randrange(5)
    if action == 0 and container is not whole:
        del container[key]
    elif action == 1 and isinstance(container[key], dict):
        container[key][rng.choice(("another", "", "use_other", "a.b"))] = rng.choice(ODD_VALUES)
    elif action == 2:
        other, place = rng.choice(list(places(whole)))
        container[key] = copy.deepcopy(other[place])
    else:
        container[key] = odd_variant(container[key], rng)
    return whole["root"]


def json_bytes(value: Any, rng: Random) -> bytes:
    """The value as a file; now and then too deep, cut, repeated, or in another encoding."""
    text = json.dumps(value)
    match rng.randrange(40):
        case 0:
            return b"[" * 100_000
        case 1:
            return b'{"a":' * 100_000
        case 2:
            return text[: rng.randrange(len(text) + 1)].encode()
        case 3:
            return (text + text).encode()
        case 4:
            return text.encode("utf-16")
        case 5:
            return b"\xff" + text.encode()
        case 6:
            return json.dumps(value, indent=rng.choice((0, 8))).encode()
    return text.encode()


def mutate_bytes(content: bytes, rng: Random) -> bytes:
    """A copy with a bit flipped, a byte changed, a stretch gone, doubled, emptied or moved."""
    changed = bytearray(content or b"\0")
    at, size = rng.randrange(len(changed)), rng.choice((1, 2, 8, 64, 1000))
    match rng.randrange(7):
        case 0:
            changed[at] ^= 1 << rng.randrange(8)
        case 1:
            changed[at] = rng.randrange(256)
        case 2:
            del changed[at:]
        case 3:
            del changed[at : at + size]
        case 4:
            changed[at:at] = changed[at : at + size]
        case 5:
            changed[at : at + size] = bytes(len(changed[at : at + size]))
        case 6:
            changed[at:at] = rng.randbytes(size)
    return bytes(changed)


def mutate_text(text: str, rng: Random) -> str:
    """A copy of an option or a name with some characters changed, or another text altogether."""
    odd = [value for value in ODD_VALUES if isinstance(value, str)]
    at = rng.randrange(len(text) + 1)
    return rng.choice(
        (
            rng.choice(odd),
            text[:at] + rng.choice("/.=,-_ \n\0%{(*9aZé") + text[at:],
            text[:at] + text[at + 1 :],
            text + text,
            text[:at] + rng.choice(odd) + text[at:],
        )
    )


def fault_of_message(error: BaseException, *names: str) -> str | None:
    """What is wrong with an error's message: none, many lines, too long, or no name in it."""
    message = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if not message.strip():
        return "no message"
    if len(message.splitlines()) > 1 or not message.isprintable():
        return f"not one line of printable characters: {message[:100]!r}"
    if len(message) > LONGEST_LINE:
        return f"{len(message)} characters: {message[:100]!r}"
    if names and not any(name in message for name in names):
        return f"names none of {names}: {message[:100]!r}"
    return None


@dataclass
class Counts:
    """What became of the inputs. ``faults`` holds what must not be: (input, what happened)."""

    refused: int = 0
    right: int = 0
    faults: list[tuple[Any, str]] = field(default_factory=list)

    @contextmanager
    def judge(self, tried: Any, *refusals: type[BaseException], names: tuple[str, ...] = ()):
        """Run one input inside. An error of ``refusals`` with a good message counts as refused, any
        other error is a fault. The block itself counts what is right, or calls `wrong`."""
        try:
            yield
        except refusals as error:
            self.refused += 1
            if fault := fault_of_message(error, *names):
                self.wrong(tried, fault)
        except Exception as error:
            self.wrong(tried, f"{type(error).__name__}: {str(error)[:200]}")

    def wrong(self, tried: Any, what: str) -> None:
        self.faults.append((tried, what))

    def __str__(self) -> str:
        return f"{self.refused} refused, {self.right} right, {len(self.faults)} faults"
