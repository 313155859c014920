"""A run's result in one small file, and the generated page of tables about all recorded results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recycle.decide.claims import NOTHING, to_json
from recycle.decide.metrics import ITEMS, Metrics, parse_row
from recycle.decide.statistics import estimate
from recycle.plan import Key
from recycle.run.disk import read_json, write_text
from recycle.run.folder import base_folder
from recycle.show import drawing, figures
from recycle.show.run_files import inside_means, load_metrics
from recycle.show.tables import condition_titles, lines_of, notes_of, rows_of, title_of
from recycle.studies import DESIGNS, Study

# The methods of the generated tables; the report has all of them.
SHOWN = ("alone", "mean_of_products", "plain_sum", "arrow", "arrow_top1", "oracle", "random_router")
NAMED = (*Key._fields[1:], "form")  # the columns of a record that hold names


def record(study: Study, run: Path, file: Path) -> None:
    """Keep a run's result in a small file: what made it, where, its metrics, controls and claims.

    Raises ValueError where the run was made under several environments."""
    metrics = load_metrics(study, run)
    environments = read_json(run / "env.json")
    if len(environments) > 1:
        raise ValueError(
            f"{run} was made under {len(environments)} environments (env.json): "
            "make it anew to record it"
        )
    inside = json.dumps(inside_means(study, run))
    kept = {
        "task": study.design.name,
        **environments[0],
        "seconds": _seconds(study, run),
        **to_json(*study.judge(metrics)),
        "inside": json.loads(inside, parse_float=lambda text: round(float(text), 2)),
        "notes": list(dict.fromkeys(n for _, n in notes_of(metrics, study.design.world.forms))),
    }
    write_text(file, _as_text(kept, [row.to_json() for row in metrics.rows]))


def _seconds(study: Study, run: Path) -> dict[str, dict[str, dict[str, int]]]:
    """Seconds of training, by seed and base."""
    seconds: dict[str, dict[str, dict[str, int]]] = {}
    for seed, spec in study.bases:
        folder = base_folder(run, seed, spec.name)
        passes = [read_json(path)["seconds"] for path in (folder / "passes").glob("*.json")]
        base = read_json(folder / "curve.json")["seconds"]
        spent = {"base": round(base), "experts": round(sum(passes))}
        seconds.setdefault(str(seed), {})[spec.name] = spent
    return seconds


def _as_text(kept: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """JSON with the rows as a table: its columns once, every name once, and a line for each row.
    The items stand last, as in metrics.jsonl."""
    columns = sorted(dict.fromkeys(key for row in rows for key in row), key=lambda c: c == ITEMS)
    names = list(dict.fromkeys(row[key] for row in rows for key in NAMED))
    place = {name: i for i, name in enumerate(names)}

    def value(row: Mapping[str, Any], key: str) -> Any:
        if key in NAMED:
            return place[row[key]]
        return round(row[key], 3) if isinstance(row.get(key), float) else row.get(key)

    lines = [
        json.dumps([value(row, key) for key in columns], separators=(",", ":")) for row in rows
    ]
    head = json.dumps({**kept, "columns": columns, "names": names}, indent=1)[:-2]
    table = ",\n".join(lines)
    return f'{head},\n "metrics": [\n{table}\n ]\n}}\n'


def recorded_metrics(recorded: Mapping[str, Any]) -> Metrics:
    """The rows of a recorded result."""
    world, names, rows = DESIGNS[recorded["task"]].world, recorded["names"], []
    for line in recorded["metrics"]:
        filled = zip(recorded["columns"], line, strict=True)
        flat = {key: value for key, value in filled if value is not None}
        flat |= {key: names[flat[key]] for key in NAMED}
        rows.append(parse_row(flat, world.outcomes, recorded["notes"]))
    return Metrics(rows)


def markdown(recorded: Mapping[str, Any]) -> str:
    """A recorded study as tables: controls, claims, shares right, and looks inside the merges."""
    metrics, design = recorded_metrics(recorded), DESIGNS[recorded["task"]]
    world = design.world
    threads = f"{recorded['threads']} thread{'s' * (recorded['threads'] > 1)}"
    out = [f"`{recorded['command']}` (torch {recorded['torch']}, {threads}):", ""]
    if any(c["where"] != NOTHING for c in recorded["controls"]):  # else a study of recipes
        out += _judged(recorded)
    out += ["| library: method | " + " | ".join(world.titles[g] for g in metrics.groups) + " |"]
    out += ["|---|" + "---|" * len(metrics.groups)]
    out += ["| | " + " | ".join([" / ".join(world.forms)] * len(metrics.groups)) + " |"]
    every = dict.fromkeys(line for g in metrics.groups for line in lines_of(metrics, g))
    for line in (line for line in every if line.method in SHOWN):
        shown = []
        for group in metrics.groups:
            rows = rows_of(metrics, group, line)
            shares = [f"{estimate(rows[form]).mean:.2f}" for form in world.forms] if rows else []
            shown.append(" / ".join(shares))
        out.append(f"| {title_of(design, line)} | " + " | ".join(shown) + " |")
    return "\n".join([*out, *_inside(recorded["inside"], condition_titles(design))]) + "\n"


def _judged(recorded: Mapping[str, Any]) -> list[str]:
    out = ["| control | value | needs |", "|---|---|---|"]
    out += [
        f"| {c['id']}: {c['statement']} | {c['value']:.2f} | {c['needs']} |"
        for c in recorded["controls"]
    ]
    out += ["", "| claim | verdict | evidence |", "|---|---|---|"]
    out += [
        f"| {c['id']} {c['statement']} | {c['verdict']} | {c['evidence']} |"
        for c in recorded["claims"]
    ]
    return [*out, ""]


def _inside(inside: Mapping[str, Any], titles: Mapping[str, str]) -> list[str]:
    """The lens after the last layer, and the scores without one part's adapters."""
    if not inside:
        return []
    first = next(iter(inside.values()))
    out: list[str] = []
    for form, conditions in first["lens"].items():
        columns = [
            (group, target)
            for group, means in inside.items()
            for target in next(iter(means["lens"][form].values()))
        ]
        out += [
            "",
            f"Logit lens after the last layer, at the end of a {form} question: log-probability of "
            "the first word above shuffled targets, nats.",
            "",
            "| condition | " + " | ".join(f"{group}: {target}" for group, target in columns) + " |",
            "|---|" + "---|" * len(columns),
        ]
        for place, condition in enumerate(conditions):
            of_group = {
                group: list(means["lens"][form].values())[place] for group, means in inside.items()
            }
            values = (f"{of_group[group][target][-1]:+.2f}" for group, target in columns)
            out.append(f"| {titles.get(condition, condition)} | {' | '.join(values)} |")
    forms = list(next(iter(first["knock out"].values())))
    out += [
        "",
        f"The plain sum with some of its adapters: {' / '.join(forms)}.",
        "",
        "| adapters that act | " + " | ".join(inside) + " |",
        "|---|" + "---|" * len(inside),
    ]
    for name in first["knock out"]:
        scores = (
            " / ".join(f"{means['knock out'][name][form]:.2f}" for form in forms)
            for means in inside.values()
        )
        out.append(f"| {name} | " + " | ".join(scores) + " |")
    return out


# The generated page ------------------------------------------------------------------------------

PAGE_HEAD = """# Recorded results

`python -m recycle results` makes this page and the figures from the JSON files beside it.
"""


def results_page(folder: Path) -> str:
    """The tables of every recorded result in a folder, as one Markdown page."""
    out = [PAGE_HEAD]
    for path in sorted(folder.glob("*.json")):
        figure = f"![{path.stem}]({path.stem}.svg)\n" if _has_figure(read_json(path)) else ""
        out.append(f"## {path.stem}\n\n{figure}\n{markdown(read_json(path))}")
    return "\n".join(out)


def _has_figure(recorded: Mapping[str, Any]) -> bool:
    return bool(recorded["inside"])


def results_figure(recorded: Mapping[str, Any]) -> str:
    """The accuracy of the recorded study's methods as SVG, in the groups that its claims speak of."""
    design, metrics = DESIGNS[recorded["task"]], recorded_metrics(recorded)
    study = Study(design, design.default)
    groups = [group for group in metrics.groups if group in design.rules.groups]
    return drawing.svg(figures.accuracy(design, metrics, groups, study.chance))


def write_results(folder: Path) -> list[Path]:
    """Write README.md, and a figure beside each record that has one, into the folder."""
    written = [folder / "README.md"]
    write_text(written[0], results_page(folder))
    for path in sorted(folder.glob("*.json")):
        if drawing.available() and _has_figure(recorded := read_json(path)):
            written.append(path.with_suffix(".svg"))
            write_text(written[-1], results_figure(recorded))
    return written
