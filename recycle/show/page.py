"""The report of a run: drawn from what is on disk alone, so it can always be drawn again.

It opens with what was found in two sentences and one figure; controls and claims follow; the big
tables fold, and can be sorted and filtered by family of methods."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from recycle.decide.claims import Claim, Control, Judged, State, pass_again, to_json
from recycle.decide.metrics import Metrics, Row
from recycle.decide.statistics import estimate
from recycle.plan import STANDARD_BASE
from recycle.reuse.method import FAMILIES
from recycle.reuse.methods import ALONE, ARROW, PLAIN_SUM, SWEEP
from recycle.run.disk import write_json, write_text
from recycle.run.folder import read_config, read_environments
from recycle.show import drawing, figures
from recycle.show.findings import two_sentences
from recycle.show.inside_page import inside_section
from recycle.show.interactions import ABOUT, HEADS, Acting, beside, forms_of, interactions_of
from recycle.show.markup import e, figure, folded, table
from recycle.show.methods_table import methods_html
from recycle.show.run_files import load_metrics, notes
from recycle.show.style import SCRIPT, STYLE
from recycle.show.tables import (
    FEW_NOTES,
    Line,
    base_title,
    lines_of,
    notes_of,
    of_known,
    reuse_gains,
    rows_of,
    title_of,
)
from recycle.show.terminal import terminal
from recycle.studies import Study

READ = (ALONE, PLAIN_SUM, ARROW)  # methods of which the page shows answers
SIGNAL = ("log p right", "log p others", "right above others")


def write_report(study: Study, run: Path) -> str:
    """Write claims.json and report.html; return the plain-text tables for the terminal."""
    metrics = load_metrics(study, run)
    judged = study.judge(metrics)
    write_json(run / "claims.json", to_json(*judged))
    acting = interactions_of(study, run)
    write_text(run / "report.html", page(study, run, metrics, judged, acting))
    told = "".join(f"\nNote: {note}\n" for note in notes(study, run))
    return told + terminal(study, metrics, judged, acting)


def page(study: Study, run: Path, metrics: Metrics, judged: Judged, acting: Acting) -> str:
    """The whole page as HTML that needs nothing from outside."""
    controls, claims = judged
    parts = [
        *_opening(study, run, metrics, controls, claims),
        *_judged(controls, claims),
        "<h2>Every library and method</h2>",
        _family_filter(),
        *(part for group in metrics.groups for part in _group(study, metrics, group, acting)),
        *methods_html(study, run, metrics),
        *_bases(study, metrics),
        *_pictures(study, run, metrics),
        *inside_section(study, run),
        *_answers(study, run),
        *_record(run),
    ]
    head = (
        "<meta charset=utf-8><meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<title>{e(run.name)}</title><style>{STYLE}</style>"
    )
    body = "\n".join(parts)
    return f"<!doctype html><html lang=en>{head}\n{body}\n<script>{SCRIPT}</script></html>\n"


def _opening(
    study: Study, run: Path, metrics: Metrics, controls: Sequence[Control], claims: Sequence[Claim]
) -> list[str]:
    """What was found: two sentences and one figure."""
    several = len(study.config.seeds) > 1
    interval = "the wider of t over seeds and Wilson, pooled" if several else "Wilson, one seed"
    found = two_sentences(study, metrics, controls, claims)
    out = [
        f"<h1>{e(study.design.name)} study: {e(run.name)}</h1>",
        f"<div class=lead>{''.join(f'<p>{e(sentence)}</p>' for sentence in found)}</div>",
        *(f"<p><small>Note: {e(note)}</small></p>" for note in notes(study, run)),
    ]
    groups = [x.group for x in study.opened if x.group in study.design.rules.groups]
    if study.design.headline:
        title = study.design.headline.title
        out += figure(title, lambda: figures.headline(study.design, metrics, study.chance))
    elif groups:
        title = "Accuracy beside what is left of the components after the merge"
        out += figure(title, lambda: figures.accuracy(study.design, metrics, groups, study.chance))
    out.append(
        f"<p><small>Seeds {', '.join(map(str, study.config.seeds))}{_replaced(study)}; "
        f"{len(study.cells)} cells; "
        f"chance {study.chance:.2f}. Shares of greedy answers, with 95 % intervals ({interval})."
        "</small></p>"
    )
    return out


def _replaced(study: Study) -> str:
    if not study.replaced:
        return ""
    return f" (in the place of {', '.join(map(str, study.replaced))}, whose bases fail their gates)"


def _judged(controls: Sequence[Control], claims: Sequence[Claim]) -> list[str]:
    if not any(control.measured for control in controls):  # a study of recipes decides nothing
        return []
    out = [
        "<h2>Controls</h2><div class=wide><table class=stack><tr><th>control"
        "<th class=text>statement"
    ]
    out.append("<th>value<th>needs<th><th>would pass again</tr>")
    for c in controls:
        colour = {"passes": "good", "FAILS": "bad"}.get(c.state, "open")
        out.append(
            f"<tr><td>{e(c.id)}<td class=text>{e(c.statement)} <small>(worst: {e(c.where)})</small>"
            f"<td>{e(c.amount)}<td>{e(c.bound)}<td class={colour}>{c.state}"
            f"<td>{'-' if (again := pass_again(c)) is None else f'{again:.2f}'}</tr>"
        )
    out.append("</table></div><h2>Claims</h2><div class=wide><table class=stack><tr><th>claim")
    out.append(
        "<th class=text>statement and rule<th class=text>verdict<th class=text>evidence</tr>"
    )
    colours = {State.SUPPORTED: "good", State.REFUTED: "bad"}
    for claim in claims:
        colour = colours.get(claim.verdict.state, "open")
        out.append(
            f"<tr><td>{e(claim.id)}<td class=text>{e(claim.statement)}<br>"
            f"<small>{e(claim.rule)}</small><td class='text {colour}'>{e(str(claim.verdict))}"
            f"<td class=text>{e(claim.evidence)}</tr>"
        )
    return [*out, "</table></div>"]


# Tables ------------------------------------------------------------------------------------------


def _family_filter() -> str:
    boxes = "".join(
        f"<label><input type=checkbox checked value={family}> {family}</label>"
        for family in FAMILIES
    )
    return f"<p class=filter>Lines of these families are shown: {boxes}</p>"


def _line(study: Study, line: Line, cells: Iterable[str]) -> str:
    title = e(title_of(study.design, line))
    return f"<tr data-family={line.family}><td>{title}{''.join(cells)}</tr>\n"


def _share(rows: Sequence[Row] | None, outcome: str = "right") -> str:
    """A share with its interval, on a ground the darker the higher it is."""
    if not rows:
        return "<td>-"
    share = estimate(rows, outcome)
    ground = f" style='background: rgba(42, 111, 151, {0.45 * share.mean:.2f})'"
    limits = f"{share.low:.2f}-{share.high:.2f}"
    return f"<td{ground if share.mean else ''}>{share.mean:.2f} <small>{limits}</small>"


def _group(study: Study, metrics: Metrics, group: str, acting: Acting) -> list[str]:
    """The folded tables of one group."""
    about = [f"<p><small>{e(ABOUT)}</small></p>"] if forms_of(acting, group) else []
    main = [
        _right_answers(study, metrics, group, acting),
        *about,
        folded("What the wrong answers are", [_outcomes(study, metrics, group)]),
    ]
    if len(notes_of(metrics, study.design.world.forms)) > FEW_NOTES:
        main.append(folded("What else is counted", [_notes(study, metrics, group)]))
    main += _gains(study, metrics, group)
    first = group == metrics.groups[0]
    return [folded(study.design.world.titles[group], main, is_open=first)]


def _harder(study: Study) -> list[str]:
    world = study.design.world
    return [form for form in world.forms if form not in world.components]


def _right_answers(study: Study, metrics: Metrics, group: str, acting: Acting) -> str:
    world, harder = study.design.world, _harder(study)
    notes = notes_of(metrics, world.forms)
    notes = notes if len(notes) <= FEW_NOTES else []
    compared = [f for f in harder if any(SIGNAL[0] in r.values for r in metrics.where(form=f))]
    known = " and ".join(world.components)
    heads = [
        "library: method",
        *world.forms,
        *(f"{form}: {head}" for form in forms_of(acting, group) for head in HEADS),
        *(f"{note} ({form})" for form, note in notes),
        *(f"{form}, {known} known" for form in harder),
        "n",
        "n known",
        *(f"{form}: {head}" for form in compared for head in ("log p right / others", SIGNAL[2])),
    ]
    lines = []
    for line in lines_of(metrics, group):
        at = rows_of(metrics, group, line)
        last = at[world.forms[-1]]
        cells = [_share(at[form]) for form in world.forms]
        for form in forms_of(acting, group):
            cells += [f"<td>{e(text)}" for text in beside(acting, group, form, line, at[form])]
        cells += [_share(at[form], note) for form, note in notes]
        cells += [_share(of_known(at[form])) for form in harder]
        cells += [f"<td>{sum(r.n for r in last)}", f"<td>{sum(r.known or 0 for r in last)}"]
        cells += [_signal(at[form]) for form in compared]
        lines.append(_line(study, line, cells))
    return table("Right answers after the merge", heads, lines)


def _signal(rows: Sequence[Row]) -> str:
    """Log-probability of right answers beside others', and how often it is the higher one."""
    measured = [row.values for row in rows if SIGNAL[0] in row.values]
    if not measured:
        return "<td>-<td>-"
    right, others, above = (sum(v[name] for v in measured) / len(measured) for name in SIGNAL)
    return f"<td>{right:.1f} / {others:.1f}<td>{above:.2f}"


def _outcomes(study: Study, metrics: Metrics, group: str) -> str:
    world, harder = study.design.world, _harder(study)
    heads = ["library: method", *(f"{form}: {o}" for form in harder for o in world.outcomes)]
    lines = []
    for line in lines_of(metrics, group):
        at = rows_of(metrics, group, line)
        cells = [_share(at[form], outcome) for form in harder for outcome in world.outcomes]
        lines.append(_line(study, line, cells))
    return table(f"What the answers are: {' | '.join(harder)}", heads, lines)


def _notes(study: Study, metrics: Metrics, group: str) -> str:
    notes = notes_of(metrics, study.design.world.forms)
    heads = ["library: method", *(f"{note} ({form})" for form, note in notes)]
    lines = []
    for line in lines_of(metrics, group):
        at = rows_of(metrics, group, line)
        cells = [_share([r for r in at[form] if note in r.notes], note) for form, note in notes]
        lines.append(_line(study, line, cells))
    return table("What else is counted", heads, lines)


def _gains(study: Study, metrics: Metrics, group: str) -> list[str]:
    gains = {line: own for line, own in reuse_gains(study, metrics, group).items() if own}
    if not gains:
        return []
    harder = _harder(study)
    heads = ["library: method", *(h for form in harder for h in (form, f"{form}: best single"))]
    lines = []
    for line, own in gains.items():
        cells = []
        for form in harder:
            if form in own:
                g = own[form].gain
                limits = f"{g.low:+.2f} to {g.high:+.2f}"
                cells.append(f"<td>{g.mean:+.2f} <small>{limits}</small><td>{e(own[form].best)}")
            else:
                cells.append("<td>-<td>-")
        lines.append(_line(study, line, cells))
    caption = (
        "Right answers beyond the best single: the base, or one of the library's experts alone"
    )
    return [folded("Reuse gain", [table(caption, heads, lines)])]


def _bases(study: Study, metrics: Metrics) -> list[str]:
    forms = study.design.world.forms
    lines = []
    for base in metrics.bases:
        asked = {form: metrics.where(base=base, group="base", form=form) for form in forms}
        if all(asked.values()):
            shares = (estimate(rows) for rows in asked.values())
            cells = "".join(f"<td>{share} <small>n {share.n}</small>" for share in shares)
            lines.append(f"<tr><td>{e(base_title(study.design, base))}{cells}</tr>")
    title = "The bases, on what was held out from each form"
    return [f"<h2>{title}</h2>", table("", ["base", *forms], lines)] if lines else []


# Figures -----------------------------------------------------------------------------------------


def _pictures(study: Study, run: Path, metrics: Metrics) -> list[str]:
    if not drawing.available():
        return [
            f"<h2>Figures</h2><p>To see figures, {e(drawing.PLOTS_MISSING)}, and draw again.</p>"
        ]
    out, seed = [], study.config.seeds[0]
    if any(row.key.method in {method.name for method in SWEEP} for row in metrics.rows):
        title = "The sum of both experts at every weight"
        out += figure(title, lambda: figures.sweep(study, metrics))
    if STANDARD_BASE in (spec for _, spec in study.bases) and not study.config.checkpoint:
        title = f"Training curves, seed {seed}"
        out += figure(title, lambda: figures.curves(study, run, seed))
    if any(library.axes for library in study.libraries):
        out += figure("Growth", lambda: figures.growth(study, metrics))
    elif len(metrics.bases) > 1:
        title = "The same libraries on other bases, main methods pooled"
        out += figure(title, lambda: figures.bases(study, metrics))
    return ["<h2>Figures</h2>", *out] if out else []


# Answers and record ------------------------------------------------------------------------------


def _answers(study: Study, run: Path) -> list[str]:
    out = ["<h2>Answers to read</h2>"]
    for cell in study.cells:
        if cell.seed != study.config.seeds[0] or cell.method not in READ:
            continue
        examples = study.read_cell(run, cell)["examples"]
        lines = [
            f"[{a['outcome']}] {a['prompt']} >> {a['said']}   (right: {a['right']})"
            for form in examples.values()
            for a in form
        ]
        line = Line(cell.library.base.name, cell.library.name, cell.method.name)
        text = e("\n".join(lines))
        title = f"{cell.library.group}, {title_of(study.design, line)}"
        out.append(folded(title, [f"<pre>{text}</pre>"]))
    return out


def _record(run: Path) -> list[str]:
    environment = read_environments(run)
    texts = {
        "environment": json.dumps(environment, indent=1),
        "configuration": json.dumps(read_config(run), indent=1),
    }
    folds = [folded(name, [f"<pre>{e(text)}</pre>"]) for name, text in texts.items()]
    return ["<h2>Record</h2>", *folds]
