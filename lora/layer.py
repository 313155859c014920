"""A frozen linear layer with any number of named low-rank adapters, and the modes in which they
act. Row-vector form; W (d_out, d_in), A_i (r_i, d_in), B_i (d_out, r_i), scaling s_i.

off      y = x W^T
Mix      y = x W^T + sum_i w_i s_i (x A_i^T) B_i^T       one adapter is a mix with weight 1
Gated    y = x W^T + sum_i g_i(x) s_i (x A_i^T) B_i^T    one gate for each token and adapter
Rows     y_j = x_j W^T + s_j (x_j A_j^T) B_j^T           x in K equal parts, an adapter for each
folded   y = x (W + sum_i w_i s_i B_i A_i)^T             for inference, undone bit for bit
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


class LoRALinear(nn.Module):
    """A linear layer with adapters: x (..., d_in) -> y (..., d_out).

    The layer shares the weight and bias of the linear layer that it wraps, under the same names,
    so the keys of a model's state_dict() stay as they are. An adapter is two registered parameters,
    ``lora_A_<name>`` (r, d_in) and ``lora_B_<name>`` (d_out, r): they move with .to(), are saved by
    state_dict(), and each has its own requires_grad. ``path`` is the layer's name in the model.
    """

    def __init__(self, linear: nn.Linear, path: str = ""):
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.path = path
        self.scales: dict[str, float] = {}
        self.mode: Mode = None
        self._unfolded: Tensor | None = None
        self._stacked: tuple | None = None  # a key and what _concatenated returned for it

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
        """Register copies of A (r, d_in) and B (d_out, r), not trained until somebody asks for it.

        Raises ValueError for a name that is taken or has other characters than letters, digits, _
        and -, and for factors that do not fit the layer.
        """
        if not re.fullmatch(r"[A-Za-z0-9_\-]+", name):
            raise ValueError(f"an adapter cannot be named {name!r}: use letters, digits, _ and -")
        if name in self.scales:
            raise ValueError(
                f"{self.path}: an adapter {name!r} is attached already: "
                "remove it first or choose another name"
            )
        if A.shape[1] != self.d_in or B.shape[0] != self.d_out:
            raise ValueError(
                f"{self.path}: the layer maps {self.d_in} to {self.d_out}, "
                f"adapter {name!r} maps {A.shape[1]} to {B.shape[0]}: it was made for another model"
            )
        for letter, factor in (("A", A), ("B", B)):
            copied = factor.detach().to(self.weight.device, copy=True)
            parameter = nn.Parameter(copied, requires_grad=False)
            self.register_parameter(f"lora_{letter}_{name}", parameter)
        self.scales[name] = float(scale)

    def remove(self, name: str) -> None:
        """Forget an adapter. Raises KeyError for an unknown name, RuntimeError while folded."""
        self.factors(name)
        if self._unfolded is not None:
            raise RuntimeError(
                f"{self.path}: adapters are folded into the weight: unfold before removing {name!r}"
            )
        del self.scales[name]
        delattr(self, f"lora_A_{name}")
        delattr(self, f"lora_B_{name}")

    def factors(self, name: str) -> tuple[nn.Parameter, nn.Parameter]:
        """(A (r, d_in), B (d_out, r)) of an adapter. Raises KeyError for an unknown name."""
        if name not in self.scales:
            raise KeyError(
                f"{self.path}: no adapter {name!r}, there are {', '.join(self.names) or 'none'}"
            )
        # Past nn.Module.__getattr__, which is slow: decoding asks for factors thousands of times.
        parameters = cast(dict[str, nn.Parameter], self._parameters)
        return parameters[f"lora_A_{name}"], parameters[f"lora_B_{name}"]

    def fold(self, weights: Mapping[str, float]) -> None:
        """Add sum_i w_i s_i B_i A_i to the weight, in the weight's own precision. The old weight is
        kept for `unfold`. Raises RuntimeError where adapters are folded already."""
        if self._unfolded is not None:
            raise RuntimeError(
                f"{self.path}: adapters are folded into the weight already: unfold first"
            )
        self._unfolded = self.weight.detach().clone()
        with torch.no_grad():
            for name in (name for name in weights if name in self.scales):
                A, B = self.factors(name)
                self.weight += (weights[name] * self.scales[name] * (B @ A)).to(self.weight.dtype)

    def unfold(self) -> None:
        """Put the weight back as it was, bit for bit. Raises RuntimeError where none is folded."""
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
            return self._mixed(x, mode)
        if isinstance(mode, Rows):
            return self._by_rows(x, mode)
        return self._gated(x, mode)

    def _mixed(self, x: Tensor, mode: Mix) -> Tensor:
        names = tuple(name for name in mode.weights if name in self.scales)
        if not names:
            return F.linear(x, self.weight, self.bias)
        A, B, ranks = self._concatenated(names)
        weights = [mode.weights[name] * self.scales[name] for name in names]
        if len(set(weights)) == 1:
            return lora_linear(x, self.weight, self.bias, A, B, weights[0])
        columns = [weight for weight, r in zip(weights, ranks, strict=True) for _ in range(r)]
        return lora_linear(x, self.weight, self.bias, A, B, x.new_tensor(columns))

    def _by_rows(self, x: Tensor, mode: Rows) -> Tensor:
        pairs = [self.factors(name) for name in mode.names]
        A, B = (torch.stack(factors) for factors in zip(*pairs, strict=True))
        scales = self._scales_of(mode.names, x)
        return lora_linear_rows(x, self.weight, self.bias, A, B, scales)

    def _gated(self, x: Tensor, mode: Gated) -> Tensor:
        scales = self._scales_of(mode.names, x)
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
            repeats = torch.tensor(ranks, device=c.device)
            c = c.repeat_interleave(repeats, dim=-1, output_size=sum(ranks))
        return lora_linear(x, self.weight, self.bias, A, B, c)

    def _scales_of(self, names: Sequence[str], like: Tensor) -> Tensor | float:
        """The adapters' scalings (N,), or the one number that all share: it needs no product."""
        scales = [self.scales[name] for name in names]
        return scales[0] if len(set(scales)) == 1 else like.new_tensor(scales)

    def _concatenated(self, names: tuple[str, ...]) -> tuple[Tensor, Tensor, tuple[int, ...]]:
        """[A_1; ..; A_N] (R, d_in), [B_1 | .. | B_N] (d_out, R), and the ranks that sum to R.

        The result is kept from call to call while no gradient is asked for and no factor has
        changed, so decoding restacks nothing.
        """
        factors = [self.factors(name) for name in names]
        if len(names) == 1:
            return *factors[0], (factors[0][0].shape[0],)
        ranks = tuple(A.shape[0] for A, _ in factors)

        def stack() -> tuple[Tensor, Tensor, tuple[int, ...]]:
            A = torch.cat([A for A, _ in factors])
            return A, torch.cat([B for _, B in factors], dim=1), ranks

        trained = torch.is_grad_enabled() and any(p.requires_grad for pair in factors for p in pair)
        if trained or torch.compiler.is_compiling():
            return stack()
        key = (names, tuple((p.data_ptr(), p._version) for pair in factors for p in pair))
        if self._stacked is None or self._stacked[0] != key:
            # Ordinary tensors, also when first asked for in inference mode: a later call may
            # differentiate through them.
            with torch.inference_mode(False), torch.no_grad():
                self._stacked = (key, stack())
        return self._stacked[1]

    def extra_repr(self) -> str:
        return f"{self.d_in} -> {self.d_out}, adapters: {', '.join(self.names) or 'none'}"
