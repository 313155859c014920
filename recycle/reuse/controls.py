"""The oracle, which is told the right expert for every token, and controls that must fail.

Each function turns experts {name: adapter} into adapters and the modes in which they act. The
controls draw from ``generator``, and the oracle asks ``world`` for the needs of a question.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lora import Adapter, Gated
from models.layout import place
from recycle.reuse.merge import plain_sum
from recycle.reuse.method import Prepared, Stage, always, together
from recycle.reuse.route import ArrowRouter, arrow, on_all_layers
from recycle.reuse.routers import ByChance, Constant
from tasks import World


def oracle(experts: Mapping[str, Adapter], generator: torch.Generator, world: World) -> Prepared:
    """Each token goes to the expert that knows the current hop.

    Where a phase names several curricula, their experts share out the layers from low to high. Of
    experts that read the same curriculum about different people, the library's first one is right,
    for a library names the experts of its own group first.
    """
    expert_of = _by_curriculum(experts)
    _check_needs("oracle", world)
    paths = list(dict.fromkeys(path for adapter in experts.values() for path in adapter.paths))
    blocks = sorted({place(path).block for path in paths})

    def gates(reads: Sequence[str], path: str) -> Constant:
        depth = blocks.index(place(path).block)
        return only(_expert_of(reads[depth * len(reads) // len(blocks)], expert_of), experts)

    def stages(form: str) -> list[Stage]:
        sequence = []
        for phase in world.needs(form):
            routers = {path: gates(phase.reads, path) for path in paths}
            sequence.append(Stage(Gated(tuple(experts), routers), phase.until))
        return sequence

    return Prepared(on_all_layers(experts), stages)


def only(chosen: str, experts: Mapping[str, Adapter]) -> Constant:
    """The gate 1 for one expert and 0 for the others, at every token."""
    return Constant(torch.tensor([float(name == chosen) for name in experts]))


def _by_curriculum(experts: Mapping[str, Adapter]) -> dict[str, str]:
    """The first expert of each curriculum. Raises ValueError where a record does not name one."""
    expert_of: dict[str, str] = {}
    for name, adapter in experts.items():
        if "reads" not in adapter.origin:
            raise ValueError(
                f"an oracle knows what each expert read: the record of {name} names no curriculum"
            )
        expert_of.setdefault(str(adapter.origin["reads"]), name)
    return expert_of


def _expert_of(reads: str, expert_of: Mapping[str, str]) -> str:
    if reads not in expert_of:
        raise ValueError(
            f"an oracle needs an expert that read {reads!r}: the experts read "
            f"{', '.join(expert_of)}"
        )
    return expert_of[reads]


def _check_needs(method: str, world: World) -> None:
    """Raises ValueError in a world that does not say what its questions need."""
    for form in world.forms:
        if not world.needs(form):
            raise ValueError(f"{method}: the world {world.name} does not say what {form} needs")


def whole_input(experts: Mapping[str, Adapter]) -> dict[str, Gated]:
    """{expert: the mode in which it alone acts, on every token and layer}."""
    paths = dict.fromkeys(path for adapter in experts.values() for path in adapter.paths)
    return {
        name: Gated(tuple(experts), {path: only(name, experts) for path in paths})
        for name in experts
    }


def input_oracle(
    experts: Mapping[str, Adapter], generator: torch.Generator, world: World
) -> Prepared:
    """One expert for the whole of a question and its answer: the one that knows the last thing that
    the question needs, which is what the answer names.

    Raises ValueError in a world that does not say what its questions need.
    """
    expert_of, modes = _by_curriculum(experts), whole_input(experts)
    _check_needs("input_oracle", world)

    def stages(form: str) -> list[Stage]:
        return [Stage(modes[_expert_of(world.needs(form)[-1].reads[-1], expert_of)])]

    return Prepared(on_all_layers(experts), stages)


def random_router(
    experts: Mapping[str, Adapter], generator: torch.Generator, world: World
) -> Prepared:
    """Each token goes to one expert, drawn afresh in every layer."""
    adapters = on_all_layers(experts)
    paths = next(iter(adapters.values())).paths
    routers = {path: ByChance(len(experts), generator) for path in paths}
    return always(adapters, Gated(tuple(adapters), routers))


def shuffled_prototypes(
    experts: Mapping[str, Adapter], generator: torch.Generator, world: World
) -> Prepared:
    """Arrow to one expert, where the next expert gets every prototype."""
    shifted = {}
    for path, router in arrow(list(experts.values()), top_k=1).items():
        shifted[path] = ArrowRouter(router.prototypes.roll(1, 0), top_k=1)
    return always(on_all_layers(experts), Gated(tuple(experts), shifted))


def random_adapters(
    experts: Mapping[str, Adapter], generator: torch.Generator, world: World
) -> Prepared:
    """The plain sum of adapters whose factors are noise of the experts' Frobenius norms."""

    def scrambled(factor: Tensor) -> Tensor:
        noise = torch.randn(factor.shape, generator=generator)
        return noise * (factor.norm() / noise.norm())

    fakes = []
    for expert in experts.values():
        noise = {path: (scrambled(A), scrambled(B)) for path, (A, B) in expert.factors.items()}
        fakes.append(Adapter(noise, expert.alpha, expert.rslora, expert.alphas))
    return together({"merged": plain_sum(fakes)})
