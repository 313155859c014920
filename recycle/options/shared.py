"""Readers of what a person writes after an option, and options that several commands share."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from pathlib import Path

HEAVIEST = 1_000_000  # a merge's largest weight; products with far larger ones leave fp32
Command = Callable[..., argparse.ArgumentParser]  # a parser for (name, what it does, text, more)


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def whole(least: int) -> Callable[[str], int]:
    """A reader of whole numbers that are not below ``least``, for argparse."""

    def read(text: str) -> int:
        if not re.fullmatch(r"\s*-?[0-9]{1,9}", text) or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text.strip()!r}: a whole number from {least} on")
        return int(text)

    return read


def weight(text: str) -> float:
    value = float(text) if is_number(text) else math.nan
    if not abs(value) <= HEAVIEST:
        words = f"a number from -{HEAVIEST:,} to {HEAVIEST:,}"
        raise argparse.ArgumentTypeError(f"{text.strip()!r}: {words}")
    return value


def temperature(text: str) -> float:
    value = float(text) if is_number(text) else math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text.strip()!r}: a finite number above 0")
    return value


def words(text: str) -> str:
    if not text.strip() or "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r}: a name or a path")
    return text


def path(text: str) -> Path:
    return Path(words(text))


def device_option(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--device",
        type=words,
        default="cpu",
        metavar="cpu|cuda|cuda:N",
        help="where the base lies, trains and answers (default cpu); nothing drawn depends on it",
    )


def set_option(sub: argparse.ArgumentParser, text: str) -> None:
    sub.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=text)
