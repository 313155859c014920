"""Pieces of HTML that the report is made of: tables that sort, folds, figures."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import Any

from recycle.show import drawing


def printable(text: str) -> str:
    """A text of a run's files as a terminal or a page may show it: without characters that steer
    them or hide others."""
    return "".join(
        c if c.isprintable() or c in "\n\xa0" else "\N{REPLACEMENT CHARACTER}" for c in text
    )


def e(text: str) -> str:
    """A text as HTML: everything that comes from a file passes here."""
    return html.escape(printable(text))


def table(caption: str, heads: Iterable[str], lines: Iterable[str]) -> str:
    """A table that can be sorted; heads are text, lines are HTML."""
    head = "".join(f"<th>{e(text)}" for text in heads)
    return (
        f"<div class=wide><table class=sortable><caption>{e(caption)}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def folded(summary: str, inside: Iterable[str], is_open: bool = False) -> str:
    body = "\n".join(inside)
    return f"<details{' open' if is_open else ''}><summary>{e(summary)}</summary>{body}</details>"


def figure(title: str, draw: Any) -> list[str]:
    """A figure, where matplotlib is installed; ``draw`` makes it, or None where there is nothing to
    show."""
    if not drawing.available():
        return []
    with drawing.plain():
        drawn = draw()
        if drawn is None:
            return []
        image = drawing.png(drawn)
    return [
        f"<h3>{e(title)}</h3><div class=figure>"
        f"<img alt='{e(title)}' src='data:image/png;base64,{image}'></div>"
    ]
