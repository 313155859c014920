"""Looks inside a seed's merges: the probes of mechanism.py on the main library of each group."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from lora import Adapter, Gated, Mix, Mode, attach, detach, lora_layers, using
from models.layout import by_part
from recycle.measure.ask import ask, encode_prompt
from recycle.measure.mechanism import interference, knock_out, logit_lens, routing
from recycle.plan import Library
from recycle.reuse.merge import plain_sum
from recycle.reuse.methods import PLAIN_SUM
from recycle.reuse.route import arrow
from recycle.train.base import Base


def look_inside(library: Library, base: Base, experts: Mapping[str, Adapter]) -> dict[str, Any]:
    """``experts``: the library's own and the group's other single ones, by slug. The conditions are
    the base, each expert alone, and the library's plain sum.

    -> {"members": [slugs], "interference": interference(..), "knock out": knock_out(..),
        "routing": {form: {"tokens": [words], "layers": routing(..)}},
        "lens": {form: {condition: logit_lens(..)}}}
    """
    model, world, group, merged = base.model, base.world, library.group, PLAIN_SUM.name
    members = {expert.slug: experts[expert.slug] for expert in library.experts}
    attach(model, {**experts, merged: plain_sum(list(members.values()))})
    conditions: dict[str, Mode] = {
        "base": None,
        **{name: Mix({name: 1.0}) for name in (*experts, merged)},
    }

    def score() -> dict[str, float]:
        shares = {}
        for form in world.components:
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
        "lens": {form: _lens(form, group, base, conditions) for form in world.lens(group)},
    }
    detach(model)
    return seen


def _routing(form: str, group: str, base: Base, members: Mapping[str, Adapter]) -> dict[str, Any]:
    """Arrow's gates on the group's prompts of one length."""
    routers = arrow(list(members.values()))
    prompts = [encode_prompt(base.tokenizer, q) for q in base.world.questions(group, form)]
    same_length = [prompt for prompt in prompts if len(prompt) == len(prompts[0])]
    with using(base.model, Gated(tuple(members), routers)):
        layers = routing(base.model, torch.tensor(same_length), routers)
    columns = zip(*same_length, strict=True)  # a word where all prompts have it, else a dot
    tokens = [base.tokenizer.token(c[0]) if len(set(c)) == 1 else "·" for c in columns]
    return {"tokens": tokens, "layers": layers}


def _lens(
    form: str, group: str, base: Base, conditions: Mapping[str, Mode]
) -> dict[str, dict[str, Any]]:
    """The logit lens at the end of the group's prompts, under each condition."""
    prompts = [encode_prompt(base.tokenizer, q) for q in base.world.questions(group, form)]
    ids = {
        name: torch.tensor([base.tokenizer.encode(word)[0] for word in words])
        for name, words in base.world.lens(group)[form].items()
    }
    found = {}
    for name, mode in conditions.items():
        with using(base.model, mode):
            found[name] = logit_lens(base.model, torch.tensor(prompts), ids)
    return found
