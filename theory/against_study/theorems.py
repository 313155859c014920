"""The theorems against a run's own experts, on toy bases and on checkpoints alike.

    leakage       the expert of hop 1 alone answers a direct question with the bridge, and so does
                  the sum of both hops' experts (the one-layer model)
    composition   two experts that are cut to the last block's down_proj do not interact, and a sum
                  of experts that do not interact is right at most as often as the bound T2 says
    certificates  a fact that is certified to survive a weighted sum does survive it

Shares of answers are the study's own counts. Interaction and certificates are calculated from the
adapters (interaction.py; recycle/audit/survival.py).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora import Adapter
from recycle.audit.candidates import acting
from recycle.audit.inputs import Probe
from recycle.audit.retention import is_right, probed
from recycle.audit.survival import Fact, facts_of, is_exact, last_down_proj, survivals
from recycle.decide.metrics import Metrics
from recycle.measure.ask import encode_prompt
from recycle.measure.interaction import additive_bound, interaction_and_rounding
from recycle.plan import STANDARD_BASE, Library
from recycle.reuse.methods import ALONE, PLAIN_SUM
from recycle.show.run_files import load_metrics
from recycle.studies import Study
from recycle.train.base import Base
from recycle.train.experts import open_adapter
from theory.against_study.interaction import FORM

HOPS = ("hop1", "hop2")
WEIGHTS = {"1": 1.0, "3/4": 0.75, "1/2": 0.5}
NEAR = 0.1  # a share is as predicted within this much of the mean over sets and seeds


@dataclass(frozen=True)
class Seen:
    """One number of one set and seed, beside what a theorem says of it: `bound` is None for a
    measurement. A number is weighted by its `n`, and equals its bound within `near`."""

    name: str
    relation: str
    bound: float | None
    value: float
    n: int = 1
    near: float = NEAR


def theorems(study: Study, run: Path) -> list[dict[str, Any]]:
    """Each number over all sets of two new hops and all seeds: rows of plain JSON."""
    metrics = load_metrics(study, run)
    pairs = [library for library in study.libraries if _is_pair(library)]
    found: dict[str, list[tuple[str, Seen]]] = {}
    for seed in study.config.seeds:
        base = study.open_base(seed, STANDARD_BASE, run) if pairs else None
        for pair in pairs:
            assert base is not None
            for seen in [*answered(metrics, seed, pair, base), *calculated(base, pair)]:
                found.setdefault(seen.name, []).append((pair.group, seen))
    return [_row(name, rows) for name, rows in found.items()]


def sets_of(study: Study) -> list[str]:
    """The groups in which both hops are new."""
    return [library.group for library in study.libraries if _is_pair(library)]


def _is_pair(library: Library) -> bool:
    """Both hops' experts of the group itself, under the plain sum."""
    own = library.name == "2-combination" and library.base == STANDARD_BASE
    of_group = all(expert.group == library.group for expert in library.experts)
    return own and of_group and tuple(e.reads for e in library.experts) == HOPS


def answered(metrics: Metrics, seed: int, pair: Library, base: Base) -> Iterator[Seen]:
    """What the study counted of direct questions."""

    def share(library: str, method: str, outcome: str) -> tuple[float, int] | None:
        for row in metrics.where(group=pair.group, library=library, method=method, form=FORM):
            if row.key.seed == seed and row.key.base == pair.base.name:
                return row.count(outcome) / row.n, row.n
        return None

    for name, library, method in (
        ("direct question: the expert of hop 1 alone answers the bridge", "hop1", ALONE.name),
        ("direct question: the sum answers the bridge", pair.name, PLAIN_SUM.name),
    ):
        if counted := share(library, method, "bridge"):
            yield Seen(name, "==", 1.0, *counted)
    if counted := share(pair.name, PLAIN_SUM.name, "right"):
        questions = base.world.questions(pair.group, FORM)
        bound = additive_bound(len(questions), len({q.answer for q in questions}))
        name = "direct question: the sum is right (the bound is that of no interaction)"
        yield Seen(name, "<=", bound, *counted)


def calculated(base: Base, pair: Library) -> Iterator[Seen]:
    """Interaction and certificates, of the experts as they are and cut to the last down_proj."""
    whole = {e.reads: open_adapter(base.folder, e.slug) for e in pair.experts}
    path = last_down_proj(base.model)
    prompts = [encode_prompt(base.tokenizer, q) for q in base.world.questions(pair.group, FORM)]
    versions = {} if is_exact(base.model, whole) else {"as trained": whole}
    if all(path in adapter.paths for adapter in whole.values()):
        versions["on the last down_proj alone"] = {
            name: Adapter.unscaled({path: only(adapter, path)}, adapter.base)
            for name, adapter in whole.items()
        }
    for version, adapters in versions.items():
        exact = is_exact(base.model, adapters)
        first, second = adapters.values()
        share, rounding = interaction_and_rounding(base.model, prompts, first, second)
        name, bound = f"interaction: {version}", 0.0 if exact else None
        yield Seen(name, "==", bound, share, near=rounding)
        yield from certificates(base, pair.group, adapters, version)


def only(adapter: Adapter, path: str) -> tuple[Any, Any]:
    """The factors of one layer, the scale in B."""
    A, B = adapter.factors[path]
    return A, adapter.scale(path) * B


def certificates(
    base: Base, group: str, adapters: Mapping[str, Adapter], version: str
) -> Iterator[Seen]:
    """Of the facts that each expert answers alone those that are certified and lost, and of those
    that survive the certified ones."""
    facts = known_facts(base, group, adapters)
    exact = is_exact(base.model, adapters)
    by_weight = survivals(base.model, base.tokenizer, adapters, facts, list(WEIGHTS.values()))
    for written, rows in zip(WEIGHTS, by_weight, strict=True):
        n, seen = sum(row.facts for row in rows), sum(row.seen for row in rows)
        name = f"weight {written}, {version}"
        if n:
            lost = sum(row.lost for row in rows) / n
            chance = max(row.chance or 0.0 for row in rows)
            said = "==" if exact else "<="
            near = 0.0 if exact else NEAR
            yield Seen(f"{name}: facts that are certified and lost", said, chance, lost, n, near)
        if seen:
            kept = sum(row.certified - row.lost for row in rows)
            yield Seen(f"{name}: survivors that are certified", "==", None, kept / seen, seen)


def known_facts(base: Base, group: str, adapters: Mapping[str, Adapter]) -> list[Fact]:
    """What each hop's expert answers alone of its own questions."""
    probes = [
        Probe(question.prompt, question.answer, hop, "")
        for hop in HOPS
        for question in base.world.questions(group, hop)
    ]
    with acting(base.model, adapters) as (_, alone):
        references, said = probed(base.model, base.tokenizer, probes, alone)
    right = [is_right(s, probe.answer) for s, probe in zip(said, probes, strict=True)]
    return facts_of(base.tokenizer, probes, references, right)


def _row(name: str, rows: Sequence[tuple[str, Seen]]) -> dict[str, Any]:
    """One row of the table: means over the seeds, and over the sets."""

    def mean(chosen: Sequence[Seen]) -> float:
        return round(sum(s.value * s.n for s in chosen) / sum(s.n for s in chosen), 4) + 0.0

    seen = [one for _, one in rows]
    relation, bounds = seen[0].relation, [s.bound for s in seen if s.bound is not None]
    bound = sum(bounds) / len(bounds) if bounds else None
    groups = {group: [s for g, s in rows if g == group] for group in dict.fromkeys(dict(rows))}
    value, verdict = mean(seen), "measured"
    if bound is not None:
        near = max(one.near for one in seen)
        holds = value <= bound if relation == "<=" else abs(value - bound) <= near
        verdict = "as predicted" if holds else "differs"
    return {
        "name": name,
        "relation": relation,
        "bound": None if bound is None else round(bound, 4),
        "seen": value,
        "n": sum(s.n for s in seen),
        "sets": {group: mean(chosen) for group, chosen in groups.items()},
        "verdict": verdict,
    }
