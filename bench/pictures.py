"""The pictures: growth with its limit, and the bars of a run. They need the plots extra."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.growth import GROUPS as GROWTH
from bench.growth import PRODUCTS, TITLES
from bench.protocol import AGAIN, FROZEN, FULL, Row
from bench.report import GROWTH_PEERS, WAY, has_growth, page, read_folder
from bench.targets import cases
from recycle.run.disk import write_text
from recycle.show import drawing


def write_page(folder: Path) -> list[Path]:
    """Write README.md and, where matplotlib is installed, a picture for each record of growth."""
    written = [folder / "README.md"]
    write_text(written[0], page(folder))
    for name, results in read_folder(folder).items():
        if drawing.available() and has_growth(results["rows"]):
            written.append(folder / f"{name}.svg")
            write_text(written[-1], growth_picture(results))
    return written


def growth_picture(results: Mapping[str, Any]) -> str:
    """SVG with one panel for each axis: the time of ours and of a peer over that of the frozen
    layer, the FLOP floor as the limit, and full fine-tuning."""
    rows = [row for row in results["rows"] if row["group"] in GROWTH]
    groups = list(dict.fromkeys(row["group"] for row in rows))
    figure, axes = drawing.panels(3.6 * len(groups), 3.4, 1, len(groups))
    for ax, group in zip(axes[0], groups, strict=True):
        here = [row for row in rows if row["group"] == group]
        arms = [arm for arm in ("ours", *GROWTH_PEERS, FULL) if find_arm(here, arm)]
        styles = {"ours": (drawing.BLUE, "o"), FULL: (drawing.GREEN, None)}
        for arm in arms:
            shade, marker = styles.get(arm, (drawing.RED, "s"))
            points = find_arm(here, arm)
            label = arm if arm in styles else "peer: naive, Arrow's flow, or one by one"
            places = [float(row["case"]) for row in points]
            ax.plot(
                places, [row["ratio"] for row in points], color=shade, marker=marker, label=label
            )
        ours = find_arm(here, "ours")
        places, floors = [float(row["case"]) for row in ours], [row["floor"] for row in ours]
        ax.plot(places, floors, color=drawing.DARK, linestyle="--", label="limit: the FLOP floor")
        over = PRODUCTS if find_arm(here, PRODUCTS) else "the frozen layer"
        ax.set(xscale="log", yscale="log", xlabel=TITLES[GROWTH[group]], ylabel=f"time over {over}")
        ax.set_xticks(places, [row["case"] for row in ours])
        ax.minorticks_off()
        low, high = ax.get_ylim()
        marks = [mark for mark in (1, 1.5, 2, 3, 5, 10, 20, 40) if low <= mark <= high]
        ax.set_yticks(marks, [f"{mark:g}" for mark in marks])
    drawing.legend_above(figure, axes[0][0], 4)
    return drawing.svg(figure)


def find_arm(rows: Sequence[Row], arm: str) -> list[Row]:
    return [row for row in rows if row["arm"] == arm]


def draw(rows: Sequence[Row], path: Path) -> None:
    """Bars of the ratio to frozen for every arm and case, one axis for each group; black lines are
    FLOP floors."""
    from matplotlib.figure import Figure

    layer_rows = [row for row in rows if "ratio" in row and row["group"] not in GROWTH]
    groups = list(dict.fromkeys(row["group"] for row in layer_rows))
    figure = Figure(figsize=(5 * len(groups), 4), layout="constrained")
    axes = figure.subplots(1, len(groups), squeeze=False)[0]
    for axis, group in zip(axes, groups, strict=True):
        group_rows = [row for row in layer_rows if row["group"] == group]
        positions = {case: i for i, (_, case) in enumerate(cases(group_rows, group))}
        arms = list(dict.fromkeys(row["arm"] for row in group_rows))
        arms = [arm for arm in arms if arm not in (FROZEN, AGAIN) and not arm.startswith(WAY)]
        for i, arm in enumerate(arms):
            bars = [row for row in group_rows if row["arm"] == arm]
            offset = 0.8 * (i + 0.5) / len(arms) - 0.4
            axis.bar(
                [positions[row["case"]] + offset for row in bars],
                [row["ratio"] for row in bars],
                0.75 / len(arms),
                yerr=[row["spread"] for row in bars],
                label=arm,
            )
        for row in group_rows:
            position = positions[row["case"]]
            axis.hlines(row["floor"], position - 0.45, position + 0.45, color="black", linewidth=1)
        axis.axhline(1, color="gray", linewidth=0.8)
        axis.set(title=group, xlabel="width", ylabel="time over frozen")
        axis.set_xticks(list(positions.values()), list(positions))
        axis.legend(fontsize="small")
    figure.savefig(path, dpi=120)
