"""What attached adapters do in a forward pass; lora.layer says by which formulas."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Mix:
    """A fixed weight for each adapter. A layer that lacks one of the adapters leaves it out."""

    weights: Mapping[str, float]

    @property
    def names(self) -> Sequence[str]:
        return tuple(self.weights)


@dataclass(frozen=True)
class Gated:
    """Weights for each token: ``routers[path](x (tokens, d_in)) -> gates (tokens, len(names))``.

    ``order`` says what is mixed: ``outputs``, sum_i g_i s_i B_i A_i x, or ``factors``, (sum_i g_i
    s_i B_i)(sum_j g_j A_j) x. Mixing factors has the cross terms B_i A_j and needs adapters of one
    rank. Raises ValueError for another order.

    Decoding is faster where a router has one of these (lora/kept.py). ``constant``: gates (N,)
    that are the same for every token, or None. ``joined(others, x)``: one router (tokens (T, d_in))
    -> gates (T, L, N) for this and the other L - 1 routers of layers that read one input like x, or
    None. It may have ``rows`` (S, d_in) and ``of_products(tokens rows^T (T, S))``, the same gates.
    Where ``seen`` of a router is a list, it gets the router's gates in these ways too.
    """

    names: Sequence[str]
    routers: Mapping[str, Callable[[Tensor], Tensor]]
    order: str = "outputs"

    def __post_init__(self) -> None:
        if self.order not in ("outputs", "factors"):
            raise ValueError(f"order = {self.order!r}: mix the outputs or the factors")


@dataclass(frozen=True)
class Rows:
    """The batch axis falls into len(names) equal parts, one after the other. Each part has its own
    adapter; all have one rank."""

    names: Sequence[str]


Mode = Mix | Gated | Rows | None
