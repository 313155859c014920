"""What a method costs beside the base: bytes to hold, and FLOPs for each token.

    an adapter in a layer                      2 r (d_in + d_out) FLOPs
    the same where the A_i x are summed first  2 r more
    scores by a matrix of R rows               2 R d_in

A multiplication with its addition counts as two. What is done number by number (gates times
outputs, softmax, norms) is left out. Every adapter that has a gate is computed for every token, a
gate of 0 included, as `lora.layer` does. The adapters are counted as they are held apart from the
base: one merged adapter may also be folded into the base, and then it costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from lora import Adapter, Gated, Mix, Mode
from recycle.reuse.method import Prepared


@dataclass(frozen=True)
class Cost:
    """``seconds`` that it took to make the adapters and routers, ``bytes`` of these, and ``flops``
    for each token of the dearest mode."""

    seconds: float
    bytes: int
    flops: int

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "seconds": round(self.seconds, 3)}


def cost_of(prepared: Prepared, forms: Iterable[str], seconds: float) -> Cost:
    """The cost of what a method prepared, which took so long. A method that chooses for each
    question counts by the mode of one question; what it reads to choose is left out."""
    modes = [stage.mode for form in forms for stage in prepared.stages(form)]
    routers = {id(router): router for mode in modes for router in _routers(mode).values()}
    factors = [
        f for adapter in prepared.adapters.values() for ab in adapter.factors.values() for f in ab
    ]
    held = [*factors, *(t for router in routers.values() for t in _numbers(router))]
    return Cost(
        seconds,
        sum(tensor.numel() * tensor.element_size() for tensor in held),
        max((flops(mode, prepared.adapters) for mode in modes), default=0),
    )


def flops(mode: Mode, adapters: Mapping[str, Adapter]) -> int:
    """FLOPs for a token in one mode, over all layers."""
    if mode is None:
        return 0
    names = mode.names if isinstance(mode, Mix | Gated) else ()
    mixed = isinstance(mode, Gated) and mode.order == "factors"
    products = sum(
        2 * (A.numel() + B.numel() + mixed * len(A))
        for name in names
        for A, B in adapters[name].factors.values()
    )
    return products + sum(
        2 * tensor.numel()
        for router in _routers(mode).values()
        for tensor in _numbers(router)
        if tensor.dim() == 2  # it multiplies the token; gates that stand fixed have one axis
    )


def _routers(mode: Mode) -> Mapping[str, Any]:
    return mode.routers if isinstance(mode, Gated) else {}


def _numbers(router: Any) -> Iterator[Tensor]:
    """The numbers that a router holds, without its lists of experts that lack the layer."""
    for value in vars(router).values():
        if isinstance(value, Tensor) and value.is_floating_point():
            yield value
