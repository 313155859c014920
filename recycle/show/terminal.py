"""A run's tables, controls and claims as plain text."""

from __future__ import annotations

from collections.abc import Sequence

from recycle.decide.claims import Claim, Control, Judged
from recycle.decide.metrics import Metrics
from recycle.decide.statistics import estimate
from recycle.show.interactions import ABOUT, HEADS, NONE, Acting, beside, forms_of
from recycle.show.markup import printable
from recycle.show.tables import FEW_NOTES, lines_of, notes_of, rows_of, title_of
from recycle.studies import Study

BESIDE = 27  # the width of a column about interactions


def terminal(study: Study, metrics: Metrics, judged: Judged, acting: Acting = NONE) -> str:
    """A run's tables, controls and claims as plain text."""
    world, design, out = study.design.world, study.design, []
    notes = notes_of(metrics, world.forms)
    notes = notes if len(notes) <= FEW_NOTES else []
    every = [line for group in metrics.groups for line in lines_of(metrics, group)]
    width = 2 + max((len(title_of(design, line)) for line in every), default=0)
    column = max(9, *(len(form) + 2 for form in world.forms))
    for group in metrics.groups:
        head = "".join(f"{form:>{column}}" for form in world.forms)
        head += "".join(f"{note:>20}" for _, note in notes)
        head += "".join(
            f"{form + ': ' + x:>{BESIDE}}" for form in forms_of(acting, group) for x in HEADS
        )
        out.append(f"\n{world.titles[group]}\n{'':{width}}{head}")
        for line in lines_of(metrics, group):
            rows = rows_of(metrics, group, line)
            shares = "".join(f"{estimate(rows[form]).mean:{column}.2f}" for form in world.forms)
            shares += "".join(f"{estimate(rows[form], note).mean:20.2f}" for form, note in notes)
            for form in forms_of(acting, group):
                both = beside(acting, group, form, line, rows[form])
                shares += "".join(f"{text:>{BESIDE}}" for text in both)
            out.append(f"{title_of(design, line):{width}}{shares}")
    if acting:
        out += ["", ABOUT]
    controls, claims = judged
    if any(control.measured for control in controls):  # else a study of recipes: nothing to decide
        out += ["", *_judged_text(controls, claims)]
    return printable("\n".join(out))


def _judged_text(controls: Sequence[Control], claims: Sequence[Claim]) -> list[str]:
    width = max(len(control.id) for control in controls)
    out = ["controls"]
    for c in controls:
        value = f"{c.amount} (needs {c.bound})"
        out.append(f"  {c.id:{width}}  {value}  {c.state:12}  {c.statement} [{c.where}]")
    out.append("claims")
    out += [f"  {c.id}  {c.verdict}\n      {c.statement}\n      {c.evidence}" for c in claims]
    return out
