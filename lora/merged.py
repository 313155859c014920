"""Ways to compute an adapted layer through W + c B A: y = x W_e^T, dx = dy W_e, and

    g = dy B    dA = c g^T x    h = x A^T    dB = c (h^T dy)^T

Each class is one way, with the same arguments and the same gradients; lora.ways says in words how
they differ. All take x (..., k), or (K * b, ..., k) with A (K, r, k) and B (K, n, r), and one
number c. Merging is for fp32 and training alone: rounded to bf16, W would swallow a small B A.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lora.ways import LIBRARIES, PARTS, PLAIN, fp32_products


def refuse_second_derivative() -> None:
    if torch.is_grad_enabled():
        raise RuntimeError(
            "lora.kernel has no second derivative (create_graph=True): use lora.reference"
        )


def add_product(y: Tensor, u: Tensor, v: Tensor, alpha: float = 1.0) -> Tensor:
    """y += alpha u v in place, for one pair of matrices or a batch of pairs, so that no second
    (M, n) tensor is written or read.

    A compiled graph gets the sum as a new tensor and finds out by itself that y may be written
    over: torch 2.11 compiles the writing product in an autograd.Function to gradients of zero.
    """
    if torch.compiler.is_compiling():
        add = torch.addmm if y.dim() == 2 else torch.baddbmm
        return add(y, u, v, alpha=alpha)
    return y.addmm_(u, v, alpha=alpha) if y.dim() == 2 else y.baddbmm_(u, v, alpha=alpha)


def rows(x: Tensor, A: Tensor) -> Tensor:
    """x (..., k) as the products read it: (M, k) for one adapter, (K, m, k) for K.

    The ways call it inside their autograd.Functions: outside, every view is two more nodes of the
    graph, and they took 5 % of a layer's step at width 256."""
    return x.reshape(*A.shape[:-2], -1, x.shape[-1])


def like(y: Tensor, x: Tensor) -> Tensor:
    """y (M, n) or (K, m, n) with the leading axes of x (..., k)."""
    return y.view(*x.shape[:-1], y.shape[-1])


def _whole(W: Tensor, B: Tensor, A: Tensor, c: float) -> Tensor:
    """W_e = W + c B A, (n, k) or one for each adapter (K, n, k)."""
    product = torch.addmm if A.dim() == 2 else torch.baddbmm
    return product(W, B, A, alpha=c)


def _linear(x: Tensor, W: Tensor, bias: Tensor | None) -> Tensor:
    if x.dim() == 2:
        return F.linear(x, W, bias)
    y = torch.bmm(x, W.mT)
    return y if bias is None else y.add_(bias)


class _Merged(torch.autograd.Function):
    """What the ways have in common. They keep x alone, and compute W_e, h and g again in backward
    where a gradient that is asked for needs them. There the narrow products come first, while dy is
    in the cache, and dx last, which the layer before reads next."""

    @staticmethod
    def forward(ctx, x, W, bias, A, B, c):
        ctx.scale = c
        ctx.save_for_backward(x, W, A, B)
        return like(_linear(rows(x, A), _whole(W, B, A, c), bias), x)


def _dx(ctx, dy: Tensor) -> Tensor | None:
    _, W, A, B = ctx.saved_tensors
    if not ctx.needs_input_grad[0]:
        return None
    return like(rows(dy, A) @ _whole(W, B, A, ctx.scale), dy)


def _narrow_gradients(ctx, dy: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """dA and dB, the second as the transpose of a product: dy^T h would read the wide dy across its
    rows."""
    refuse_second_derivative()
    x, _, A, B = ctx.saved_tensors
    x, dy = rows(x, A), rows(dy, A)
    _, _, _, need_A, need_B, _ = ctx.needs_input_grad
    dB = ((x @ A.mT).mT @ dy).mul_(ctx.scale).mT if need_B else None
    dA = ((dy @ B).mT @ x).mul_(ctx.scale) if need_A else None
    return dA, dB


class InParts(_Merged):
    """For one adapter h and g are (parts, r, M / parts): MKL runs one narrow product on one thread,
    and a batch of narrow products on all. Two threads of a Zen 3, M=2048, k=512, r=8: A x^T 0.43
    ms, in eight parts 0.24. K adapters are a batch already."""

    @staticmethod
    def backward(ctx, dy):
        refuse_second_derivative()
        x, _, A, B = ctx.saved_tensors
        _, _, _, need_A, need_B, _ = ctx.needs_input_grad
        x, own = rows(x, A), rows(dy, A)
        dA = dB = None
        one = x.dim() == 2
        if one:
            parts = 8 if len(x) % 8 == 0 else 1
            x, own = x.unflatten(0, (parts, -1)), own.unflatten(0, (parts, -1))
            A, B = A.expand(parts, -1, -1), B.expand(parts, -1, -1)
        if need_B:
            dB = torch.bmm(torch.bmm(A, x.mT), own).mul_(ctx.scale).mT
        if need_A:
            dA = torch.bmm(torch.bmm(B.mT, own.mT), x).mul_(ctx.scale)
        if one:
            dA, dB = (None if d is None else d.sum(0) for d in (dA, dB))
        return _dx(ctx, dy), None, None, dA, dB, None


class Plain(_Merged):
    """Two threads of a Xeon with AMX, forward plus backward over frozen, M=2048, r=8, with dx last
    and with dx first: 1.36 and 1.37 (k=n=256), 1.19 and 1.25 (512), 1.12 and 1.16 (1024); eight
    adapters of 512 rows, 512: 1.28 and 1.34."""

    @staticmethod
    def backward(ctx, dy):
        dA, dB = _narrow_gradients(ctx, dy)
        return _dx(ctx, dy), None, None, dA, dB, None


class TwoLibraries(_Merged):
    """oneDNN for y and dx, MKL for all that is narrow; only where oneDNN was found exact."""

    @staticmethod
    def forward(ctx, x, W, bias, A, B, c):
        ctx.scale = c
        ctx.save_for_backward(x, W, A, B)
        with fp32_products("none"):
            whole = _whole(W, B, A, c)
        with fp32_products("bf16"):
            return like(_linear(rows(x, A), whole, bias), x)

    @staticmethod
    def backward(ctx, dy):
        _, W, A, B = ctx.saved_tensors
        dx = None
        with fp32_products("none"):
            dA, dB = _narrow_gradients(ctx, dy)
            if ctx.needs_input_grad[0]:
                whole = _whole(W, B, A, ctx.scale)
                with fp32_products("bf16"):
                    dx = like(rows(dy, A) @ whole, dy)
        return dx, None, None, dA, dB, None


MERGED: dict[str, type[torch.autograd.Function]] = {
    PARTS: InParts,
    PLAIN: Plain,
    LIBRARIES: TwoLibraries,
}
