"""What carries over from a toy to a checkpoint: verdicts and methods of two recorded studies side
by side.

Claims, libraries, methods and forms are matched by their names. What one record lacks is "not run".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from recycle.decide.claims import State
from recycle.decide.metrics import Metrics, Row
from recycle.decide.statistics import estimate
from recycle.reuse.methods import BY_NAME
from recycle.show.methods_order import FEWEST, order_correlation, order_predicts
from recycle.studies import Design

NOT_RUN = "not run"
HOLDS, TURNS, OPEN = "holds", "turns round", "not decided"
Rows = dict[str, dict[str, dict[str, list[Row]]]]  # by library, method and form
DECIDED = (State.SUPPORTED.value, State.REFUTED.value)


@dataclass(frozen=True)
class Recorded:
    """One of the two studies: its title for readers, its claims by id as (statement, verdict), its
    rows, its design."""

    title: str
    claims: Mapping[str, tuple[str, str]]
    metrics: Metrics
    design: Design

    def rows(self, groups: Sequence[str]) -> Rows:
        """The rows about these groups on the standard base."""
        found: Rows = {}
        for row in self.metrics.where(group=groups):
            forms = found.setdefault(row.key.library, {}).setdefault(row.key.method, {})
            forms.setdefault(row.form, []).append(row)
        return found


# The page ----------------------------------------------------------------------------------------


def carry_over(toy: Recorded, checkpoint: Recorded) -> str:
    """Markdown: the verdicts, each method's shares right, C11, and how far the methods' order
    agrees."""
    return "\n".join([*_verdicts(toy, checkpoint), *_methods(toy, checkpoint)]) + "\n"


def fate(toy: str, checkpoint: str) -> str:
    """What becomes of a claim with these verdicts: it holds, turns round, is not decided by both,
    or was not run on both."""
    if NOT_RUN in (toy, checkpoint):
        return NOT_RUN
    if toy not in DECIDED or checkpoint not in DECIDED:
        return OPEN
    return HOLDS if toy == checkpoint else TURNS


def _verdicts(toy: Recorded, checkpoint: Recorded) -> list[str]:
    claims = {}  # by id: the statements and the verdicts of both
    for id in dict.fromkeys([*toy.claims, *checkpoint.claims]):
        sides = [each.claims[id] for each in (toy, checkpoint) if id in each.claims]
        said = [each.claims[id][1] if id in each.claims else NOT_RUN for each in (toy, checkpoint)]
        claims[id] = (list(dict.fromkeys(statement for statement, _ in sides)), said, fate(*said))
    fates = [fate for *_, fate in claims.values()]
    counted = ", ".join(
        f"{fates.count(each)} {words}"
        for each, words in (
            (HOLDS, "hold"),
            (TURNS, "turn round"),
            (OPEN, "are not decided by both"),
            (NOT_RUN, "were not run on both"),
        )
    )
    return [
        f"Of {len(claims)} claims {counted}.",
        "",
        f"| claim | {toy.title} | {checkpoint.title} | carries over |",
        "|---|---|---|---|",
        *(
            f"| {id} {'; there: '.join(statements)} | {' | '.join(said)} | {fate} |"
            for id, (statements, said, fate) in claims.items()
        ),
    ]


def _methods(toy: Recorded, checkpoint: Recorded) -> list[str]:
    """A table for the libraries that both have, then the agreement of each library's methods."""
    both = (toy, checkpoint)
    groups = [
        group
        for group in toy.design.rules.groups
        if all(group in each.design.rules.groups and group in each.metrics.groups for each in both)
    ]
    ours, theirs = (each.rows(groups) for each in both)
    shared = [library for library in ours if library in theirs]
    if not shared:
        return ["", "No library was asked by both about a group that both make claims about."]
    forms = _forms(*both)
    heads = [f"{form}: {toy.title} / {checkpoint.title}" for form in forms]
    out = [
        "",
        f"Shares right, of the groups {', '.join(groups)} together.",
        "",
        "| library: method | " + " | ".join(heads) + " |",
        "|---|" + "---|" * len(forms),
    ]
    for library in shared:
        for method in dict.fromkeys([*ours[library], *theirs[library]]):
            sides = [side[library].get(method, {}) for side in (ours, theirs)]
            cells = [" / ".join(_share(side.get(form, [])) for side in sides) for form in forms]
            out.append(f"| {library}: {method} | " + " | ".join(cells) + " |")
    for each, own, other in ((checkpoint, ours, theirs), (toy, theirs, ours)):
        if lacking := [library for library in own if library not in other]:
            out += ["", f"Not run on {each.title}: {'; '.join(lacking)}."]
    claim = order_predicts(toy.metrics, checkpoint.metrics, groups)
    out += ["", f"**{claim.id}** {claim.statement}: **{claim.verdict}** ({claim.evidence}). "]
    out[-1] += f"Rule: {claim.rule}."
    return [*out, *_orders(ours, theirs, shared, forms)]


def _forms(toy: Recorded, checkpoint: Recorded) -> list[str]:
    """The forms of both, those of the record that has more in its order first."""
    more, fewer = sorted((toy, checkpoint), key=lambda each: -len(each.design.world.forms))
    return list(dict.fromkeys([*more.design.world.forms, *fewer.design.world.forms]))


def _share(rows: Sequence[Row]) -> str:
    return f"{estimate(rows).mean:.2f}" if rows else NOT_RUN


def _orders(ours: Rows, theirs: Rows, libraries: Sequence[str], forms: Sequence[str]) -> list[str]:
    """How far the order of each library's methods agrees, in each form that both asked."""
    lines = []
    for library in libraries:
        both = [
            (ours[library][name], theirs[library][name])
            for name, method in BY_NAME.items()
            if method.merges_or_routes and name in ours[library] and name in theirs[library]
        ]
        for form in forms:
            rows = [
                (one[form], other[form]) for one, other in both if form in one and form in other
            ]
            if len(rows) < FEWEST:
                continue
            found = order_correlation(
                [estimate(one).mean for one, _ in rows], [estimate(other).mean for _, other in rows]
            )
            said = "no order | -" if found is None else f"{found[0]:.2f} | {found[1]:.3f}"
            lines.append(f"| {library}: {form} | {len(rows)} | {said} |")
    if not lines:
        return []
    return [
        "",
        "The order of the merges and routers that both have: Spearman's rho, and the share of all "
        "orders with an |rho| as large.",
        "",
        "| library: form | methods | rho | p |",
        "|---|---|---|---|",
        *lines,
    ]
