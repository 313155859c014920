"""The report of a run: drawn from what is on disk alone, so it can always be drawn again."""

from __future__ import annotations

import html
import json
from pathlib import Path

from recycle import plots
from recycle.claims import Metrics, decide, estimate, to_json
from recycle.config import StudyConfig
from recycle.disk import read_json, write_json, write_text
from recycle.methods import CONTROLS
from recycle.study import LIBRARIES, ROLES
from tasks.two_hop import FORMS, OUTCOMES

SET_NAMES = {
    "F": "F: new names, new cities",
    "H": "H: new names, real cities",
    "R": "R: real names, real cities, new facts",
}
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 84rem; margin: 2rem auto; padding: 0 1rem; color: #1c1c1c; }
table { border-collapse: collapse; margin: 1rem 0; } caption { text-align: left; font-weight: 600; padding: .3rem 0; }
th, td { padding: .2rem .5rem; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap; }
th { white-space: normal; vertical-align: bottom; }
th:first-child, td:first-child, td.text, th.text { text-align: left; } td.text { white-space: normal; }
td small { color: #777; } .good { color: #11682f; } .bad { color: #a11212; } .open { color: #7a5b00; }
tr.group td { border-bottom: 1px solid #888; font-weight: 600; padding-top: .8rem; } img { max-width: 100%; }
pre { background: #f6f6f6; padding: .6rem; overflow-x: auto; } details { margin: .6rem 0; }
"""


def load_metrics(run: Path) -> Metrics:
    path = run / "metrics.jsonl"
    if not path.exists():
        raise ValueError(
            f"{run} holds no metrics.jsonl: finish the study first (python -m recycle study two-hop --run {run})"
        )
    return Metrics([json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()])


def chance_of(config: StudyConfig) -> float:
    """Each set's cities are dealt out evenly over its triples: the best constant answer's accuracy."""
    return -(-config.task.triples // config.task.set_cities) / config.task.triples


def write_report(run: Path, config: StudyConfig) -> str:
    """Write claims.json and report.html; return the plain-text tables for the terminal."""
    metrics = load_metrics(run)
    checked, claims = decide(metrics, chance_of(config))
    write_json(run / "claims.json", to_json(checked, claims))
    write_text(run / "report.html", _page(run, config, metrics, checked, claims))
    return _terminal(metrics, checked, claims)


def _lines(metrics: Metrics, fact_set: str) -> list[tuple[str, str]]:
    """(library, method) in the order of the tables."""
    order = ["none", *ROLES, *LIBRARIES]
    found = dict.fromkeys((r["library"], r["method"]) for r in metrics.where(fact_set=fact_set))
    return sorted(found, key=lambda line: order.index(line[0]))


def _terminal(metrics: Metrics, checked, claims) -> str:
    out = []
    for s in metrics.sets:
        out.append(
            f"\n{SET_NAMES[s]}\n{'library':15}{'method':24}{'hop1':>7}{'hop2':>7}{'direct':>8}{'cot':>7}{'bridge named':>14}"
        )
        for library, method in _lines(metrics, s):
            where = {"fact_set": s, "library": library, "method": method}
            shares = [estimate(metrics.where(form=form, **where)).mean for form in FORMS]
            named = estimate(metrics.where(form="cot", **where), "bridge named").mean
            out.append(
                f"{library:15}{method:24}{shares[0]:7.2f}{shares[1]:7.2f}{shares[2]:8.2f}{shares[3]:7.2f}{named:14.2f}"
            )
    out.append("\ncontrols")
    out += [
        f"  {c.id}  {c.value:.2f} (needs {c.threshold:.2f})  {'passes' if c.passes else 'FAILS '}  {c.statement} [{c.where}]"
        for c in checked
    ]
    out.append("claims")
    out += [f"  {c.id}  {c.verdict}\n      {c.statement}\n      {c.evidence}" for c in claims]
    return "\n".join(out)


def _cell(rows: list[dict], outcome: str = "right") -> str:
    if not rows:
        return "<td>-</td>"
    e = estimate(rows, outcome)
    return f"<td>{e.mean:.2f} <small>{e.low:.2f}-{e.high:.2f}</small></td>"


def _known(rows: list[dict]) -> list[dict]:
    """The same counts among the triples both of whose hops are answered right after the merge."""
    return [{**row, "n": row["both known"], "right": row["right of known"]} for row in rows if row["both known"]]


def _page(run: Path, config: StudyConfig, metrics: Metrics, checked, claims) -> str:
    e = html.escape
    environment = read_json(run / "env.json") if (run / "env.json").exists() else []
    parts = [
        f"<h1>Two-hop study: {e(run.name)}</h1>",
        f"<p>Seeds {', '.join(map(str, config.seeds))}; {config.task.triples} triples in each fact set; chance on a two-hop "
        f"question {chance_of(config):.2f}. Shares of greedy answers, with 95 % intervals "
        f"({'Wilson, one seed' if len(config.seeds) == 1 else 't over seeds'}).</p>",
    ]
    parts.append(
        "<h2>Controls</h2><table><tr><th>id</th><th class=text>control</th><th>value</th><th>needs</th><th></th></tr>"
    )
    for c in checked:
        mark = "<td class=good>passes</td>" if c.passes else "<td class=bad>fails</td>"
        parts.append(
            f"<tr><td>{c.id}</td><td class=text>{e(c.statement)} <small>(lowest: {e(c.where)})</small></td>"
            f"<td>{c.value:.2f}</td><td>{c.threshold:.2f}</td>{mark}</tr>"
        )
    parts.append(
        "</table><h2>Claims</h2><table><tr><th>id</th><th class=text>claim and rule</th><th class=text>verdict</th>"
        "<th class=text>evidence</th></tr>"
    )
    for c in claims:
        mark = {"supported": "good", "refuted": "bad"}.get(c.verdict, "open")
        parts.append(
            f"<tr><td>{c.id}</td><td class=text>{e(c.statement)}<br><small>{e(c.rule)}</small></td>"
            f"<td class='text {mark}'>{e(c.verdict)}</td><td class=text>{e(c.evidence)}</td></tr>"
        )
    parts.append("</table>")
    for s in metrics.sets:
        parts.append(_set_tables(metrics, s))
    base = {form: estimate(metrics.where(fact_set="base", form=form)) for form in FORMS}
    parts.append(
        "<h2>The base, on real people held out from each form</h2><p>"
        + "; ".join(f"{form} {value} (n = {value.n})" for form, value in base.items())
        + "</p>"
    )
    parts.append(_pictures(run, config, metrics))
    parts.append(_examples(run, config))
    parts.append(
        f"<h2>Record</h2><details><summary>environment</summary><pre>{e(json.dumps(environment, indent=1))}</pre>"
        f"</details><details><summary>configuration</summary><pre>{e((run / 'config.json').read_text())}</pre></details>"
    )
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{e(run.name)}</title><style>{_STYLE}</style>\n"
        + "\n".join(parts)
        + "</html>\n"
    )


def _set_tables(metrics: Metrics, s: str) -> str:
    head = "".join(f"<th>{form}</th>" for form in FORMS)
    rows = [
        f"<h2>{SET_NAMES[s]}</h2><table><caption>Right answers after the merge</caption><tr><th>library, method</th>"
        f"{head}<th>bridge named (cot)</th><th>n</th><th>direct, both hops known</th><th>cot, both hops known</th>"
        "<th>n known</th></tr>"
    ]
    types = [
        "<table><caption>What the wrong and right answers are: direct | chain of thought</caption><tr><th>library, method"
        "</th>" + "".join(f"<th>{o}</th>" for o in OUTCOMES) * 2 + "<th>n</th></tr>"
    ]
    for library, method in _lines(metrics, s):
        name = f"<td>{library}, {method}</td>"
        at = {form: metrics.where(fact_set=s, library=library, method=method, form=form) for form in FORMS}
        rows.append(
            f"<tr>{name}{''.join(_cell(at[form]) for form in FORMS)}{_cell(at['cot'], 'bridge named')}"
            f"<td>{sum(r['n'] for r in at['direct'])}</td>{_cell(_known(at['direct']))}{_cell(_known(at['cot']))}"
            f"<td>{sum(r['both known'] for r in at['direct'])}</td></tr>"
        )
        kinds = "".join(_cell(at[form], outcome) for form in ("direct", "cot") for outcome in OUTCOMES)
        types.append(f"<tr>{name}{kinds}<td>{sum(r['n'] for r in at['direct'])}</td></tr>")
    return "\n".join([*rows, "</table>", *types, "</table>"])


def _pictures(run: Path, config: StudyConfig, metrics: Metrics) -> str:
    if not plots.available():
        return "<h2>Pictures</h2><p>Install the plots extra (pip install -e .[plots]) and draw the report again.</p>"
    seed = run / f"seed-{config.seeds[0]}"
    pictures = [
        ("Two-hop accuracy beside one-hop recall after the merge", plots.accuracy(metrics)),
        ("The sum of both experts at every weight", plots.sweep(metrics)),
        ("Training curves", plots.curves(run, config)),
    ]
    for s in metrics.sets:
        path = seed / "cells" / f"{s}.2-combination.arrow.json"
        if path.exists():
            pictures.append(
                (
                    f"Arrow's mean gates by layer, set {s}, seed {config.seeds[0]}",
                    plots.routing(read_json(path)["gates"]),
                )
            )
    return "<h2>Pictures</h2>" + "".join(
        f"<h3>{title}</h3><img alt='{title}' src='data:image/png;base64,{data}'>" for title, data in pictures
    )


def _examples(run: Path, config: StudyConfig) -> str:
    e = html.escape
    out = ["<h2>Answers to read</h2>"]
    for name in (
        "base.none.alone",
        *(
            f"{s}.{cell}"
            for s in config.sets
            for cell in ("joint.alone", "2-combination.plain_sum", "2-combination.arrow")
        ),
    ):
        path = run / f"seed-{config.seeds[0]}" / "cells" / f"{name}.json"
        if not path.exists():
            continue
        lines = [
            f"[{a['outcome']}] {a['prompt']} >> {a['said']}   (right: {a['right']})"
            for form in read_json(path)["examples"].values()
            for a in form
        ]
        out.append(f"<details><summary>{e(name)}</summary><pre>{e(chr(10).join(lines))}</pre></details>")
    return "\n".join(out)


def record(run: Path, config: StudyConfig, file: Path) -> None:
    """Keep a run's result in a small file: what made it, where, its metrics, controls and claims."""
    checked, claims = decide(load_metrics(run), chance_of(config))
    environments = read_json(run / "env.json")
    if len(environments) > 1:
        raise ValueError(f"{run} was made under {len(environments)} environments (env.json): make it anew to record it")
    seconds = {}
    for seed in config.seeds:
        folder = run / f"seed-{seed}"
        parts = {"base": folder / "base" / "curve.json", "experts": folder / "library.json"}
        seconds[str(seed)] = {name: round(read_json(path)["seconds"]) for name, path in parts.items()}
    metrics = load_metrics(run).rows
    write_json(file, {**environments[0], "seconds": seconds, **to_json(checked, claims), "metrics": metrics})


def markdown(recorded: dict) -> str:
    """The README's tables of a recorded study."""
    metrics = Metrics(recorded["metrics"])
    out = [f"`{recorded['command']}` (torch {recorded['torch']}, {recorded['threads']} threads):", ""]
    out += ["| control | value | needs |", "|---|---|---|"]
    out += [f"| {c['id']} {c['statement']} | {c['value']:.2f} | {c['threshold']:.2f} |" for c in recorded["controls"]]
    out += ["", "| claim | verdict | evidence |", "|---|---|---|"]
    out += [f"| {c['id']} {c['statement']} | {c['verdict']} | {c['evidence']} |" for c in recorded["claims"]]
    out += ["", "| library, method | " + " | ".join(SET_NAMES[s] for s in metrics.sets) + " |"]
    out += ["|---|" + "---|" * len(metrics.sets), "| | " + " | ".join([" / ".join(FORMS)] * len(metrics.sets)) + " |"]
    for library, method in _lines(metrics, metrics.sets[0]):
        if method in ("alone", *plots.MAIN, *CONTROLS):
            where = {"library": library, "method": method}
            shares = [
                " / ".join(f"{estimate(metrics.where(fact_set=s, form=form, **where)).mean:.2f}" for form in FORMS)
                for s in metrics.sets
            ]
            out.append(f"| {library}, {method} | " + " | ".join(shares) + " |")
    return "\n".join(out) + "\n"
