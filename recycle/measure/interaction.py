"""How far two experts act on one another in a weighted sum, and what that allows.

Let l(S) be the logits of the model with the experts S at their weights, times the divisor of the
final RMSNorm: a positive factor that no argmax sees. The interaction of two experts is

    I = l(12) - l(1) - l(2) + l(0).

Where I = 0 the logits are additive: no expert's part can depend on what the other one knows. So two
hops that are both new, asked at once, are answered no more often than `additive_bound` says,
whatever was learned. Adapters on the last block's down_proj or up_proj are such a case in every
transformer of this kind. An interaction is needed for more; how much of it is enough, nobody says.

The bound is the theorem `compose-additive`; its proof stands in `theory/claims/composition.py`. It
takes a group's questions as bridges and each bridge's answer as one of the group's different
answers by itself. It bounds the mean over such worlds: a share above it on one world is a hint,
above it on the mean of many a proof that the experts act on one another.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lora import Adapter, Mix, attach, detach, using
from models import Model, device_of
from recycle.measure.ask import encode_prompt
from recycle.reuse.route import on_all_layers
from recycle.train.base import Base
from tasks import Question

AT_ONCE = 64  # prompts whose logits are held together


def additive_bound(n: int, answers: int | None = None) -> float:
    """The largest expected share right that additive logits allow on n bridges, where the second
    hop is a bijection; with ``answers``, where it maps each bridge to one of so many answers by
    itself."""
    total = 0.0
    for k in range(1, n + 1):
        if answers is None:
            sets, most = math.comb(n, k) / math.factorial(k), 1 - (k > 1) / math.factorial(n)
        else:
            sets, most = math.comb(n, k) * math.comb(answers + k - 1, k) / answers**k, 1.0
        total += min(most, sets)
    return total / n


def interactions(
    base: Base,
    questions: Mapping[str, Sequence[Question]],
    experts: Sequence[Adapter],
    weight: float,
) -> dict[str, dict[str, Any]]:
    """{form: {"share", "rounding", "questions", "answers"}} for the questions of each form: the
    numbers of `interaction_and_rounding` under the sum of two experts at one weight, and how many
    questions and different answers there are."""
    first, second = experts
    found = {}
    for form, own in questions.items():
        prompts = [encode_prompt(base.tokenizer, question) for question in own]
        share, rounding = interaction_and_rounding(base.model, prompts, first, second, weight)
        answers = len({question.answer for question in own})
        counted = {"questions": len(own), "answers": answers}
        found[form] = {"share": share, "rounding": rounding, **counted}
    return found


def interaction(
    model: Model, prompts: Sequence[Sequence[int]], first: Adapter, second: Adapter
) -> float:
    """rms(I) / rms(l(12) - l(0)) at the end of prompts, over all of them and the whole vocabulary.
    A shift of all logits of a prompt is left out: no argmax sees it."""
    return interaction_and_rounding(model, prompts, first, second)[0]


def interaction_and_rounding(
    model: Model,
    prompts: Sequence[Sequence[int]],
    first: Adapter,
    second: Adapter,
    weight: float = 1.0,
) -> tuple[float, float]:
    """The interaction at this weight of each, and what rounding alone may make of it: each of four
    logits w . s is off by up to eps |w| |s| in the model's number format, s the stream times the
    final norm's gains. Both are 0 where the experts change nothing together."""
    attach(model, on_all_layers({"1": first, "2": second}))
    alone, other = Mix({"1": weight}), Mix({"2": weight})
    modes = (None, alone, other, Mix({"1": weight, "2": weight}))
    try:
        states = [last_states(model, prompts, mode) for mode in modes]
    finally:
        detach(model)
    joint = change = 0.0
    for start in range(0, len(prompts), AT_ONCE):
        l0, l1, l2, l12 = (logits(model, each[start : start + AT_ONCE]) for each in states)
        joint += float((l12 - l1 - l2 + l0).square().sum())
        change += float((l12 - l0).square().sum())
    if not change:
        return 0.0, 0.0
    rows = getattr(model, "lm_head", model.embed_tokens).weight
    size = _norm(rows) / len(rows) ** 0.5 * float(states[0].double().norm(dim=1).mean())
    rms = math.sqrt(change / (len(prompts) * len(rows)))
    return math.sqrt(joint / change), len(modes) * torch.finfo(states[0].dtype).eps * size / rms


@torch.no_grad()
def _norm(weights: Tensor) -> float:
    """Frobenius norm, of weights that are spread over processes too."""
    norm = weights.double().norm()
    whole: Tensor = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    return whole.item()


@torch.no_grad()
def last_states(model: Model, prompts: Sequence[Sequence[int]], mode: Mix | None) -> Tensor:
    """The stream at the last token times the gains of the final norm, without its divisor:
    (prompts, width), the shortest prompts first."""
    streams: list[Tensor] = []

    def read(norm: Any, given: tuple[Tensor, ...]) -> None:  # only here are spread gains gathered
        streams.append(given[0][:, -1] * norm.weight)

    hook = model.norm.register_forward_pre_hook(read)
    try:
        with using(model, mode):
            for length in sorted({len(prompt) for prompt in prompts}):
                alike = torch.tensor([p for p in prompts if len(p) == length])
                model.hidden_states(alike.to(device_of(model)))
    finally:
        hook.remove()
    return torch.cat(streams)


@torch.no_grad()
def logits(model: Model, states: Tensor) -> Tensor:
    """The logits of states, each prompt's mean taken off, in double precision on the CPU: (prompts,
    vocabulary)."""
    scaled = model.unembed(states).double().cpu()
    return scaled - scaled.mean(-1, keepdim=True)
