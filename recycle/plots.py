"""The report's pictures, as base64 PNG. They need matplotlib (the plots extra); everything else runs without it."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from recycle.claims import Estimate, Metrics, estimate
from recycle.config import StudyConfig
from recycle.disk import read_json
from recycle.merge import MERGES
from recycle.methods import SWEEP

try:
    from matplotlib.figure import Figure
except ImportError:
    Figure = None  # type: ignore[assignment, misc]


def available() -> bool:
    return Figure is not None


def _png(figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    return base64.b64encode(buffer.getvalue()).decode()


MAIN = (*MERGES, "arrow", "arrow_top1", "arrow_factors")


def accuracy(metrics: Metrics) -> str:
    """For every set: the weaker hop, direct and chain-of-thought accuracy of joint training and of the main methods."""
    figure = Figure(figsize=(4.2 * len(metrics.sets), 3.4))
    axes = figure.subplots(1, len(metrics.sets), sharey=True, squeeze=False)[0]
    for ax, s in zip(axes, metrics.sets, strict=True):
        lines = [("joint", "alone"), *(("2-combination", m) for m in (*MAIN, "random_router"))]
        bars: dict[str, list[Estimate]] = {"weaker hop": [], "direct": [], "chain of thought": []}
        for library, method in lines:
            at = {
                form: estimate(metrics.where(fact_set=s, library=library, method=method, form=form))
                for form in ("hop1", "hop2", "direct", "cot")
            }
            bars["weaker hop"].append(min(at["hop1"], at["hop2"], key=lambda e: e.mean))
            bars["direct"].append(at["direct"])
            bars["chain of thought"].append(at["cot"])
        for i, ((name, values), colour) in enumerate(zip(bars.items(), ("#9aa5b1", "#c8553d", "#2a6f97"), strict=True)):
            places = [j + (i - 1) * 0.26 for j in range(len(lines))]
            means = [v.mean for v in values]
            errors = [[max(0.0, v.mean - v.low) for v in values], [max(0.0, v.high - v.mean) for v in values]]
            ax.bar(places, means, 0.26, yerr=errors, label=name, color=colour, error_kw={"lw": 0.8, "ecolor": "#333"})
        ax.set_xticks(
            range(len(lines)), [m if lib != "joint" else "joint" for lib, m in lines], rotation=40, ha="right"
        )
        ax.set_title(f"set {s}")
        ax.set_ylim(0, 1.02)
    axes[0].set_ylabel("share right")
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="lower center", bbox_to_anchor=(0.5, 0.98), ncol=3, frameon=False
    )
    return _png(figure)


def sweep(metrics: Metrics) -> str:
    """For every set: accuracy of each form against the weight w of the sum w (dW_1 + dW_2)."""
    weights = {0.5: "mean_of_products", 1.0: "plain_sum", **{w: f"sum_at_{w}" for w in SWEEP}}
    figure = Figure(figsize=(4.2 * len(metrics.sets), 2.8))
    axes = figure.subplots(1, len(metrics.sets), sharey=True, squeeze=False)[0]
    colours = {"hop1": "#9aa5b1", "hop2": "#555555", "direct": "#c8553d", "cot": "#2a6f97"}
    for ax, s in zip(axes, metrics.sets, strict=True):
        for form, colour in colours.items():
            found = [
                estimate(metrics.where(fact_set=s, library="2-combination", method=weights[w], form=form))
                for w in sorted(weights)
            ]
            ax.plot(sorted(weights), [e.mean for e in found], "o-", color=colour, ms=3, label=form)
            ax.fill_between(sorted(weights), [e.low for e in found], [e.high for e in found], color=colour, alpha=0.15)
        ax.set(title=f"set {s}", xlabel="weight of each expert", ylim=(0, 1.03))
    axes[0].set_ylabel("share right")
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="lower center", bbox_to_anchor=(0.5, 0.98), ncol=4, frameon=False
    )
    return _png(figure)


def curves(run: Path, config: StudyConfig) -> str:
    """Loss of the base and of each expert against the step, first seed."""
    folder = run / f"seed-{config.seeds[0]}"
    figure = Figure(figsize=(11, 3.2))
    left, right = figure.subplots(1, 2)
    base = read_json(folder / "base" / "curve.json")["curve"]
    left.plot([p["step"] for p in base], [p["loss"][0] for p in base], color="#2a6f97")
    left.set(title="base", xlabel="step", ylabel="loss, nats per token")
    library = read_json(folder / "library.json")
    colours = {"hop1": "#2a6f97", "hop2": "#c8553d", "target": "#6a994e", "joint": "#555555"}
    shown = set()
    for i, name in enumerate(library["names"]):
        role = name.split("-")[0]
        right.plot(
            [p["step"] for p in library["curve"]],
            [p["loss"][i] for p in library["curve"]],
            color=colours[role],
            lw=0.9,
            label=None if role in shown else role,
        )
        shown.add(role)
    right.set(title="experts, trained at once (own and preserved texts)", xlabel="step")
    right.legend(frameon=False, fontsize=8)
    return _png(figure)


def routing(gates: dict) -> str:
    """Mean gate of the first expert for every layer and question form; the experts' gates sum to one."""
    forms = list(gates["means"])
    paths = list(gates["means"][forms[0]])
    members = gates["members"]
    figure = Figure(figsize=(11, 2.6))
    ax = figure.subplots()
    image = ax.imshow(
        [[gates["means"][form][path][0] for path in paths] for form in forms],
        aspect="auto",
        vmin=0,
        vmax=1,
        cmap="RdBu",
    )
    ax.set_yticks(range(len(forms)), forms)
    short = [p.replace("layers.", "").replace("self_attn.", "").replace("mlp.", "").replace("_proj", "") for p in paths]
    ax.set_xticks(range(len(paths)), short, rotation=60, ha="right", fontsize=8)
    figure.colorbar(image, ax=ax, label=f"gate of {members[0]}\n(1: {members[0]}, 0: {', '.join(members[1:])})")
    return _png(figure)
