"""Batched decoding with a key-value cache, greedy or by chance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack

import torch
from torch import Tensor

from models.causal import CausalLM
from models.layout import READ_ALIKE
from models.protocol import LanguageModel, Vocabulary, device_of
from models.recorded import RecordedSteps, Steps, can_record
from models.transformer import Transformer

MEMORY = 420_000_000  # bytes that the keys, values and logits of one batch may take
MOST_ROWS = 512  # of a batch; more are no faster


def rows_at_once(model: Transformer | CausalLM, length: int) -> int:
    """How many rows of ``length`` tokens, answers included, are decoded together.

    A row takes 2 layers kv_heads head_width numbers a token for keys and values, and one number a
    word for its logits. As many rows as MEMORY holds, at least 1 and at most MOST_ROWS.
    """
    config, embeddings = model.config, model.embed_tokens.weight
    per_token = 2 * config.layers * config.kv_heads * config.head_width
    row = (length * per_token + len(embeddings)) * embeddings.element_size()
    return max(1, min(MOST_ROWS, MEMORY // row))


def greedy(
    model: LanguageModel, prompts: Sequence[Sequence[int]], limit: int, end: int, pad: int
) -> list[list[int]]:
    """The most probable continuation of each prompt, token by token, as `decode` says."""
    return decode(model, prompts, limit, end, pad, lambda logits: logits.argmax(-1))


def pad_right(rows: Sequence[Sequence[int]], pad: int) -> Tensor:
    """Rows of token ids as one tensor (rows, longest), padded on the right, where no token sees the
    padding after it."""
    tokens = torch.full((len(rows), max(map(len, rows))), pad)
    for row, ids in enumerate(rows):
        tokens[row, : len(ids)] = torch.tensor(ids)
    return tokens


def complete(
    model: Transformer | CausalLM,
    tokenizer: Vocabulary,
    prompts: Sequence[str],
    limit: int,
    batch: int = MOST_ROWS,
) -> list[str]:
    """Each prompt's greedy completion as text, at most so many prompts at a time, and no more than
    `rows_at_once` allows."""
    end, pad = tokenizer.boundary, tokenizer.pad
    begun = [[end, *tokenizer.encode(prompt)] for prompt in prompts]
    batch = min(batch, rows_at_once(model, max(map(len, begun), default=1) + limit))
    said: list[str] = []
    for start in range(0, len(begun), batch):
        answers = greedy(model, begun[start : start + batch], limit, end, pad)
        said += map(tokenizer.decode, answers)
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
    the batch each do). A CUDA device records the second step and replays it (`models.recorded`).
    Raises ValueError for an empty prompt and for a limit below 1.
    """
    if not prompts:
        return []
    if limit < 1:
        raise ValueError(f"limit = {limit}: decode at least one token")
    if min(map(len, prompts)) == 0:
        raise ValueError("a prompt is empty: begin it with the start token")
    device = device_of(model)
    width = max(map(len, prompts))
    tokens = torch.full((len(prompts), width), pad, dtype=torch.long)
    real = torch.zeros(len(prompts), width + limit, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        tokens[row, width - len(prompt) :] = torch.tensor(prompt)
        real[row, width - len(prompt) :] = True
    tokens, real = tokens.to(device), real.to(device)
    mask: Tensor | None = None if bool(real.all()) else real
    cache = model.new_cache(len(prompts), width + limit)

    rows = torch.arange(len(prompts), device=device)
    ended = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    stay = any(getattr(module, "whole_batch", False) for module in model.modules())
    said = torch.full((len(prompts), limit), end, device=device)
    recorded = can_record(model, cache, limit)
    steps: Steps = Steps(model, cache, mask)
    with _steady(model):
        for step in range(limit):
            if step == 1 and recorded:
                steps = RecordedSteps(steps)
            tokens = choose(steps(tokens))[:, None]
            said[rows, step] = tokens[:, 0]
            ended |= tokens[:, 0] == end
            if not bool(ended.any()):
                continue
            if bool(ended.all()):
                break
            if not stay:
                going = (~ended).nonzero()[:, 0]
                rows, tokens, ended = rows[going], tokens[going], ended[going]
                steps.keep(going)
    return [row[: row.index(end)] if end in row else row for row in said.tolist()]


def _steady(model: LanguageModel) -> AbstractContextManager[object]:
    """The contexts of all modules that have one (`LanguageModel.modules`), each entered once."""
    modules = list(model.modules())
    groups = [
        [module._modules[name] for name in names]
        for module in modules
        for names in READ_ALIKE
        if all(module._modules.get(name) is not None for name in names)
    ]
    stack = ExitStack()
    for enter in dict.fromkeys(getattr(module, "steady", None) for module in modules):
        if enter is not None:
            stack.enter_context(enter(groups))
    return stack
