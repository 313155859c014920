"""Figures of looks inside merges (recycle/measure/mechanism.py and patching.py)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from models.layout import place
from recycle.show.drawing import BLUE, DARK, GREY, colour, legend_above, marker, panels

PANELS = {
    "cosine": ("updates", "cosine"),
    "input": ("input spaces", "mean squared cosine"),
    "output": ("output spaces", "mean squared cosine"),
}


def lens(results: Mapping[str, Mapping[str, Any]]) -> Any:
    """{condition: logit_lens(..)}: a panel for each target, its log-probability above the shuffled
    targets by depth. Bars are two standard deviations of shuffled targets: a point whose bar
    reaches 0 shows nothing."""
    first = next(iter(results.values()))
    targets, depths = list(first["targets"]), len(first["depths"])
    figure, axes = panels(4.6 * len(targets) + 0.6, 3.4, 1, len(targets), sharey=True)
    for ax, target in zip(axes[0], targets, strict=True):
        ax.axhline(0, color=GREY, lw=0.8)
        for i, (condition, result) in enumerate(results.items()):
            at = result["targets"][target]
            signal = [a - b for a, b in zip(at["log_prob"], at["shuffled"], strict=True)]
            ax.errorbar(
                _beside(depths, i, len(results), 0.07),
                signal,
                yerr=[2 * sd for sd in at["shuffled_sd"]],
                color=colour(i),
                marker=marker(i),
                ms=4,
                lw=1,
                elinewidth=0.8,
                label=condition,
            )
        names = ["embedding", *(f"after layer {i}" for i in range(depths - 1))]
        ax.set_xticks(range(depths), names)
        ax.set_xlim(-0.4, depths - 0.6)
        ax.set_title(target)
    axes[0, 0].set_ylabel("log-probability of the target\nabove shuffled targets, nats")
    legend_above(figure, axes[0, 0], min(6, len(results)))
    return figure


def _beside(count: int, i: int, among: int, step: float) -> list[float]:
    """Places 0, 1, .. of the i-th of several series, a little apart from those of the others."""
    return [at + (i - (among - 1) / 2) * step for at in range(count)]


def routing(
    result: Mapping[str, Mapping[str, list]], tokens: Sequence[str], experts: Sequence[str]
) -> Any:
    """routing(..) as two maps, layers by tokens: gate of the first expert, and entropy."""
    paths = list(result)
    figure, axes = panels(2.4 + 0.78 * len(tokens), 1.6 + 0.19 * len(paths), 1, 2, sharey=True)
    gates = [[gate[0] for gate in result[path]["gates"]] for path in paths]
    entropies = [result[path]["entropy"] for path in paths]
    label = f"gate of {experts[0]} (0: {', '.join(experts[1:])})"
    _map(figure, axes[0, 0], gates, label, top=1.0, colours="RdBu")
    _map(figure, axes[0, 1], entropies, "entropy of the gates, nats", top=math.log(len(experts)))
    for ax in axes[0]:
        _name_tokens(ax, tokens)
    axes[0, 0].set_yticks(range(len(paths)), [place(path).short for path in paths], fontsize=8)
    axes[0, 0].set_ylabel("adapted layer")
    return figure


def _map(
    figure: Any,
    ax: Any,
    values: list[list[float]],
    label: str,
    *,
    top: float,
    colours: str = "viridis",
) -> None:
    image = ax.imshow(values, aspect="auto", vmin=0, vmax=top, cmap=colours)
    figure.colorbar(image, ax=ax, label=label)


def _name_tokens(ax: Any, tokens: Sequence[str]) -> None:
    style = {"rotation": 60, "ha": "right", "rotation_mode": "anchor", "fontsize": 8}
    ax.set_xticks(range(len(tokens)), tokens, **style)
    ax.set_xlabel("token")


def heat_maps(
    columns: Mapping[str, Mapping[str, Sequence[Sequence[float]]]], tokens: Sequence[str]
) -> Any:
    """{what is shown: {condition: map}} as panels: a column for each thing that is shown, a row for
    each condition. A map has a list of numbers, one for each token, for every depth from the
    embedding upwards. Blue is above 0 and red below; a column has one scale, which reaches 1 at
    least."""
    conditions = list(next(iter(columns.values())))
    depths = len(next(iter(next(iter(columns.values())).values())))
    figure, axes = panels(
        1 + len(columns) * (1 + 0.38 * len(tokens)),
        1.6 + len(conditions) * (0.4 + 0.19 * depths),
        len(conditions),
        len(columns),
        sharex=True,
        sharey=True,
    )
    for column, (shown, maps) in zip(axes.T, columns.items(), strict=True):
        top = max(abs(v) for by_depth in maps.values() for row in by_depth for v in row)
        top = max(top, 1.0)  # noise far below one nat must not look like a signal
        for ax, (condition, values) in zip(column, maps.items(), strict=True):
            image = ax.imshow(
                values, aspect="auto", origin="lower", vmin=-top, vmax=top, cmap="RdBu"
            )
            ax.set_title(condition, loc="left", fontsize=8)
        where = {"ax": list(column), "location": "top", "aspect": 40, "shrink": 0.8}
        figure.colorbar(image, **where, ticks=(-top, 0, top), format="%.2g", label=shown)
        _name_tokens(column[-1], tokens)
    names = ["embedding", *(f"after layer {i}" for i in range(depths - 1))]
    for ax in axes[:, 0]:
        ax.set_yticks(range(depths), names, fontsize=7)
    return figure


def interference(result: Mapping[str, Any], pair: Sequence[str]) -> Any:
    """interference(..) of one pair of adapters: cosine, input and output overlap by layer. Grey
    steps are what random subspaces have."""
    rows = [row for row in result["pairs"] if row["pair"] == list(pair)]
    figure, axes = panels(13, 3.6, 1, len(PANELS))
    for ax, (key, (title, label)) in zip(axes[0], PANELS.items(), strict=True):
        heights = [row[key] for row in rows]
        ax.plot(range(len(rows)), heights, "o", ms=4, color=BLUE, label="these adapters")
        chance = [0.0 if key == "cosine" else row[f"{key}_random"] for row in rows]
        edges = [i - 0.5 for i in range(len(rows) + 1)]
        ax.stairs(chance, edges, baseline=None, color=GREY, label="random subspaces")
        names = [place(row["path"]).short for row in rows]
        ax.set_xticks(range(len(rows)), names, rotation=60, ha="right", fontsize=8)
        ax.set(title=f"{' and '.join(pair)}: {title}", ylabel=label, xlabel="adapted layer")
        if key != "cosine":
            ax.set_ylim(0, None)
    legend_above(figure, axes[0, 0])
    return figure


def knock_out(result: Mapping[str, Any], label: str = "share right") -> Any:
    """knock_out(..) as grouped bars, one colour for each score: all adapters, none, without and
    with only each part of a block."""
    groups = {"all": result["all"], "none": result["none"]}
    for kind in ("without", "only"):
        for part, scores in result[kind].items():
            at = place(part)
            groups[f"{kind}\n{at.block_title}\n{at.part_title}"] = scores
    names = list(result["all"])
    width = 0.8 / len(names)
    figure, axes = panels(1.5 + (0.45 + 0.22 * len(names)) * len(groups), 3.2)
    ax = axes[0, 0]
    for i, name in enumerate(names):
        heights = [scores[name] for scores in groups.values()]
        places = _beside(len(groups), i, len(names), width)
        ax.bar(places, heights, width, color=colour(i), label=name)
    for edge in (1.5, 1.5 + len(result["without"])):
        ax.axvline(edge, color=GREY, lw=0.8)
    ax.set_xticks(range(len(groups)), list(groups), fontsize=8, color=DARK)
    ax.set(ylabel=label, xlabel="adapters that act")
    legend_above(figure, ax, len(names))
    return figure
