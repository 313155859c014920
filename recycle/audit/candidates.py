"""The merges and routers that an audit tries, and how one of them acts on the base."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch

from lora import Adapter, Mix, Mode, attach, detach
from models import Model
from recycle.measure.routed import in_their_names
from recycle.plan import derived
from recycle.reuse.method import Method
from recycle.reuse.methods import BY_NAME, MEAN_OF_PRODUCTS, METHODS, PLAIN_SUM, SWEEP, at_weight
from recycle.run.names import unknown
from tasks import World

# Merges before routers, and simple ones first: of two that keep as much, the first is advised.
TRIED = (
    PLAIN_SUM.name,
    MEAN_OF_PRODUCTS.name,
    *(method.name for method in SWEEP),
    "product_of_means",
    "ties",
    "knots",
    "tsv",
    "arrow",
    "arrow_top1",
    "hard",
)
_NO_WORLD = cast(World, None)  # merges and routers that need nothing ask the world for nothing


def known() -> list[str]:
    """Every merge and router of the table that needs nothing besides the adapters."""
    return [m.name for m in METHODS if m.merges_or_routes and m.needs == "nothing"]


def candidates(names: Sequence[str]) -> list[Method]:
    """The methods of these names; sum_at_W is the sum at any weight W.

    Raises ValueError for a name that is none, or that needs examples or texts."""
    found = []
    for name in dict.fromkeys(names):
        weight = re.fullmatch(r"sum_at_([0-9]{1,3}(?:\.[0-9]{1,6})?)", name)
        if name in known():
            found.append(BY_NAME[name])
        elif weight:
            found.append(at_weight(float(weight[1]), name))
        elif name in BY_NAME:
            raise ValueError(
                f"--methods {name}: an audit tries merges and routers that need nothing besides "
                f"the adapters, and {name} is of another kind"
            )
        else:
            raise ValueError(f"--methods: {unknown('method', name, known())}")
    return found


@contextmanager
def acting(
    model: Model, adapters: Mapping[str, Adapter], method: Method | None = None, seed: int = 0
) -> Iterator[tuple[Mode, dict[str, Mode]]]:
    """Attach the adapters, each for itself and as the method puts them together, and take all off
    afterwards. Gives the method's mode (None without one: the base) and {name: mode alone}.

    Raises ValueError in the adapters' names where the method cannot put these together."""
    experts = {f"adapter{i}": adapter for i, adapter in enumerate(adapters.values())}
    alone = {f"alone{i}": adapter for i, adapter in enumerate(adapters.values())}
    mode: Mode = None
    together: Mapping[str, Any] = {}
    with in_their_names(adapters):
        if method is not None:
            generator = torch.Generator().manual_seed(derived(seed, f"audit {method.name}"))
            prepared = method.prepare(experts, generator, _NO_WORLD)
            mode, together = prepared.stages("")[0].mode, prepared.adapters
        attach(model, {**alone, **together})
    try:
        yield mode, {name: Mix({f"alone{i}": 1.0}) for i, name in enumerate(adapters)}
    finally:
        detach(model)
