"""A run's result in one small file, and the README's tables of it."""

from __future__ import annotations

import json
from pathlib import Path

from recycle.claims import NOTHING, Metrics, to_json
from recycle.config import StudyConfig
from recycle.disk import read_json, write_text
from recycle.report import inside_means, judge, lines_of, load_metrics, name_of, rows_of
from recycle.statistics import estimate
from tasks import TASKS

# The methods of the README's tables; the report has all of them.
SHOWN = ("alone", "mean_of_products", "plain_sum", "arrow", "arrow_top1", "oracle", "random_router")
NAMED = ("base", "group", "library", "method", "form")  # the columns of a record that hold names


def record(run: Path, config: StudyConfig, file: Path) -> None:
    """Keep a run's result in a small file: what made it, where, its metrics, controls and
    claims."""
    metrics = load_metrics(run)
    controls, claims = judge(config, metrics)
    environments = read_json(run / "env.json")
    if len(environments) > 1:
        raise ValueError(
            f"{run} was made under {len(environments)} environments (env.json): make it anew to record it"
        )
    seconds: dict[str, dict[str, dict[str, int]]] = {}
    for seed in config.seeds:
        for folder in sorted(path for path in (run / f"seed-{seed}").iterdir() if path.is_dir()):
            passes = [read_json(path)["seconds"] for path in (folder / "passes").glob("*.json")]
            spent = {
                "base": round(read_json(folder / "curve.json")["seconds"]),
                "experts": round(sum(passes)),
            }
            seconds.setdefault(str(seed), {})[folder.name] = spent
    kept = {"task": config.name, **environments[0], "seconds": seconds, **to_json(controls, claims)}
    kept["inside"] = json.loads(
        json.dumps(inside_means(run, config)), parse_float=lambda text: round(float(text), 2)
    )
    # As a table: its columns once, every name once, and a line for each row.
    columns = list(dict.fromkeys(key for row in metrics.rows for key in row))
    names = list(dict.fromkeys(row[key] for row in metrics.rows for key in NAMED))
    place = {name: i for i, name in enumerate(names)}
    lines = [
        [place[row[key]] if key in NAMED else _short(row.get(key)) for key in columns]
        for row in metrics.rows
    ]
    head = json.dumps({**kept, "columns": columns, "names": names}, indent=1)[:-2]
    rows = ",\n".join(json.dumps(line, separators=(",", ":")) for line in lines)
    write_text(file, f'{head},\n "metrics": [\n{rows}\n ]\n}}\n')


def _short(value):
    return round(value, 3) if isinstance(value, float) else value


def recorded_metrics(recorded: dict) -> Metrics:
    rows = [dict(zip(recorded["columns"], line, strict=True)) for line in recorded["metrics"]]
    for row in rows:
        row.update({key: recorded["names"][row[key]] for key in NAMED})
    return Metrics(
        [{key: value for key, value in row.items() if value is not None} for row in rows]
    )


def markdown(recorded: dict) -> str:
    """The README's tables of a recorded study."""
    metrics, task = recorded_metrics(recorded), TASKS[recorded["task"]]
    out = [
        f"`{recorded['command']}` (torch {recorded['torch']}, {recorded['threads']} threads):",
        "",
    ]
    if any(
        c["where"] != NOTHING for c in recorded["controls"]
    ):  # else a study of recipes, which decides nothing
        out += _judged(recorded)
    out += ["| library: method | " + " | ".join(task.titles[s] for s in metrics.groups) + " |"]
    out += ["|---|" + "---|" * len(metrics.groups)]
    out += ["| | " + " | ".join([" / ".join(task.forms)] * len(metrics.groups)) + " |"]
    for line in dict.fromkeys(
        line for group in metrics.groups for line in lines_of(metrics, group)
    ):
        if line[2] in SHOWN:
            shown = []
            for group in metrics.groups:
                rows = rows_of(metrics, group, line)
                shown.append(
                    " / ".join(f"{estimate(rows[form]).mean:.2f}" for form in task.forms)
                    if rows
                    else ""
                )
            out.append(f"| {name_of(line)} | " + " | ".join(shown) + " |")
    return "\n".join([*out, *_inside_markdown(recorded["inside"])]) + "\n"


def _judged(recorded: dict) -> list[str]:
    out = ["| control | value | needs |", "|---|---|---|"]
    out += [
        f"| {c['id']} {c['statement']} | {c['value']:.2f} | {c['needs']} |"
        for c in recorded["controls"]
    ]
    out += ["", "| claim | verdict | evidence |", "|---|---|---|"]
    out += [
        f"| {c['id']} {c['statement']} | {c['verdict']} | {c['evidence']} |"
        for c in recorded["claims"]
    ]
    return [*out, ""]


def _inside_markdown(inside: dict[str, dict]) -> list[str]:
    """What the lens finds behind the last layer, and what is left without one block's adapters."""
    out = []
    for form in next(iter(inside.values()))["lens"] if inside else ():
        columns = [
            (group, name)
            for group, means in inside.items()
            for name in next(iter(means["lens"][form].values()))
        ]
        out += [
            "",
            f"Logit lens behind the last layer, at the end of a {form} question: log-probability of the first word "
            "above shuffled targets, nats.",
            "",
        ]
        out += ["| condition | " + " | ".join(f"{group}: {name}" for group, name in columns) + " |"]
        out += ["|---|" + "---|" * len(columns)]
        first = next(iter(inside))
        for place, condition in enumerate(inside[first]["lens"][form]):
            of_group = {
                group: list(means["lens"][form].values())[place] for group, means in inside.items()
            }
            values = (f"{of_group[group][name][-1]:+.2f}" for group, name in columns)
            out.append(f"| {condition.removesuffix('-' + first)} | " + " | ".join(values) + " |")
    if inside:
        forms = list(next(iter(next(iter(inside.values()))["knock out"].values())))
        out += ["", f"The plain sum with some of its adapters: {' / '.join(forms)}.", ""]
        out += [
            "| adapters that act | " + " | ".join(inside) + " |",
            "|---|" + "---|" * len(inside),
        ]
        for name in next(iter(inside.values()))["knock out"]:
            scores = (
                " / ".join(f"{means['knock out'][name][form]:.2f}" for form in forms)
                for means in inside.values()
            )
            out.append(f"| {name} | " + " | ".join(scores) + " |")
    return out
