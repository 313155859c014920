"""Activation patching, which shows the state that carries an answer: run a prompt, and put in the
state of another prompt at one place.

    patch           the answers after one state of a prompt is a donor's, place by place
    nearest_rows    for each prompt another one of the same kind, to be its donor

`patch` measures the model as it acts now: call it inside ``using(model, mode)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from models import LanguageModel, device_of
from recycle.measure.mechanism import (
    check_prompts,
    check_targets,
    depth_names,
    readers,
    residual_stream,
)

TOKENS = 2**14  # tokens of one pass at most, where one position allows; bounds the memory
CONTROL_ROWS = 4  # rows on which the identity control is measured, at every depth and position


@torch.inference_mode()
def patch(
    model: LanguageModel, prompts: Tensor, donors: Tensor, targets: Mapping[str, Tensor]
) -> dict[str, Any]:
    """What prompts (rows, length) are answered when one of their states is the donor's.

    Row i of ``donors`` (rows, other length) is the donor of prompt i. With h_l(x)_p the residual
    stream of x at depth l and position p, a patched pass of prompt x with donor y sets h_l(x)_p :=
    h_l(y)_p for one (l, p) and changes nothing else: later positions and depths are calculated from
    the patched state. h_0 is the embedding, and h_l the stream after layer l. This is an
    interchange intervention (Geiger et al. 2021, arXiv 2106.02997), or activation patching (Vig et
    al. 2020, arXiv 2004.12265; Meng et al. 2022, arXiv 2202.05262, restore states of a clean run in
    the same way). Prompts and donors of different lengths are aligned at their ends: p counts from
    the end, over the positions that both have. No state says its own position here, for rotary
    scores depend on distances alone.

    The answer is the greedy token after the prompt. ``targets`` are {name: ids (rows,)}.

    follows      share of rows whose answer is the token that the donor itself is answered:
                 "unpatched", and "patched" as a map
    unpatched    for each target "log_prob", mean log p(target) in nats, and "said", the share of
                 rows whose answer is the target, of the prompts as they are
    donor        the same of the donors as they are
    gained       for each target a map: mean log p(target), patched minus unpatched, in nats
    said         for each target a map: the share of rows whose answer is the target
    identity     a control, about 0: the largest change of any token's log-probability where prompts
                 are their own donors, at every depth and position of the first CONTROL_ROWS rows
    total        a control, about 0: the largest difference of any token's log-probability between
                 the donors and prompts patched at the last depth and position, over all rows

    -> {"depths": [layers + 1 names], "follows": {"unpatched": number, "patched": map},
        "targets": {name: {"unpatched": {..}, "donor": {..}, "gained": map, "said": map}},
        "controls": {"identity": number, "total": number}}

    A map has layers + 1 lists with a number for each position, from the first that prompts and
    donors share to the last. Raises ValueError for prompts or donors that are no token ids, for
    donors of another number, and for targets that are not one token id for each prompt.
    """
    check_prompts(prompts)
    check_prompts(donors)
    if len(donors) != len(prompts):
        raise ValueError(
            f"{len(donors)} donors for {len(prompts)} prompts: give one donor for each prompt"
        )
    before, lent = _answers(model, prompts), _answers(model, donors)
    check_targets(targets, *before.shape)
    targets = {name: ids.to(before.device) for name, ids in targets.items()}
    shared = min(prompts.shape[1], donors.shape[1])
    few, rows = prompts[:CONTROL_ROWS], torch.arange(len(prompts), device=before.device)
    lending = residual_stream(model, donors)[:, :, -shared:]
    own = residual_stream(model, few)[:, :, -shared:]

    after = patched_log_probs(model, prompts, lending)
    unchanged = patched_log_probs(model, few, own)
    answers, answers_lent = after.argmax(-1), lent.argmax(-1)
    change = {name: after[..., rows, ids] - before[rows, ids] for name, ids in targets.items()}

    def as_they_are(log_probs: Tensor, ids: Tensor) -> dict[str, float]:
        return {
            "log_prob": float(log_probs[rows, ids].mean()),
            "said": float((log_probs.argmax(-1) == ids).double().mean()),
        }

    return {
        "depths": depth_names(len(lending)),
        "follows": {
            "unpatched": float((before.argmax(-1) == answers_lent).double().mean()),
            "patched": (answers == answers_lent).double().mean(-1).tolist(),
        },
        "targets": {
            name: {
                "unpatched": as_they_are(before, ids),
                "donor": as_they_are(lent, ids),
                "gained": change[name].mean(-1).tolist(),
                "said": (answers == ids).double().mean(-1).tolist(),
            }
            for name, ids in targets.items()
        },
        "controls": {
            "identity": float((unchanged - before[: len(few)]).abs().max()),
            "total": float((after[-1, -1] - lent).abs().max()),
        },
    }


@torch.inference_mode()
def patched_log_probs(model: LanguageModel, prompts: Tensor, states: Tensor) -> Tensor:
    """log p of the token after prompts (rows, length), each time with one state replaced.

    ``states`` (layers + 1, rows, positions, width) stand for those at the last positions of the
    prompts. -> (layers + 1, positions, rows, vocabulary), in nats and float64

    Below the patched depth nothing changes. So the prompts pass once, and at every depth the
    patched copies join the batch there.
    """
    rows, length = prompts.shape
    depths, _, count, _ = states.shape
    together = max(1, TOKENS // (depths * prompts.numel()))  # positions patched in one pass
    parts = []
    for columns in torch.arange(count, device=states.device).split(together):
        places = length - count + columns
        copy = torch.arange(len(columns), device=states.device)

        def join(x: Tensor, lent: Tensor, places: Tensor = places, copy: Tensor = copy) -> Tensor:
            patched = x[:rows].repeat(len(copy), 1, 1, 1)  # (copies, rows, length, width)
            patched[copy, :, places] = lent
            return torch.cat([x, patched.flatten(0, 1)])

        hooks = [
            reader.register_forward_pre_hook(
                lambda _, args, lent=lent, join=join: (join(args[0], lent), *args[1:])
            )
            for reader, lent in zip(
                readers(model), states[:, :, columns].transpose(1, 2), strict=True
            )
        ]
        try:
            log_probs = _answers(model, prompts)[rows:]
        finally:
            for hook in hooks:
                hook.remove()
        parts.append(log_probs.unflatten(0, (depths, len(columns), rows)))
    return torch.cat(parts, 1)


def _answers(model: LanguageModel, prompts: Tensor) -> Tensor:
    """log p of the token after each prompt: (rows, vocabulary), in nats and float64."""
    states = model.hidden_states(prompts.to(device_of(model)))
    return model.unembed(states[:, -1]).double().log_softmax(-1)


def nearest_rows(prompts: Tensor, answers: Tensor) -> Tensor:
    """For each of prompts (rows, length) the row that is most like it and has another answer.

    Two rows that agree at a position are the more alike the fewer different tokens stand there: the
    position counts 1 / their number. So a question about another person with the same relations,
    of which there are few, is nearer than one about a namesake with other relations. Among equals
    the next row is taken, in a circle. Where all ``answers`` (rows,) are one, the nearest row has
    the same answer. -> (rows,) indices. Raises ValueError for fewer than two prompts.
    """
    check_prompts(prompts)
    n = len(prompts)
    if n < 2:
        raise ValueError("one prompt has no other prompt for a donor: give at least 2")
    prompts, answers = prompts.cpu(), answers.cpu()  # the same order of sums on every device
    weights = torch.tensor([1 / len(column.unique()) for column in prompts.T], dtype=torch.double)
    alike = ((prompts[:, None] == prompts[None]) * weights).sum(-1)
    alike -= (answers[:, None] == answers[None]) * (1 + weights.sum())
    rolled = (torch.arange(n)[:, None] + torch.arange(1, n)) % n  # the others, in a circle
    return rolled.gather(1, alike.gather(1, rolled).argmax(1, keepdim=True))[:, 0]
