"""Which facts survive a weighted sum of adapters, said before the sum is run.

From norms. For adapters on the last layer the logits on a fact's key phi are
W phi + sum_j w_j B_j A_j phi. The fact of expert k with answer y survives if, for every other z,

    base margin + w_k (e_y - e_z)^T B_k A_k phi
        >  sum_{j != k} |w_j| |(e_y - e_z)^T B_j| |A_j phi|,

by Cauchy and Schwarz in each other adapter's rank. Nothing is merged and no model runs again; the
right side knows neither the signs of the other weights nor how the other factors lie, so the
certificate holds for all of them at once.

With a remainder. On any layer, l(S) being the logits with the adapters S at their weights,

    l(all) = l(none) + sum_j (l(j) - l(none)) + what the adapters do to one another.

The sum of the first two is known from one adapter at a time. How far the lead of the answer falls
below it is measured on n other facts, and the largest fall is taken off. Of n + 1 facts in random
order the last one falls deepest with probability 1 / (n + 1): at most that share of all facts, in
the mean, is certified so and lost.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Factors = tuple[Tensor, Tensor]  # A (r, m), and B (a, r) that holds the adapter's scale


def certified(
    base: Tensor,
    keys: Tensor,
    answers: Tensor,
    adapters: Sequence[Factors],
    own: int,
    weights: Sequence[float],
    remainder: float | Tensor = 0.0,
) -> Tensor:
    """(n,) bool: the facts that surely keep these answers under the weighted sum of the adapters.

    base (n, a) logits, keys (n, m), answers (n,). ``own`` is the place of the facts' own expert.
    ``remainder`` bounds the difference of any two logits that comes from elsewhere: a number, or
    (n, 1).

    Raises ValueError where there is not one weight for every adapter, or no adapter at ``own``."""
    if len(weights) != len(adapters) or not 0 <= own < len(adapters):
        raise ValueError(
            f"{len(adapters)} adapters, {len(weights)} weights, own = {own}: "
            "give one weight for every adapter and the place of the facts' own one"
        )
    A, B = adapters[own]
    logits = base + weights[own] * (keys @ A.T @ B.T)
    lead = logits.gather(1, answers[:, None]) - logits  # (n, a), 0 at the answer itself
    harm = torch.zeros_like(lead)
    for j, ((A, B), weight) in enumerate(zip(adapters, weights, strict=True)):
        if j != own:
            apart = torch.cdist(B[answers], B)  # |(e_y - e_z)^T B_j|
            harm += abs(weight) * apart * (keys @ A.T).norm(dim=1, keepdim=True)
    safe = lead > harm + remainder
    return safe.scatter(1, answers[:, None], True).all(1)


def added_up(base: Tensor, alone: Sequence[Tensor]) -> Tensor:
    """The logits that adapters would give if none acted on another: all are (n, a), ``alone`` with
    one adapter each."""
    return base + sum((logits - base for logits in alone), torch.zeros_like(base))


def certified_beyond(foreseen: Tensor, seen: Tensor) -> tuple[Tensor, list[float]]:
    """(n,) bool, the facts that keep their answers, and the remainder of either half: every second
    fact is judged by what was measured on the others.

    foreseen (n,) are the leads of the answers where adapters add up, seen (n,) those of the sum
    itself, of which each half sees the other's alone."""
    falls = foreseen - seen
    safe = torch.zeros_like(foreseen, dtype=torch.bool)
    remainders = []
    for half in (0, 1):
        remainder = falls[1 - half :: 2].amax().clamp_min(0.0)
        safe[half::2] = foreseen[half::2] > remainder
        remainders.append(remainder.item())
    return safe, remainders
