"""What `compare` measured, as text for a terminal, as a table, and as a picture."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recycle.run.disk import read_json
from theory.against_study.reasons import CITY, PERSON
from theory.pictures import BLUE, GREEN, GREY, INK, ORANGE, canvas, save
from theory.report import RESULTS

STUDY, THEOREMS = RESULTS / "study.json", "theorems*.json"  # of several runs
COLUMNS = {  # of the table of types: key -> (heading, format)
    "right": ("right city", ".2f"),
    "other cities": ("other cities", ".2f"),
    "best city": ("best city", ".2f"),
    "bridge": ("bridge", ".2f"),
    "other bridges": ("other bridges", ".2f"),
    "cities mass": ("p(cities)", ".3f"),
    "people mass": ("p(people)", ".3f"),
    "bridge rank": ("bridge's rank", ".1f"),
    "bridge on top": ("bridge on top", ".2f"),
    "right city on top": ("right on top", ".2f"),
}


def sets_a_number(row: dict[str, Any]) -> bool:
    """Does the theory predict an effect of its own here? The other rows say that nothing happens:
    recall 1, accuracy 0 or chance, no lead."""
    return "bridge" in row["name"] and "written out" not in row["name"]


def by_sort(content: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The predictions, those of an effect first."""
    rows = content["predictions"]
    return {
        "predict an effect and its size": [row for row in rows if sets_a_number(row)],
        "predict that nothing happens": [row for row in rows if not sets_a_number(row)],
    }


def held(content: dict[str, Any]) -> str:
    """How many predictions of either sort stand."""
    counts = (
        f"{sum(row['verdict'] == 'as predicted' for row in rows)} of the {len(rows)} that {sort}"
        for sort, rows in by_sort(content).items()
    )
    return ", ".join(counts)


def by_model(content: dict[str, Any]) -> dict[str, dict[str, float]]:
    """The table of types, averaged over the sets: model -> key of COLUMNS -> number."""
    rows_of: dict[str, list[dict[str, float]]] = {}
    for row in content["types"]:
        rows_of.setdefault(row["model"], []).append(row)
    return {
        model: {key: sum(r[key] for r in rows) / len(rows) for key in COLUMNS}
        for model, rows in rows_of.items()
    }


def text(content: dict[str, Any]) -> str:
    """The predictions, the answers by type, the reasons for them, and the overlaps of keys."""
    parts = [theorems(content)]
    if "predictions" in content:
        parts += [predictions(content), types(content), reasons(content), overlaps(content)]
    return "\n\n".join("\n".join(lines) for lines in parts)


def theorems(content: dict[str, Any]) -> list[str]:
    seeds = ", ".join(map(str, content["seeds"]))
    headings = "".join(f"{s:>7}" for s in content["sets"])
    lines = [
        f"The theorems against this run's experts, both hops new, seeds {seeds}",
        "",
        f"{'':<72}{'theory':>10}{'seen':>8}{'n':>6}  {headings}  verdict",
    ]
    for row in content["theorems"]:
        values = "".join(_or_dash(row["sets"].get(s), 7) for s in content["sets"])
        lines.append(
            f"{row['name']:<72}{_said(row):>10}{_share(row['seen']):>8}{row['n']:6d}  {values}  "
            f"{row['verdict']}"
        )
    return lines


def _said(row: dict[str, Any]) -> str:
    return "-" if row["bound"] is None else f"{row['relation']} {row['bound']:.2f}"


def _or_dash(value: float | None, width: int = 0) -> str:
    return f"{'-' if value is None else _share(value):>{width}}"


def _share(value: float) -> str:
    """Two digits; four where two would hide that it is not 0."""
    return f"{value:.4f}" if 0 < value < 0.005 else f"{value:.2f}"


def markdown_theorems(content: dict[str, Any], of: str) -> str:
    """The table of the theorems for the experts of one run, from the JSON alone."""
    sets = content["sets"]
    lines = [
        f"## The theorems against the experts of {of}",
        "",
        f"`{content['command']}`, torch {content['torch']}, seeds "
        f"{', '.join(map(str, content['seeds']))}. A verdict is about the mean over sets and "
        "seeds. The theory of one layer sets the bridges; T2 sets the bound on right answers, "
        "which experts that interact may pass.",
        "",
        f"| | theory | seen | n | {' | '.join(sets)} | verdict |",
        "|---|---|---|---|" + "---|" * (len(sets) + 1),
    ]
    for row in content["theorems"]:
        values = " | ".join(_or_dash(row["sets"].get(s)) for s in sets)
        lines.append(
            f"| {row['name']} | {_said(row)} | {_share(row['seen'])} | {row['n']} | {values} | "
            f"{row['verdict']} |"
        )
    return "\n".join(lines) + "\n"


def recorded_theorems() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every recorded run's name and content."""
    for path in sorted(RESULTS.glob(THEOREMS)):
        content = read_json(path)
        yield content["command"].split()[4], content


def predictions(content: dict[str, Any]) -> list[str]:
    sets, seeds = content["sets"], ", ".join(map(str, content["seeds"]))
    headings = "".join(f"{s:>7}" for s in sets)
    lines = [
        "Theory (one layer) against the trained transformer: sum of both hops' experts, "
        f"{content['questions']} questions a set, seeds {seeds}",
        "",
        f"{'prediction':<64}{'theory':>8}{'seen':>8}  {headings}  verdict",
    ]
    for row in itertools.chain(*by_sort(content).values()):
        means = f"{row['predicted']:8.2f}{row['observed']:8.2f}"
        values = "".join(f"{row['sets'][s]:7.2f}" for s in sets)
        lines.append(f"{row['name']:<64}{means}  {values}  {row['verdict']}")
    return [*lines, f"stand, within 0.1: {held(content)} (mean over sets and seeds)"]


def types(content: dict[str, Any]) -> list[str]:
    lines = [
        "Direct question, answer position: mean log-probability of whole names (nats), "
        "probability of each type, order within a type",
        f"{'model':<14}" + "".join(f"{heading:>14}" for heading, _ in COLUMNS.values()),
    ]
    for model, row in by_model(content).items():
        cells = (f"{row[key]:>14{form}}" for key, (_, form) in COLUMNS.items())
        lines.append(f"{model:<14}" + "".join(cells))
    return lines


def reasons(content: dict[str, Any]) -> list[str]:
    base, both, why = by_model(content)["base"], by_model(content)["sum"], content["reasons"]
    person, city = PERSON.format(a="A"), CITY.format(a="A")
    lift = both["bridge"] - base["bridge"]
    return [
        "Why another city",
        f"  before any expert the base gives cities {base['cities mass']:.2f} of a direct answer "
        f"and people {base['people mass']:.2f}; the sum lifts the bridge by {lift:.1f} nats, to "
        f"{both['bridge']:.1f}, and the best city has {both['best city']:.1f}",
        f'  one word sets the type: people have {why[PERSON]:.2f} after "{person}" and '
        f'{why[CITY]:.2f} after "{city}" (the sum)',
        "  the best city is one that the base has read for a namesake of A in "
        f"{why['namesake base']:.2f} of the questions (base), {why['namesake sum']:.2f} (the sum); "
        f"a random city would be in {why['namesake chance']:.2f}",
    ]


def overlaps(content: dict[str, Any]) -> list[str]:
    kinds = f"{'clean J':>9}{'cos':>8}{'J':>8}{'cos J':>8}{'measured':>10}"
    lines = [
        "Leakage between keys (MLP features at the last token, the sum): J(theta) and "
        "cos(theta) J(theta) at the measured angle, against the measured cosine",
        f"{'layer':<6}{'pair of prompts':<42}{kinds}{'less J':>9}{'less cos J':>12}",
    ]
    for row in sorted(content["overlaps"], key=lambda r: r["layer"]):
        kernels = f"{row['cos']:8.3f}{row['J']:8.3f}{row['cos J']:8.3f}"
        left = f"{row['measured'] - row['J']:9.3f}{row['measured'] - row['cos J']:12.3f}"
        lines.append(
            f"{row['layer']:<6}{row['pair']:<42}{row['clean']:9.3f}{kernels}"
            f"{row['measured']:10.3f}{left}"
        )
    return lines


def markdown(content: dict[str, Any]) -> str:
    """The table of predictions, from the JSON alone."""
    sets = content["sets"]
    lines = [
        "## Against the study's transformer",
        "",
        f"Of the one-layer theory's predictions stand, within 0.1: {held(content)}. "
        f"`{content['command']}`, torch {content['torch']}. Sum of both hops' experts.",
    ]
    for sort, rows in by_sort(content).items():
        lines += [
            "",
            f"Predictions that {sort}:",
            "",
            f"| prediction | theory | seen | {' | '.join(sets)} | verdict |",
            "|---|---|---|" + "---|" * (len(sets) + 1),
        ]
        for row in rows:
            numbers = (row["predicted"], row["observed"], *(row["sets"][s] for s in sets))
            values = " | ".join(f"{number:.2f}" for number in numbers)
            name = row["name"].strip() if row["name"].startswith(" ") else row["name"]
            lines.append(f"| {name} | {values} | {row['verdict']} |")
    return "\n".join(lines) + "\n"


def draw(content: dict[str, Any], path: Path) -> Path:
    """Predictions, answers by type, and overlaps in the last layer, in one PNG file; returns its
    path.

    Raises:
        TheoryError: matplotlib is missing, or the file cannot be written.
    """
    figure = canvas(13.5, 10)
    upper, lower = figure.subfigures(2, 1, height_ratios=(1, 1.05))
    left, right = lower.subfigures(1, 2, width_ratios=(1.15, 1))
    predicted_against_observed(upper.add_subplot(), content)
    answers_by_type(left.add_subplot(), content)
    in_the_last_layer(right.add_subplot(), content)
    return save(figure, path)


def predicted_against_observed(axes: Any, content: dict[str, Any]) -> None:
    rows = content["predictions"][::-1]
    for place, row in enumerate(rows):
        seen = list(row["sets"].values())
        colour = GREEN if row["verdict"] == "as predicted" else ORANGE
        axes.plot([row["predicted"], row["observed"]], [place, place], color=GREY, lw=1.2, zorder=1)
        axes.plot([row["predicted"]], [place], "|", color=INK, ms=20, mew=2, zorder=2)
        axes.plot(seen, [place] * len(seen), "o", color=colour, ms=6, alpha=0.75, zorder=3)
    axes.plot([], [], "|", color=INK, ms=12, mew=2, label="theory")
    axes.plot([], [], "o", color=GREEN, ms=6, label="seen, one dot a set: as predicted")
    axes.plot([], [], "o", color=ORANGE, ms=6, label="seen: differs")
    axes.set_yticks(range(len(rows)), [row["name"].strip() for row in rows])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    lowest = min(-0.05, *(value for row in rows for value in row["sets"].values()))
    axes.set_xlim(lowest - 0.02, 1.08)
    title = "One-layer theory against the trained transformer: sum of both hops' experts"
    axes.set_title(title, fontsize=11)
    axes.legend(frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.4, -0.06), fontsize=9)


def answers_by_type(axes: Any, content: dict[str, Any]) -> None:
    table = by_model(content)
    kinds = {
        "best city": INK,
        "right": GREEN,
        "other cities": GREY,
        "bridge": ORANGE,
        "other bridges": BLUE,
    }
    places = range(len(table))
    for kind, colour in kinds.items():
        values = [row[kind] for row in table.values()]
        axes.plot(places, values, "_", color=colour, ms=40, mew=3, label=COLUMNS[kind][0])
    above = {"va": "bottom", "fontsize": 9}
    for place, row in zip(places, table.values(), strict=True):
        axes.annotate(f"{row['cities mass']:.2f}", (place, 0.3), ha="center", color=INK, **above)
    axes.annotate("p(cities):", (-0.62, 0.3), ha="right", annotation_clip=False, **above)
    axes.set_ylim(top=1.6)
    axes.set_xlim(-0.6, len(table) - 0.4)
    axes.set_xticks(places, [model.replace(" expert", "\nexpert") for model in table])
    axes.set_ylabel("mean log-probability of a name (nats)")
    axes.set_title("Direct question: answers by type (best city: the one answered)", fontsize=11)
    close = {"columnspacing": 1.2, "handlelength": 0.6, "markerscale": 0.4, "fontsize": 9}
    axes.legend(frameon=False, ncols=5, loc="upper center", bbox_to_anchor=(0.47, -0.13), **close)


def in_the_last_layer(axes: Any, content: dict[str, Any]) -> None:
    last = max(row["layer"] for row in content["overlaps"])
    rows = [row for row in content["overlaps"] if row["layer"] == last]
    rows.sort(key=lambda row: row["measured"])
    places = range(len(rows))
    relu, gated, measured = ([row[key] for row in rows] for key in ("J", "cos J", "measured"))
    axes.plot(relu, places, "|", color=INK, ms=16, mew=2, label=r"$J(\theta)$, the theory's ReLU")
    label = r"$\cos\theta\,J(\theta)$, random gated"
    axes.plot(gated, places, "x", color=ORANGE, ms=7, label=label)
    axes.plot(measured, places, "o", color=BLUE, ms=6, label="measured")
    axes.set_yticks(places, [row["pair"] for row in rows])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlim(right=1)
    axes.set_xlabel("cosine of MLP features at the last token")
    axes.set_title(f"Leakage between keys, layer {last}", fontsize=11)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
