"""A router by its name, for whoever routes by hand: every router, oracle and routing control of the
table of methods, some of them with options."""

from __future__ import annotations

from collections.abc import Mapping

from recycle.reuse.method import Method, Needs
from recycle.reuse.methods import METHODS
from recycle.reuse.route import arrow
from recycle.reuse.routers import spectr
from recycle.reuse.taught import POOL, Routing, by_phatgoose, by_xlora_like, routed


def _by_arrow(experts, generator, world, given, /, top_k=None, temperature=1.0):
    return arrow(list(experts.values()), temperature, top_k)


def _by_spectr(experts, generator, world, given, /, top_k=None, temperature=1.0):
    return spectr(list(experts.values()), temperature, top_k)


# Routers with a score for each expert: their top_k, temperature and order can be chosen.
SCORED: Mapping[str, tuple[Routing, Needs]] = {
    "arrow": (_by_arrow, "nothing"),
    "spectr": (_by_spectr, "nothing"),
    "phatgoose": (by_phatgoose, "texts"),
    "xlora_like": (by_xlora_like, "examples"),
}
_ON_NOISE = tuple(POOL + name for name in ("phatgoose", "xlora_like"))
_FIXED = {
    method.name: method
    for method in METHODS
    if method.family in ("router", "oracle", "control")
    and method.name not in (*SCORED, *_ON_NOISE, "random_adapters")  # the last one routes nothing
    and not method.examples
}
ROUTERS: tuple[str, ...] = (*SCORED, *_FIXED, *_ON_NOISE)


def router_by_name(
    name: str, top_k: int | None = None, temperature: float = 1.0, order: str = "outputs"
) -> Method:
    """One of ROUTERS as a method. One that learns from examples takes any number of them.

    Raises ValueError for options of a router that has none.
    """
    plain = name.removeprefix(POOL)
    if plain in SCORED:
        routing, needs = SCORED[plain]
        apply = routed(routing, plain != name, top_k, temperature, order)
        return Method(name, "router", "by its scores", "-", apply, needs)
    if top_k is not None or temperature != 1.0 or order != "outputs":
        raise ValueError(
            f"--router {name} has no options: --top-k, --temperature and --order go with "
            f"{', '.join(SCORED)}"
        )
    return _FIXED[name]
