"""What all pictures of theory/ share: the palette, an empty figure, and a PNG file written whole.

A claim's picture is a function beside the claim. It computes its own data in about a second, so a
picture never shows numbers of another run. Pictures need matplotlib, which the plots extra brings.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from recycle.show.drawing import BLUE, GREEN, GREY
from recycle.show.drawing import DARK as INK
from recycle.show.drawing import RED as ORANGE
from theory.claim import TheoryError

__all__ = ["BLUE", "GREEN", "GREY", "INK", "ORANGE", "canvas", "check_png", "draw", "save"]


def draw(picture: Callable[[Any], None], path: Path) -> Path:
    """Draw a claim's picture into a PNG file, 8.5 x 4.6 inches; returns the path.

    Raises:
        TheoryError: matplotlib is missing, or the file cannot be written.
    """
    figure = canvas(8.5, 4.6)
    picture(figure.add_subplot())
    return save(figure, path)


def check_png(path: Path) -> None:
    """Look before the work, not after it.

    Raises:
        TheoryError: the file's name does not end in .png.
    """
    if path.suffix != ".png":
        raise TheoryError(f"--plot {path}: the picture is a PNG; name a file that ends in .png")


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
    """Write the figure as PNG, and make its folder if there is none; returns the path.

    Raises:
        TheoryError: the file cannot be written.
    """
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="png", metadata={"Software": None})
    except OSError as error:
        raise TheoryError(
            f"picture {path}: cannot be written ({error.strerror}); "
            "name a file in a folder you may write to"
        ) from error
    return path
