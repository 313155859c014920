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
    """Of the libraries that the study is about: the base and method with the best answers."""
    world, groups = study.design.world, study.design.rules.groups
    harder = [form for form in world.forms if form not in world.components]
    form = study.design.headline.form if study.design.headline else harder[-1]
    about = [library for library in study.opened if library.group in groups]
    measured = {
        (library.base, method.name): rows
        for library in about
        for method in library.methods
        if method.merges_or_routes and (rows := _rows(metrics, about, library, method.name))
    }
    if not measured:
        return []
    many = f"Of {len({name for _, name in measured})} merges and routers of the {about[0]} library"
    base, best = max(measured, key=lambda key: _share(measured[key], form))
    own = measured[base, best]
    if not _share(own, form):
        return [f"{many} none answers any {form} question."]
    weakest = min(_share(own, f) for f in world.components)
    answers = _listed([f"{_share(own, f):.2f} of the {f} questions" for f in harder])
    where = f" ({base})" if len({b for b, _ in measured}) > 1 else ""
    sentence = (
        f"{many}, {best} does best on {form} questions{where}: it keeps {weakest:.2f} of the "
        f"weaker component and answers {answers} (chance {study.chance:.2f})"
    )
    asked = [library.group for library in about]
    joint = metrics.where(base=base.name, group=asked, library="joint", method=ALONE.name)
    if joint:
        reached = _listed([f"{_share(joint, f):.2f}" for f in harder])
        sentence += f"; joint training on everything reaches {reached}"
    return [sentence + "."]


def _rows(metrics: Metrics, about: Sequence[Library], library: Library, method: str) -> list[Row]:
    """Rows of a library in every group that it is about, on its own base."""
    groups = [other.group for other in about if other.base == library.base]
    return metrics.where(base=library.base.name, group=groups, library=library.name, method=method)


def _share(rows: Sequence[Row], form: str) -> float:
    return estimate(row for row in rows if row.form == form).mean


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if words[1:] else words)
