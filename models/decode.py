"""Batched decoding with a key-value cache, greedy or by chance."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from models.protocol import LanguageModel, Vocabulary


def greedy(
    model: LanguageModel, prompts: Sequence[Sequence[int]], limit: int, end: int, pad: int
) -> list[list[int]]:
    """The most probable continuation of each prompt, token by token, as `decode` says."""
    return decode(model, prompts, limit, end, pad, lambda logits: logits.argmax(-1))


def complete(
    model: LanguageModel, tokenizer: Vocabulary, prompts: Sequence[str], limit: int, batch: int
) -> list[str]:
    """Each prompt's greedy completion as text, so many prompts at a time."""
    end, pad = tokenizer.boundary, tokenizer.pad
    said: list[str] = []
    for start in range(0, len(prompts), batch):
        begun = [[end, *tokenizer.encode(prompt)] for prompt in prompts[start : start + batch]]
        said += map(tokenizer.decode, greedy(model, begun, limit, end, pad))
    return said


def sample(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    limit: int,
    end: int,
    pad: int,
    temperature: float,
    generator: torch.Generator,
) -> list[list[int]]:
    """A continuation of each prompt, every token drawn from softmax(logits / temperature)."""

    def draw(logits: Tensor) -> Tensor:
        chances = (logits.float() / temperature).softmax(-1).cpu()
        return torch.multinomial(chances, 1, generator=generator)[:, 0].to(logits.device)

    return decode(model, prompts, limit, end, pad, draw)


@torch.inference_mode()
def decode(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    limit: int,
    end: int,
    pad: int,
    choose: Callable[[Tensor], Tensor],
) -> list[list[int]]:
    """A continuation of each prompt, token by token, up to ``end`` (left out) or ``limit`` tokens.
    ``choose`` gives the next tokens (rows,) for logits (rows, vocabulary).

    Prompts may differ in length: shorter prompts are padded on the left and the padding is masked.
    Rows that have ended leave the batch, so a few long answers do not cost the whole batch. They
    stay where a module tells rows apart by their place (``whole_batch``, as adapters with a part of
    the batch each do). Raises ValueError for an empty prompt and for a limit below 1.
    """
    if not prompts:
        return []
    if limit < 1:
        raise ValueError(f"limit = {limit}: decode at least one token")
    if min(map(len, prompts)) == 0:
        raise ValueError("a prompt is empty: begin it with the start token")
    device = next(iter(model.parameters())).device
    width = max(map(len, prompts))
    tokens = torch.full((len(prompts), width), pad, dtype=torch.long)
    real = torch.zeros(len(prompts), width + limit, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        tokens[row, width - len(prompt) :] = torch.tensor(prompt)
        real[row, width - len(prompt) :] = True
    tokens, real = tokens.to(device), real.to(device)
    mask: Tensor | None = None if bool(real.all()) else real
    cache = model.new_cache(len(prompts), width + limit)

    answers: list[list[int]] = [[] for _ in prompts]
    rows = torch.arange(len(prompts), device=device)
    ended = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    stay = any(getattr(module, "whole_batch", False) for module in model.modules())
    for _ in range(limit):
        states = model.hidden_states(tokens, cache, mask)
        tokens = choose(model.unembed(states[:, -1]))[:, None]
        ended |= tokens[:, 0] == end
        if not stay and bool(ended.any()):
            going = (~ended).nonzero()[:, 0]
            rows, tokens, ended = rows[going], tokens[going], ended[going]
            cache.keep(going)
            mask = None if mask is None else mask[going]
        if bool(ended.all()):
            break
        for row, token, over in zip(
            rows.tolist(), tokens[:, 0].tolist(), ended.tolist(), strict=True
        ):
            if not over:
                answers[row].append(token)
    return answers
