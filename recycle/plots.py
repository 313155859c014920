"""The report's pictures, as base64 PNG. They need matplotlib (the plots extra); everything else
runs without it."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

from recycle.claims import Metrics
from recycle.disk import read_json
from recycle.methods import MAIN, SWEEP
from recycle.statistics import Estimate, Row, estimate
from tasks import Task

try:
    from matplotlib.figure import Figure
except ImportError:
    Figure = None  # type: ignore[assignment, misc]

COLOURS = ("#9aa5b1", "#c8553d", "#2a6f97", "#6a994e")


def available() -> bool:
    return Figure is not None


def _png(figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    return base64.b64encode(buffer.getvalue()).decode()


def accuracy(metrics: Metrics, task: type[Task]) -> str:
    """For every group: the weakest component and each harder form, of joint training and of the
    main library's methods."""
    harder = [form for form in task.forms if form not in task.components]
    figure = Figure(figsize=(4.2 * len(metrics.groups), 3.4))
    axes = figure.subplots(1, len(metrics.groups), sharey=True, squeeze=False)[0]
    for ax, group in zip(axes, metrics.groups, strict=True):
        many = [
            r
            for r in metrics.where(group=group)
            if r["method"] in (*MAIN, "oracle", "random_router")
        ]
        library = many[0]["library"] if many else ""
        lines = [
            ("joint", "alone"),
            *((library, m) for m in dict.fromkeys(r["method"] for r in many)),
        ]
        bars: dict[str, list[Estimate]] = {name: [] for name in ("weakest component", *harder)}
        lines = [(lib, m) for lib, m in lines if metrics.where(group=group, library=lib, method=m)]
        for lib, method in lines:
            at = {
                form: estimate(metrics.where(group=group, library=lib, method=method, form=form))
                for form in task.forms
            }
            bars["weakest component"].append(
                min((at[form] for form in task.components), key=lambda e: e.mean)
            )
            for form in harder:
                bars[form].append(at[form])
        width = 0.8 / len(bars)
        for i, ((name, values), colour) in enumerate(zip(bars.items(), COLOURS, strict=False)):
            places = [j + (i - (len(bars) - 1) / 2) * width for j in range(len(lines))]
            means = [v.mean for v in values]
            errors = [
                [max(0.0, v.mean - v.low) for v in values],
                [max(0.0, v.high - v.mean) for v in values],
            ]
            ax.bar(
                places,
                means,
                width,
                yerr=errors,
                label=name,
                color=colour,
                error_kw={"lw": 0.8, "ecolor": "#333"},
            )
        ax.set_xticks(
            range(len(lines)),
            [m if lib != "joint" else "joint" for lib, m in lines],
            rotation=40,
            ha="right",
        )
        ax.set(title=f"{group}: {library}", ylim=(0, 1.02))
    axes[0].set_ylabel("share right")
    _legend(figure, axes[0])
    return _png(figure)


def sweep(metrics: Metrics, task: type[Task]) -> str:
    """For every group: accuracy of each form against the weight w of the sum w (dW_1 + dW_2) of the
    main library."""
    weights = {0.5: "mean_of_products", 1.0: "plain_sum", **{w: f"sum_at_{w}" for w in SWEEP}}
    swept = [r for r in metrics.where(method=f"sum_at_{SWEEP[0]}")]
    library = swept[0]["library"]
    groups = [group for group in metrics.groups if any(r["group"] == group for r in swept)]
    figure = Figure(figsize=(4.2 * len(groups), 2.8))
    axes = figure.subplots(1, len(groups), sharey=True, squeeze=False)[0]
    for ax, group in zip(axes, groups, strict=True):
        for form, colour in zip(
            task.forms, ("#9aa5b1", "#555555", "#c8553d", "#2a6f97"), strict=False
        ):
            found = [
                estimate(metrics.where(group=group, library=library, method=weights[w], form=form))
                for w in sorted(weights)
            ]
            ax.plot(sorted(weights), [e.mean for e in found], "o-", color=colour, ms=3, label=form)
            ax.fill_between(
                sorted(weights),
                [e.low for e in found],
                [e.high for e in found],
                color=colour,
                alpha=0.15,
            )
        ax.set(title=group, xlabel="weight of each expert", ylim=(0, 1.03))
    axes[0].set_ylabel("share right")
    _legend(figure, axes[0])
    return _png(figure)


def bases(metrics: Metrics, task: type[Task]) -> str:
    """Each form's accuracy by base, for every group: the first library that all bases have, main
    methods pooled."""
    shared = set.intersection(
        *(
            {r["library"] for r in metrics.rows if r["base"] == base and r["method"] in MAIN}
            for base in metrics.bases
        )
    )
    library = next(r["library"] for r in metrics.rows if r["library"] in shared)
    figure = Figure(figsize=(3.2 * len(task.forms), 3))
    axes = figure.subplots(1, len(task.forms), sharey=True, squeeze=False)[0]
    for ax, form in zip(axes, task.forms, strict=True):
        for group, colour in zip(metrics.groups, COLOURS, strict=False):
            found = {
                base: estimate(rows)
                for base in metrics.bases
                if (
                    rows := metrics.where(
                        base=base, group=group, library=library, method=MAIN, form=form
                    )
                )
            }
            if len(found) > 1:
                places = [metrics.bases.index(base) for base in found]
                errors = [
                    [max(0.0, e.mean - e.low) for e in found.values()],
                    [max(0.0, e.high - e.mean) for e in found.values()],
                ]
                ax.errorbar(
                    places,
                    [e.mean for e in found.values()],
                    errors,
                    fmt="o",
                    ms=4,
                    color=colour,
                    label=group,
                    lw=0.8,
                )
        ax.set_xticks(range(len(metrics.bases)), metrics.bases, rotation=40, ha="right")
        ax.set(title=form, ylim=(-0.02, 1.03))
    axes[0].set_ylabel("share right")
    _legend(figure, axes[0])
    return _png(figure)


GROWTH = re.compile(r"(?P<kind>.*), (?P<axis>[a-z]+) (?P<value>\d+)$")  # of a library's name


def growth(metrics: Metrics, task: type[Task]) -> str:
    """A column for each axis that libraries' names count along: the weakest component and each
    harder form by method, and the experts' interference below."""
    found: dict[str, dict[int, list[Row]]] = {}
    for row in metrics.rows:
        if (name := GROWTH.match(row["library"])) and "combination" in name["kind"]:
            found.setdefault(name["axis"], {}).setdefault(int(name["value"]), []).append(row)
    for axis in (
        "facts",
        "width",
        "layers",
    ):  # whose middle is the standard base, measured under the rank's name
        standard = {"facts": 50, "width": 128, "layers": 2}[axis]
        if axis in found and 16 in found.get("rank", {}):
            found[axis][standard] = found["rank"][16]
    harder = [form for form in task.forms if form not in task.components]
    figure = Figure(figsize=(3.1 * len(found), 2.4 * (2 + len(harder))), layout="constrained")
    axes = figure.subplots(2 + len(harder), len(found), sharey="row", squeeze=False)
    methods = list(
        dict.fromkeys(
            row["method"] for at in found.values() for rows in at.values() for row in rows
        )
    )
    for column, (axis, at) in enumerate(found.items()):
        values = sorted(at)
        for method, colour in zip(methods, (*COLOURS, "#8e6c8a"), strict=False):
            own = {value: [row for row in at[value] if row["method"] == method] for value in values}
            lines = {
                form: [estimate(r for r in own[value] if r["form"] == form) for value in values]
                for form in task.forms
            }
            weakest = [
                min((lines[form][i] for form in task.components), key=lambda e: e.mean)
                for i in range(len(values))
            ]
            for ax, line in zip(
                axes[:-1, column], (weakest, *(lines[form] for form in harder)), strict=True
            ):
                ax.plot(values, [e.mean for e in line], "o-", ms=3, color=colour, label=method)
                ax.fill_between(
                    values, [e.low for e in line], [e.high for e in line], color=colour, alpha=0.12
                )
        measured = [next(row for row in at[value] if "cosine" in row) for value in values]
        for key, marker in (("cosine", "o-"), ("input overlap", "s--"), ("output overlap", "^:")):
            axes[-1, column].plot(
                values, [row[key] for row in measured], marker, ms=3, color="#333", label=key
            )
        for ax, title in zip(
            axes[:, column], ("weakest component", *harder, "interference"), strict=True
        ):
            ax.set_xscale("log", base=2)
            ax.set_xticks(values, values)
            ax.minorticks_off()
            ax.set_title(f"{title} by {axis}", fontsize=9)
        for ax in axes[:-1, column]:
            ax.set_ylim(-0.03, 1.03)
    axes[-1, 0].legend(frameon=False, fontsize=7)
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncol=5, frameon=False
    )
    return _png(figure)


def curves(folder: Path) -> str:
    """Loss of a seed's standard base and of each expert on it against the step."""
    figure = Figure(figsize=(11, 3.2))
    left, right = figure.subplots(1, 2)
    base, padding = read_json(folder / "curve.json"), []
    left.plot(
        [p["step"] for p in base["curve"]], [p["loss"][0] for p in base["curve"]], color="#2a6f97"
    )
    left.set(
        title=f"base ({base['padding']:.0%} padding)", xlabel="step", ylabel="loss, nats per token"
    )
    shown: dict[str, str] = {}
    palette = (
        "#2a6f97",
        "#c8553d",
        "#6a994e",
        "#555555",
        "#8e6c8a",
        "#d4a017",
        "#3aa6a6",
        "#a0522d",
        "#9aa5b1",
    )
    for path in sorted((folder / "passes").glob("*.json")):
        trained = read_json(path)
        padding.append(trained["padding"])
        for i, name in enumerate(trained["names"]):
            reads = (
                path.stem.split("-")[1] if "standard" not in path.stem else name.rpartition("-")[0]
            )
            label = None if reads in shown else reads
            shown.setdefault(reads, palette[len(shown) % len(palette)])
            curve = trained["curve"]
            right.plot(
                [p["step"] for p in curve],
                [p["loss"][i] for p in curve],
                color=shown[reads],
                lw=0.8,
                label=label,
            )
    share = f"{min(padding):.0%} to {max(padding):.0%} padding" if padding else "none"
    right.set(title=f"experts on own and preserved texts ({share})", xlabel="step")
    right.legend(frameon=False, fontsize=7, ncol=2)
    return _png(figure)


def _legend(figure, ax) -> None:
    figure.legend(
        *ax.get_legend_handles_labels(),
        loc="lower center",
        bbox_to_anchor=(0.5, 0.98),
        ncol=5,
        frameon=False,
    )
