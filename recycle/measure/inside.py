"""Looks inside a seed's merges: the probes of mechanism.py and patching.py on the main library of
each group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lora import Adapter, Gated, Mix, Mode, attach, detach, lora_layers, using
from models.layout import by_part
from recycle.measure.ask import ask, encode_prompt
from recycle.measure.mechanism import interference, knock_out, lens_map, logit_lens, routing
from recycle.measure.patching import nearest_rows, patch
from recycle.plan import Library
from recycle.reuse.merge import plain_sum
from recycle.reuse.methods import PLAIN_SUM
from recycle.reuse.route import arrow, on_all_layers
from recycle.train.base import Base
from tasks import Question

ANOTHER = "another question"  # a donor: see _patching


def look_inside(library: Library, base: Base, experts: Mapping[str, Adapter]) -> dict[str, Any]:
    """``experts``: the library's own and the group's other single ones, by slug. The conditions are
    the base, each expert alone, and the library's plain sum. The scores of the knock-outs are the
    shares right in the components and in the forms that the world has a lens for. The maps are
    rounded to 4 digits.

    -> {"members": [slugs], "interference": interference(..), "knock out": knock_out(..),
        "routing": {form: {"tokens": [words], "layers": routing(..)}},
        "lens": {form: {condition: logit_lens(..)}},
        "lens map": {form: {"tokens": [words], "conditions": {condition: lens_map(..)}}},
        "patching": {form: {donor: {"tokens": [words], "conditions": {condition: patch(..)}}}}}

    Tokens are words where all prompts share them, else dots. Patching, the dearest look, leaves out
    the experts that are not in the library.
    """
    model, world, group, merged = base.model, base.world, library.group, PLAIN_SUM.name
    members = {expert.slug: experts[expert.slug] for expert in library.experts}
    attach(model, on_all_layers({**experts, merged: plain_sum(list(members.values()))}))
    conditions: dict[str, Mode] = {
        "base": None,
        **{name: Mix({name: 1.0}) for name in (*experts, merged)},
    }
    patched = {name: conditions[name] for name in ("base", *members, merged)}
    probed = world.lens(group)

    def score() -> dict[str, float]:
        shares = {}
        for form in dict.fromkeys((*world.components, *probed)):
            answers = ask(base, world.questions(group, form))
            shares[form] = sum(answer.outcome == "right" for answer in answers) / len(answers)
        return shares

    with using(model, conditions[merged]):
        knocked = knock_out(model, by_part(lora_layers(model)), score)
    seen = {
        "members": list(members),
        "interference": interference(members),
        "knock out": knocked,
        "routing": {form: _routing(form, group, base, members) for form in world.forms},
        "lens": {form: _lens(form, group, base, conditions) for form in probed},
        "lens map": {form: _lens_map(form, group, base, conditions) for form in probed},
        "patching": {form: _patching(form, group, base, patched) for form in probed},
    }
    detach(model)
    return seen


def _of_one_length(questions: Sequence[Question], base: Base) -> tuple[list[int], Tensor]:
    """The questions whose prompts are as long as the first one's: indices, and ids (rows,
    length)."""
    prompts = [encode_prompt(base.tokenizer, question) for question in questions]
    rows = [i for i, prompt in enumerate(prompts) if len(prompt) == len(prompts[0])]
    return rows, torch.tensor([prompts[i] for i in rows])


def _tokens(prompts: Tensor, base: Base) -> list[str]:
    """A word where all prompts (rows, length) have it, else a dot."""
    return [
        base.tokenizer.token(int(column[0])) if len(column.unique()) == 1 else "·"
        for column in prompts.T
    ]


def _routing(form: str, group: str, base: Base, members: Mapping[str, Adapter]) -> dict[str, Any]:
    """Arrow's gates on the group's prompts of one length."""
    routers = arrow(list(members.values()))
    _, prompts = _of_one_length(base.world.questions(group, form), base)
    with using(base.model, Gated(tuple(members), routers)):
        layers = routing(base.model, prompts, routers)
    return {"tokens": _tokens(prompts, base), "layers": layers}


def _lens_targets(form: str, group: str, base: Base) -> dict[str, Tensor]:
    return {
        name: torch.tensor([base.tokenizer.encode_completion(word)[0] for word in words])
        for name, words in base.world.lens(group)[form].items()
    }


def _lens(
    form: str, group: str, base: Base, conditions: Mapping[str, Mode]
) -> dict[str, dict[str, Any]]:
    """The logit lens at the end of the group's prompts, under each condition."""
    prompts = [encode_prompt(base.tokenizer, q) for q in base.world.questions(group, form)]
    ids = _lens_targets(form, group, base)
    found = {}
    for name, mode in conditions.items():
        with using(base.model, mode):
            found[name] = logit_lens(base.model, torch.tensor(prompts), ids)
    return found


def _lens_map(form: str, group: str, base: Base, conditions: Mapping[str, Mode]) -> dict[str, Any]:
    """The logit lens at every token of the group's prompts of one length."""
    rows, prompts = _of_one_length(base.world.questions(group, form), base)
    ids = {name: own[rows] for name, own in _lens_targets(form, group, base).items()}
    maps = {}
    for name, mode in conditions.items():
        with using(base.model, mode):
            maps[name] = _rounded(lens_map(base.model, prompts, ids))
    return {"tokens": _tokens(prompts, base), "conditions": maps}


def _patching(
    form: str, group: str, base: Base, conditions: Mapping[str, Mode]
) -> dict[str, dict[str, Any]]:
    """Activation patching of the group's prompts of one length, from two donors:

    another question   the form's own question that is most like it and has another answer: whose
                       states carry an answer over
    <last component>   the question that asks for the last hop of the very same chain, aligned at
                       the end. It names the bridge, so it shows from where on a model that is
                       given the bridge reads the answer

    The targets are the first tokens of the right answers to the prompt and to its donor.
    """
    world = base.world
    questions = world.questions(group, form)
    rows, prompts = _of_one_length(questions, base)
    firsts = [base.tokenizer.encode_completion(question.completion)[0] for question in questions]
    answers = torch.tensor(firsts)[rows]
    nearest = nearest_rows(prompts, answers)
    lenders = {ANOTHER: (prompts, prompts[nearest], answers, answers[nearest])}
    for component in world.components[-1:]:
        parts = world.questions(group, component)
        own, donors = _of_one_length([parts[i] for i in rows], base)
        lenders[component] = (prompts[own], donors, answers[own], answers[own])
    found = {}
    for donor, (asked, lending, right, right_of_donor) in lenders.items():
        targets = {"answer": right, "donor's answer": right_of_donor}
        maps = {}
        for name, mode in conditions.items():
            with using(base.model, mode):
                maps[name] = _rounded(patch(base.model, asked, lending, targets))
        shared = min(asked.shape[1], lending.shape[1])
        found[donor] = {"tokens": _tokens(asked, base)[-shared:], "conditions": maps}
    return found


def _rounded(value: Any) -> Any:
    """Plain JSON with its numbers rounded to 4 digits; controls, which are near 0, stay as they
    are."""
    if isinstance(value, float):
        return round(value, 4) + 0.0  # not -0.0
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    if isinstance(value, dict):
        return {key: one if key == "controls" else _rounded(one) for key, one in value.items()}
    return value
