"""What the adapters of one layer compute in a mode: which product, and of which factors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lora import reference
from lora.kernel import lora_linear, lora_linear_factors, lora_linear_rows, one_dtype
from lora.modes import Gated, Mix, Mode, Rows

if TYPE_CHECKING:
    from lora.layer import LoRALinear

# A product on an ordinary weight, and the update alone, to be added to what a forward gives.
_UPDATES: dict[Callable[..., Tensor], Callable[..., Tensor]] = {
    lora_linear: reference.update,
    lora_linear_rows: reference.update_rows,
    lora_linear_factors: reference.update_factors,
}


@dataclass(frozen=True)
class Product:
    """One of the products of lora.kernel, with its arguments after x, W and the bias."""

    compute: Callable[..., Tensor]
    arguments: tuple[Any, ...]

    def on_weight(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """x W^T + bias and the update."""
        return self.compute(x, weight, bias, *self.arguments)

    def alone(self, x: Tensor) -> Tensor:
        """The update (..., d_out) without the layer's own output."""
        return _UPDATES[self.compute](*one_dtype(x, *self.arguments))


def product_of(layer: LoRALinear, x: Tensor, mode: Mode) -> Product | None:
    """The product of a mode on x (..., d_in); None where no adapter of the layer acts.

    Raises KeyError for an adapter that a router or rows ask for and the layer lacks, and ValueError
    for a nested tensor.
    """
    if mode is None or (isinstance(mode, Mix) and not layer.has_any(mode.weights)):
        return None
    if x.is_nested:
        raise ValueError(
            f"{layer.path}: its input is a nested tensor, to which no adapter can be applied: "
            "build the nn.TransformerEncoder with enable_nested_tensor=False"
        )
    if isinstance(mode, Mix):
        return _mixed(layer, x, mode)
    if isinstance(mode, Rows):
        pairs = [layer.factors(name) for name in mode.names]
        A, B = (torch.stack(factors) for factors in zip(*pairs, strict=True))
        return Product(lora_linear_rows, (A, B, _scales_of(layer, mode.names, x)))
    return _gated(layer, x, mode)


def _mixed(layer: LoRALinear, x: Tensor, mode: Mix) -> Product:
    names = [name for name in mode.weights if name in layer.scales]
    A, B, ranks = _concatenated(layer, names)
    weights = [mode.weights[name] * layer.scales[name] for name in names]
    if len(set(weights)) == 1:
        return Product(lora_linear, (A, B, weights[0]))
    columns = [weight for weight, r in zip(weights, ranks, strict=True) for _ in range(r)]
    return Product(lora_linear, (A, B, x.new_tensor(columns)))


def _gated(layer: LoRALinear, x: Tensor, mode: Gated) -> Product:
    scales = _scales_of(layer, mode.names, x)
    gates = mode.routers[layer.path](x.reshape(-1, layer.d_in))
    A, B, ranks = _concatenated(layer, mode.names)
    one_rank = len(set(ranks)) == 1
    if mode.order == "factors":
        if not one_rank:
            raise ValueError(
                f"{layer.path}: factors of ranks {ranks} cannot be averaged: mix the outputs"
            )
        return Product(lora_linear_factors, (A, B, gates, scales))
    c = gates * scales
    if not one_rank:
        repeats = torch.tensor(ranks, device=c.device)
        c = c.repeat_interleave(repeats, dim=-1, output_size=sum(ranks))
    return Product(lora_linear, (A, B, c))


def _scales_of(layer: LoRALinear, names: Sequence[str], like: Tensor) -> Tensor | float:
    """The adapters' scalings (N,), or the one number that all share: it needs no product."""
    scales = [layer.scales[name] for name in names]
    return scales[0] if len(set(scales)) == 1 else like.new_tensor(scales)


def _concatenated(
    layer: LoRALinear, names: Sequence[str]
) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """[A_1; ..; A_N] (R, d_in), [B_1 | .. | B_N] (d_out, R), and the ranks that sum to R.

    They are put together at each call, which takes 2 to 7 % of the layer's time in decoding:
    nothing tells whether factors were written to since the last one.
    """
    factors = [layer.factors(name) for name in names]
    ranks = tuple(A.shape[0] for A, _ in factors)
    if len(factors) == 1:
        return *factors[0], ranks
    A = torch.cat([A for A, _ in factors])
    return A, torch.cat([B for _, B in factors], dim=1), ranks
