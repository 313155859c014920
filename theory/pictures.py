"""What all pictures of theory/ share: the palette, an empty figure, points with error bars beside a
prediction, and a PNG or SVG file written whole.

A claim's picture is a function beside the claim. It computes its own data in about a second, so a
picture never shows numbers of another run. Pictures need matplotlib, which the plots extra brings.
"""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from recycle.run.disk import write_text
from recycle.show.drawing import BLUE, GREEN, GREY, svg
from recycle.show.drawing import DARK as INK
from recycle.show.drawing import RED as ORANGE
from theory.claim import Observation, TheoryError

__all__ = ["BLUE", "GREEN", "GREY", "INK", "ORANGE", "canvas", "check_picture", "draw", "save"]

Point = tuple[float, float, float]  # bound, observed, its standard error


def means(observations: Iterable[Observation]) -> dict[str, Point]:
    """Every case's bound, observed number and standard error, means over its seeds."""
    by_case: dict[str, list[Observation]] = {}
    for seen in observations:
        by_case.setdefault(seen.case, []).append(seen)
    points = {}
    for case, group in by_case.items():
        n = len(group)
        error = math.sqrt(sum(o.error**2 for o in group)) / n
        points[case] = (sum(o.bound for o in group) / n, sum(o.observed for o in group) / n, error)
    return points


def number_in(case: str, before: str) -> float:
    """The first number after these words in a case's name."""
    found = re.search(re.escape(before) + r"\s*(-?[\d.]+)", case)
    assert found, f"{case!r} has no number after {before!r}"
    return float(found[1])


def compare(axes: Any, x: Sequence[float], points: Sequence[Point], colour: str, name: str) -> None:
    """A prediction as a tick at each x, and what was observed with two standard errors."""
    bounds, seen, errors = zip(*points, strict=True)
    axes.plot(x, bounds, "_", color=INK, ms=16, mew=1.5, zorder=3)
    bars = {"fmt": "o", "color": colour, "ms": 5, "capsize": 3, "label": name}
    axes.errorbar(x, seen, yerr=[2 * error for error in errors], **bars)


def listed(axes: Any, points: dict[str, Point], colour: str = BLUE) -> None:
    """The same for cases without a number: one below the other, by name."""
    rows = range(len(points))
    bounds, seen, errors = zip(*points.values(), strict=True)
    axes.plot(bounds, rows, "|", color=INK, ms=18, mew=1.5, label="predicted")
    bars = {"fmt": "o", "color": colour, "ms": 5, "capsize": 3}
    label = "observed, 2 standard errors"
    axes.errorbar(seen, rows, xerr=[2 * error for error in errors], label=label, **bars)
    axes.set_yticks(rows, list(points))
    axes.invert_yaxis()
    axes.legend(frameon=False, fontsize=8)


def draw(picture: Callable[[Any], None], path: Path) -> Path:
    """Draw a claim's picture into a PNG or SVG file, 8.5 x 4.6 inches; returns the path.

    Raises:
        TheoryError: matplotlib is missing, or the file cannot be written.
    """
    figure = canvas(8.5, 4.6)
    picture(figure.add_subplot())
    return save(figure, path)


def check_picture(path: Path) -> None:
    """Look before the work, not after it.

    Raises:
        TheoryError: the file's name ends neither in .png nor in .svg.
    """
    if path.suffix not in (".png", ".svg"):
        raise TheoryError(
            f"--plot {path}: a picture is a PNG or an SVG; name a file that ends in .png or .svg"
        )


def canvas(width: float, height: float) -> Any:
    """An empty matplotlib figure; width and height in inches.

    Raises:
        TheoryError: matplotlib is missing.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise TheoryError(
            "pictures need matplotlib, which is not installed: pip install -e .[plots]"
        ) from error
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Any, path: Path) -> Path:
    """Write the figure as its name ends, and make its folder if there is none; returns the path.

    Raises:
        TheoryError: the file cannot be written.
    """
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".svg":
            write_text(path, svg(figure))
        else:
            figure.savefig(path, format="png", metadata={"Software": None})
    except OSError as error:
        raise TheoryError(
            f"picture {path}: cannot be written ({error.strerror}); "
            "name a file in a folder you may write to"
        ) from error
    return path
