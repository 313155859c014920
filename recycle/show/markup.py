"""Pieces of HTML that the report is made of: tables that sort, folds, figures."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import Any

from recycle.show import drawing

e = html.escape


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
    """A figure, where matplotlib is installed; ``draw`` makes it."""
    if not drawing.available():
        return []
    image = drawing.png(draw())
    return [
        f"<h3>{e(title)}</h3><div class=figure>"
        f"<img alt='{e(title)}' src='data:image/png;base64,{image}'></div>"
    ]
