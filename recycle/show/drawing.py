"""How figures are drawn: one palette, one way to save. They need matplotlib (the plots extra)."""

from __future__ import annotations

import base64
import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

try:
    import matplotlib
    from matplotlib.figure import Figure
except ImportError:
    matplotlib = Figure = None  # type: ignore[assignment, misc]

GREY, RED, BLUE, GREEN = "#9aa5b1", "#c8553d", "#2a6f97", "#6a994e"
PURPLE, GOLD, TEAL, BROWN, DARK = "#8e6c8a", "#bc8a00", "#3aa6a6", "#a0522d", "#333333"
COLOURS = (BLUE, RED, GREEN, GOLD, PURPLE, TEAL, BROWN, GREY, DARK)
# Colours run out before markers do, and not everyone can tell colours apart.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<")
PLOTS_MISSING = "install the plots extra: pip install -e .[plots]"


def available() -> bool:
    return Figure is not None


def colour(i: int) -> str:
    return COLOURS[i % len(COLOURS)]


def marker(i: int) -> str:
    return MARKERS[i % len(MARKERS)]


def panels(width: float, height: float, rows: int = 1, columns: int = 1, **share: Any) -> Any:
    """A figure with its axes as a (rows, columns) array."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **share)


def legend_above(figure: Any, ax: Any, columns: int = 5) -> None:
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncol=columns, frameon=False)


@contextmanager
def plain() -> Iterator[None]:
    """Inside this block names are drawn as they are: a dollar begins no formula, and nothing is
    said of a letter that the font does not have."""
    with matplotlib.rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")
        yield


def png(figure: Any) -> str:
    """The figure as base64, to stand inside a page."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    return base64.b64encode(buffer.getvalue()).decode()


def svg(figure: Any) -> str:
    """The figure as text that is the same at every drawing: without a date, with fixed ids."""
    with matplotlib.rc_context({"svg.hashsalt": "recycle", "svg.fonttype": "none"}):
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    return re.sub(r"[ \t]+$", "", buffer.getvalue(), flags=re.M)
