"""The cases of one layer: one adapter, N adapters gated per token, K adapters trained together.

Every arm of a case gets the same numbers: x (M, k), a frozen W (n, k), B not zero, dy random. The
formulas stand in lora.reference. Axes: M tokens, k = d_in, n = d_out, r one adapter's rank.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.protocol import AGAIN, FROZEN, FULL, Arm, Case, flop_floor
from lora import kernel, reference
from lora.tuning import offered
from lora.ways import Shape

SCALE = 2.0


def has_peft() -> bool:
    return importlib.util.find_spec("peft") is not None


class Draw:
    """Seeded normal numbers on a device, drawn on the CPU so that every device gets the same."""

    def __init__(self, dtype: torch.dtype, device: str, seed: int = 0):
        self.generator = torch.Generator().manual_seed(seed)
        self.dtype, self.device = dtype, device

    def __call__(self, *shape: int, scale: float = 1.0) -> Tensor:
        numbers = scale * torch.randn(shape, generator=self.generator)
        return numbers.to(device=self.device, dtype=self.dtype)


def leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().clone().requires_grad_()


def leaves_of(tensor: Tensor, parts: int, dim: int = 0) -> list[Tensor]:
    """Equal parts of a tensor, each a leaf of its own."""
    return [leaf(part) for part in tensor.chunk(parts, dim)]


Leaves = Mapping[str, Tensor | list[Tensor]]


def arm(forward: Callable[..., Tensor], dy: Tensor, leaves: Leaves, checked: bool = True) -> Arm:
    """An arm of a forward function that takes its leaves by name. A list of leaves is passed as a
    list."""
    listed = {name: t if isinstance(t, list) else [t] for name, t in leaves.items()}

    def step() -> Tensor:
        y = forward(**leaves)
        y.backward(dy)
        return y

    return Arm(step, listed, checked)


def exact(forward: Callable[..., Tensor], dy: Tensor, **leaves: Tensor) -> dict[str, Tensor]:
    """y and the gradients in float64, by automatic differentiation of the reference."""
    doubles = {name: t.detach().double().requires_grad_() for name, t in leaves.items()}
    y = forward(**doubles)
    gradients = torch.autograd.grad(y, list(doubles.values()), dy.double())
    return {"y": y.detach(), **dict(zip(doubles, gradients, strict=True))}


def frozen_arms(x: Tensor, W: Tensor, dy: Tensor) -> dict[str, Arm]:
    def frozen(x: Tensor) -> Tensor:
        return F.linear(x, W)

    def full(x: Tensor, W: Tensor) -> Tensor:
        return F.linear(x, W)

    return {
        FROZEN: arm(frozen, dy, {"x": leaf(x)}, checked=False),
        AGAIN: arm(frozen, dy, {"x": leaf(x)}, checked=False),
        FULL: arm(full, dy, {"x": leaf(x), "W": leaf(W)}, checked=False),
    }


def naive(x: Tensor, A: Tensor, B: Tensor, *, W: Tensor) -> Tensor:
    """LoRA as its paper and most libraries write it."""
    A, B = A.to(x.dtype), B.to(x.dtype)  # nothing is done where they have it
    return F.linear(x, W) + SCALE * F.linear(F.linear(x, A), B)


def one_adapter(
    M: int,
    k: int,
    n: int,
    r: int,
    dtype: torch.dtype,
    device: str,
    compiled: bool = False,
    ways: bool = False,
    masters: bool = False,
) -> Case:
    """y = x W^T + s (x A^T) B^T.

    Further arms: ``compiled`` ones, and every one of our ``ways``, whichever of them a table would
    choose. With ``masters`` A and B are fp32 beside a base of another dtype.
    """
    draw = Draw(dtype, device)
    x, W, dy = draw(M, k), draw(n, k, scale=k**-0.5), draw(M, n)
    A, B = draw(r, k, scale=k**-0.5), draw(n, r)
    if masters:
        A, B = A.float(), B.float()

    def ours(x: Tensor, A: Tensor, B: Tensor) -> Tensor:
        return kernel.lora_linear(x, W, None, A, B, SCALE)

    def by_way(way: str) -> Callable[..., Tensor]:
        return lambda x, A, B: kernel.FUNCTIONS[way].apply(x, W, None, A, B, SCALE)

    plain = partial(naive, W=W)
    forwards: dict[str, Callable[..., Tensor]] = {"naive": plain, "ours": ours}
    if compiled:
        torch.compiler.reset()  # else a second shape is compiled for any shape
        forwards["naive, compiled"] = torch.compile(plain)
        forwards["ours, compiled"] = torch.compile(ours, fullgraph=True)
    if ways:
        for way in offered(Shape(M, k, n, r)):
            forwards[f"way: {way}"] = by_way(way)
    arms = frozen_arms(x, W, dy)
    for name, forward in forwards.items():
        arms[name] = arm(forward, dy, {"x": leaf(x), "A": leaf(A), "B": leaf(B)})
    if has_peft():
        arms["PEFT"] = peft_arm(x, W, A, B, dy)
    formula = partial(reference.lora_linear, W=W.double(), bias=None, c=SCALE)
    truth = exact(formula, dy, x=x, A=A, B=B)
    truth["A"], truth["B"] = truth["A"][None], truth["B"][None]
    shape = {"M": M, "k": k, "n": n, "r": r}
    widths = f"{k}" if k == n else f"{k} to {n}"
    floor = flop_floor(k, n, r)
    return Case("one adapter", widths, arms, truth, dtype, floor, shape, [W])


def peft_arm(x: Tensor, W: Tensor, A: Tensor, B: Tensor, dy: Tensor) -> Arm:
    from peft import LoraConfig, get_peft_model

    (n, k), r = W.shape, len(A)
    linear = nn.Linear(k, n, bias=False, device=W.device, dtype=W.dtype)
    linear.weight.data.copy_(W)
    holder: Any = nn.ModuleDict({"linear": linear})
    config = LoraConfig(
        r=r, lora_alpha=SCALE * r, target_modules=["linear"], init_lora_weights=False
    )
    get_peft_model(holder, config, autocast_adapter_dtype=A.dtype != W.dtype)
    layer = holder["linear"]
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    down.data.copy_(A), up.data.copy_(B)
    return arm(lambda x, A, B: layer(x), dy, {"x": leaf(x), "A": down, "B": up})


def gated(M: int, k: int, n: int, r: int, N: int, dtype: torch.dtype, device: str) -> Case:
    """y = x W^T + sum_i g_i s (x A_i^T) B_i^T. The gates g (M, N) may come from any router and are
    differentiated too."""
    draw = Draw(dtype, device)
    x, W, dy = draw(M, k), draw(n, k, scale=k**-0.5), draw(M, n)
    A, B, gates = draw(N * r, k, scale=k**-0.5), draw(n, N * r), draw(M, N).softmax(-1)

    def arrow_flow(x: Tensor, A: list[Tensor], B: list[Tensor], gates: Tensor) -> Tensor:
        """The arrow layer of PEFT 0.21: all adapters' outputs (tokens, N, n), then their weighted
        sum."""
        z = torch.einsum("tk,Nrk->tNr", x, torch.stack(A))
        y = torch.einsum("tNr,Nnr->tNn", z, torch.stack(B)) * SCALE
        return F.linear(x, W) + torch.einsum("tN,tNn->tn", gates, y)

    def loop(x: Tensor, A: list[Tensor], B: list[Tensor], gates: Tensor) -> Tensor:
        y = F.linear(x, W)
        for i in range(N):
            y = y + SCALE * gates[:, i : i + 1] * F.linear(F.linear(x, A[i]), B[i])
        return y

    def ours(x: Tensor, A: Tensor, B: Tensor, gates: Tensor) -> Tensor:
        return kernel.lora_linear(x, W, None, A, B, gates * SCALE)

    def apart(forward: Callable[..., Tensor]) -> Arm:
        each_A, each_B = leaves_of(A, N), leaves_of(B, N, dim=1)
        return arm(forward, dy, {"x": leaf(x), "gates": leaf(gates), "A": each_A, "B": each_B})

    def formula(x: Tensor, A: Tensor, B: Tensor, gates: Tensor) -> Tensor:
        return reference.lora_linear(x, W.double(), None, A, B, gates * SCALE)

    arms = {**frozen_arms(x, W, dy), "Arrow's flow": apart(arrow_flow)}
    if dtype == torch.float32 or N <= 8:  # a longer sum, rounded to 16 bits N times, is too far off
        arms["loop"] = apart(loop)
    whole = {"x": leaf(x), "A": leaf(A), "B": leaf(B), "gates": leaf(gates)}
    arms["ours"] = arm(ours, dy, whole)
    truth = exact(formula, dy, x=x, A=A, B=B, gates=gates)
    truth["A"] = truth["A"].view(N, r, k)
    truth["B"] = truth["B"].view(n, N, r).transpose(0, 1).contiguous()
    shape = {"M": M, "k": k, "n": n, "r": r, "N": N}
    floor = flop_floor(k, n, N * r)
    return Case(f"gated, N={N}", f"{k}", arms, truth, dtype, floor, shape, [W])


def together(M: int, k: int, n: int, r: int, K: int, dtype: torch.dtype, device: str) -> Case:
    """K adapters, each with M / K rows of its own: y_j = x_j W^T + s (x_j A_j^T) B_j^T."""
    draw = Draw(dtype, device)
    x, W, dy = draw(M, k), draw(n, k, scale=k**-0.5), draw(M, n)
    A, B = draw(K, r, k, scale=k**-0.5), draw(K, n, r)
    parts = leaves_of(x, K)
    each_A, each_B = (list(map(leaf, factor)) for factor in (A, B))

    def one_after_the_other() -> Tensor:
        ys = []
        for part, a, b, d in zip(parts, each_A, each_B, dy.chunk(K), strict=True):
            ys.append(naive(part, a, b, W=W))
            ys[-1].backward(d)
        return torch.cat([y.detach() for y in ys])

    def loop(x: Tensor, A: list[Tensor], B: list[Tensor]) -> Tensor:
        """One frozen product, and each adapter on its own rows."""
        per_adapter = zip(x.chunk(K), A, B, strict=True)
        updates = [SCALE * F.linear(F.linear(x_j, A_j), B_j) for x_j, A_j, B_j in per_adapter]
        return F.linear(x, W) + torch.cat(updates)

    def ours(x: Tensor, A: list[Tensor], B: list[Tensor]) -> Tensor:
        """A layer of separate parameters has to stack them, so that is part of the time."""
        return kernel.lora_linear_rows(x, W, None, torch.stack(A), torch.stack(B), SCALE)

    arms = frozen_arms(x, W, dy)
    arms["one after the other"] = Arm(one_after_the_other, {"x": parts, "A": each_A, "B": each_B})
    for name, forward in (("loop", loop), ("ours", ours)):
        leaves: Leaves = {"x": leaf(x), "A": list(map(leaf, A)), "B": list(map(leaf, B))}
        arms[name] = arm(forward, dy, leaves)
    formula = partial(reference.lora_linear_rows, W=W.double(), bias=None, scales=SCALE)
    truth = exact(formula, dy, x=x, A=A, B=B)
    shape = {"M": M, "k": k, "n": n, "r": r, "K": K}
    floor = flop_floor(k, n, r)
    return Case(f"{K} trained together", f"{k}", arms, truth, dtype, floor, shape, [W])
