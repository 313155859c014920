"""One cell: a library's experts are merged or routed, asked every form of question, and counted."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import torch

from lora import Adapter, attach, detach, using
from models import Model
from recycle.decide.metrics import Row, itemised
from recycle.measure.ask import Answer, ask, compare, tally
from recycle.measure.mechanism import interference
from recycle.plan import Cell, derived
from recycle.reuse.method import Stage
from recycle.reuse.methods import PLAIN_SUM
from recycle.train.base import Base
from recycle.train.experts import Trained

SHOWN = 3  # answers of each form that are kept to be read


@dataclass(frozen=True)
class Measured:
    """A cell's rows, one for each form, and a few answers to read."""

    rows: Sequence[Row]
    examples: Mapping[str, Sequence[Answer]]

    def to_json(self) -> dict[str, Any]:
        shown = {form: [a.to_json() for a in answers] for form, answers in self.examples.items()}
        return {"rows": [row.to_json() for row in self.rows], "examples": shown}


def measure(cell: Cell, base: Base, experts: Trained) -> Measured:
    """Ask the cell's questions in every form. ``experts`` are the base's, by slug."""
    world, group = base.world, cell.library.group
    members = {expert.slug: experts[expert.slug] for expert in cell.library.experts}
    adapters = {slug: made for slug, made in members.items() if isinstance(made, Adapter)}
    model = _tuned(base.model, members)
    generator = torch.Generator().manual_seed(derived(cell.seed, cell.path))
    prepared = cell.method.apply(adapters, generator, world)
    stages = {form: prepared.stages(form) for form in world.forms}

    attach(model, prepared.adapters)
    answers = _answer(replace(base, model=model), cell, stages)
    rows = {}
    for form in world.forms:
        outcomes, notes = tally(world, answers[form])
        items = itemised((answer.outcome for answer in answers[form]), world.outcomes)
        rows[form] = Row(cell.key, form, len(answers[form]), outcomes, notes, items=items)
        if (others := world.alternatives(group, form)) and not cell.library.context:
            questions = world.questions(group, form)
            with using(model, stages[form][0].mode):
                signal = compare(model, base.tokenizer, questions, others)
            rows[form] = replace(rows[form], values=signal)
    detach(model)

    if cell.method is PLAIN_SUM:
        overlap = mean_interference(adapters)
        rows = {f: replace(row, values={**row.values, **overlap}) for f, row in rows.items()}
    if group != "base":  # the forms ask about the same things, one by one
        rows = _with_known(rows, answers, world.components)
    return Measured(tuple(rows.values()), {form: said[:SHOWN] for form, said in answers.items()})


def _tuned(model: Model, members: Trained) -> Model:
    """The base's model, or a copy with the weights of a fully fine-tuned expert."""
    for made in members.values():
        if not isinstance(made, Adapter):
            model = copy.deepcopy(model)
            model.load_state_dict(made)
    return model


def _answer(
    base: Base, cell: Cell, stages: Mapping[str, Sequence[Stage]]
) -> dict[str, list[Answer]]:
    """Answers to every form; forms on which the adapters act alike share their batches."""
    world, group = base.world, cell.library.group
    contexts = world.in_context(group) if cell.library.context else None
    questions = {form: world.questions(group, form) for form in world.forms}
    answers: dict[str, list[Answer]] = {}
    for forms in asked_together(stages):
        said = ask(
            base,
            [question for form in forms for question in questions[form]],
            stages[forms[0]],
            contexts=None if contexts is None else contexts * len(forms),
        )
        for form in forms:
            answers[form], said = said[: len(questions[form])], said[len(questions[form]) :]
    return answers


def asked_together(stages: Mapping[str, Sequence[Stage]]) -> list[list[str]]:
    """Forms whose questions can share a batch, because the adapters act on them in the same way."""
    found: dict[tuple, list[str]] = {}
    for form, own in stages.items():
        found.setdefault(tuple((id(stage.mode), stage.until) for stage in own), []).append(form)
    return list(found.values())


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
    pairs = interference(adapters)["pairs"]
    if not pairs:  # placed in different layers, they share none
        return {}
    beyond = {
        f"{side} overlap": fmean(
            (p[side] - p[f"{side}_random"]) / (1 - p[f"{side}_random"]) for p in pairs
        )
        for side in ("input", "output")
    }
    return {"cosine": fmean(p["cosine"] for p in pairs), **beyond}
