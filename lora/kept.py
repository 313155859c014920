"""What adapters need beside a layer's input, made once while nothing but inputs changes, as in
decoding. A layer l of L layers that read one input x (T, k), with adapters i = 1 .. N:

Mix, Rows   the product of products.py, with its factors side by side
Gated       y_l = x W_l^T + (g_l * h_l) [s_1 B_l1 | .. | s_N B_lN]^T, where all layers share
            g = routers(x) (T, L, N) and h = x [A_11; ..; A_LN]^T, and both are read from one
            product where the routers say by which rows they are read
Gated, where the gates are the same for every token
            y = x (W + sum_i g_i s_i B_i A_i)^T in fp32 and fp64, as in folded()

Gated layers round in another order than those of products.py; Mix and Rows give the very same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora.kernel import one_dtype
from lora.modes import Gated, Mode
from lora.products import product_of

if TYPE_CHECKING:
    from lora.layer import LoRALinear

MOST_FOLDED = 2**30  # bytes of folded weights that one block holds; further layers are not folded


class OnWeight(Protocol):
    def on_weight(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor: ...


@dataclass(frozen=True)
class _Kept:
    """A layer's product, None where no adapter acts, and what it was made for."""

    product: OnWeight | None
    mode: Mode
    dtype: torch.dtype
    device: torch.device

    def serves(self, mode: Mode, x: Tensor) -> bool:
        return self.mode is mode and self.dtype == x.dtype and self.device == x.device


class Steady:
    """What the layers of a model keep inside a `steady` block."""

    def __init__(self, together: Iterable[Sequence[nn.Module]]):
        self._together: dict[nn.Module, list[LoRALinear]] = {}
        for group in together:
            adapted = [module for module in group if _is_adapted(module)]
            self._together |= dict.fromkeys(adapted, adapted)
        self._kept: dict[nn.Module, _Kept] = {}
        self._room = MOST_FOLDED

    def product_of(
        self, layer: LoRALinear, x: Tensor, mode: Mode, weight: Tensor
    ) -> OnWeight | None:
        """As `products.product_of`, for a layer whose ordinary weight is of x's type."""
        kept = self._kept.get(layer)
        if kept is None or not kept.serves(mode, x):
            for other, product in self._make(layer, x, mode, weight).items():
                self._kept[other] = _Kept(product, mode, x.dtype, x.device)
            kept = self._kept[layer]
        return kept.product

    def _make(
        self, layer: LoRALinear, x: Tensor, mode: Mode, weight: Tensor
    ) -> dict[LoRALinear, OnWeight | None]:
        """The layer's product, and those of the layers that share a part of it."""
        if not isinstance(mode, Gated) or x.is_nested or not _can_mix(layer, mode):
            product = product_of(layer, x, mode)
            if product is not None:
                product = replace(product, arguments=tuple(one_dtype(x, *product.arguments)[1:]))
            return {layer: product}
        router = mode.routers[layer.path]
        if (gates := getattr(router, "constant", None)) is not None:
            return {layer: self._constant(layer, gates, mode, weight)}
        group = self._together.get(layer, [layer])
        layers = [other for other in group if _joins(other, layer, mode)]
        gates_of = _joined(layers, mode, x)
        if gates_of is None:
            layers = [layer]
            gates_of = _joined(layers, mode, x) or router
        shared = _Shared(layers, gates_of, mode, x.dtype)
        return {one: _Part(shared, at) for at, one in enumerate(layers)}

    def _constant(self, layer: LoRALinear, gates: Tensor, mode: Gated, weight: Tensor) -> _Constant:
        A, B = _weighed_once(layer, gates, mode)
        exact = weight.dtype in (torch.float32, torch.float64)
        size = weight.numel() * weight.element_size()
        if exact and size <= self._room:
            self._room -= size
            folded = torch.addmm(weight, B.to(weight), A.to(weight))
            return _Constant(mode.routers[layer.path], folded, None)
        return _Constant(mode.routers[layer.path], weight, (A.to(weight).mT, B.to(weight).mT))


_current: ContextVar[Steady | None] = ContextVar("_current", default=None)


@contextmanager
def steady(together: Iterable[Sequence[nn.Module]] = ()) -> Iterator[None]:
    """Inside, adapted layers make once what does not depend on their inputs. Neither weights nor
    adapters nor routers may change there; the mode may.

    ``together`` are groups of layers that read one tensor, in the order in which they read it. It
    is for inference: with gradients, under autocast and in torch.compile nothing is kept."""
    token = _current.set(Steady(together))
    try:
        yield
    finally:
        _current.reset(token)


def current(x: Tensor, weight: Tensor) -> Steady | None:
    """What is kept now for a product of x and a weight, None where nothing may be."""
    if torch.compiler.is_compiling() or (kept := _current.get()) is None:
        return None
    if torch.is_grad_enabled() or torch.is_autocast_enabled(x.device.type):
        return None
    return kept if x.dtype == weight.dtype else None


class _Shared:
    """Gated adapters of layers that read one input: what they compute together.

    The first layer that is called with an input computes the products for all, and each of the
    others takes its part once."""

    def __init__(
        self,
        layers: Sequence[LoRALinear],
        gates: Callable[[Tensor], Tensor],
        mode: Gated,
        dtype: torch.dtype,
    ):
        self._gates, self._averages = gates, mode.order == "factors"
        self._shape = len(layers), len(mode.names)
        pairs = [[layer.factors(name) for name in mode.names] for layer in layers]
        A = torch.cat([A for own in pairs for A, _ in own]).to(dtype)
        rows = getattr(gates, "rows", None)
        read = [rows] if rows is not None and rows.dtype == dtype else []
        self._read = sum(map(len, read))
        self._A = torch.cat([*read, A]).mT
        self.B = [_scaled(layer, mode.names).to(dtype).mT for layer in layers]
        ranks = [len(A) for own in pairs for A, _ in own]
        self._widths = [len(B) for B in self.B]
        self._rank = ranks[0] if len(set(ranks)) == 1 else None
        adapter_of = [i for i, rank in enumerate(ranks) for _ in range(rank)]
        self._adapter_of = torch.tensor(adapter_of, device=self._A.device)  # of each column of h
        self._x: Tensor | None = None  # the input whose parts are not all taken, and these
        self._tokens: Tensor = self._A
        self._parts: tuple[Tensor, ...] = ()
        self._waiting: set[int] = set()

    def part(self, at: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """x as tokens (T, k), and g_l * h_l (T, R_l) of the layer at this place, for x (.., k)."""
        if x is not self._x or at not in self._waiting:
            self._x, self._tokens = x, x.reshape(-1, x.shape[-1])
            self._parts = self._products(self._tokens).split(self._widths, 1)
            self._waiting = set(range(len(self._parts)))
        found = self._tokens, self._parts[at]
        self._waiting.remove(at)
        if not self._waiting:  # nothing is held until the next token
            self._x, self._tokens, self._parts = None, self._A, ()
        return found

    def _products(self, x: Tensor) -> Tensor:
        """g * h of all layers, side by side: (T, sum R_l)."""
        (L, N), rank, h = self._shape, self._rank, torch.mm(x, self._A)
        if self._read:
            read, h = h[:, : self._read], h[:, self._read :]
            g = self._gates.of_products(read)  # type: ignore[attr-defined]
        else:
            g = self._gates(x)
            g = g if g.dtype == x.dtype else g.to(x.dtype)
        if rank is None:
            return h * g.reshape(-1, L * N).index_select(1, self._adapter_of)
        if self._averages:
            g, runs = g.reshape(-1, L, N, 1), h.view(-1, L, N, rank)
            return (g * (g * runs).sum(2, keepdim=True)).view_as(h)
        return (h.view(-1, L * N, rank) * g.reshape(-1, L * N, 1)).view_as(h)


@dataclass(frozen=True)
class _Part:
    """One layer's share in products."""

    shared: _Shared
    at: int

    def on_weight(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        tokens, part = self.shared.part(self.at, x)
        y = F.linear(tokens, weight, bias).addmm_(part, self.shared.B[self.at])
        return y.view(*x.shape[:-1], y.shape[-1])


@dataclass(frozen=True)
class _Constant:
    """Gates that are the same for every token: in the weight, or one pair of factors beside it."""

    router: Callable[[Tensor], Tensor]
    weight: Tensor
    factors: tuple[Tensor, Tensor] | None

    def on_weight(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if getattr(self.router, "seen", None) is not None:
            self.router(x.reshape(-1, x.shape[-1]))  # somebody looks at the gates
        if self.factors is None:
            return F.linear(x, self.weight, bias)
        A, B = self.factors
        tokens = x.reshape(-1, x.shape[-1])
        y = F.linear(tokens, self.weight, bias).addmm_(torch.mm(tokens, A), B)
        return y.view(*x.shape[:-1], y.shape[-1])


def _ranks(layer: LoRALinear, mode: Gated) -> set[int]:
    return {len(layer.factors(name)[0]) for name in mode.names}


def _can_mix(layer: LoRALinear, mode: Gated) -> bool:
    """Factors of several ranks have no mean: products.py says so."""
    return mode.order == "outputs" or len(_ranks(layer, mode)) == 1


def _is_adapted(module: nn.Module) -> TypeGuard[LoRALinear]:
    return hasattr(module, "_attached")


def _joins(other: LoRALinear, layer: LoRALinear, mode: Gated) -> bool:
    """Whether ``other``, which reads what the layer reads, may share its products. Hooks before
    them could give them different things to read."""
    return other is layer or (
        other.mode is mode
        and not (other._forward_pre_hooks or layer._forward_pre_hooks)
        and other._plain() is not None
        and other.path in mode.routers
        and set(mode.names) <= set(other.scales)
        and (mode.order == "outputs" or _ranks(other, mode) == _ranks(layer, mode))
    )


def _joined(
    layers: Sequence[LoRALinear], mode: Gated, x: Tensor
) -> Callable[[Tensor], Tensor] | None:
    """One router for all, tokens (T, k) -> gates (T, L, N), where theirs can be joined."""
    first, *others = (mode.routers[layer.path] for layer in layers)
    join = getattr(first, "joined", None)
    return None if join is None else join(others, x)


def _scaled(layer: LoRALinear, names: Sequence[str]) -> Tensor:
    """[s_1 B_1 | .. | s_N B_N] (d_out, R)."""
    return torch.cat([layer.scales[name] * layer.factors(name)[1] for name in names], dim=1)


def _weighed_once(layer: LoRALinear, gates: Tensor, mode: Gated) -> tuple[Tensor, Tensor]:
    """A (R, d_in) and B (d_out, R) of sum_i g_i s_i B_i A_i, or of the product of mixed factors,
    without the adapters whose gate is 0."""
    pairs = [
        (g, g * layer.scales[name], *layer.factors(name))
        for g, name in zip(gates.tolist(), mode.names, strict=True)
    ]
    if mode.order == "factors":
        return sum(g * A for g, _, A, _ in pairs), sum(w * B for _, w, _, B in pairs)
    acting = [pair for pair in pairs if pair[0]] or pairs[:1]
    return torch.cat([A for _, _, A, _ in acting]), torch.cat([w * B for _, w, _, B in acting], 1)
