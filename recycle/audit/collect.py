"""Merges of known fate: the experts of finished runs, put together and asked what they know.

A prediction is fitted and tested on rows (adapter, method, library):

    what an audit sees without questions   ->   recall kept of the probes

The probes are the questions of the run's world that an expert read, as far as it alone answers
them. What an audit sees is measured on two kinds of texts: ``written`` after openings that the
adapter draws by itself, which every audit has; and ``read`` after prompts that the run's record
says the adapter read, without those of the probes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lora import Adapter, Mode
from recycle.audit.candidates import acting
from recycle.audit.geometry import geometry
from recycle.audit.inputs import Probe, prompts_read
from recycle.audit.retention import Sums, answers, compared, is_right, written
from recycle.plan import BaseSpec, Expert
from recycle.reuse.method import Method
from recycle.reuse.methods import weight_of
from recycle.run import progress
from recycle.run.folder import base_folder
from recycle.studies import Study
from recycle.train.base import Base
from recycle.train.experts import open_adapter
from tasks import World

SOURCES = ("written", "read")
MOST = 60  # probes of an adapter
BESIDE = 8  # experts that are put together across groups


def libraries_of(study: Study, run: Path, seed: int, spec: BaseSpec) -> list[tuple[Expert, ...]]:
    """The study's libraries of several experts, each set of experts once; and across groups: the
    first, the second, and all experts of the pairs that several groups have alike. Libraries with
    an expert that is not in the run's folder, or is no adapter, are left out."""
    own = [lib.experts for lib in study.libraries if lib.base == spec and len(lib.experts) > 1]
    alike: dict[Any, list[tuple[Expert, ...]]] = {}
    for pair in dict.fromkeys(own):
        if len(pair) == 2 and pair[0].group == pair[1].group:
            alike.setdefault(tuple((e.reads, e.recipe.name) for e in pair), []).append(pair)
    for pairs in alike.values():
        if len(pairs) > 1:
            firsts, seconds = zip(*pairs, strict=True)
            own += [firsts, seconds, (*firsts, *seconds)]
    library = base_folder(run, seed, spec.name) / "library"
    return [
        experts
        for experts in dict.fromkeys(own)
        if len(experts) <= BESIDE
        and all((library / e.slug / "adapter_config.json").exists() for e in experts)
    ]


def probes_of(world: World, expert: Expert) -> list[Probe]:
    """The questions of the world, of any group and form, whose prompts the expert read, and whose
    completions begin with their answers."""
    try:
        read = {text.prompt for text in world.expert_texts(expert.reads, expert.group)}
    except (ValueError, KeyError):
        return []
    found = {}
    for group in world.groups:
        for form in world.forms:
            for question in _questions(world, group, form):
                if question.prompt in read and is_right(question.completion, question.answer):
                    found[question.prompt] = question.answer
    return [Probe(prompt, answer, expert.slug, "") for prompt, answer in found.items()]


def probes_read(world: World, name: str, adapter: Adapter) -> list[Probe]:
    """`probes_of` an adapter under its own name, by what its record says that it read; at most
    MOST, and none where the record says nothing that the world knows."""
    reads, group = adapter.origin.get("reads"), adapter.origin.get("group")
    if not isinstance(reads, str) or not isinstance(group, str):
        return []
    found = probes_of(world, Expert(reads, group))[:MOST]
    return [replace(probe, adapter=name, where=f"the run, {name}") for probe in found]


def _questions(world: World, group: str, form: str) -> Sequence[Any]:
    try:
        return world.questions(group, form)
    except ValueError:  # a group for which a checkpoint knows too little asks nothing
        return []


def fates(base: Base, experts: Sequence[Expert], methods: Sequence[Method]) -> dict[str, Any]:
    """Everything that the rows of one library are made of.

    -> {"experts": [{"adapter", "reads", "group", "recipe", "rank", "asked", "base right",
                     "alone right"}],
        "geometry": sizes and pairs (recycle/audit/geometry.py), without single layers,
        "methods": [{"method", "family", "weight"}],
        "rows": [{"method", "adapter", "right", "n", "written", "read"}]}
    A method that cannot put these together is left out; so is an adapter without probes."""
    adapters = {expert.slug: open_adapter(base.folder, expert.slug) for expert in experts}
    library = _Library(base, experts, adapters)
    shape = geometry(base.model, adapters)
    for each in shape["adapters"]:
        del each["layers"]
    return {
        "experts": library.experts,
        "geometry": shape,
        "methods": [
            {"method": m.name, "family": m.family, "weight": weight_of(m, len(experts))}
            for m in methods
        ],
        "rows": list(library.rows(methods)),
    }


class _Library:
    """The texts and the probes of adapters on one base."""

    def __init__(self, base: Base, experts: Sequence[Expert], adapters: Mapping[str, Adapter]):
        self.ask = (base.model, base.tokenizer)
        self.adapters, self.seed = adapters, base.seed
        self.probes: dict[str, list[tuple[str, str]]] = {}
        self.experts = []
        with acting(base.model, adapters) as (_, alone):
            for expert in experts:
                name, adapter = expert.slug, adapters[expert.slug]
                asked = [(p.prompt, p.answer) for p in probes_of(base.world, expert)]
                knows, base_knows = self.right(asked, alone[name]), self.right(asked, None)
                both = zip(asked, knows, strict=True)
                self.probes[name] = [each for each, right in both if right][:MOST]
                self.experts.append(
                    {
                        "adapter": name,
                        "reads": expert.reads,
                        "group": expert.group,
                        "recipe": expert.recipe.name,
                        "rank": max(adapter.rank(path) for path in adapter.paths),
                        "asked": len(asked),
                        "base right": sum(base_knows),
                        "alone right": sum(knows),
                    }
                )
            read = {
                name: sorted(set(prompts_read(base.world, adapter)) - self.prompts(name))
                for name, adapter in adapters.items()
            }
            self.texts = {
                "written": written(*self.ask, alone, self.seed, {}),
                "read": written(
                    *self.ask, {n: alone[n] for n, prompts in read.items() if prompts},
                    self.seed, read,
                ),
            }  # fmt: skip

    def prompts(self, name: str) -> set[str]:
        return {prompt for prompt, _ in self.probes[name]}

    def right(self, asked: Sequence[tuple[str, str]], mode: Mode) -> list[bool]:
        said = answers(*self.ask, asked, mode)
        return [is_right(s, answer) for s, (_, answer) in zip(said, asked, strict=True)]

    def rows(self, methods: Sequence[Method]) -> Iterator[dict[str, Any]]:
        with acting(self.ask[0], self.adapters) as (_, alone):
            yield from self.under("base", None, alone)
        for method in methods:
            try:
                with acting(self.ask[0], self.adapters, method, self.seed) as (mode, alone):
                    yield from self.under(method.name, mode, alone)
            except ValueError:  # it cannot put these together
                pass
            progress.current().advance(1)

    def under(self, method: str, mode: Mode, alone: Mapping[str, Mode]) -> Iterator[dict[str, Any]]:
        for name, probes in self.probes.items():
            if not probes:
                continue
            right = self.right(probes, mode)
            texts = {
                source: means(
                    compared(*self.ask, [r for r in found if r.adapter == name], mode, alone)
                )
                for source, found in self.texts.items()
            }
            yield {"method": method, "adapter": name, "right": sum(right), "n": len(right), **texts}


def means(sums: Sequence[Sums]) -> dict[str, float | None]:
    """The means of `retention.summary`, without intervals."""
    n, changed = sum(each.tokens for each in sums), sum(each.changed for each in sums)
    own = sum(each.own_margin for each in sums)
    return {
        "tokens": n,
        "changed": changed,
        "kept": sum(each.kept for each in sums) / changed if changed else None,
        "agreement": sum(each.agreed for each in sums) / n if n else None,
        "kl": sum(each.kl for each in sums) / n if n else None,
        "margin left": sum(each.margin for each in sums) / own if own else None,
    }
