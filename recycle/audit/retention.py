"""What is left of each adapter after a merge, without data and on a person's own probes.

What an adapter was tuned on is what it writes. So each adapter writes texts by itself, and half of
each text is an opening. An adapter that learned completions alone cannot write the prompts before
them: where a run's record says what it read, openings are those prompts. The adapter's own greedy
continuation of an opening is the reference, and every merge or router reads the same tokens. At
each token of a reference:

    changed    the base alone would have written another token: what the adapter brought
    kept       a changed token that the merge still finds the most probable, of all changed ones: by
               construction 1 for the adapter alone and 0 for the base
    agreement  the merge finds the reference's token the most probable
    KL         sum_v p(v) ln p(v)/q(v) in nats, p of the adapter alone and q of the merge
    margin     the logit of the reference's token minus the largest other one; ``margin left`` is
               its sum divided by that of the adapter alone

A continuation is the same, greedily decoded, where the merge agrees at its every token. Shares and
means are ratios sum_i h_i / sum_i n_i over texts i, with the interval of a ratio over clusters
(Cochran 1977, Sampling Techniques, 2.11), never narrower than Wilson's where they are shares.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from lora import Mode, using
from models import Model, Vocabulary, complete, device_of, greedy, pad_right, rows_at_once, sample
from recycle.audit.inputs import SPARE, Probe
from recycle.decide.statistics import t_quantile, wilson
from recycle.plan import derived

TEXTS, POOL = 24, 4  # texts kept of each adapter, and how many times as many are drawn
WRITTEN, CONTINUED = 24, 16  # tokens of a text, and of a reference
TOGETHER = 24  # texts whose logits are held at once
ENOUGH = 20  # changed tokens, below which the texts say too little about an adapter


@dataclass(frozen=True)
class Reference:
    """An opening that begins with a boundary, and what the adapter alone writes after it.

    ``states`` (tokens, width) are the adapter's before each token, and ``changed`` (tokens,) is
    True where the base would have written another."""

    adapter: str
    opening: list[int]
    tokens: list[int]
    states: Tensor
    changed: Tensor


def written(
    model: Model,
    tokenizer: Vocabulary,
    alone: Mapping[str, Mode],
    seed: int,
    known: Mapping[str, Sequence[str]],
) -> list[Reference]:
    """References out of what each adapter writes, after openings that it draws itself, or after
    prompts that are ``known`` to be its own. Of TEXTS * POOL openings the first TEXTS are kept
    after which the adapter changes anything."""
    room = model.config.context
    limit, more = min(WRITTEN, room // 2), min(CONTINUED, max(1, room // 3))
    found = []
    for name, mode in alone.items():
        generator = torch.Generator().manual_seed(derived(seed, f"audit texts {name}"))
        if prompts := known.get(name):
            order = torch.randperm(len(prompts), generator=generator).tolist()[: TEXTS * POOL]
            begun = [tokenizer.encode(prompts[i])[: room - more - 1] for i in order]
        else:
            starts = [[tokenizer.boundary]] * (TEXTS * POOL)
            end, pad = tokenizer.boundary, tokenizer.pad
            with using(model, mode):
                texts = sample(model, starts, limit, end, pad, 1.0, generator)
            begun = [text[: (len(text) + 1) // 2] for text in texts if text]
        different = dict.fromkeys((tokenizer.boundary, *tokens) for tokens in begun)
        own = references(model, tokenizer, name, mode, [[*each] for each in different], more)
        own.sort(key=lambda each: not each.changed.any())  # those that show something come first
        found += own[:TEXTS]
    return found


def references(
    model: Model,
    tokenizer: Vocabulary,
    name: str,
    mode: Mode,
    openings: Sequence[list[int]],
    limit: int,
) -> list[Reference]:
    """The adapter's greedy continuations of openings; the boundary that ends one belongs to it."""
    end, pad, found = tokenizer.boundary, tokenizer.pad, []
    size = rows_at_once(model, max(map(len, openings), default=1) + limit)
    for start in range(0, len(openings), size):
        part = openings[start : start + size]
        with using(model, mode):
            said = greedy(model, part, limit, end, pad)
        said = [ids if len(ids) == limit else [*ids, end] for ids in said]
        with using(model, mode):
            own = states_of(model, tokenizer, part, said)
        with using(model, None):
            base = [model.unembed(states) for states in states_of(model, tokenizer, part, said)]
        for opening, ids, states, logits in zip(part, said, own, base, strict=True):
            changed = logits.argmax(-1) != torch.tensor(ids, device=logits.device)
            found.append(Reference(name, opening, ids, states, changed))
    return found


@torch.inference_mode()
def states_of(
    model: Model,
    tokenizer: Vocabulary,
    openings: Sequence[Sequence[int]],
    tokens: Sequence[Sequence[int]],
) -> list[Tensor]:
    """The model's states (tokens, width) before each token of a continuation, as it acts now."""
    rows = [[*opening, *ids] for opening, ids in zip(openings, tokens, strict=True)]
    tokens_before = pad_right(rows, tokenizer.pad)[:, :-1]
    states = model.hidden_states(tokens_before.to(device_of(model)))
    return [
        states[i, len(opening) - 1 : len(opening) - 1 + len(ids)]
        for i, (opening, ids) in enumerate(zip(openings, tokens, strict=True))
    ]


@dataclass
class Sums:
    """Sums over the tokens of one reference."""

    tokens: int
    changed: int
    kept: int
    agreed: int
    kl: float
    margin: float
    own_margin: float


@torch.inference_mode()
def compared(
    model: Model,
    tokenizer: Vocabulary,
    found: Sequence[Reference],
    mode: Mode,
    alone: Mapping[str, Mode],
) -> list[Sums]:
    """How a mode reads the references, beside each one's adapter alone."""
    sums: list[Sums] = []
    length = max((len(each.opening) + len(each.tokens) for each in found), default=1)
    size = rows_at_once(model, length)
    for start in range(0, len(found), size):
        part = found[start : start + size]
        openings, tokens = [each.opening for each in part], [each.tokens for each in part]
        with using(model, mode):
            states = states_of(model, tokenizer, openings, tokens)
        for begin in range(0, len(part), TOGETHER):
            some, own = part[begin : begin + TOGETHER], states[begin : begin + TOGETHER]
            with using(model, mode):
                ours = [model.unembed(each).float() for each in own]
            theirs = []
            for name, refs in groupby(some, lambda each: each.adapter):
                with using(model, alone[name]):  # an adapter may act on the logits' matrix
                    theirs += [model.unembed(each.states).float() for each in refs]
            sums += map(_sums, some, ours, theirs)
    return sums


def _sums(reference: Reference, logits: Tensor, alone: Tensor) -> Sums:
    """Of logits and of the adapter's own ones, (tokens, vocabulary) each."""
    ids = torch.tensor(reference.tokens, device=logits.device)
    agrees = logits.argmax(-1) == ids
    q, p = logits.log_softmax(-1), alone.log_softmax(-1)
    return Sums(
        len(ids),
        int(reference.changed.sum()),
        int((agrees & reference.changed).sum()),
        int(agrees.sum()),
        max(0.0, float((p.exp() * (p - q)).sum())),
        float(margins(logits, ids).sum()),
        float(margins(alone, ids).sum()),
    )


def margins(logits: Tensor, ids: Tensor) -> Tensor:
    """The logit of each id minus the largest other logit: (tokens,), for logits (tokens, V)."""
    own = logits.gather(1, ids[:, None])[:, 0]
    others = logits.scatter(1, ids[:, None], -torch.inf)
    return own - others.amax(1)


def summary(sums: Sequence[Sums]) -> dict[str, Any]:
    """The measures of one adapter under one method, each with its interval; None where nothing is
    there to count."""
    n = [each.tokens for each in sums]
    same = [int(each.agreed == each.tokens) for each in sums]
    return {
        "texts": len(sums),
        "tokens": sum(n),
        "changed": sum(each.changed for each in sums),
        "kept": ratio([each.kept for each in sums], [each.changed for each in sums], share=True),
        "agreement": ratio([each.agreed for each in sums], n, share=True),
        "same": ratio(same, [1] * len(same), share=True),
        "kl": ratio([each.kl for each in sums], n),
        "margin left": ratio([e.margin for e in sums], [e.own_margin for e in sums]),
    }


def ratio(
    parts: Sequence[float], wholes: Sequence[float], share: bool = False
) -> dict[str, float | None] | None:
    """sum parts / sum wholes with its 95 % interval over clusters; for a ``share`` never narrower
    than Wilson's of all pooled, which stands alone where every text has one item. The limits are
    None for one cluster of what is no share."""
    pairs = [(part, whole) for part, whole in zip(parts, wholes, strict=True) if whole]
    whole = sum(each for _, each in pairs)
    if not pairs or not whole:
        return None
    mean, k = sum(part for part, _ in pairs) / whole, len(pairs)
    low, high = wilson(round(whole * mean), round(whole)) if share else (None, None)
    if k > 1 and not (share and whole == k):  # one item a text: Wilson's says it all
        spread = sum((part - mean * each) ** 2 for part, each in pairs) * k / (k - 1)
        half = t_quantile(0.975, k - 1) * math.sqrt(spread) / abs(whole)
        low = mean - half if low is None else max(0.0, min(low, mean - half))
        high = mean + half if high is None else min(1.0, max(high, mean + half))
    return {"mean": mean, "low": low, "high": high, "n": whole}


# Probes ------------------------------------------------------------------------------------------


def is_right(said: str, answer: str) -> bool:
    """Whether a completion begins with the answer, as whole words; case counts."""
    said, answer = said.strip(), answer.strip()
    after = said[len(answer) : len(answer) + 1]
    return said.startswith(answer) and not (answer[-1:].isalnum() and after.isalnum())


def answers(
    model: Model, tokenizer: Vocabulary, asked: Sequence[tuple[str, str]], mode: Mode
) -> list[str]:
    """The greedy completions of (prompt, answer) pairs, some tokens longer than the answers."""
    if not asked:
        return []
    with using(model, mode):
        limit = _limit(model, tokenizer, asked)
        return complete(model, tokenizer, [prompt for prompt, _ in asked], limit)


def _limit(model: Model, tokenizer: Vocabulary, asked: Sequence[tuple[str, str]]) -> int:
    """Tokens for the longest answer and a few more, as far as the longest prompt leaves room."""
    longest = max(len(tokenizer.encode_completion(answer)) for _, answer in asked) + SPARE
    prompt = 1 + max(len(tokenizer.encode(prompt)) for prompt, _ in asked)
    return max(1, min(longest, model.config.context - prompt))


def probed(
    model: Model, tokenizer: Vocabulary, probes: Sequence[Probe], alone: Mapping[str, Mode]
) -> tuple[list[Reference], list[str]]:
    """The probes' prompts as openings, each with its adapter's own continuation, and what the
    adapter alone says to it, in the order of the probes."""
    found: dict[int, Reference] = {}
    said: dict[int, str] = {}
    for name, mode in alone.items():
        rows = [i for i, probe in enumerate(probes) if probe.adapter == name]
        own = [(probes[i].prompt, probes[i].answer) for i in rows]
        if not own:
            continue
        limit = _limit(model, tokenizer, own)
        openings = [[tokenizer.boundary, *tokenizer.encode(prompt)] for prompt, _ in own]
        found |= zip(rows, references(model, tokenizer, name, mode, openings, limit), strict=True)
        said |= zip(rows, answers(model, tokenizer, own, mode), strict=True)
    order = range(len(probes))
    return [found[i] for i in order], [said[i] for i in order]
