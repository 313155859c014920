"""Merges whose weights are learned from examples: lorahub, cat, and both on adapters of noise.

The examples are questions of the kind that is asked afterwards, with their right answers, about
other people. With one adapter both learn its weight. The order of adapters changes the draws of
lorahub and nothing in cat but rounding. lorahub sees the factors: a turn (Q A_i, B_i Q^T) of one
adapter alone changes what it can reach. cat sees the dW_i alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from lora import Adapter, Gated, Mix, combine, common_base, lora_layers, using
from recycle.reuse.core import Factors, Layer, layers
from recycle.reuse.layerwise import Merge, as_stored, check_weight, merge
from recycle.reuse.learning import Lesson, attached, descend, evolve, noise_like
from recycle.reuse.route import on_all_layers
from recycle.reuse.routers import Constant

LORAHUB = "Huang et al. 2023, arXiv 2307.13269 (LoraHub, which searches by NGOpt)"
CAT = "Prabhakar et al. 2024, arXiv 2410.13025 (LoRA Soups, CAT)"
RANDOM_POOL = "a control, after Liu et al. 2026, arXiv 2602.12323"


@merge("(sum_i w_i s_i B_i) (sum_j w_j A_j), w by a (1+1)-ES on examples", LORAHUB)
def lorahub(
    adapters: Sequence[Adapter],
    *,
    lesson: Lesson,
    generator: torch.Generator,
    evaluations: int = 100,
    bound: float = 1.5,
    penalty: float = 0.05,
) -> Adapter:
    """argmin_w loss(w) + penalty * mean_i |w_i| over |w_i| <= bound, by `evolve` from the best of
    w = 0, the mean, and each adapter alone.

    The loss is the mean cross-entropy of the examples' answers, in nats. As w and -w give one
    adapter, the sum of w is kept at or above 0. The paper takes 40 steps from w = 0 with NGOpt,
    which chooses among nevergrad's strategies. Here one of the simplest has 100 evaluations; from 0
    alone it stays in the first of many minima where there are eight adapters.

    Raises ValueError for adapters of different ranks in a layer, whose factors have no sum.
    """
    check_weight("penalty", penalty)
    stacks = {layer.path: _stacked(layer) for layer in layers(adapters)}

    def factors(w: Tensor) -> dict[str, Factors]:
        return {path: _summed(A, B, w) for path, (A, B) in stacks.items()}

    first = torch.ones(len(adapters), dtype=torch.float64)
    start = Adapter.unscaled(factors(first), common_base(adapters))
    with attached(lesson.model, {"merged": start}), using(lesson.model, Mix({"merged": 1.0})):
        here = {path: layer.factors("merged") for path, layer in lora_layers(lesson.model).items()}

        @torch.no_grad()
        def value(w: Tensor) -> float:
            for path, own in factors(w).items():
                for kept, new in zip(here[path], own, strict=True):
                    kept.copy_(new)
            return float(lesson.loss()) + penalty * float(w.abs().mean())

        N = len(adapters)
        starts = torch.cat([torch.zeros(1, N), torch.full((1, N), 1 / N), torch.eye(N)])
        best = evolve(value, starts, generator, evaluations, bound)
    best = best if best.sum() >= 0 else -best
    found = factors(best)
    stored = {layer.path: as_stored(*found[layer.path], layer) for layer in layers(adapters)}
    return Adapter.unscaled(stored, origin={"weights": best.tolist()})


def _stacked(layer: Layer) -> Factors:
    """The A_i (N, r, d_in) and s_i B_i (N, d_out, r) of a layer; zeros for an adapter without it.
    Raises ValueError for different ranks."""
    ranks = {rank for rank in layer.ranks if rank}
    if len(ranks) > 1:
        raise ValueError(
            f"lorahub adds factors: {layer.path} has the ranks {layer.ranks}, which must be equal; "
            "use cat"
        )
    (rank,) = ranks
    N, (d_out, d_in) = len(layer.ranks), (len(layer.B[0]), layer.A[0].shape[1])
    A = layer.A[0].new_zeros(N, rank, d_in, dtype=layer.exact)
    B = layer.B[0].new_zeros(N, d_out, rank, dtype=layer.exact)
    for i in (i for i, own in enumerate(layer.ranks) if own):
        A[i], B[i] = layer.A[i], layer.scales[i] * layer.B[i].to(layer.exact)
    return A, B


def _summed(A: Tensor, B: Tensor, w: Tensor) -> Factors:
    """sum_i w_i A_i and sum_i w_i B_i."""
    return torch.tensordot(w.to(A), A, 1), torch.tensordot(w.to(B), B, 1)


@merge("sum_i w_li dW_i in layer l, w by gradient on examples", CAT)
def cat(
    adapters: Sequence[Adapter], *, lesson: Lesson, steps: int = 100, rate: float = 0.02
) -> Adapter:
    """One weight for each layer and adapter, from 1/N on, by AdamW on the examples' answers.

    The formula is the paper's; its public code passes a layer's weights through a softmax, which
    allows no sum but 1. Here they are free: the mean, the plain sum and one expert alone are all
    among them. A layer's weight of an adapter that lacks the layer stays out.
    """
    experts = on_all_layers({f"expert{i}": adapter for i, adapter in enumerate(adapters)})
    N, paths = len(adapters), next(iter(experts.values())).paths
    device = lesson.tokens.device
    weights = {path: nn.Parameter(torch.full((N,), 1 / N, device=device)) for path in paths}
    routers = {path: Constant(w) for path, w in weights.items()}
    mode = Gated(tuple(experts), routers)
    with attached(lesson.model, experts), using(lesson.model, mode):
        losses = descend(list(weights.values()), lesson.loss, steps, rate)
    found = {path: w.detach().tolist() for path, w in weights.items()}
    merged = weighted_by_layer(adapters, found)
    return replace(merged, origin={"weights": found, "losses": [losses[0], losses[-1]]})


def weighted_by_layer(
    adapters: Sequence[Adapter], weights: Mapping[str, Sequence[float]]
) -> Adapter:
    """sum_i w_li dW_i for weights {layer path: (N,)}, exactly. An adapter that does not address a
    layer has no part in its sum."""
    scaled = []
    for i, adapter in enumerate(adapters):
        alphas = {
            path: weights[path][i] * adapter.alphas.get(path, adapter.alpha)
            for path in adapter.paths
        }
        scaled.append(replace(adapter, alphas=alphas))
    return combine(scaled, [1.0] * len(adapters))


def _on_noise(learner: Merge) -> Merge:
    """The learner on adapters of noise that have the experts' norms in every layer."""

    def function(
        adapters: Sequence[Adapter], *, lesson: Lesson, generator: torch.Generator, **options: float
    ) -> Adapter:
        noise = [noise_like(adapter, generator) for adapter in adapters]
        drawn = {"generator": generator} if learner.random else {}
        return learner.function(noise, lesson=lesson, **drawn, **options)

    function.__name__ = f"random_pool_{learner.name}"
    function.__doc__ = f"{learner.name} on `noise_like` each adapter: what the weights alone give."
    made = Merge(function, f"{learner.name} of noise with the ||dW_i|| of each layer", RANDOM_POOL)
    made.options = learner.options
    return made


LEARNED_MERGES: tuple[Merge, ...] = (lorahub, cat, _on_noise(lorahub), _on_noise(cat))
