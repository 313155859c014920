"""Pictures of recycle.mechanism's results, as base64 PNG. They need matplotlib (the plots extra),
like recycle.plots."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from recycle.plots import Figure, _png

COLOURS = ("#333333", "#2a6f97", "#c8553d", "#6a994e", "#9b5de5", "#bc8a00")
# Colours run out before markers do, and neither alone is read by everyone.
MARKERS = ("o", "s", "^", "D", "v", "P")


def _short(path: str) -> str:
    return (
        path.replace("layers.", "")
        .replace("self_attn.", "")
        .replace("mlp.", "")
        .replace("_proj", "")
    )


def lens(results: Mapping[str, Mapping[str, Any]]) -> str:
    """{condition: logit_lens(...)}: a panel for each target, log-probability above the shuffled
    targets by depth. Bars are two standard deviations of what shuffled targets have: a point whose
    bar reaches 0 shows nothing."""
    first = next(iter(results.values()))
    names, depths = list(first["targets"]), first["depths"]
    figure = Figure(figsize=(4.6 * len(names) + 0.6, 3.4), layout="constrained")
    axes = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for ax, name in zip(axes, names, strict=True):
        ax.axhline(0, color="#888888", lw=0.8)
        for i, (condition, result) in enumerate(results.items()):
            at = result["targets"][name]
            signal = [
                own - other for own, other in zip(at["log_prob"], at["shuffled"], strict=True)
            ]
            places = [depth + (i - (len(results) - 1) / 2) * 0.07 for depth in range(len(depths))]
            ax.errorbar(
                places,
                signal,
                yerr=[2 * sd for sd in at["shuffled_sd"]],
                color=COLOURS[i % len(COLOURS)],
                marker=MARKERS[i % len(MARKERS)],
                ms=4,
                lw=1,
                elinewidth=0.8,
                label=condition,
            )
        ax.set_xticks(
            range(len(depths)),
            ["embedding", *(d.replace("layer", "after layer") for d in depths[1:])],
        )
        ax.set_xlim(-0.4, len(depths) - 0.6)
        ax.set_title(name)
    axes[0].set_ylabel("log-probability of the target\nabove shuffled targets, nats")
    _legend_above(figure, axes[0], min(6, len(results)))
    return _png(figure)


def routing(
    result: Mapping[str, Mapping[str, list]], tokens: Sequence[str], experts: Sequence[str]
) -> str:
    """routing(...) as two maps, layers by tokens (one label for each position): gate of the first
    expert, and entropy."""
    paths = list(result)
    figure = Figure(
        figsize=(2.4 + 0.78 * len(tokens), 1.6 + 0.19 * len(paths)), layout="constrained"
    )
    left, right = figure.subplots(1, 2, sharey=True)
    for ax, values, top, colours, label in (
        (
            left,
            [[g[0] for g in result[p]["gates"]] for p in paths],
            1.0,
            "RdBu",
            f"gate of {experts[0]} (0: {', '.join(experts[1:])})",
        ),
        (
            right,
            [result[p]["entropy"] for p in paths],
            math.log(len(experts)),
            "viridis",
            "entropy of the gates, nats",
        ),
    ):
        image = ax.imshow(values, aspect="auto", vmin=0, vmax=top, cmap=colours)
        ax.set_xticks(
            range(len(tokens)), tokens, rotation=60, ha="right", rotation_mode="anchor", fontsize=8
        )
        ax.set_xlabel("token")
        figure.colorbar(image, ax=ax, label=label)
    left.set_yticks(range(len(paths)), [_short(path) for path in paths], fontsize=8)
    left.set_ylabel("adapted layer")
    return _png(figure)


def interference(
    results: Mapping[str, Mapping[str, Any]],
    pair: tuple[str, str],
    recall: Mapping[str, str] | None = None,
) -> str:
    """{set: interference(...)} for one pair of adapters: cosine, input and output overlap by layer.
    Grey steps are what random subspaces have. ``recall``, {set: words}, stands beside the set's
    name: what the merge still knows."""
    rows = {
        s: [row for row in result["pairs"] if row["pair"] == list(pair)]
        for s, result in results.items()
    }
    paths = [row["path"] for row in next(iter(rows.values()))]
    figure = Figure(figsize=(13, 3.6), layout="constrained")
    titles = {
        "cosine": ("updates", "cosine"),
        "input": ("input spaces", "mean squared cosine"),
        "output": ("output spaces", "mean squared cosine"),
    }
    axes = figure.subplots(1, len(titles))
    for ax, (key, (title, label)) in zip(axes, titles.items(), strict=True):
        for i, (s, found) in enumerate(rows.items()):
            at = {row["path"]: row for row in found}
            places = [j + (i - (len(rows) - 1) / 2) * 0.18 for j in range(len(paths))]
            ax.plot(
                places,
                [at[path][key] for path in paths],
                ls="none",
                marker=MARKERS[i % len(MARKERS)],
                ms=4,
                color=COLOURS[1 + i % (len(COLOURS) - 1)],
                label=f"{s}: {recall[s]}" if recall else s,
            )
        first = next(iter(rows.values()))
        chance = [row.get(f"{key}_random", 0.0) for row in first]
        ax.stairs(
            chance,
            [j - 0.5 for j in range(len(paths) + 1)],
            baseline=None,
            color="#888888",
            label="random",
        )
        ax.set_xticks(
            range(len(paths)), [_short(path) for path in paths], rotation=60, ha="right", fontsize=8
        )
        ax.set(title=f"{' and '.join(pair)}: {title}", ylabel=label, xlabel="adapted layer")
        if key != "cosine":
            ax.set_ylim(0, None)
    _legend_above(figure, axes[0], 2 if recall else 4)
    return _png(figure)


def knock_out(result: Mapping[str, Any], label: str = "share right") -> str:
    """knock_out(...) as grouped bars, one colour for each score: all adapters, none, without and
    with only each block."""
    groups = {"all": result["all"], "none": result["none"]}
    for kind in ("without", "only"):
        groups |= {f"{kind}\n{_block(block)}": scores for block, scores in result[kind].items()}
    names = list(result["all"])
    width = 0.8 / len(names)
    figure = Figure(
        figsize=(1.5 + (0.45 + 0.22 * len(names)) * len(groups), 3.2), layout="constrained"
    )
    ax = figure.subplots()
    for i, name in enumerate(names):
        places = [j + (i - (len(names) - 1) / 2) * width for j in range(len(groups))]
        ax.bar(
            places,
            [scores[name] for scores in groups.values()],
            width,
            color=COLOURS[1 + i % (len(COLOURS) - 1)],
            label=name,
        )
    for edge in (1.5, 1.5 + len(result["without"])):
        ax.axvline(edge, color="#bbbbbb", lw=0.8)
    ax.set_xticks(range(len(groups)), list(groups), fontsize=8)
    ax.set_ylabel(label)
    ax.set_xlabel("adapters that act")
    _legend_above(figure, ax, len(names))
    return _png(figure)


def _block(name: str) -> str:
    return (
        name.replace("layers.", "layer ")
        .replace(".self_attn", "\nattention")
        .replace(".mlp", "\nMLP")
    )


def _legend_above(figure, ax, columns: int) -> None:
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncol=columns, frameon=False)
