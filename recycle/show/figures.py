"""Figures of a run's metrics and training curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recycle.decide.metrics import Metrics, Row
from recycle.decide.statistics import Estimate, estimate
from recycle.plan import STANDARD_BASE, STANDARD_RECIPE, Expert
from recycle.reuse.methods import ALONE, EVERY, MAIN, MEAN_OF_PRODUCTS, ORACLE, RANDOM_ROUTER, SWEEP
from recycle.run.folder import base_folder
from recycle.run.ledger import Ledger
from recycle.show.drawing import BLUE, DARK, GREY, RED, colour, legend_above, panels
from recycle.show.tables import base_title
from recycle.studies import Design, Study
from recycle.train.base import read_curve
from recycle.train.experts import read_pass

FORM_COLOURS = (GREY, "#555555", RED, BLUE)
BARS = (*MAIN, ORACLE, RANDOM_ROUTER)


def bounds(estimates: Sequence[Estimate]) -> list[list[float]]:
    """Lengths of error bars below and above."""
    return [
        [max(0.0, e.mean - e.low) for e in estimates],
        [max(0.0, e.high - e.mean) for e in estimates],
    ]


def accuracy(design: Design, metrics: Metrics, groups: Sequence[str], chance: float) -> Any:
    """For every group: the weakest component after the merge and each harder form, under joint
    training and under the methods of the library that the study is about."""
    world = design.world
    harder = [form for form in world.forms if form not in world.components]
    figure, axes = panels(max(6.4, 4.6 * len(groups)), 3.8, 1, len(groups), sharey=True)
    for ax, group in zip(axes[0], groups, strict=True):
        about = next(x for x in design.libraries if x.inside and x.group == group)
        lines = {"joint training": metrics.where(group=group, library="joint", method=ALONE.name)}
        for method in BARS:
            lines[method.name] = metrics.where(group=group, library=about.name, method=method.name)
        lines = {name: rows for name, rows in lines.items() if rows}
        bars: dict[str, list[Estimate]] = {n: [] for n in ("weakest component", *harder)}
        for rows in lines.values():
            at = {f: estimate(row for row in rows if row.form == f) for f in world.forms}
            weakest = min((at[form] for form in world.components), key=lambda e: e.mean)
            bars["weakest component"].append(weakest)
            for form in harder:
                bars[form].append(at[form])
        width = 0.8 / len(bars)
        for i, ((name, values), shade) in enumerate(
            zip(bars.items(), (GREY, RED, BLUE), strict=False)
        ):
            places = [j + (i - (len(bars) - 1) / 2) * width for j in range(len(lines))]
            style = {"lw": 0.8, "ecolor": DARK}
            ax.bar(
                places,
                [e.mean for e in values],
                width,
                yerr=bounds(values),
                label=name,
                color=shade,
                error_kw=style,
            )
        ax.axhline(chance, color=DARK, lw=0.8, ls=":", label=f"chance, {chance:.2f}")
        names = [name.replace("_", " ") for name in lines]
        ax.set_xticks(range(len(lines)), names, rotation=40, ha="right")
        ax.set(title=f"{world.titles[group]}\n{about}", ylim=(0, 1.02))
    axes[0, 0].set_ylabel("share of questions answered right")
    legend_above(figure, axes[0, 0])
    return figure


def headline(design: Design, metrics: Metrics, chance: float) -> Any:
    """The figure that the design names as its main finding; None where nothing of it was
    measured."""
    shown = design.headline
    assert shown is not None
    asked = {row.key.base for row in metrics.rows if row.key.group == shown.group}
    measured = [base for base in shown.bases if base in asked]
    if not measured:
        return None
    specs = {library.base.name: library.base for library in design.libraries}
    figure, axes = panels(max(6.4, 5.2 * len(measured)), 3.8, 1, len(measured), sharey=True)
    for ax, base in zip(axes[0], measured, strict=True):
        width = 0.8 / len(shown.libraries)
        for i, library in enumerate(shown.libraries):
            rows = [
                metrics.where(
                    base=base, group=shown.group, library=library, method=method, form=shown.form
                )
                for method in shown.methods
            ]
            shares = {j: estimate(own) for j, own in enumerate(rows) if own}
            places = [j + (i - (len(shown.libraries) - 1) / 2) * width for j in shares]
            heights, style = [e.mean for e in shares.values()], {"lw": 0.8, "ecolor": DARK}
            limits = bounds(list(shares.values()))
            ax.bar(
                places, heights, width, yerr=limits, label=library, color=colour(i), error_kw=style
            )
        alone = metrics.where(
            base=base,
            group=shown.group,
            library=shown.reference,
            method=ALONE.name,
            form=shown.form,
        )
        if alone:
            level = estimate(alone).mean
            ax.axhline(level, color=DARK, lw=1, ls="--", label=f"{shown.reference} training")
        ax.axhline(chance, color=DARK, lw=0.8, ls=":", label=f"chance, {chance:.2f}")
        names = [name.replace("_", " ") for name in shown.methods]
        ax.set_xticks(range(len(names)), names, rotation=40, ha="right")
        about = f"\n{specs[base]}" if len(measured) > 1 else ""
        ax.set(title=f"{design.world.titles[shown.group]}{about}", ylim=(0, 1.02))
    axes[0, 0].set_ylabel("share of questions answered right")
    legend_above(figure, axes[0, 0])
    return figure


def sweep(study: Study, metrics: Metrics) -> Any:
    """For every library that the study is about: accuracy of each form against the weight w of
    w (dW_1 + dW_2). The mean of two is the weight 1/2. None where no such library was swept."""
    weights = {m.weight: m.name for m in EVERY if m.weight is not None}
    weights[0.5] = MEAN_OF_PRODUCTS.name
    swept = [x for x in study.opened if len(x.experts) == 2 and set(SWEEP) <= set(x.methods)]
    if not swept:
        return None
    figure, axes = panels(max(5.0, 4.2 * len(swept)), 3.0, 1, len(swept), sharey=True)
    for ax, library in zip(axes[0], swept, strict=True):
        for form, shade in zip(study.design.world.forms, FORM_COLOURS, strict=False):
            points = {
                w: estimate(rows)
                for w, method in sorted(weights.items())
                if (
                    rows := metrics.where(
                        base=library.base.name,
                        group=library.group,
                        library=library.name,
                        method=method,
                        form=form,
                    )
                )
            }
            _band(ax, points, color=shade, label=form)
        title = library.group if not library.base.title else f"{library.group}, {library.base}"
        ax.set(title=title, xlabel="weight of each expert", ylim=(0, 1.03))
    axes[0, 0].set_ylabel("share right")
    legend_above(figure, axes[0, 0])
    return figure


def _band(ax: Any, points: Mapping[Any, Estimate], color: str, label: str) -> None:
    """A line through means, with a band between the limits."""
    places, found = list(points), list(points.values())
    ax.plot(places, [e.mean for e in found], "o-", color=color, ms=3, label=label)
    ax.fill_between(
        places, [e.low for e in found], [e.high for e in found], color=color, alpha=0.13
    )


def bases(study: Study, metrics: Metrics) -> Any:
    """Each form's accuracy by base, for every group: the library that all bases have, main methods
    pooled."""
    world, names = study.design.world, metrics.bases
    main = [method.name for method in MAIN]
    pooled = [{row.key.library for row in metrics.where(base=base, method=main)} for base in names]
    shared = set.intersection(*pooled)
    library = next(row.key.library for row in metrics.rows if row.key.library in shared)
    figure, axes = panels(3.2 * len(world.forms), 3.2, 1, len(world.forms), sharey=True)
    for ax, form in zip(axes[0], world.forms, strict=True):
        for i, group in enumerate(metrics.groups):
            found = {}
            for place, base in enumerate(names):
                rows = metrics.where(
                    base=base, group=group, library=library, method=main, form=form
                )
                if rows:
                    found[place] = estimate(rows)
            if len(found) > 1:
                means, limits = [e.mean for e in found.values()], bounds(list(found.values()))
                ax.errorbar(
                    list(found), means, limits, fmt="o", ms=4, color=colour(i), label=group, lw=0.8
                )
        titles = [base_title(study.design, name) for name in names]
        ax.set_xticks(range(len(names)), titles, rotation=40, ha="right")
        ax.set(title=form, ylim=(-0.02, 1.03))
    axes[0, 0].set_ylabel("share right")
    legend_above(figure, axes[0, 0])
    return figure


def growth(study: Study, metrics: Metrics) -> Any:
    """A column for each axis along which libraries grow: the weakest component and each harder form
    by method, and below it the experts' interference."""
    world = study.design.world
    grown: dict[str, dict[int, list[Row]]] = {}
    for library in study.libraries:
        if len(library.experts) > 1:
            rows = metrics.where(base=library.base.name, library=library.name)
            for axis, value in library.axes.items():
                grown.setdefault(axis, {})[value] = rows
    grown = {
        axis: {v: at[v] for v in sorted(at) if at[v]}
        for axis, at in grown.items()
        if sum(map(bool, at.values())) > 1
    }
    harder = [form for form in world.forms if form not in world.components]
    titles = ("weakest component", *harder, "interference")
    figure, axes = panels(
        3.1 * len(grown), 2.4 * len(titles), len(titles), len(grown), sharey="row"
    )
    for column, (axis, at) in enumerate(grown.items()):
        methods = list(dict.fromkeys(row.key.method for rows in at.values() for row in rows))
        for i, method in enumerate(methods):
            for ax, title in zip(axes[:-1, column], titles, strict=False):
                forms = [title] if title in harder else world.components
                _band(ax, _by_value(at, method, forms), color=colour(i), label=method)
        _interference(axes[-1, column], at)
        for ax, title in zip(axes[:, column], titles, strict=True):
            ax.set_xscale("log", base=2)
            ax.set_xticks(list(at), list(at))
            ax.minorticks_off()
            ax.set_title(f"{title} by {axis}", fontsize=9)
        for ax in axes[:-1, column]:
            ax.set_ylim(-0.03, 1.03)
    axes[-1, 0].legend(frameon=False, fontsize=7)
    legend_above(figure, axes[0, 0])
    return figure


def _by_value(
    at: Mapping[int, list[Row]], method: str, forms: Sequence[str]
) -> dict[int, Estimate]:
    """The lowest of these forms' shares at each value."""
    return {
        value: min(
            (
                estimate(r for r in rows if r.key.method == method and r.form == form)
                for form in forms
            ),
            key=lambda e: e.mean,
        )
        for value, rows in at.items()
        if any(row.key.method == method for row in rows)
    }


def _interference(ax: Any, at: Mapping[int, list[Row]]) -> None:
    measured = {v: next((r for r in rows if "cosine" in r.values), None) for v, rows in at.items()}
    known = {value: row for value, row in measured.items() if row is not None}
    for name, style in (("cosine", "o-"), ("input overlap", "s--"), ("output overlap", "^:")):
        heights = [row.values[name] for row in known.values()]
        ax.plot(list(known), heights, style, ms=3, color=DARK, label=name)


def curves(study: Study, run: Path, seed: int) -> Any:
    """Loss of a seed's standard base, and of each expert on it, against the step."""
    folder = base_folder(run, seed, STANDARD_BASE.name)
    figure, axes = panels(11, 3.4, 1, 2)
    left, right = axes[0]
    ledger = Ledger(folder)
    if (folder / "curve.json").exists():
        base = read_curve(ledger)
        _curve(left, base["curve"], 0, color=BLUE)
        left.set(title=f"base ({base['padding']:.0%} padding)", xlabel="step")
        left.set_ylabel("loss, nats per token")
    shades: dict[str, str] = {}
    shares = []
    by_slug = {e.slug: e for experts in study.passes(STANDARD_BASE.name).values() for e in experts}
    for name in study.passes(STANDARD_BASE.name):
        if not (folder / "passes" / f"{name}.json").exists():
            continue
        trained = read_pass(ledger, name)
        shares.append(trained["padding"])
        for i, slug in enumerate(trained["names"]):
            if slug not in by_slug:
                continue
            title = curve_title(by_slug[slug])
            label = None if title in shades else title
            shades.setdefault(title, colour(len(shades)))
            _curve(right, trained["curve"], i, color=shades[title], lw=0.8, label=label)
    share = f"{min(shares):.0%} to {max(shares):.0%} padding" if shares else "none"
    right.set(title=f"experts on own and preserved texts ({share})", xlabel="step")
    right.legend(frameon=False, fontsize=7, ncol=2)
    return figure


def curve_title(expert: Expert) -> str:
    """What a curve is told by in the legend: the recipe, where it is not the standard one."""
    return expert.reads if expert.recipe == STANDARD_RECIPE else str(expert.recipe)


def _curve(ax: Any, points: Sequence[Mapping[str, Any]], i: int, **style: Any) -> None:
    ax.plot([p["step"] for p in points], [p["loss"][i] for p in points], **style)
