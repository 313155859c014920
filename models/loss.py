"""What a language model loses on completions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from models.protocol import Trainable


def completion_loss(
    model: Trainable, tokens: Tensor, learned: Tensor, groups: int = 1, of: Tensor | None = None
) -> Tensor:
    """The mean cross-entropy of the learned tokens, in nats, for each group of rows: (groups,).

    ``tokens`` and ``learned`` have the shape (groups * rows, length + 1). Every token is predicted
    from all tokens before it. Where the rows are a part of more, ``of`` (groups,) counts the
    learned tokens of all, and the losses of the parts add up to the mean over all.
    """
    learned = learned[:, 1:]
    logits = model.unembed(model.hidden_states(tokens[:, :-1])[learned])
    losses = F.cross_entropy(logits.float(), tokens[:, 1:][learned], reduction="none")
    counts = learned_in(learned, groups)
    # The learned tokens stand in the order of their rows: the first counts[0] belong to the first
    # group, and so on.
    numbers = torch.arange(groups, device=tokens.device)
    group = torch.repeat_interleave(numbers, counts, output_size=len(losses))
    sums = torch.zeros(groups, device=tokens.device).index_add(0, group, losses)
    return sums / (counts if of is None else of)


def learned_in(learned: Tensor, groups: int) -> Tensor:
    """The number of learned tokens of each group: (groups,)."""
    return learned.reshape(groups, -1).sum(1)
