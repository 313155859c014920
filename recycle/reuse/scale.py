"""Merges that differ from the sum by a number for each layer: norm_matched_sum, rescaled_single,
model_stock. They say which part of another merge's gain is scale alone.

With one adapter all give it back (rescaled_single at weight 1). Identical adapters come back
unchanged. The order does not matter, except in rescaled_single, which is about one of them. Other
factors of dW_i change nothing. dW and -dW give 0, except in rescaled_single.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from lora import Adapter, combine
from recycle.reuse.core import Factors, Layer, at_norm
from recycle.reuse.layerwise import by_layer, check_count, check_weight, merge


@by_layer("g sum_i dW_i with ||g sum_i dW_i|| = (1/N) sum_i ||dW_i|| in each layer", "a control")
def norm_matched_sum(layer: Layer) -> Factors:
    """The sum at the mean norm of the experts, layer by layer: task arithmetic with its length
    taken away."""
    core = layer.core()
    return core.factors(at_norm(core.M.sum(0), core.M, layer.rounding))


@merge("w dW_k, one expert by itself", "a control")
def rescaled_single(adapters: Sequence[Adapter], *, weight: float = 1.0, which: int = 1) -> Adapter:
    """w dW_k for the k-th expert alone, k = ``which`` counted from 1."""
    check_weight("weight", weight)
    check_count("which", which, len(adapters), "adapters")
    return replace(combine([adapters[which - 1]], [weight]), origin={})


@by_layer(
    "(t/N) sum_i dW_i, t = N c / (1 + (N-1) c), c = mean cosine of the dW_i",
    "Jang et al. 2024, arXiv 2403.19522 (Model Stock, cosines averaged as in mergekit)",
)
def model_stock(layer: Layer) -> Factors:
    """(t/N) sum_i dW_i with t = N c / (1 + (N-1) c), layer by layer.

    c is the mean cosine over pairs, and N counts the updates that are not 0. A negative c counts as
    0: the formula shrinks the mean towards the base by how far the experts agree, and would turn
    the mean round there, or divide by 0.
    """
    core = layer.core()
    flat = core.M.flatten(1)
    flat = flat[flat.norm(dim=1) > 0]
    if len(flat) == 0:
        return core.factors(core.M[0])
    return core.factors(_stock(flat).reshape(core.M.shape[1:]))


def _stock(flat: Tensor) -> Tensor:
    """(t/N) sum_i x_i for vectors (N, d) that are not 0."""
    N = len(flat)
    if N == 1:
        return flat[0]
    unit = flat / flat.norm(dim=1, keepdim=True)
    cosines = unit @ unit.mT
    c = float((cosines.sum() - cosines.trace()) / (N * (N - 1)))
    return N * max(c, 0.0) / (1 + (N - 1) * max(c, 0.0)) * flat.mean(0)


def at_norms_of(adapter: Adapter, reference: Adapter) -> Adapter:
    """Each layer of ``adapter`` at the Frobenius norm that the layer has in ``reference``.

    So ``at_norms_of(plain_sum(experts), ties(experts))`` has the direction of the sum and the size
    of ties, and ``at_norms_of(ties(experts), mean_of_products(experts))`` the other way round. A
    layer of norm 0 stays 0. Raises ValueError where the two address different layers.
    """
    if set(adapter.paths) != set(reference.paths):
        raise ValueError("norms are compared layer by layer: both must address the same layers")
    factors = {}
    for path, (A, B) in adapter.factors.items():
        own, target = adapter.norm(path), reference.norm(path)
        factors[path] = A, adapter.scale(path) * (target / own if own else 0.0) * B
    origin = {
        "formula": "each layer of the first at the norm of the second",
        "of": [dict(adapter.origin), dict(reference.origin)],
    }
    return Adapter.unscaled(factors, adapter.base, origin)
