"""Pictures of three claims, for people with the plots extra: error against rank, leakage, two-hop
logits.

Each recomputes its own data in about a second, so a picture never shows numbers from another run.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from theory.claim import TheoryError, generator
from theory.claims.leakage import PAIRS, measured_overlaps, overlap
from theory.claims.linear_adapters import adapted, constructed, predicted_error, problem, product
from theory.claims.two_hop import two_hop_tables

INK, BLUE, ORANGE, GREEN, GREY = "#222222", "#2b6cb0", "#c05621", "#2f855a", "#a0aec0"


def error_against_rank(axes: Any) -> None:
    """linear-error: predicted line, constructed dots, thresholds marked."""
    dim = 16
    ranks = range(0, dim + 1)
    for depth, colour in ((1, BLUE), (2, ORANGE), (4, GREEN)):
        frozen, target = problem(dim, depth, 0, "picture")
        gap = target - product(frozen)
        built = [
            float(
                torch.linalg.matrix_norm(
                    product(adapted(frozen, constructed(frozen, target, r))) - target, 2
                )
            )
            for r in ranks
        ]
        axes.plot(ranks, [predicted_error(gap, r * depth) for r in ranks], color=colour, lw=1.2)
        axes.plot(
            ranks,
            built,
            "o",
            color=colour,
            ms=5,
            label=f"L = {depth}: exact from R = {-(-dim // depth)}",
        )
        axes.axvline(-(-dim // depth), color=colour, ls=":", lw=1)
    axes.set_xlabel("rank R of each adapter")
    axes.set_ylabel("spectral error")
    axes.set_title(
        r"Adapters on L factors: lines $\sigma_{RL+1}(E)$, dots constructed (D = 16)", fontsize=10
    )
    axes.set_ylim(bottom=-0.05)
    axes.legend(loc="upper center", bbox_to_anchor=(0.72, 1.0), framealpha=1, edgecolor="none")


def leakage(axes: Any) -> None:
    """leak-kernel: predicted overlap of every kind of pair against the measured one, five seeds."""
    names = sorted(PAIRS, key=lambda name: overlap(*PAIRS[name]))
    runs = [measured_overlaps(16, 8192, generator("picture leakage", seed)) for seed in range(5)]
    for row, name in enumerate(names):
        predicted = overlap(*PAIRS[name])
        axes.plot(
            [predicted],
            [row],
            "|",
            color=INK,
            ms=22,
            mew=1.5,
            label="predicted" if row == 0 else None,
        )
        measured = [run[name] for run in runs]
        axes.plot(
            measured,
            [row] * 5,
            "o",
            color=BLUE,
            ms=5,
            alpha=0.6,
            label="measured, 5 seeds" if row == 0 else None,
        )
        axes.annotate(
            f"{predicted:.3f}",
            (predicted, row),
            (0, 13),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.6, len(names) - 0.2)
    axes.set_xlim(0, 1.12)
    axes.set_xlabel(r"overlap of the keys,  $\phi(a)\cdot\phi(b)\,/\,|\phi(a)|^2$")
    axes.set_title(
        r"Leakage: $J(\theta)\,|b|/|a|$ against sampled features (m = 8192)", fontsize=10
    )
    axes.legend(frameon=False, loc="lower right")


def two_hop_logits(axes: Any) -> None:
    """two-hop-logits: mean logit of each type of answer to "x R1 R2", K = 2."""
    tables = two_hop_tables(n=32, adapters=2, m=8192, seed=0)
    types = list(next(iter(tables.values()))[0])
    width = 0.26
    for i, ((merge, (predicted, simulated)), colour) in enumerate(
        zip(tables.items(), (BLUE, ORANGE, GREEN), strict=True)
    ):
        places = [x + (i - 1) * width for x in range(len(types))]
        axes.bar(
            places,
            [simulated[t] for t in types],
            width * 0.9,
            color=colour,
            alpha=0.75,
            label=merge,
        )
        axes.plot(
            places,
            [predicted[t] for t in types],
            "_",
            color=INK,
            ms=14,
            mew=2,
            label="predicted" if i == 2 else None,
        )
    axes.axhline(0, color=GREY, lw=0.8)
    axes.set_xticks(range(len(types)), types)
    axes.set_ylabel('mean logit on "x R1 R2"')
    axes.set_title(
        "Two hops: the bridge answers, the right answer is one of many (K = 2, N = 32, m = 8192)",
        fontsize=10,
    )
    axes.legend(frameon=False)


PICTURES: dict[str, Callable[[Any], None]] = {
    "linear-error": error_against_rank,
    "leak-kernel": leakage,
    "two-hop-logits": two_hop_logits,
}


def draw(claim_id: str, path: Path) -> Path:
    """Draw the claim's picture into a PNG file; its folder is made if need be. Returns the path.

    Raises:
        TheoryError: the claim has no picture, matplotlib is missing, or the file cannot be written.
    """
    if claim_id not in PICTURES:
        raise TheoryError(
            f"claim {claim_id!r} has no picture; claims with one: {', '.join(PICTURES)}"
        )
    figure = canvas(8.5, 4.6)
    PICTURES[claim_id](figure.add_subplot())
    return save(figure, path)


def canvas(width: float, height: float) -> Any:
    """An empty matplotlib figure, in inches.

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
    """Write the figure as PNG; its folder is made if need be.

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
            f"picture {path}: cannot be written ({error.strerror}); name a file in a folder you may write to"
        ) from error
    return path
