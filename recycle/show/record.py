"""A run's result in one small file, and the generated page of tables about all recorded results.

A record says who made its rows and who judged them: the environment of the run, and ``judged``, the
checkout whose rules decided. Where these rules are not those of the run, or stand in no commit, a
person says why in ``rejudged``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recycle.audit.validate import KIND as PREDICTION
from recycle.decide.claims import NOTHING, to_json
from recycle.decide.metrics import ITEMS, Metrics, parse_row
from recycle.decide.statistics import estimate
from recycle.measure.beside import Compared
from recycle.plan import Key
from recycle.run.disk import read_json, write_text
from recycle.run.environment import commands_of, describe_judge, why_dirty, without_folders
from recycle.run.folder import base_folder, read_environments
from recycle.run.ledger import Ledger
from recycle.show import drawing, figures, prediction_table, second_table
from recycle.show.carry_over import Recorded, carry_over
from recycle.show.interactions import interactions_markdown, interactions_of, rounded
from recycle.show.methods_table import costs_of, methods_markdown
from recycle.show.run_files import inside_means, load_metrics
from recycle.show.tables import condition_titles, lines_of, notes_of, rows_of, title_of
from recycle.studies import DESIGNS, Study
from recycle.train.base import Base, read_curve
from recycle.train.experts import read_pass

# The methods of the generated tables; the report has all of them.
SHOWN = ("alone", "mean_of_products", "plain_sum", "arrow", "arrow_top1", "oracle", "random_router")
NAMED = (*Key._fields[1:], "form")  # the columns of a record that hold names


TABLE = ',\n "metrics": [\n'  # between a record's head and its rows


def record(study: Study, run: Path, file: Path, reason: str | None = None) -> None:
    """Keep a run's result in a small file: what made it, where, who judged it, its metrics,
    controls and claims, its seeds and those that were replaced.

    Raises ValueError where the run was made under several environments, or where it is judged by
    other rules than the run's or by a dirty checkout and no ``reason`` is given."""
    metrics = load_metrics(study, run)
    environments = read_environments(run)
    if not environments:
        raise ValueError(f"{run} has no env.json that says what made it: make it anew to record it")
    if len(environments) > 1:
        raise ValueError(
            f"{run} was made under {len(environments)} environments (env.json): "
            "make it anew to record it"
        )
    environment, judge = environments[0], describe_judge()
    if reason is None and (hindrance := _hindrance(environment, judge)):
        raise ValueError(f"{hindrance}: record it with --rejudge REASON, or {_REMEDY}")
    inside, costs = json.dumps(inside_means(study, run)), costs_of(study, run)
    acting = rounded(interactions_of(study, run))
    kept = {
        "task": study.design.name,
        "commands": commands_of(environment),
        **{key: value for key, value in environment.items() if key not in ("command", "commands")},
        "judged": judge,
        **({} if reason is None else {"rejudged": _checked(reason)}),
        "seeds": list(study.config.seeds),
        "replaced": list(study.replaced),
        **({"left out": list(study.left_out)} if study.left_out else {}),
        "chance": study.chance,
        "seconds": _seconds(study, run),
        **({"costs": costs} if costs else {}),
        **({"interactions": acting} if acting else {}),
        **to_json(*study.judge(metrics)),
        "inside": json.loads(inside, parse_float=lambda text: round(float(text), 2)),
        "notes": list(dict.fromkeys(n for _, n in notes_of(metrics, study.design.world.forms))),
    }
    write_text(file, _as_text(kept, [row.to_json() for row in metrics.rows]))


def record_second(
    base: Base, run: Path, compared: Compared, environment: Mapping[str, Any], file: Path | None
) -> str:
    """A second implementation's result as tables; kept in a small file where one is named."""
    kept = second_table.as_record(base, run, compared, environment)
    text = _as_text(kept, [row.to_json() for row in compared.rows])
    if file is not None:
        write_text(file, text)
    return markdown(json.loads(text))


_REMEDY = "judge from a clean checkout of the run's rules"


def _hindrance(environment: Mapping[str, Any], judge: Mapping[str, Any]) -> str | None:
    """Why the judge's verdicts are not those of the rules that stood when the run was made."""
    theirs, ours = (_commit(each.get("rules")) for each in (environment, judge))
    if theirs != ours:
        return f"the run's rules are of commit {theirs[:10]}, and these of {ours[:10]}"
    return why_dirty(judge)


def _commit(rules: str | None) -> str:
    """The commit of rules as an environment has them, "commit date"."""
    return rules.split()[0] if rules else "unknown"


def _checked(reason: str) -> str:
    if not (words := reason.split()):
        raise ValueError("an empty reason: say why other rules judge than those of the run")
    return " ".join(words)


def rejudge(file: Path, reason: str) -> None:
    """Judge a recorded result anew, in its place, by the rules of this checkout. Its rows stay byte
    for byte; its controls and claims, ``judged`` and ``rejudged`` are written anew.

    Raises ValueError where the file is no record or the reason is empty; nothing is changed then.
    """
    reason = _checked(reason)
    recorded, rows = _read_record(file)
    design = DESIGNS[recorded["task"]]
    chance = recorded.get("chance")
    if chance is None:  # an older version recorded it: of a study of the default sizes
        chance = Study(design, design.default).chance
    try:
        metrics = recorded_metrics(recorded)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise ValueError(f"{file}: its rows cannot be read ({error}), it is damaged") from None
    decided = to_json(*design.rules.judge(metrics, chance))
    head = {key: value for key, value in recorded.items() if key != "metrics"}
    head |= {"judged": describe_judge(), "rejudged": reason, **decided}
    columns, names = head.pop("columns"), head.pop("names")
    write_text(file, _head({**head, "columns": columns, "names": names}) + rows)


def _read_record(file: Path) -> tuple[dict[str, Any], str]:
    """A recorded result, and the text of its rows from TABLE on."""
    text = file.read_text(encoding="utf-8")
    try:
        recorded = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{file} is no JSON ({error})") from None
    table = text.find(TABLE)
    needed = ("task", "controls", "claims", "notes", "columns", "names", "metrics")
    if not isinstance(recorded, dict) or any(key not in recorded for key in needed) or table < 0:
        raise ValueError(f"{file} is no recorded result: report RUN --record FILE makes one")
    _check_study(recorded, file)
    if recorded["task"] not in DESIGNS:
        raise ValueError(
            f"{file} is of the unknown task {recorded['task']!r}: another version made this record"
        )
    return recorded, text[table:]


def _check_study(recorded: Mapping[str, Any], file: Path) -> None:
    """Raises ValueError where a record decides no claim."""
    if kind := recorded.get("kind"):
        raise ValueError(
            f"{file} is a record of {kind!r}, which no rule judges: name a study's record"
        )


def _seconds(study: Study, run: Path) -> dict[str, dict[str, dict[str, int]]]:
    """Seconds of training, by seed and base."""
    seconds: dict[str, dict[str, dict[str, int]]] = {}
    for seed, spec in study.bases:
        folder = base_folder(run, seed, spec.name)
        ledger, passes = Ledger(folder), (folder / "passes").glob("*.json")
        trained = [read_pass(ledger, path.stem)["seconds"] for path in passes]
        spent = {"experts": round(sum(trained))}
        if not study.config.checkpoint:
            spent = {"base": round(read_curve(ledger)["seconds"]), **spent}
        seconds.setdefault(str(seed), {})[spec.name] = spent
    return seconds


def _as_text(kept: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """JSON with the rows as a table: its columns once, every name once, and a line for each row.
    The items stand last, as in metrics.jsonl. Of this machine's folders only the names stay."""
    kept = {**kept, "commands": list(map(without_folders, kept["commands"]))}
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
    return _head({**kept, "columns": columns, "names": names}) + _table(lines)


def _head(kept: Mapping[str, Any]) -> str:
    """All of a record but its rows."""
    return json.dumps(kept, indent=1)[:-2]


def _table(lines: Sequence[str]) -> str:
    return TABLE + ",\n".join(lines) + "\n ]\n}\n"


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
    if recorded.get("kind") == PREDICTION:
        return prediction_table.tables(recorded)
    metrics, design = recorded_metrics(recorded), DESIGNS[recorded["task"]]
    world = design.world
    if recorded.get("kind") == second_table.KIND:
        return second_table.tables(recorded, metrics, world.forms)
    threads = f"{recorded['threads']} thread{'s' * (recorded['threads'] > 1)}"
    commands = ", then ".join(f"`{command}`" for command in commands_of(recorded))
    out = [f"{commands} (torch {recorded['torch']}, {threads}):", ""]
    if "rejudged" in recorded:
        judged = recorded["judged"]
        beside = " and uncommitted changes" if judged["dirty"] else ""
        out += [
            f"Judged anew on {judged['when'][:10]} by the rules of commit "
            f"{_commit(judged['rules'])[:10]}{beside}: {recorded['rejudged']}",
            "",
        ]
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
    out += interactions_markdown(design, metrics, recorded.get("interactions", {}))
    out += methods_markdown(design, metrics, recorded.get("costs", {}))
    return "\n".join([*out, *_inside(recorded["inside"], condition_titles(design))]) + "\n"


def _judged(recorded: Mapping[str, Any]) -> list[str]:
    out = ["| control | value | needs |", "|---|---|---|"]
    out += [
        f"| {c['id']}: {c['statement']} | {_value(c)} | {c['needs']} |"
        for c in recorded["controls"]
    ]
    out += ["", "| claim | verdict | evidence |", "|---|---|---|"]
    out += [
        f"| {c['id']} {c['statement']} | {c['verdict']} | {c['evidence']} |"
        for c in recorded["claims"]
    ]
    return [*out, ""]


def _value(control: Mapping[str, Any]) -> str:
    """A recorded control's value, with its interval where that decides."""
    if control["value"] is None or control["where"] == NOTHING:
        return "not measured"
    interval = f" [{control['low']:.2f}, {control['high']:.2f}]" if control.get("by_limit") else ""
    return f"{control['value']:.2f}{interval}"


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


def read_recorded(path: Path) -> Recorded:
    """A recorded study, to be laid beside another one. Raises ValueError for another record."""
    recorded = read_json(path)
    _check_study(recorded, path)
    claims = {claim["id"]: (claim["statement"], claim["verdict"]) for claim in recorded["claims"]}
    return Recorded(path.stem, claims, recorded_metrics(recorded), DESIGNS[recorded["task"]])


# The generated page ------------------------------------------------------------------------------

PAGE_HEAD = """# Recorded results

`python -m recycle results` makes this page and the figures from the JSON files beside it.
"""
# The record of a toy study beside which a record of a checkpoint's stands: what carries over?
TOY_OF = {"two-hop-smollm2": "two-hop-full", "two-hop-smollm2-methods": "two-hop-methods"}


def results_page(folder: Path) -> str:
    """The tables of every recorded result in a folder, as one Markdown page."""
    out = [PAGE_HEAD]
    for path in sorted(folder.glob("*.json")):
        figure = f"![{path.stem}]({path.stem}.svg)\n" if _has_figure(read_json(path)) else ""
        out.append(f"## {path.stem}\n\n{figure}\n{markdown(read_json(path))}")
    for path in sorted(folder.glob("*.json")):
        toy = folder / f"{TOY_OF.get(path.stem)}.json"
        if toy.exists():
            carried = carry_over(read_recorded(toy), read_recorded(path))
            out.append(f"## From {toy.stem} to {path.stem}\n\n{carried}")
    return "\n".join(out)


def _has_figure(recorded: Mapping[str, Any]) -> bool:
    return bool(recorded["inside"])


def results_figure(recorded: Mapping[str, Any]) -> str:
    """The accuracy of the recorded study's methods as SVG, in the groups of its claims."""
    design, metrics = DESIGNS[recorded["task"]], recorded_metrics(recorded)
    study = Study(design, design.default)
    if design.headline:
        return drawing.svg(figures.headline(design, metrics, study.chance))
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
