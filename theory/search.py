"""Descent, and a search for counterexamples that sees nothing of a claim but one number.

Each step of a climb moves all numbers at random and keeps what is better. The step's size grows
after a success and shrinks after a failure, so that one step in five succeeds (Rechenberg 1973).
Where a check minimises the slack of its own inequality so, it marks the observation as `sought`.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from theory.claim import normal


def climbed(
    value: Callable[..., float], start: Sequence[Tensor], rng: torch.Generator, steps: int
) -> float:
    """The largest value(*numbers) that a climb from `start` finds."""
    best, numbers, size = value(*start), list(start), 0.3
    for _ in range(steps):
        moved = [x + size * normal(*x.shape, rng=rng) for x in numbers]
        found = value(*moved)
        if better := found >= best:
            best, numbers = found, moved
        size *= 1.5 if better else 1.5**-0.25
    return best


def descend(loss: Callable[[], Tensor], weights: Sequence[Tensor], steps: int, rate: float) -> None:
    """Adam on the weights in place, with a cosine to zero; loss() gives (n,), one for each
    model."""
    optimiser = torch.optim.Adam(weights, lr=rate, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        optimiser.zero_grad()
        loss().sum().backward()
        optimiser.step()
        schedule.step()
