"""The cases of one layer: one adapter, N gated per token, K trained together; ours beside its
peers.

Every arm gets the same numbers: x (M, k), W (n, k) frozen, B not zero, dy random. Formulas in
lora.reference.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.protocol import AGAIN, FROZEN, Arm, Case, flop_floor
from lora import kernel, reference

SCALE = 2.0


def has_peft() -> bool:
    return importlib.util.find_spec("peft") is not None


class Draw:
    """Seeded numbers on the device: float32 on the CPU first, so every device gets the same."""

    def __init__(self, dtype: torch.dtype, device: str, seed: int = 0):
        self.generator = torch.Generator().manual_seed(seed)
        self.like = {"dtype": dtype, "device": device}

    def __call__(self, *shape: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(shape, generator=self.generator)).to(**self.like)


def leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().clone().requires_grad_()


def arm(
    forward: Callable[..., Tensor],
    dy: Tensor,
    checked: bool = True,
    **leaves: Tensor | list[Tensor],
) -> Arm:
    """An arm of a forward function of its leaves, in their order; those given as a list are passed
    as a list."""
    listed = {name: t if isinstance(t, list) else [t] for name, t in leaves.items()}

    def step() -> Tensor:
        y = forward(**leaves)
        y.backward(dy)
        return y

    return Arm(step, listed, checked)


def exact(forward: Callable[..., Tensor], dy: Tensor, **leaves: Tensor) -> dict[str, Tensor]:
    """y and gradients in float64, by automatic differentiation of the reference."""
    doubles = {name: t.detach().double().requires_grad_() for name, t in leaves.items()}
    y = forward(**doubles)
    gradients = torch.autograd.grad(y, list(doubles.values()), dy.double())
    return {"y": y.detach(), **dict(zip(doubles, gradients, strict=True))}


def frozen_arms(x: Tensor, W: Tensor, dy: Tensor) -> dict[str, Arm]:
    frozen = {name: arm(lambda x: F.linear(x, W), dy, False, x=leaf(x)) for name in (FROZEN, AGAIN)}
    return {
        **frozen,
        "full fine-tuning": arm(lambda x, W: F.linear(x, W), dy, False, x=leaf(x), W=leaf(W)),
    }


def naive(x: Tensor, A: Tensor, B: Tensor, *, W: Tensor) -> Tensor:
    """LoRA as its paper and most libraries write it."""
    return F.linear(x, W) + SCALE * F.linear(F.linear(x, A), B)


def one_adapter(
    M: int,
    k: int,
    n: int,
    r: int,
    dtype: torch.dtype,
    device: str,
    compiled: bool = False,
    must: float | None = None,
    aim: float | None = None,
) -> Case:
    draw = Draw(dtype, device)
    x, W, dy = draw(M, k), draw(n, k, scale=k**-0.5), draw(M, n)
    A, B = draw(r, k, scale=k**-0.5), draw(n, r)

    def ours(x: Tensor, A: Tensor, B: Tensor) -> Tensor:
        return kernel.lora_linear(x, W, None, A, B, SCALE)

    plain = partial(naive, W=W)
    forwards = {"naive": plain, "ours": ours}
    if compiled:
        forwards["naive, compiled"] = torch.compile(plain)
        forwards["ours, compiled"] = torch.compile(ours, fullgraph=True)
    arms = frozen_arms(x, W, dy)
    arms |= {name: arm(f, dy, x=leaf(x), A=leaf(A), B=leaf(B)) for name, f in forwards.items()}
    if has_peft():
        arms["PEFT"] = peft_arm(x, W, A, B, dy)
    truth = exact(
        lambda x, A, B: reference.lora_linear(x, W.double(), None, A, B, SCALE), dy, x=x, A=A, B=B
    )
    truth["A"], truth["B"] = truth["A"][None], truth["B"][None]
    shape = {"M": M, "k": k, "n": n, "r": r}
    name = f"{k}" if k == n else f"{k} to {n}"
    return Case("one adapter", name, arms, truth, dtype, flop_floor(k, n, r), shape, must, aim, [W])


def peft_arm(x: Tensor, W: Tensor, A: Tensor, B: Tensor, dy: Tensor) -> Arm:
    from peft import LoraConfig, get_peft_model

    (n, k), r = W.shape, len(A)
    holder = nn.Module()
    holder.linear = nn.Linear(k, n, bias=False, device=W.device, dtype=W.dtype)
    holder.linear.weight.data.copy_(W)
    config = LoraConfig(
        r=r, lora_alpha=SCALE * r, target_modules=["linear"], init_lora_weights=False
    )
    get_peft_model(holder, config, autocast_adapter_dtype=False)
    down, up = (getattr(holder.linear, f"lora_{s}")["default"].weight for s in "AB")
    down.data.copy_(A), up.data.copy_(B)
    return arm(lambda x, A, B: holder.linear(x), dy, x=leaf(x), A=down, B=up)


def gated(
    M: int,
    k: int,
    n: int,
    r: int,
    N: int,
    dtype: torch.dtype,
    device: str,
    must: float | None = None,
    aim: float | None = None,
) -> Case:
    """Gates (M, N) from any router, differentiated too."""
    draw = Draw(dtype, device)
    x, W, dy = draw(M, k), draw(n, k, scale=k**-0.5), draw(M, n)
    A, B, gates = draw(N * r, k, scale=k**-0.5), draw(n, N * r), draw(M, N).softmax(-1)

    def arrow_flow(x: Tensor, A: list[Tensor], B: list[Tensor], gates: Tensor) -> Tensor:
        """PEFT 0.21's arrow layer: all adapters' outputs (tokens, N, n), then their weighted
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
        each = {"A": list(map(leaf, A.split(r))), "B": list(map(leaf, B.split(r, 1)))}
        return arm(forward, dy, x=leaf(x), gates=leaf(gates), **each)

    arms = {**frozen_arms(x, W, dy), "Arrow's flow": apart(arrow_flow), "loop": apart(loop)}
    arms["ours"] = arm(ours, dy, x=leaf(x), A=leaf(A), B=leaf(B), gates=leaf(gates))
    formula = lambda x, A, B, gates: reference.lora_linear(x, W.double(), None, A, B, gates * SCALE)  # noqa: E731
    truth = exact(formula, dy, x=x, A=A, B=B, gates=gates)
    truth["A"], truth["B"] = (
        truth["A"].view(N, r, k),
        truth["B"].view(n, N, r).transpose(0, 1).contiguous(),
    )
    shape = {"M": M, "k": k, "n": n, "r": r, "N": N}
    return Case(
        f"gated, N={N}", f"{k}", arms, truth, dtype, flop_floor(k, n, N * r), shape, must, aim, [W]
    )


def together(
    M: int,
    k: int,
    n: int,
    r: int,
    K: int,
    dtype: torch.dtype,
    device: str,
    must: float | None = None,
    aim: float | None = None,
) -> Case:
    """K adapters of M / K rows each."""
    draw = Draw(dtype, device)
    x, W, dy = draw(M, k), draw(n, k, scale=k**-0.5), draw(M, n)
    A, B = draw(K, r, k, scale=k**-0.5), draw(K, n, r)
    parts = [leaf(part) for part in x.chunk(K)]
    each_A, each_B = [list(map(leaf, t)) for t in (A, B)]

    def one_after_the_other() -> Tensor:
        ys = []
        for part, a, b, d in zip(parts, each_A, each_B, dy.chunk(K), strict=True):
            ys.append(naive(part, a, b, W=W))
            ys[-1].backward(d)
        return torch.cat([y.detach() for y in ys])

    def loop(x: Tensor, A: list[Tensor], B: list[Tensor]) -> Tensor:
        """One frozen product, and each adapter on its own rows."""
        extra = [
            SCALE * F.linear(F.linear(p, a), b) for p, a, b in zip(x.chunk(K), A, B, strict=True)
        ]
        return F.linear(x, W) + torch.cat(extra)

    def ours(x: Tensor, A: list[Tensor], B: list[Tensor]) -> Tensor:
        """The stacking that a layer of separate parameters does is part of the time."""
        return kernel.lora_linear_rows(x, W, None, torch.stack(A), torch.stack(B), SCALE)

    arms = frozen_arms(x, W, dy)
    arms["one after the other"] = Arm(one_after_the_other, {"x": parts, "A": each_A, "B": each_B})
    for name, forward in (("loop", loop), ("ours", ours)):
        arms[name] = arm(forward, dy, x=leaf(x), A=list(map(leaf, A)), B=list(map(leaf, B)))
    truth = exact(
        lambda x, A, B: reference.lora_linear_rows(x, W.double(), None, A, B, SCALE),
        dy,
        x=x,
        A=A,
        B=B,
    )
    shape = {"M": M, "k": k, "n": n, "r": r, "K": K}
    return Case(
        f"{K} trained together",
        f"{k}",
        arms,
        truth,
        dtype,
        flop_floor(k, n, r),
        shape,
        must,
        aim,
        [W],
    )
