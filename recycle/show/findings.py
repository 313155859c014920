"""The findings of a run in two sentences: may it decide, and how does the best merge do?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from recycle.decide.claims import Claim, Control, State
from recycle.decide.metrics import Metrics, Row
from recycle.decide.statistics import estimate
from recycle.plan import Library
from recycle.reuse.methods import ALONE
from recycle.studies import Study


def two_sentences(
    study: Study, metrics: Metrics, controls: Sequence[Control], claims: Sequence[Claim]
) -> list[str]:
    """Sentences for people who read nothing else."""
    return [_decided(controls, claims), *_best(study, metrics)]


def _decided(controls: Sequence[Control], claims: Sequence[Claim]) -> str:
    if not any(control.measured for control in controls):
        return "This study compares recipes and decides no claim."
    failed = [control for control in controls if not control.passes]
    counted = Counter(claim.verdict.state for claim in claims)
    verdicts = _listed([f"{counted[state]} {state.value}" for state in State if counted[state]])
    if not failed:
        return f"All {len(controls)} controls pass; of {len(claims)} claims {verdicts}."
    c = failed[0]
    value = f"{c.said}, needs {c.bound}" if c.measured else "not measured"
    if set(counted) == {State.NOT_DECIDED}:
        first = "fails" if len(failed) == 1 else f"fails, as do {len(failed) - 1} more"
        return f"No claim is decided: the control {c.id} ({value}) {first}: {c.statement}."
    return (
        f"{len(controls) - len(failed)} of {len(controls)} controls pass (not {c.id}: {value}), "
        f"and only claims that rest on these are decided; of {len(claims)} claims {verdicts}."
    )


def _best(study: Study, metrics: Metrics) -> list[str]:
    """Of the library that the study is about: the method with the best answers to the last form."""
    world, groups = study.design.world, study.design.rules.groups
    about = [library for library in study.opened if library.group in groups]
    if not about:
        return []
    library, forms = about[0], world.forms
    harder = [form for form in forms if form not in world.components]
    methods = [m for m in library.methods if m.family in ("merge", "router")]
    rows = {m.name: _rows(metrics, about, m.name) for m in methods}
    measured = {name: own for name, own in rows.items() if own}
    if not measured:
        return []
    best = max(measured, key=lambda name: _share(measured[name], harder[-1]))
    own = measured[best]
    if not _share(own, harder[-1]):
        return [
            f"None of {len(measured)} merges and routers of the {library} library answers any "
            f"{harder[-1]} question."
        ]
    weakest = min(_share(own, form) for form in world.components)
    answers = _listed([f"{_share(own, form):.2f} of the {form} questions" for form in harder])
    sentence = (
        f"Of {len(measured)} merges and routers of the {library} library, {best} does best on "
        f"{harder[-1]} questions: it keeps {weakest:.2f} of the weaker component and answers "
        f"{answers} (chance {study.chance:.2f})"
    )
    joint = metrics.where(group=[x.group for x in about], library="joint", method=ALONE.name)
    if joint:
        reached = _listed([f"{_share(joint, form):.2f}" for form in harder])
        sentence += f"; joint training on everything reaches {reached}"
    return [sentence + "."]


def _rows(metrics: Metrics, about: Sequence[Library], method: str) -> list[Row]:
    groups = [library.group for library in about]
    return metrics.where(group=groups, library=about[0].name, method=method)


def _share(rows: Sequence[Row], form: str) -> float:
    return estimate(row for row in rows if row.form == form).mean


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if words[1:] else words)
