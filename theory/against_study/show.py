"""What `theory.study` found, as text, as the README's table, and as a picture."""

from pathlib import Path
from typing import Any

from theory.against_study.reasons import CITY, PERSON
from theory.claim import TheoryError
from theory.pictures import BLUE, GREEN, GREY, INK, ORANGE, canvas, save
from theory.report import RESULTS

STUDY = RESULTS.with_name("study.json")
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


def held(content: dict[str, Any]) -> str:
    rows = content["predictions"]
    return f"{sum(r['verdict'] == 'as predicted' for r in rows)} of {len(rows)} predictions stand"


def by_model(content: dict[str, Any]) -> dict[str, dict[str, float]]:
    """The table of types, averaged over the sets."""
    found: dict[str, list[dict[str, float]]] = {}
    for row in content["types"]:
        found.setdefault(row["model"], []).append(row)
    return {
        model: {key: sum(r[key] for r in rows) / len(rows) for key in COLUMNS}
        for model, rows in found.items()
    }


def text(content: dict[str, Any]) -> str:
    sets = content["sets"]
    out = [
        f"Theory (one layer) against the trained transformer: sum of both hops' experts, {content['questions']} questions "
        f"a set, seeds {', '.join(map(str, content['seeds']))}",
        "",
        f"{'prediction':<64}{'theory':>8}{'seen':>8}  "
        + "".join(f"{s:>7}" for s in sets)
        + "  verdict",
    ]
    for row in content["predictions"]:
        values = "".join(f"{row['sets'][s]:7.2f}" for s in sets)
        out.append(
            f"{row['name']:<64}{row['predicted']:8.2f}{row['observed']:8.2f}  {values}  {row['verdict']}"
        )
    out += [
        f"{held(content)} (within 0.1, mean over sets and seeds)",
        "",
        *types(content),
        "",
        *overlaps(content),
    ]
    return "\n".join(out)


def types(content: dict[str, Any]) -> list[str]:
    out = [
        "Direct question, answer position: mean log-probability of whole names (nats), probability of each type, order "
        "within a type",
        f"{'model':<14}" + "".join(f"{heading:>14}" for heading, _ in COLUMNS.values()),
    ]
    for model, row in by_model(content).items():
        out.append(
            f"{model:<14}" + "".join(f"{row[key]:>14{form}}" for key, (_, form) in COLUMNS.items())
        )
    base, both, why = by_model(content)["base"], by_model(content)["sum"], content["reasons"]
    out += [
        "",
        "Why another city",
        f"  before any expert the base gives cities {base['cities mass']:.2f} of a direct answer and people "
        f"{base['people mass']:.2f}; the sum lifts the bridge by {both['bridge'] - base['bridge']:.1f} nats, to "
        f"{both['bridge']:.1f}, and the best city has {both['best city']:.1f}",
        f'  one word sets the type: people have {why[PERSON]:.2f} after "{PERSON.format(a="A")}" and {why[CITY]:.2f} after '
        f'"{CITY.format(a="A")}" (the sum)',
        f"  the best city is one that the base has read for a namesake of A in {why['namesake base']:.2f} of the questions "
        f"(base), {why['namesake sum']:.2f} (the sum); a random city would be in {why['namesake chance']:.2f}",
    ]
    return out


def overlaps(content: dict[str, Any]) -> list[str]:
    out = [
        "Leakage between keys (MLP features at the last token, the sum): J(theta) and cos(theta) J(theta) at the measured "
        "angle, against the measured cosine",
        f"{'layer':<6}{'pair of prompts':<42}{'clean J':>9}{'cos':>8}{'J':>8}{'cos J':>8}{'measured':>10}"
        f"{'less J':>9}{'less cos J':>12}",
    ]
    for row in sorted(content["overlaps"], key=lambda r: r["layer"]):
        out.append(
            f"{row['layer']:<6}{row['pair']:<42}{row['clean']:9.3f}{row['cos']:8.3f}{row['J']:8.3f}{row['cos J']:8.3f}"
            f"{row['measured']:10.3f}{row['measured'] - row['J']:9.3f}{row['measured'] - row['cos J']:12.3f}"
        )
    return out


def markdown(content: dict[str, Any]) -> str:
    """The README's table of predictions, from the JSON alone."""
    sets = content["sets"]
    rows = [
        f"The theory against the study's transformer: {held(content)} (within 0.1): `{content['command']}`, "
        f"torch {content['torch']}. Sum of both hops' experts.",
        "",
        f"| prediction | theory | seen | {' | '.join(sets)} | verdict |",
        "|---|---|---|" + "---|" * (len(sets) + 1),
    ]
    for row in content["predictions"]:
        values = " | ".join(f"{row['sets'][s]:.2f}" for s in sets)
        name = row["name"].replace("  ", "... ", 1) if row["name"].startswith(" ") else row["name"]
        rows.append(
            f"| {name} | {row['predicted']:.2f} | {row['observed']:.2f} | {values} | {row['verdict']} |"
        )
    return "\n".join(rows) + "\n"


def draw(content: dict[str, Any], path: Path) -> Path:
    """Predictions, answers by type, and overlaps in the last layer, into one PNG file."""
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
    for label, marker, colour in (
        ("theory", "|", INK),
        ("seen, one dot a set: as predicted", "o", GREEN),
        ("seen: differs", "o", ORANGE),
    ):
        axes.plot(
            [],
            [],
            marker,
            color=colour,
            ms=12 if marker == "|" else 6,
            mew=2 if marker == "|" else 1,
            label=label,
        )
    axes.set_yticks(range(len(rows)), [row["name"].strip() for row in rows])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlim(min(-0.05, *(v for r in rows for v in r["sets"].values())) - 0.02, 1.08)
    axes.set_title(
        "One-layer theory against the trained transformer: sum of both hops' experts", fontsize=11
    )
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
    models = list(table)
    for kind, colour in kinds.items():
        values = [table[model][kind] for model in models]
        axes.plot(
            range(len(models)), values, "_", color=colour, ms=40, mew=3, label=COLUMNS[kind][0]
        )
    for place, model in enumerate(models):
        axes.annotate(
            f"{table[model]['cities mass']:.2f}",
            (place, 0.3),
            ha="center",
            va="bottom",
            fontsize=9,
            color=INK,
        )
    axes.annotate(
        "p(cities):", (-0.62, 0.3), ha="right", va="bottom", fontsize=9, annotation_clip=False
    )
    axes.set_ylim(top=1.6)
    axes.set_xlim(-0.6, len(models) - 0.4)
    axes.set_xticks(range(len(models)), [m.replace(" expert", "\nexpert") for m in models])
    axes.set_ylabel("mean log-probability of a name (nats)")
    axes.set_title("Direct question: answers by type (best city: the one answered)", fontsize=11)
    axes.legend(
        frameon=False,
        fontsize=9,
        ncols=5,
        loc="upper center",
        bbox_to_anchor=(0.47, -0.13),
        columnspacing=1.2,
        handlelength=0.6,
        markerscale=0.4,
    )


def in_the_last_layer(axes: Any, content: dict[str, Any]) -> None:
    last = max(row["layer"] for row in content["overlaps"])
    rows = sorted(
        (r for r in content["overlaps"] if r["layer"] == last), key=lambda r: r["measured"]
    )
    places = range(len(rows))
    axes.plot(
        [r["J"] for r in rows],
        places,
        "|",
        color=INK,
        ms=16,
        mew=2,
        label=r"$J(\theta)$, the theory's ReLU",
    )
    axes.plot(
        [r["cos J"] for r in rows],
        places,
        "x",
        color=ORANGE,
        ms=7,
        label=r"$\cos\theta\,J(\theta)$, random gated",
    )
    axes.plot([r["measured"] for r in rows], places, "o", color=BLUE, ms=6, label="measured")
    axes.set_yticks(places, [r["pair"] for r in rows])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlim(right=1)
    axes.set_xlabel("cosine of MLP features at the last token")
    axes.set_title(f"Leakage between keys, layer {last}", fontsize=11)
    axes.legend(frameon=False, fontsize=8, loc="lower right")


def check_plot(path: Path) -> None:
    """Before the work, not after it.

    Raises:
        TheoryError: the file is no PNG by name.
    """
    if path.suffix != ".png":
        raise TheoryError(f"--plot {path}: the picture is a PNG; name a file that ends in .png")
