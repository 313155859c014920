"""Which facts surely survive a weighted merge: from the adapters and the base's margins alone.

For adapters on the last layer the logits on a fact's key phi are W phi + sum_j w_j B_j A_j phi. The
fact of expert k with answer y survives if, for every other answer z,

    base margin + w_k (e_y - e_z)^T B_k A_k phi
        >  sum_{j != k} |w_j| |(e_y - e_z)^T B_j| |A_j phi|,

by Cauchy and Schwarz in each other adapter's rank. Nothing is merged and no model runs again; the
right side knows neither the signs of the other weights nor how the other factors lie, so the
certificate holds for all of them at once. Where adapters also act on one another (any layer below),
the model's logits are those of the adapters alone plus a remainder: pass what was measured of it.

Shapes: keys (n, m), base logits (n, a), answers (n,), adapters A (r, m) and B (a, r).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from theory.adapter import Adapter


def certified(
    base: Tensor,
    keys: Tensor,
    answers: Tensor,
    adapters: Sequence[Adapter],
    own: int,
    weights: Sequence[float],
    remainder: float = 0.0,
) -> Tensor:
    """(n,) bool: the facts that surely keep these answers under the weighted sum of the adapters.

    `own` is the place of the facts' own expert. `remainder` bounds the difference of any two logits
    that the adapters' interaction makes; 0 on the last layer.

    Raises:
        ValueError: there is not one weight for every adapter, or no adapter at `own`.
    """
    if len(weights) != len(adapters) or not 0 <= own < len(adapters):
        raise ValueError(
            f"{len(adapters)} adapters, {len(weights)} weights, own = {own}: "
            "give one weight for every adapter and the place of the facts' own one"
        )
    logits = base + weights[own] * adapters[own](keys)
    lead = logits.gather(1, answers[:, None]) - logits  # (n, a), 0 at the answer itself
    harm = torch.zeros_like(lead)
    for j, (adapter, weight) in enumerate(zip(adapters, weights, strict=True)):
        if j != own:
            apart = torch.cdist(adapter.b, adapter.b)[answers]  # |(e_y - e_z)^T B_j|
            harm += abs(weight) * apart * (keys @ adapter.a.T).norm(dim=1, keepdim=True)
    safe = lead > harm + remainder
    return safe.scatter(1, answers[:, None], True).all(1)
