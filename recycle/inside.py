"""What a study looks at inside a seed's merges: the mechanisms of recycle/mechanism.py on the main
library of each group."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from lora import Adapter, Gated, Mix, attach, detach, lora_layers, using
from models import Tokenizer, Transformer
from recycle.evaluate import ask, encode_prompt
from recycle.mechanism import blocks, interference, knock_out, logit_lens, routing
from recycle.merge import MERGES
from recycle.route import arrow
from tasks import Library, Task

MERGED = "plain_sum"


def look_inside(
    task: Task,
    model: Transformer,
    tokenizer: Tokenizer,
    main: Library,
    experts: Mapping[str, Adapter],
) -> dict[str, Any]:
    """``experts``: the main library's and the group's single ones, by name. Conditions: the base,
    each expert alone, and the main library's plain sum.

    -> {"interference": .., "knock out": {form: ..}, "routing": {form: {"tokens": .., "layers": ..}}, "lens": {condition: ..}}
    """
    group, members = main.group, {expert.name: experts[expert.name] for expert in main.experts}
    attach(model, {**experts, MERGED: MERGES[MERGED](list(members.values()))})
    conditions = {"base": None, **{name: Mix({name: 1.0}) for name in (*experts, MERGED)}}
    found: dict[str, Any] = {"members": list(members), "interference": interference(members)}

    def score() -> dict[str, float]:
        shares = {}
        for form in task.components:
            answers = ask(model, tokenizer, task, task.questions(group, form))
            shares[form] = sum(answer.outcome == "right" for answer in answers) / len(answers)
        return shares

    with using(model, conditions[MERGED]):
        found["knock out"] = knock_out(model, blocks(lora_layers(model), parts=3), score)

    found["routing"] = {}
    routers = arrow(list(members.values()))
    for form in task.forms:
        prompts = [encode_prompt(tokenizer, question) for question in task.questions(group, form)]
        same_length = [prompt for prompt in prompts if len(prompt) == len(prompts[0])]
        with using(model, Gated(tuple(members), routers)):
            layers = routing(model, torch.tensor(same_length), routers)
        columns = zip(*same_length, strict=True)  # a word where all prompts have it, else a dot
        tokens = [
            tokenizer.words[column[0]] if len(set(column)) == 1 else "·" for column in columns
        ]
        found["routing"][form] = {"tokens": tokens, "layers": layers}

    found["lens"] = {}
    for form, targets in task.lens(group).items():
        asked = torch.tensor(
            [encode_prompt(tokenizer, question) for question in task.questions(group, form)]
        )
        ids = {
            name: torch.tensor([tokenizer.encode(word)[0] for word in words])
            for name, words in targets.items()
        }
        found["lens"][form] = {}
        for name, mode in conditions.items():
            with using(model, mode):
                found["lens"][form][name] = logit_lens(model, asked, ids)
    detach(model)
    return found
