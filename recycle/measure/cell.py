"""One cell: a library's experts are merged or routed, asked every form of question, and counted."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any, TypeVar

import torch

from lora import Adapter, attach, detach, using
from models import Model
from recycle.decide.metrics import Row, itemised
from recycle.measure.ask import Answer, ask, compare, tally
from recycle.measure.cost import Cost, cost_of
from recycle.measure.interaction import interactions
from recycle.measure.mechanism import interference
from recycle.plan import Cell, derived
from recycle.reuse.method import Given, Prepared, Stage
from recycle.reuse.methods import PLAIN_SUM, weight_of
from recycle.train.base import Base
from recycle.train.experts import Trained
from tasks import Question, Split, Text

K = TypeVar("K", str, int, tuple[str, int])
V = TypeVar("V")
SHOWN = 3  # answers of each form that are kept to be read


@dataclass(frozen=True)
class Measured:
    """A cell's rows, one for each form, a few answers to read, and what its method costs.

    ``interaction`` is that of the two experts of a weighted sum, by form (interaction.py). Seconds
    differ from machine to machine, so a cost is no part of a row: rows are the same wherever they
    are made, and those of older runs, which measured no interaction, are the same too."""

    rows: Sequence[Row]
    examples: Mapping[str, Sequence[Answer]]
    cost: Cost
    interaction: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        shown = {form: [a.to_json() for a in answers] for form, answers in self.examples.items()}
        rows = [row.to_json() for row in self.rows]
        acting = {"interaction": dict(self.interaction)} if self.interaction else {}
        return {"rows": rows, "examples": shown, "cost": self.cost.to_json(), **acting}


def measure(cell: Cell, base: Base, experts: Trained) -> Measured:
    """Ask the cell's questions in every form. ``experts`` are the base's, by slug.

    A method that learns from examples is asked about nobody whom they name (`World.examples`)."""
    world, group = base.world, cell.library.group
    split = world.examples(group, cell.method.examples) if cell.method.examples else None
    asked = {form: _kept(world.questions(group, form), split) for form in world.forms}
    members = {expert.slug: experts[expert.slug] for expert in cell.library.experts}
    adapters = {slug: made for slug, made in members.items() if isinstance(made, Adapter)}
    model = _tuned(base.model, members)
    generator = torch.Generator().manual_seed(derived(cell.seed, cell.path))
    given = Given(model, base.tokenizer, split.examples if split else ())
    begun = time.perf_counter()
    prepared = cell.method.prepare(adapters, generator, world, given)
    cost = cost_of(prepared, world.forms, time.perf_counter() - begun)
    stages = stages_of(prepared, asked)
    contexts = _kept(world.in_context(group), split) if cell.library.context else None

    attach(model, prepared.adapters)
    answers = answers_to(replace(base, model=model), asked, stages, contexts)
    rows = {}
    for form in world.forms:
        outcomes, notes = tally(world, answers[form])
        items = itemised((answer.outcome for answer in answers[form]), world.outcomes)
        rows[form] = Row(cell.key, form, len(answers[form]), outcomes, notes, items=items)
        if (others := world.alternatives(group, form)) and not cell.library.context:
            wrong = _kept(others, split)
            signal = _compare(replace(base, model=model), asked[form], wrong, stages[form])
            rows[form] = replace(rows[form], values=signal)
    detach(model)

    if cell.method is PLAIN_SUM:
        overlap = mean_interference(adapters)
        rows = {f: replace(row, values={**row.values, **overlap}) for f, row in rows.items()}
    if group != "base":  # the forms ask about the same things, one by one
        rows = _with_known(rows, answers, world.components)
    shown = {form: said[:SHOWN] for form, said in answers.items()}
    acting = _interaction(cell, replace(base, model=model), list(adapters.values()))
    return Measured(tuple(rows.values()), shown, cost, acting)


def _interaction(cell: Cell, base: Base, experts: Sequence[Adapter]) -> dict[str, dict[str, Any]]:
    """Of a weighted sum of two experts, on the questions that ask for both hops at once: the forms
    that the world has a lens for."""
    weight, library = weight_of(cell.method, len(experts)), cell.library
    if weight is None or len(experts) != 2 or len(library.experts) != 2 or library.context:
        return {}
    forms = base.world.lens(library.group)
    asked = {form: base.world.questions(library.group, form) for form in forms}
    return interactions(base, asked, experts, weight)


def _kept(values: Sequence[V], split: Split | None) -> Sequence[V]:
    """The values of the questions that are asked, where some were learned from."""
    return values if split is None else [values[row] for row in split.asked]


def _tuned(model: Model, members: Trained) -> Model:
    """The base's model, or a copy with the weights of a fully fine-tuned expert."""
    for made in members.values():
        if not isinstance(made, Adapter):
            model = copy.deepcopy(model)
            model.load_state_dict(made)
    return model


def stages_of(
    prepared: Prepared, questions: Mapping[str, Sequence[Question]]
) -> dict[str, list[Sequence[Stage]]]:
    """The stages of each question, by form; the questions of a form share them, or the method
    chooses."""
    if prepared.choose is not None:
        return {form: list(prepared.choose(own)) for form, own in questions.items()}
    stages = {form: prepared.stages(form) for form in questions}
    return {form: [stages[form]] * len(own) for form, own in questions.items()}


def answers_to(
    base: Base,
    questions: Mapping[str, Sequence[Question]],
    stages: Mapping[str, Sequence[Sequence[Stage]]],
    contexts: Sequence[Sequence[Text]] | None = None,
) -> dict[str, list[Answer]]:
    """Answers to the questions of every form, each in its stages; questions on which the adapters
    act alike share their batches."""
    answers: dict[tuple[str, int], Answer] = {}
    of_question = {(form, row): own[row] for form, own in stages.items() for row in range(len(own))}
    for places in asked_together(of_question):
        said = ask(
            base,
            [questions[form][row] for form, row in places],
            of_question[places[0]],
            contexts=None if contexts is None else [contexts[row] for _, row in places],
        )
        answers |= zip(places, said, strict=True)
    return {form: [answers[form, i] for i in range(len(own))] for form, own in questions.items()}


def asked_together(stages: Mapping[K, Sequence[Stage]]) -> list[list[K]]:
    """Forms, or single questions, that can share a batch: the adapters act on them in the same
    way."""
    found: dict[tuple, list[K]] = {}
    for name, own in stages.items():
        found.setdefault(tuple((id(stage.mode), stage.until) for stage in own), []).append(name)
    return list(found.values())


def _compare(
    base: Base,
    questions: Sequence[Question],
    others: Sequence[Sequence[str]],
    stages: Sequence[Sequence[Stage]],
) -> dict[str, float]:
    """`compare` on the questions of a form; those of one mode go together, and the means are over
    all."""
    parts, weights = [], []
    for rows in asked_together({row: own[:1] for row, own in enumerate(stages)}):
        asked, wrong = [questions[row] for row in rows], [others[row] for row in rows]
        with using(base.model, stages[rows[0]][0].mode):
            parts.append(compare(base.model, base.tokenizer, asked, wrong))
        pairs = sum(map(len, wrong))
        weights.append({"log p right": len(rows)} | dict.fromkeys(list(parts[-1])[1:], pairs))
    if len(parts) == 1:
        return parts[0]
    return {
        name: sum(part[name] * own[name] for part, own in zip(parts, weights, strict=True))
        / sum(own[name] for own in weights)
        for name in parts[0]
    }


def _with_known(
    rows: Mapping[str, Row], answers: Mapping[str, Sequence[Answer]], components: Sequence[str]
) -> dict[str, Row]:
    """The rows with counts among the questions whose components are all answered right."""
    right = {form: [a.outcome == "right" for a in said] for form, said in answers.items()}
    known = [all(each) for each in zip(*(right[form] for form in components), strict=True)]
    return {
        form: replace(
            row,
            known=sum(known),
            right_of_known=sum(r and k for r, k in zip(right[form], known, strict=True)),
        )
        for form, row in rows.items()
    }


def mean_interference(adapters: Mapping[str, Adapter]) -> dict[str, float]:
    """Means over layers and pairs of experts: the cosine of their updates, and the overlap of their
    input and output spaces beyond that of random spaces (1: the same space)."""
    return mean_overlaps(interference(adapters)["pairs"])


def mean_overlaps(pairs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The means of `mean_interference` over rows of `interference`; none where there are no rows.
    A space that is the whole one overlaps with every other by 0 beyond chance."""
    if not pairs:  # placed in different layers, they share none
        return {}
    beyond = {
        f"{side} overlap": fmean(_beyond(p[side], p[f"{side}_random"]) for p in pairs)
        for side in ("input", "output")
    }
    return {"cosine": fmean(p["cosine"] for p in pairs), **beyond}


def _beyond(overlap: float, chance: float) -> float:
    return (overlap - chance) / (1 - chance) if chance < 1 else 0.0
