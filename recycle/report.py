"""The report of a run: drawn from what is on disk alone, so it can always be drawn again."""

from __future__ import annotations

import html
import json
from pathlib import Path
from statistics import fmean

from recycle import mechanism_plots, plots, rules_two_hop, rules_word_math
from recycle.claims import NOTHING, Claim, Control, Metrics, decide, to_json
from recycle.config import StudyConfig
from recycle.disk import read_json, write_json, write_text
from recycle.methods import CONTROLS
from recycle.plan import cells, inside_file, mains, wanted, world
from recycle.plots import GROWTH
from recycle.statistics import Row, difference, estimate
from tasks import TASKS, Task

RULES = {"two-hop": rules_two_hop, "word-math": rules_word_math}
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 84rem; margin: 2rem auto; padding: 0 1rem; color: #1c1c1c; }
table { border-collapse: collapse; margin: 1rem 0; } caption { text-align: left; font-weight: 600; padding: .3rem 0; }
th, td { padding: .2rem .5rem; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap; }
th { white-space: normal; vertical-align: bottom; }
th:first-child, td:first-child, td.text, th.text { text-align: left; } td.text { white-space: normal; }
td small { color: #666; } .good { color: #11682f; } .bad { color: #a11212; } .open { color: #7a5b00; }
tr.group td { border-bottom: 1px solid #888; font-weight: 600; padding-top: .8rem; } img { max-width: 100%; }
pre { background: #f6f6f6; padding: .6rem; overflow-x: auto; } details { margin: .6rem 0; }
"""


def load_metrics(run: Path) -> Metrics:
    path = run / "metrics.jsonl"
    if not path.exists():
        raise ValueError(
            f"{run} holds no metrics.jsonl: finish the study first (python -m recycle study ... --run {run})"
        )
    return Metrics([json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()])


def chance_of(config: StudyConfig) -> float:
    """Accuracy of the best constant answer, in the groups that the claims speak of."""
    task = world(config, config.seeds[0])
    asked = [
        group for group in config.groups if group in RULES[TASKS[config.name].rules].NEW
    ] or config.groups
    return max(task.chance(group) for group in asked)


def judge(config: StudyConfig, metrics: Metrics) -> tuple[list[Control], list[Claim]]:
    rules = RULES[TASKS[config.name].rules]
    controls = rules.controls(metrics)
    return controls, decide(controls, rules.RULES, metrics, chance_of(config))


def write_report(run: Path, config: StudyConfig) -> str:
    """Write claims.json and report.html; return the plain-text tables for the terminal."""
    metrics = load_metrics(run)
    controls, claims = judge(config, metrics)
    write_json(run / "claims.json", to_json(controls, claims))
    write_text(run / "report.html", _page(run, config, metrics, controls, claims))
    return _terminal(TASKS[config.name], metrics, controls, claims)


Line = tuple[str, str, str]  # base, library, method
FEW_NOTES = 3  # more of a task's notes than that have a table of their own


def lines_of(metrics: Metrics, group: str) -> list[Line]:
    """In the order of the study, other bases last."""
    found = dict.fromkeys(
        (r["base"], r["library"], r["method"]) for r in metrics.rows if r["group"] == group
    )
    return sorted(found, key=lambda line: metrics.bases.index(line[0]))


def name_of(line: Line) -> str:
    base, library, method = line
    return (
        library
        + (f": {method}" if method != "alone" else "")
        + (f" (base {base})" if base != "standard" else "")
    )


def rows_of(metrics: Metrics, group: str, line: Line) -> dict[str, list[Row]]:
    """The rows of a table's line, by form."""
    base, library, method = line
    found: dict[str, list[Row]] = {}
    for row in metrics.where(base=base, group=group, library=library, method=method):
        found.setdefault(row["form"], []).append(row)
    return found


def _notes(task: type[Task], metrics: Metrics) -> list[tuple[str, str]]:
    """(form, note): what else the task counts about an answer."""
    fixed = {
        "seed",
        "base",
        "group",
        "library",
        "method",
        "form",
        "n",
        *task.outcomes,
        "components known",
        "right of known",
        "log p right",
        "log p others",
        "right above others",
        "cosine",
        "input overlap",
        "output overlap",
    }
    return list(
        dict.fromkeys((row["form"], key) for row in metrics.rows for key in row if key not in fixed)
    )


def _terminal(
    task: type[Task], metrics: Metrics, controls: list[Control], claims: list[Claim]
) -> str:
    out, notes = [], _notes(task, metrics)
    notes = notes if len(notes) <= FEW_NOTES else []
    width = 2 + max(
        len(name_of(line)) for group in metrics.groups for line in lines_of(metrics, group)
    )
    for group in metrics.groups:
        out.append(
            f"\n{task.titles[group]}\n{'':{width}}"
            + "".join(f"{form:>9}" for form in task.forms)
            + "".join(f"{note:>20}" for _, note in notes)
        )
        for line in lines_of(metrics, group):
            rows = rows_of(metrics, group, line)
            out.append(
                f"{name_of(line):{width}}"
                + "".join(f"{estimate(rows[form]).mean:9.2f}" for form in task.forms)
                + "".join(f"{estimate(rows[form], note).mean:20.2f}" for form, note in notes)
            )
    if all(c.where == NOTHING for c in controls):  # a study of recipes, which decides nothing
        return "\n".join(out)
    out.append("\ncontrols")
    out += [
        f"  {c.id}  {c.value:.2f} (needs {c.needs})  {c.state:6}  {c.statement} [{c.where}]"
        for c in controls
    ]
    out.append("claims")
    out += [f"  {c.id}  {c.verdict}\n      {c.statement}\n      {c.evidence}" for c in claims]
    return "\n".join(out)


def _cell(rows: list[Row] | None, outcome: str = "right") -> str:
    """A share with its interval, on a ground the darker the higher it is."""
    if not rows:
        return "<td>-</td>"
    e = estimate(rows, outcome)
    ground = f" style='background: rgba(42, 111, 151, {0.45 * e.mean:.2f})'" if e.mean else ""
    return f"<td{ground}>{e.mean:.2f} <small>{e.low:.2f}-{e.high:.2f}</small></td>"


def _known(rows: list[Row]) -> list[Row]:
    """The same counts among the questions whose components are all answered right after the
    merge."""
    return [
        {**row, "n": row["components known"], "right": row["right of known"]}
        for row in rows
        if row["components known"]
    ]


def _mean(rows: list[Row], key: str) -> float | None:
    values = [row[key] for row in rows if key in row]
    return sum(values) / len(values) if values else None


def _judged(controls: list[Control], claims: list[Claim]) -> list[str]:
    e, parts = html.escape, []
    parts.append(
        "<h2>Controls</h2><table><tr><th>id</th><th class=text>control</th><th>value</th><th>needs</th><th></th></tr>"
    )
    for c in controls:
        colour = {"passes": "good", "FAILS": "bad"}.get(c.state, "open")
        parts.append(
            f"<tr><td>{c.id}</td><td class=text>{e(c.statement)} <small>(worst: {e(c.where)})</small></td>"
            f"<td>{c.value:.2f}</td><td>{e(c.needs)}</td><td class={colour}>{c.state}</td></tr>"
        )
    parts.append(
        "</table><h2>Claims</h2><table><tr><th>id</th><th class=text>claim and rule</th><th class=text>verdict</th>"
        "<th class=text>evidence</th></tr>"
    )
    for claim in claims:
        colour = {"supported": "good", "refuted": "bad"}.get(claim.verdict, "open")
        parts.append(
            f"<tr><td>{claim.id}</td><td class=text>{e(claim.statement)}<br><small>{e(claim.rule)}</small></td>"
            f"<td class='text {colour}'>{e(claim.verdict)}</td><td class=text>{e(claim.evidence)}</td></tr>"
        )
    parts.append("</table>")
    return parts


def _page(
    run: Path, config: StudyConfig, metrics: Metrics, controls: list[Control], claims: list[Claim]
) -> str:
    e, task = html.escape, TASKS[config.name]
    environment = read_json(run / "env.json") if (run / "env.json").exists() else []
    made = cells(config)
    parts = [
        f"<h1>{config.name} study: {e(run.name)}</h1>",
        f"<p>Seeds {', '.join(map(str, config.seeds))}; {len(made)} cells; chance {chance_of(config):.2f}. Shares of greedy "
        "answers, with 95 % intervals "
        f"({'Wilson, one seed' if len(config.seeds) == 1 else 'the wider of t over seeds and Wilson, pooled'}).</p>",
    ]
    if any(c.where != NOTHING for c in controls):  # else a study of recipes, which decides nothing
        parts += _judged(controls, claims)
    for group in metrics.groups:
        parts += [_group_tables(task, metrics, group), reuse_gain(config, metrics, group)]
    base = {
        name: {
            form: estimate(metrics.where(base=name, group="base", form=form)) for form in task.forms
        }
        for name in metrics.bases
        if metrics.where(base=name, group="base")
    }
    parts.append(
        "<h2>The bases, on what was held out from each form</h2><table><tr><th>base</th>"
        + "".join(f"<th>{form}</th>" for form in task.forms)
        + "</tr>"
        + "".join(
            f"<tr><td>{name}</td>"
            + "".join(f"<td>{value} <small>n {value.n}</small></td>" for value in forms.values())
            + "</tr>"
            for name, forms in base.items()
        )
        + "</table>"
    )
    parts.append(_pictures(run, config, metrics))
    parts.append(_inside(run, config))
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


def _group_tables(task: type[Task], metrics: Metrics, group: str) -> str:
    every, harder = (
        _notes(task, metrics),
        [form for form in task.forms if form not in task.components],
    )
    notes = every if len(every) <= FEW_NOTES else []
    compared = [
        form for form in harder if any("right above others" in r for r in metrics.where(form=form))
    ]
    rows = [
        f"<h2>{task.titles[group]}</h2><table><caption>Right answers after the merge</caption><tr><th>library: method</th>"
        + "".join(f"<th>{form}</th>" for form in task.forms)
        + "".join(f"<th>{note} ({form})</th>" for form, note in notes)
        + "".join(f"<th>{form}, {' and '.join(task.components)} known</th>" for form in harder)
        + "<th>n</th><th>n known</th>"
        + "".join(
            f"<th>{form}: log p right / others</th><th>{form}: right above others</th>"
            for form in compared
        )
        + "</tr>"
    ]
    counted = [
        "<table><caption>What else is counted</caption><tr><th>library: method</th>"
        + "".join(f"<th>{note} ({form})</th>" for form, note in every)
        + "</tr>"
    ]
    kinds = [
        f"<table><caption>What the answers are: {' | '.join(harder)}</caption><tr><th>library: method</th>"
        + "".join(f"<th>{o}</th>" for o in task.outcomes) * len(harder)
        + "</tr>"
    ]
    for line in lines_of(metrics, group):
        at = rows_of(metrics, group, line)
        last = at[task.forms[-1]]
        signal = ""
        for form in compared:
            values = [
                _mean(at[form], key)
                for key in ("log p right", "log p others", "right above others")
            ]
            signal += (
                "<td>-</td><td>-</td>"
                if None in values
                else f"<td>{values[0]:.1f} / {values[1]:.1f}</td><td>{values[2]:.2f}</td>"
            )
        rows.append(
            f"<tr><td>{name_of(line)}</td>{''.join(_cell(at[form]) for form in task.forms)}"
            + "".join(_cell(at[form], note) for form, note in notes)
            + "".join(_cell(_known(at[form])) for form in harder)
            + f"<td>{sum(r['n'] for r in last)}</td><td>{sum(r['components known'] for r in last)}</td>{signal}</tr>"
        )
        shares = "".join(_cell(at[form], outcome) for form in harder for outcome in task.outcomes)
        kinds.append(f"<tr><td>{name_of(line)}</td>{shares}</tr>")
        counts = "".join(
            _cell([row for row in at[form] if note in row], note) for form, note in every
        )
        counted.append(f"<tr><td>{name_of(line)}</td>{counts}</tr>")
    folded = "<details><summary>What the wrong answers are</summary>" + "\n".join(
        [*kinds, "</table></details>"]
    )
    if every != notes:
        folded += "<details><summary>What else is counted</summary>" + "\n".join(
            [*counted, "</table></details>"]
        )
    return "\n".join([*rows, "</table>", folded])


def reuse_gain(config: StudyConfig, metrics: Metrics, group: str) -> str:
    """What each library of several experts answers beyond the best of the base and its own experts
    alone, paired by seed."""
    task = TASKS[config.name]
    forms = [form for form in task.forms if form not in task.components]
    libraries = [library for library in wanted(config, config.seeds[0]) if library.group == group]
    single = {
        (x.base, x.experts): x.name for x in libraries if len(x.experts) < 2 and not x.context
    }
    best: dict[
        tuple[str, str], dict[str, tuple[str, list[Row]]]
    ] = {}  # of a library: by form, who, and its rows
    for library in (x for x in libraries if len(x.experts) > 1):
        found = best[library.base, library.name] = {}
        for experts in ((), *((expert,) for expert in library.experts)):
            name = single.get((library.base, experts), "")
            for form, alone in rows_of(metrics, group, (library.base, name, "alone")).items():
                if form not in found or estimate(alone).mean >= estimate(found[form][1]).mean:
                    found[form] = name, alone
    rows = []
    for line in lines_of(metrics, group):
        if line[:2] not in best or line[2] in CONTROLS:
            continue
        at, shown = rows_of(metrics, group, line), ""
        for form in forms:
            if form not in best[line[:2]]:
                shown += "<td>-</td><td>-</td>"
                continue
            name, alone = best[line[:2]][form]
            gain = difference(at[form], alone)
            shown += f"<td>{gain.mean:+.2f} <small>{gain.low:+.2f} to {gain.high:+.2f}</small></td><td>{name}</td>"
        rows.append(f"<tr><td>{name_of(line)}</td>{shown}</tr>")
    if not rows:
        return ""
    head = "".join(f"<th>{form}</th><th>best single</th>" for form in forms)
    return (
        "<details><summary>Reuse gain</summary><table><caption>Right answers beyond the best single: the base, or one of "
        f"the library's experts</caption><tr><th>library: method</th>{head}</tr>"
        + "\n".join([*rows, "</table></details>"])
    )


def _pictures(run: Path, config: StudyConfig, metrics: Metrics) -> str:
    if not plots.available():
        return "<h2>Pictures</h2><p>Install the plots extra (pip install -e .[plots]) and draw the report again.</p>"
    task, seed = TASKS[config.name], run / f"seed-{config.seeds[0]}"
    pictures = [("Training curves", plots.curves(seed / "standard"))]
    if mains(config, config.seeds[0]):
        title = "Accuracy beside what is left of the components after the merge"
        pictures.insert(0, (title, plots.accuracy(metrics, task)))
    if any(row["method"].startswith("sum_at") for row in metrics.rows):
        pictures.insert(1, ("The sum of both experts at every weight", plots.sweep(metrics, task)))
    if any(GROWTH.match(row["library"]) for row in metrics.rows):
        pictures.append(("Growth", plots.growth(metrics, task)))
    if "growth" not in config.parts and len(metrics.bases) > 1:
        pictures.append(
            ("The same libraries on other bases, main methods pooled", plots.bases(metrics, task))
        )
    return "<h2>Pictures</h2>" + "".join(
        f"<h3>{title}</h3><img alt='{title}' src='data:image/png;base64,{data}'>"
        for title, data in pictures
    )


def inside_means(run: Path, config: StudyConfig) -> dict[str, dict]:
    """For each group what was seen inside its merges, as means over the seeds, in nats and shares
    right: {"lens": {form: {condition: {target: [log-probability above shuffled targets, at each
    depth]}}}, "knock out": {"all", "none", "without <block>", "only <block>": {form: share}}}."""
    found = {}
    for library in mains(config, config.seeds[0]):
        seeds = [read_json(run / inside_file(seed, library)) for seed in config.seeds]
        lens = {
            form: {
                condition: {
                    name: [
                        fmean(
                            each["lens"][form][condition]["targets"][name]["log_prob"][i]
                            - each["lens"][form][condition]["targets"][name]["shuffled"][i]
                            for each in seeds
                        )
                        for i in range(len(result["depths"]))
                    ]
                    for name in result["targets"]
                }
                for condition, result in conditions.items()
            }
            for form, conditions in seeds[0]["lens"].items()
        }
        flat = [
            {
                "all": each["knock out"]["all"],
                "none": each["knock out"]["none"],
                **{
                    f"{kind} {block}": scores
                    for kind in ("without", "only")
                    for block, scores in each["knock out"][kind].items()
                },
            }
            for each in seeds
        ]
        knocked = {
            name: {form: fmean(each[name][form] for each in flat) for form in flat[0][name]}
            for name in flat[0]
        }
        found[library.group] = {"lens": lens, "knock out": knocked}
    return found


def _inside(run: Path, config: StudyConfig) -> str:
    """Mechanisms: means over all seeds, and pictures of the first."""
    if not (inside := inside_means(run, config)):
        return ""
    out = ["<h2>Inside the merges</h2>"]
    for group, means in inside.items():
        if means["lens"]:  # else there are pictures alone
            out.append(f"<h3>{html.escape(TASKS[config.name].titles[group])}</h3>")
        for form, conditions in means["lens"].items():
            names = list(next(iter(conditions.values())))
            depths = len(next(iter(conditions.values()))[names[0]])
            head = "".join(
                f"<th>{name}, after layer {i}</th>" for name in names for i in range(depths - 1)
            )
            out.append(
                f"<table><caption>Logit lens at the end of a {form} question: log-probability above shuffled targets, "
                f"nats, mean over seeds</caption><tr><th>condition</th>{head}</tr>"
            )
            for condition, targets in conditions.items():
                values = "".join(
                    f"<td>{value:+.2f}</td>" for name in names for value in targets[name][1:]
                )
                out.append(f"<tr><td>{condition}</td>{values}</tr>")
            out.append("</table>")
    if plots.available():
        for library in mains(config, config.seeds[0]):
            out += _inside_pictures(
                read_json(run / inside_file(config.seeds[0], library)),
                library.group,
                config.seeds[0],
            )
    return "\n".join(out)


def _inside_pictures(found: dict, group: str, seed: int) -> list[str]:
    pictures = [
        (f"Logit lens at the end of a {form} question", mechanism_plots.lens(conditions))
        for form, conditions in found["lens"].items()
    ]
    pictures += [
        (
            "Interference of the experts' updates",
            mechanism_plots.interference(
                {group: found["interference"]}, tuple(found["members"][:2])
            ),
        ),
        (
            "The plain sum without, and with only, one block's adapters",
            mechanism_plots.knock_out(found["knock out"]),
        ),
    ]
    pictures += [
        (
            f"Arrow's gates by token, {form}",
            mechanism_plots.routing(by_token["layers"], by_token["tokens"], found["members"]),
        )
        for form, by_token in found["routing"].items()
    ]
    return [
        f"<h4>{group}: {title}, seed {seed}</h4><img alt='{title}' src='data:image/png;base64,{data}'>"
        for title, data in pictures
    ]


def _examples(run: Path, config: StudyConfig) -> str:
    e = html.escape
    out = ["<h2>Answers to read</h2>"]
    for cell in cells(config):
        if cell.seed != config.seeds[0] or cell.method not in ("alone", "plain_sum", "arrow"):
            continue
        lines = [
            f"[{a['outcome']}] {a['prompt']} >> {a['said']}   (right: {a['right']})"
            for form in read_json(run / cell.file)["examples"].values()
            for a in form
        ]
        key = cell.key
        name = f"{key['group']}, {name_of((key['base'], key['library'], key['method']))}"
        out.append(
            f"<details><summary>{e(name)}</summary><pre>{e(chr(10).join(lines))}</pre></details>"
        )
    return "\n".join(out)
