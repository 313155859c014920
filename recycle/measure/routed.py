"""Adapters that a person puts together: attached, with a router of any name, and the questions that
nothing was learned from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean
from typing import cast

import torch
from torch import Tensor

from lora import Adapter, Gated, Mode, attach, detach, using
from models import Model
from recycle.measure.cell import asked_together
from recycle.measure.mechanism import routing
from recycle.plan import derived
from recycle.reuse.examples import learned_from
from recycle.reuse.method import Given, Method, Prepared, Stage, together
from recycle.reuse.route import Router
from recycle.train.base import Base
from tasks import Question


@dataclass(frozen=True)
class Put:
    """Adapters on a base's model: how they act, and the group's questions by form. ``left_out``
    questions are about people whom the examples name."""

    prepared: Prepared
    questions: Mapping[str, Sequence[Question]]
    left_out: int


def put_on(
    base: Base,
    group: str,
    adapters: Mapping[str, Adapter],
    method: Method | None = None,
    examples: Sequence[Question] = (),
) -> Put:
    """Attach adapters by the names that a person gave, to be routed by a method or to act together.

    Raises ValueError as the method and `attach` do, in those names, and where no question of the
    group is left to ask.
    """
    experts = {f"adapter{i}": adapter for i, adapter in enumerate(adapters.values())}
    with in_their_names(adapters):  # a folder's path is no adapter name
        prepared = together(experts)
        if method is not None:
            generator = torch.Generator().manual_seed(derived(base.seed, f"router {method.name}"))
            given = Given(base.model, base.tokenizer, examples)
            prepared = method.prepare(experts, generator, base.world, given)
            for form in base.world.forms:
                prepared.stages(form)  # an oracle may lack an expert
        attach(base.model, prepared.adapters)
    learned = [(question.prompt, question.completion) for question in examples]
    learned += [pair for adapter in adapters.values() for pair in learned_from(adapter.origin)]
    questions = {form: base.world.questions(group, form) for form in base.world.forms}
    if not learned:
        return Put(prepared, questions, 0)
    rows = base.world.apart_from(group, learned)
    if not rows:
        raise ValueError(
            f"all questions of group {group} are about people whom the examples name: learn from "
            "fewer examples, or ask another group"
        )
    every = len(next(iter(questions.values())))
    asked = {form: [own[row] for row in rows] for form, own in questions.items()}
    return Put(prepared, asked, every - len(rows))


def check_fit(model: Model, adapters: Mapping[str, Adapter]) -> None:
    """Raises ValueError, in their names, for adapters of another base than the model, of layers
    that it lacks, and of other shapes."""
    with in_their_names(adapters):
        attach(model, {f"adapter{i}": made for i, made in enumerate(adapters.values())})
        detach(model)


@contextmanager
def in_their_names(adapters: Iterable[str]) -> Iterator[None]:
    """Errors about adapter0, adapter1, .. inside have the names that the user gave."""
    given = {f"adapter{i}": name for i, name in enumerate(adapters)}

    def theirs(own: re.Match[str]) -> str:
        return repr(given[own[1]]) if own[1] in given else own[0]

    try:
        yield
    except ValueError as error:
        raise ValueError(re.sub(r"'?\b(adapter[0-9]+)\b'?", theirs, str(error))) from None


def mean_gates(
    base: Base, prompts: Tensor, modes: Sequence[Mode]
) -> dict[str, tuple[list[float], float]]:
    """{layer: (the mean gate of each expert, the mean entropy in nats)} over all tokens of prompts
    (rows, length), each read in its own mode."""
    parts: list[tuple[float, dict[str, dict[str, list]]]] = []
    for rows in asked_together({i: (Stage(mode),) for i, mode in enumerate(modes)}):
        mode = modes[rows[0]]
        assert isinstance(mode, Gated), "a router gates"
        routers = cast(Mapping[str, Router], mode.routers)
        with using(base.model, mode):
            seen = routing(base.model, prompts[rows], routers)
        parts.append((len(rows) / len(modes), seen))
    means = {}
    for path in parts[0][1]:
        each = [(share, torch.tensor(seen[path]["gates"]).mean(0)) for share, seen in parts]
        gates = sum(share * mean for share, mean in each)
        entropy = sum(share * fmean(seen[path]["entropy"]) for share, seen in parts)
        means[path] = cast(Tensor, gates).tolist(), entropy
    return means
