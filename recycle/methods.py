"""What can be done with a library of experts, by name: merges, a sweep of weights, routers, and negative controls.

A method turns experts into what is attached and how it acts. The controls must do nothing good: gates that look at nothing,
prototypes of the wrong expert, and adapters of the experts' size without their content.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lora import Adapter, Gated, Mix, Mode
from recycle.merge import MERGES, plain_sum, weighted_sum
from recycle.route import ArrowRouter, arrow

SWEEP = (0.75, 1.25, 1.5)  # beside 1/2 (the mean of two) and 1 (the plain sum)
TEMPERATURES = (0.1, 10)


@dataclass(frozen=True)
class Prepared:
    """Adapters to attach, the mode in which they act, and the routers where there are any."""

    adapters: Mapping[str, Adapter]
    mode: Mode
    routers: Mapping[str, ArrowRouter] | None = None


Method = Callable[[Mapping[str, Adapter], torch.Generator], Prepared]


def alone(experts: Mapping[str, Adapter], generator: torch.Generator) -> Prepared:
    """All at weight 1: the base where there is none, one expert as it was trained."""
    return Prepared(experts, Mix(dict.fromkeys(experts, 1.0)) if experts else None)


def _merged(merge: Callable[[list[Adapter]], Adapter]) -> Method:
    return lambda experts, generator: alone({"merged": merge(list(experts.values()))}, generator)


def _sum_at(weight: float) -> Method:
    return _merged(lambda adapters: weighted_sum(adapters, [weight] * len(adapters)))


def _routed(order: str = "outputs", top_k: int | None = None, temperature: float = 1.0) -> Method:
    def method(experts: Mapping[str, Adapter], generator: torch.Generator) -> Prepared:
        routers = arrow(list(experts.values()), temperature, top_k)
        return Prepared(experts, Gated(tuple(experts), routers, order), routers)

    return method


def _shuffled_prototypes(experts: Mapping[str, Adapter], generator: torch.Generator) -> Prepared:
    """Arrow to one expert, every prototype handed to the next expert."""
    routers = arrow(list(experts.values()), top_k=1)
    shifted = {path: ArrowRouter(router.prototypes.roll(1, 0), top_k=1) for path, router in routers.items()}
    return Prepared(experts, Gated(tuple(experts), shifted), shifted)


def _random_router(experts: Mapping[str, Adapter], generator: torch.Generator) -> Prepared:
    """Each token to one expert, drawn afresh in every layer."""

    def route(x: Tensor) -> Tensor:
        chosen = torch.randint(len(experts), (len(x),), generator=generator).to(x.device)
        return torch.nn.functional.one_hot(chosen, len(experts)).to(x.dtype)

    paths = next(iter(experts.values())).paths
    return Prepared(experts, Gated(tuple(experts), dict.fromkeys(paths, route)))


def _random_adapters(experts: Mapping[str, Adapter], generator: torch.Generator) -> Prepared:
    """The plain sum of normal factors with the experts' Frobenius norms."""

    def scrambled(factor: Tensor) -> Tensor:
        noise = torch.randn(factor.shape, generator=generator)
        return noise * (factor.norm() / noise.norm())

    fakes = [
        Adapter({path: (scrambled(A), scrambled(B)) for path, (A, B) in e.factors.items()}, e.alpha, e.rslora, e.alphas)
        for e in experts.values()
    ]
    return alone({"merged": plain_sum(fakes)}, generator)


METHODS: dict[str, Method] = {
    "alone": alone,
    **{name: _merged(merge) for name, merge in MERGES.items()},
    **{f"sum_at_{weight}": _sum_at(weight) for weight in SWEEP},
    "arrow": _routed(),
    "arrow_top1": _routed(top_k=1),
    "arrow_factors": _routed("factors"),
    **{f"arrow_temperature_{t}": _routed(temperature=t) for t in TEMPERATURES},
    "random_router": _random_router,
    "shuffled_prototypes": _shuffled_prototypes,
    "random_adapters": _random_adapters,
}
CONTROLS = ("random_router", "shuffled_prototypes", "random_adapters")
