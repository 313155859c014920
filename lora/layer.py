"""A frozen linear layer with any number of named low-rank adapters, and the modes in which they
act.

off        y = x W^T
Mix        y = x W^T + sum_i w_i s_i (x A_i^T) B_i^T                one adapter is a mix with weight 1
Gated      y = x W^T + sum_i g_i(x) s_i (x A_i^T) B_i^T             one gate per token and adapter
Rows       y_j = x_j W^T + s_j (x_j A_j^T) B_j^T                    the batch in K equal parts, each its own adapter
folded     y = x (W + sum_i w_i s_i B_i A_i)^T                      for inference, undone bit for bit
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora.kernel import lora_linear, lora_linear_factors, lora_linear_rows


@dataclass(frozen=True)
class Mix:
    """Fixed weights per adapter. Layers that lack one of the adapters leave it out."""

    weights: Mapping[str, float]


@dataclass(frozen=True)
class Gated:
    """Weights per token: ``routers[path](x (tokens, d_in)) -> gates (tokens, len(names))``.

    ``order`` says what is mixed: ``outputs``, sum_i g_i s_i B_i A_i x, or ``factors``, (sum_i g_i
    s_i B_i)(sum_j g_j A_j) x, which has the cross terms B_i A_j and needs adapters of one rank.
    """

    names: Sequence[str]
    routers: Mapping[str, Callable[[Tensor], Tensor]]
    order: str = "outputs"

    def __post_init__(self) -> None:
        if self.order not in ("outputs", "factors"):
            raise ValueError(f"order = {self.order!r}: mix the outputs or the factors")


@dataclass(frozen=True)
class Rows:
    """The batch axis falls into len(names) equal parts, one after the other; each part has its own
    adapter, of one rank."""

    names: Sequence[str]


Mode = Mix | Gated | Rows | None


class LoRALinear(nn.Module):
    """Wraps a linear layer, sharing its weight and bias under their own names, so a model's base
    keys stay as they are.

    Adapters are registered parameters ``lora_A_<name>`` (r, d_in) and ``lora_B_<name>`` (d_out, r):
    they move with .to(), are saved by state_dict(), and each has its own requires_grad.
    """

    def __init__(self, linear: nn.Linear, path: str = ""):
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.path = path
        self.scales: dict[str, float] = {}
        self.mode: Mode = None
        self._unfolded: Tensor | None = None
        self._kept: tuple | None = None

    @property
    def d_in(self) -> int:
        return self.weight.shape[1]

    @property
    def d_out(self) -> int:
        return self.weight.shape[0]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.scales)

    def add(self, name: str, A: Tensor, B: Tensor, scale: float) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_\-]+", name):
            raise ValueError(f"an adapter cannot be named {name!r}: use letters, digits, _ and -")
        if name in self.scales:
            raise ValueError(
                f"{self.path}: an adapter {name!r} is attached already: remove it first or choose another name"
            )
        if A.shape[1] != self.d_in or B.shape[0] != self.d_out:
            raise ValueError(
                f"{self.path}: the layer maps {self.d_in} to {self.d_out}, adapter {name!r} maps {A.shape[1]} "
                f"to {B.shape[0]}: it was made for another model"
            )
        if A.shape[0] > min(self.d_in, self.d_out):
            raise ValueError(
                f"{self.path}: rank {A.shape[0]} of adapter {name!r} is above the layer's own, "
                f"{min(self.d_in, self.d_out)}: choose a lower rank"
            )
        for letter, factor in (("A", A), ("B", B)):
            own = factor.detach().to(self.weight.device, copy=True)
            self.register_parameter(f"lora_{letter}_{name}", nn.Parameter(own, requires_grad=False))
        self.scales[name] = float(scale)

    def remove(self, name: str) -> None:
        self.factors(name)
        if self._unfolded is not None:
            raise RuntimeError(
                f"{self.path}: adapters are folded into the weight: unfold before removing {name!r}"
            )
        del self.scales[name]
        delattr(self, f"lora_A_{name}")
        delattr(self, f"lora_B_{name}")

    def factors(self, name: str) -> tuple[nn.Parameter, nn.Parameter]:
        """(A, B) of an adapter."""
        if name not in self.scales:
            raise KeyError(
                f"{self.path}: no adapter {name!r}, there are {', '.join(self.names) or 'none'}"
            )
        own = cast(
            dict[str, nn.Parameter], self._parameters
        )  # past __getattr__: decoding asks for these thousands of times
        return own[f"lora_A_{name}"], own[f"lora_B_{name}"]

    def fold(self, weights: Mapping[str, float]) -> None:
        """Add sum_i w_i s_i B_i A_i to the weight, in the weight's own precision, keeping the old
        one aside."""
        if self._unfolded is not None:
            raise RuntimeError(
                f"{self.path}: adapters are folded into the weight already: unfold first"
            )
        names = [name for name in weights if name in self.scales]
        self._unfolded = self.weight.detach().clone()
        with torch.no_grad():
            for name in names:
                A, B = self.factors(name)
                self.weight += (weights[name] * self.scales[name] * (B @ A)).to(self.weight.dtype)

    def unfold(self) -> None:
        """Put the weight back as it was, bit for bit."""
        if self._unfolded is None:
            raise RuntimeError(f"{self.path}: no adapter is folded into the weight")
        with torch.no_grad():
            self.weight.copy_(self._unfolded)
        self._unfolded = None

    def forward(self, x: Tensor) -> Tensor:
        mode = self.mode
        if mode is None or self._unfolded is not None:
            return F.linear(x, self.weight, self.bias)
        if isinstance(mode, Mix):
            names = tuple(name for name in mode.weights if name in self.scales)
            if not names:
                return F.linear(x, self.weight, self.bias)
            A, B, ranks = self._concatenated(names)
            weights = [mode.weights[name] * self.scales[name] for name in names]
            if len(set(weights)) > 1:
                columns = [
                    weight for weight, rank in zip(weights, ranks, strict=True) for _ in range(rank)
                ]
                return lora_linear(x, self.weight, self.bias, A, B, x.new_tensor(columns))
            return lora_linear(x, self.weight, self.bias, A, B, weights[0])
        each = [self.scales[name] for name in mode.names]
        scales = (
            each[0] if len(set(each)) == 1 else x.new_tensor(each)
        )  # one number needs no product of its own
        if isinstance(mode, Rows):
            A, B = (
                torch.stack(factors) for factors in zip(*map(self.factors, mode.names), strict=True)
            )
            return lora_linear_rows(x, self.weight, self.bias, A, B, scales)
        gates = mode.routers[self.path](x.reshape(-1, self.d_in))
        A, B, ranks = self._concatenated(tuple(mode.names))
        one_rank = len(set(ranks)) == 1
        if mode.order == "factors":
            if not one_rank:
                raise ValueError(
                    f"{self.path}: factors of ranks {ranks} cannot be averaged: mix the outputs"
                )
            return lora_linear_factors(x, self.weight, self.bias, A, B, gates, scales)
        c = gates * scales
        if not one_rank:
            c = c.repeat_interleave(
                torch.tensor(ranks, device=c.device), dim=-1, output_size=sum(ranks)
            )
        return lora_linear(x, self.weight, self.bias, A, B, c)

    def _concatenated(self, names: tuple[str, ...]) -> tuple[Tensor, Tensor, tuple[int, ...]]:
        """[A_1; ..; A_N] (R, d_in), [B_1 | .. | B_N] (d_out, R), and the ranks that sum to R.

        Kept from call to call while no gradient is asked for and no factor has changed: decoding
        restacks nothing.
        """
        factors = [self.factors(name) for name in names]
        if len(names) == 1:
            return *factors[0], (factors[0][0].shape[0],)
        ranks = tuple(A.shape[0] for A, _ in factors)
        trained = torch.is_grad_enabled() and any(p.requires_grad for pair in factors for p in pair)
        if trained or torch.compiler.is_compiling():
            return (
                torch.cat([A for A, _ in factors]),
                torch.cat([B for _, B in factors], dim=1),
                ranks,
            )
        key = (names, tuple((p.data_ptr(), p._version) for pair in factors for p in pair))
        if self._kept is None or self._kept[0] != key:
            # Ordinary tensors, also when first asked for in inference mode: a later call may
            # differentiate through them.
            with torch.inference_mode(False), torch.no_grad():
                A, B = torch.cat([A for A, _ in factors]), torch.cat([B for _, B in factors], dim=1)
            self._kept = (key, (A, B, ranks))
        return self._kept[1]

    def extra_repr(self) -> str:
        return f"{self.d_in} -> {self.d_out}, adapters: {', '.join(self.names) or 'none'}"
