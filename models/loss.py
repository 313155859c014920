"""What a language model loses on completions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.protocol import Trainable, Unembedding

AT_ONCE = 1 << 23  # logits made at a time, where the head is frozen


def completion_loss(
    model: Trainable, tokens: Tensor, learned: Tensor, groups: int = 1, of: Tensor | None = None
) -> Tensor:
    """The mean cross-entropy of the learned tokens, in nats, for each group of rows: (groups,).

    ``tokens`` and ``learned`` have the shape (groups * rows, length + 1). Every token is predicted
    from all tokens before it. Where the rows are a part of more, ``of`` (groups,) counts the
    learned tokens of all, and the losses of the parts add up to the mean over all.
    """
    learned = learned[:, 1:]
    losses = token_losses(
        model, model.hidden_states(tokens[:, :-1])[learned], tokens[:, 1:][learned]
    )
    counts = learned_in(learned, groups)
    # The learned tokens stand in the order of their rows: the first counts[0] belong to the first
    # group, and so on.
    numbers = torch.arange(groups, device=tokens.device)
    group = torch.repeat_interleave(numbers, counts, output_size=len(losses))
    sums = losses.new_zeros(groups).index_add(0, group, losses)
    return sums / (counts if of is None else of)


def learned_in(learned: Tensor, groups: int) -> Tensor:
    """The number of learned tokens of each group: (groups,)."""
    return learned.reshape(groups, -1).sum(1)


def token_losses(
    model: Unembedding, states: Tensor, tokens: Tensor, at_once: int = AT_ONCE
) -> Tensor:
    """The cross-entropy, in nats, of each token (n,) that follows a state (n, width): (n,).

    A vocabulary of 49,152 makes 0.2 MB of each token's logits, and stock code holds three such
    tensors through the whole backward pass. Where nothing of the head learns, no more than
    ``at_once`` logits are therefore made at a time, and none is kept: a state's gradient depends on
    its own loss alone, so it is computed beside that loss.
    """
    nothing = model.unembed(states[:0].detach())  # it costs nothing and tells two things
    vocabulary, head_learns = nothing.shape[-1], nothing.requires_grad
    size = max(1, at_once // vocabulary)
    if head_learns or len(states) <= size:
        return _cross_entropy(model.unembed, states, tokens)
    if states.requires_grad:
        return _InPieces.apply(states, tokens, model.unembed, size)
    pieces = zip(states.split(size), tokens.split(size), strict=True)
    return torch.cat([_cross_entropy(model.unembed, *piece) for piece in pieces])


def _wide(dtype: torch.dtype) -> torch.dtype:
    """Losses are never of 16 bits."""
    return torch.promote_types(dtype, torch.float32)


def _cross_entropy(unembed: Callable[[Tensor], Tensor], states: Tensor, tokens: Tensor) -> Tensor:
    logits = unembed(states)
    return F.cross_entropy(logits.to(_wide(logits.dtype)), tokens, reduction="none")


def _losses_and_slopes(logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The losses (n,) of logits (n, v), and their gradients softmax(logits) - 1 at the token. One
    tensor of the logits' size is made, where stock code makes three."""
    wide, at = logits.to(_wide(logits.dtype)), tokens.unsqueeze(1)
    top = wide.amax(1, keepdim=True)
    p = (wide - top).exp_()
    total = p.sum(1, keepdim=True)
    losses = top + total.log() - wide.gather(1, at)
    slopes = p.div_(total).scatter_add_(1, at, p.new_full(at.shape, -1.0))
    return losses.squeeze(1), slopes.to(logits.dtype)


class _InPieces(torch.autograd.Function):
    """Losses l_i of states h_i: the backward pass multiplies dl_i / dh_i, which the forward pass
    has computed piece by piece, by the gradient of l_i."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, tokens: Tensor, unembed: Callable[[Tensor], Tensor], size: int
    ) -> Tensor:
        losses, slopes = (
            states.new_empty(len(states), dtype=_wide(states.dtype)),
            torch.empty_like(states),
        )
        pieces = (each.split(size) for each in (states, tokens, losses, slopes))
        for some, their_tokens, their_losses, their_slopes in zip(*pieces, strict=True):
            with torch.enable_grad():
                some = some.detach().requires_grad_()
                logits = unembed(some)
            found, d_logits = _losses_and_slopes(logits.detach(), their_tokens)
            their_losses.copy_(found)
            their_slopes.copy_(torch.autograd.grad(logits, some, d_logits)[0])
        ctx.save_for_backward(slopes)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_losses: Tensor) -> tuple[Tensor | None, ...]:
        (slopes,) = ctx.saved_tensors
        return slopes * d_losses.to(slopes.dtype).unsqueeze(-1), None, None, None
