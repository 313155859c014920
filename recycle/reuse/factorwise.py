"""peft_linear: a sum of the factors, as PEFT calculates it."""

from __future__ import annotations

import math

import torch

from recycle.reuse.core import Factors, Layer
from recycle.reuse.layerwise import by_layer, check_weight


@by_layer(
    "(sum_i sqrt(w s_i) B_i)(sum_i sqrt(w s_i) A_i), w = 1/N",
    "PEFT's add_weighted_adapter, combination type linear",
)
def peft_linear(layer: Layer, *, weight: float | None = None) -> Factors:
    """sum_i w s_i B_i A_i and the cross terms sum_{i != j} w sqrt(s_i s_j) B_i A_j.

    w is 1/N unless it is given, and a negative w s_i has its sign in the sum of the A_i. It is for
    whoever merged with it: N identical adapters give N times the adapter, and other factors of one
    update move the result, because it adds factors. The order does not matter. dW as (A, -B) beside
    (A, B) gives 0, as (-A, B) too.

    Raises ValueError for adapters of different ranks in a layer. Those that do not address the
    layer are left out.
    """
    if weight is not None:
        check_weight("weight", weight)
    present = [i for i, rank in enumerate(layer.ranks) if rank]
    if len({layer.ranks[i] for i in present}) > 1:
        raise ValueError(
            f"peft_linear adds factors: {layer.path} has ranks {layer.ranks}, which must be equal; "
            "use mean_of_products"
        )
    w = 1 / len(layer.A) if weight is None else weight
    roots = [math.sqrt(abs(w * layer.scales[i])) for i in present]
    signs = [math.copysign(1.0, w * layer.scales[i]) for i in present]
    pairs = list(zip(present, roots, signs, strict=True))
    A = torch.stack([sign * root * layer.A[i].to(layer.exact) for i, root, sign in pairs]).sum(0)
    B = torch.stack([root * layer.B[i].to(layer.exact) for i, root, _ in pairs]).sum(0)
    return A, B
