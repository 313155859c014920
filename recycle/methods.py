"""What can be done with a library of experts, by name: merges, a sweep of weights, routers, and
negative controls.

A method turns experts into what is attached and how it acts. The oracle is told which expert knows
the hop at hand: what routing could reach at best. The controls must do nothing good: gates that
look at nothing, prototypes of the wrong expert, and adapters of the experts' size without their
content.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lora import Adapter, Gated, Mix, Mode
from recycle.merge import MERGES, plain_sum, weighted_sum
from recycle.route import ArrowRouter, arrow
from tasks import Task

SWEEP = (0.75, 1.25, 1.5)  # beside 1/2 (the mean of two) and 1 (the plain sum)
TEMPERATURES = (0.1, 10)


@dataclass(frozen=True)
class Phase:
    """How adapters act until the answer reaches a word (None: to its end)."""

    mode: Mode
    until: str | None = None


@dataclass(frozen=True)
class Prepared:
    """Adapters to attach, and how they act on questions of a form."""

    adapters: Mapping[str, Adapter]
    phases: Callable[[str], Sequence[Phase]]


Method = Callable[[Mapping[str, Adapter], torch.Generator, Task], Prepared]


def _always(adapters: Mapping[str, Adapter], mode: Mode) -> Prepared:
    return Prepared(adapters, lambda form: (Phase(mode),))


def alone(experts: Mapping[str, Adapter], generator: torch.Generator, task: Task) -> Prepared:
    """All at weight 1: the base where there is none, one expert as it was trained."""
    return _always(experts, Mix(dict.fromkeys(experts, 1.0)) if experts else None)


def _merged(merge: Callable[[list[Adapter]], Adapter]) -> Method:
    return lambda experts, generator, task: alone(
        {"merged": merge(list(experts.values()))}, generator, task
    )


def _sum_at(weight: float) -> Method:
    return _merged(lambda adapters: weighted_sum(adapters, [weight] * len(adapters)))


def _routed(order: str = "outputs", top_k: int | None = None, temperature: float = 1.0) -> Method:
    def method(experts: Mapping[str, Adapter], generator: torch.Generator, task: Task) -> Prepared:
        routers = arrow(list(experts.values()), temperature, top_k)
        return _always(experts, Gated(tuple(experts), routers, order))

    return method


def _shuffled_prototypes(
    experts: Mapping[str, Adapter], generator: torch.Generator, task: Task
) -> Prepared:
    """Arrow to one expert, every prototype handed to the next expert."""
    routers = arrow(list(experts.values()), top_k=1)
    shifted = {
        path: ArrowRouter(router.prototypes.roll(1, 0), top_k=1) for path, router in routers.items()
    }
    return _always(experts, Gated(tuple(experts), shifted))


def _random_router(
    experts: Mapping[str, Adapter], generator: torch.Generator, task: Task
) -> Prepared:
    """Each token to one expert, drawn afresh in every layer."""

    def route(x: Tensor) -> Tensor:
        chosen = torch.randint(len(experts), (len(x),), generator=generator).to(x.device)
        return torch.nn.functional.one_hot(chosen, len(experts)).to(x.dtype)

    paths = next(iter(experts.values())).paths
    return _always(experts, Gated(tuple(experts), dict.fromkeys(paths, route)))


def _oracle(experts: Mapping[str, Adapter], generator: torch.Generator, task: Task) -> Prepared:
    """The expert that knows the hop at hand; where a phase names several, the layers are shared out
    from low to high. Of experts that read the same of different people the library's first is
    right: it names those of whom is asked first."""
    named: dict[str, str] = {}
    for name, adapter in experts.items():
        named.setdefault(str(adapter.origin["reads"]), name)
    paths = list(dict.fromkeys(path for adapter in experts.values() for path in adapter.paths))
    blocks = sorted({_block(path) for path in paths})

    def gates(reads: Sequence[str], path: str) -> Callable[[Tensor], Tensor]:
        chosen = named[reads[blocks.index(_block(path)) * len(reads) // len(blocks)]]
        gate = torch.tensor([float(name == chosen) for name in experts])
        return lambda x: gate.to(x).expand(len(x), -1)

    def phases(form: str) -> list[Phase]:
        return [
            Phase(Gated(tuple(experts), {path: gates(reads, path) for path in paths}), until)
            for reads, until in task.oracle(form)
        ]

    return Prepared(experts, phases)


def _block(path: str) -> int:
    """The number in a layer's path: 1 in model.layers.1.mlp.up_proj."""
    return next(int(part) for part in path.split(".") if part.isdigit())


def _random_adapters(
    experts: Mapping[str, Adapter], generator: torch.Generator, task: Task
) -> Prepared:
    """The plain sum of normal factors with the experts' Frobenius norms."""

    def scrambled(factor: Tensor) -> Tensor:
        noise = torch.randn(factor.shape, generator=generator)
        return noise * (factor.norm() / noise.norm())

    fakes = [
        Adapter(
            {path: (scrambled(A), scrambled(B)) for path, (A, B) in e.factors.items()},
            e.alpha,
            e.rslora,
            e.alphas,
        )
        for e in experts.values()
    ]
    return alone({"merged": plain_sum(fakes)}, generator, task)


METHODS: dict[str, Method] = {
    "alone": alone,
    **{name: _merged(merge) for name, merge in MERGES.items()},
    **{f"sum_at_{weight}": _sum_at(weight) for weight in SWEEP},
    "at_half": _sum_at(0.5),  # for one expert: what the mean of two leaves of it, without the other
    "arrow": _routed(),
    "arrow_top1": _routed(top_k=1),
    "arrow_factors": _routed("factors"),
    **{f"arrow_temperature_{t}": _routed(temperature=t) for t in TEMPERATURES},
    "oracle": _oracle,
    "random_router": _random_router,
    "shuffled_prototypes": _shuffled_prototypes,
    "random_adapters": _random_adapters,
}
MAIN = (*MERGES, "arrow", "arrow_top1", "arrow_factors")
CONTROLS = ("random_router", "shuffled_prototypes", "random_adapters")


def chosen(names: Sequence[str], task: Task) -> list[str]:
    """Methods by name or by family: ``main``, or ``all`` but ``alone`` (the oracle where the task
    knows one)."""
    families = {
        "main": MAIN,
        "all": [
            m
            for m in METHODS
            if m not in ("alone", "at_half") and (m != "oracle" or task.oracle(task.forms[0]))
        ],
    }
    return [method for name in names for method in families.get(name, (name,))]
