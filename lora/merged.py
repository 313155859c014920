"""Ways to compute an adapted layer through W + c B A: y = x W_e^T, dx = dy W_e, and

    g = dy B    dA = c g^T x    h = x A^T    dB = c (h^T dy)^T

Each class is one way, with the same arguments and the same gradients; lora.ways says in words how
they differ. All take x (M, k), or (K, m, k) with A (K, r, k) and B (K, n, r), and one number c.
Merging is for fp32 and training alone: rounded to bf16, W would swallow a small B A.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lora.ways import LIBRARIES, PARTS, REGISTER, fp32_products

TILE = 2**18  # fp32 numbers of x and dy in one tile: 1 MiB, which stays in a core's own cache


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


def _whole(W: Tensor, B: Tensor, A: Tensor, c: float, out: Tensor | None = None) -> Tensor:
    """W_e = W + c B A, (n, k) or one for each adapter (K, n, k)."""
    product = torch.addmm if A.dim() == 2 else torch.baddbmm
    return product(W, B, A, alpha=c) if out is None else product(W, B, A, alpha=c, out=out)


def _linear(x: Tensor, W: Tensor, bias: Tensor | None) -> Tensor:
    if x.dim() == 2:
        return F.linear(x, W, bias)
    y = torch.bmm(x, W.mT)
    return y if bias is None else y.add_(bias)


class _Merged(torch.autograd.Function):
    """What the ways have in common. They keep x alone, and compute W_e, h and g again in backward
    where a gradient that is asked for needs them."""

    @staticmethod
    def forward(ctx, x, W, bias, A, B, c):
        ctx.scale = c
        ctx.save_for_backward(x, W, A, B)
        return _linear(x, _whole(W, B, A, c), bias)


def _dx(ctx, dy: Tensor) -> Tensor | None:
    refuse_second_derivative()
    _, W, A, B = ctx.saved_tensors[:4]
    return dy @ _whole(W, B, A, ctx.scale) if ctx.needs_input_grad[0] else None


def _plain_dA(ctx, dy: Tensor) -> Tensor | None:
    x, _, _, B = ctx.saved_tensors[:4]
    return (B.mT @ dy.mT) @ x if ctx.needs_input_grad[3] else None


def _plain_dB(ctx, dy: Tensor) -> Tensor | None:
    """dB^T (r, n): dy^T h would read the wide dy across its rows."""
    x, _, A, _ = ctx.saved_tensors[:4]
    return (A @ x.mT) @ dy if ctx.needs_input_grad[4] else None


def _gradients(ctx, dx: Tensor | None, dA: Tensor | None, dB_T: Tensor | None):
    """What backward returns; c scales the small products (r, k) and (r, n)."""
    dA, dB_T = (None if d is None else d.mul_(ctx.scale) for d in (dA, dB_T))
    return dx, None, None, dA, None if dB_T is None else dB_T.mT, None


class InParts(_Merged):
    """For one adapter h and g are (parts, r, M / parts): MKL runs one narrow product on one thread,
    and a batch of narrow products on all. Two threads of a Zen 3, M=2048, k=512, r=8: A x^T 0.43
    ms, in eight parts 0.24. K adapters are a batch already."""

    @staticmethod
    def backward(ctx, dy):
        dx = _dx(ctx, dy)
        x, _, A, B = ctx.saved_tensors
        _, _, _, need_A, need_B, _ = ctx.needs_input_grad
        dA = dB = None
        one = x.dim() == 2
        if one:
            parts = 8 if len(x) % 8 == 0 else 1
            x, dy = x.unflatten(0, (parts, -1)), dy.unflatten(0, (parts, -1))
            A, B = A.expand(parts, -1, -1), B.expand(parts, -1, -1)
        if need_A:
            dA = torch.bmm(torch.bmm(B.mT, dy.mT), x).mul_(ctx.scale)
        if need_B:
            dB = torch.bmm(torch.bmm(A, x.mT), dy).mul_(ctx.scale).mT
        if one:
            dA, dB = (None if d is None else d.sum(0) for d in (dA, dB))
        return dx, None, None, dA, dB, None


class Plain(_Merged):
    @staticmethod
    def backward(ctx, dy):
        return _gradients(ctx, _dx(ctx, dy), _plain_dA(ctx, dy), _plain_dB(ctx, dy))


class Kept(_Merged):
    """h^T (r, M) is kept beside x."""

    @staticmethod
    def forward(ctx, x, W, bias, A, B, c):
        ctx.scale = c
        ctx.save_for_backward(x, W, A, B, A @ x.mT if ctx.needs_input_grad[4] else None)
        return _linear(x, _whole(W, B, A, c), bias)

    @staticmethod
    def backward(ctx, dy):
        h_T = ctx.saved_tensors[4]
        dB_T = None if h_T is None else h_T @ dy
        return _gradients(ctx, _dx(ctx, dy), _plain_dA(ctx, dy), dB_T)


class InTiles(_Merged):
    """One pass over x and dy: a tile of their rows serves g, dA, h and dB before the next one."""

    @staticmethod
    def backward(ctx, dy):
        dx = _dx(ctx, dy)
        x, _, A, B = ctx.saved_tensors
        _, _, _, need_A, need_B, _ = ctx.needs_input_grad
        dA = torch.zeros_like(A) if need_A else None
        dB_T = torch.zeros_like(B.mT, memory_format=torch.contiguous_format) if need_B else None
        rows = max(REGISTER, TILE // (x.shape[-1] + dy.shape[-1]))
        for x_tile, dy_tile in zip(x.split(rows, -2), dy.split(rows, -2), strict=True):
            if dA is not None:
                add_product(dA, B.mT @ dy_tile.mT, x_tile)
            if dB_T is not None:
                add_product(dB_T, A @ x_tile.mT, dy_tile)
        return _gradients(ctx, dx, dA, dB_T)


class Bordered(_Merged):
    """dy [W_e | B] = (dx | g). dx is a view of rows that are wider by B's padded columns."""

    @staticmethod
    def backward(ctx, dy):
        x, W, A, B = ctx.saved_tensors
        need_x, _, _, need_A, _, _ = ctx.needs_input_grad
        if not (need_x and need_A):
            return Plain.backward(ctx, dy)
        refuse_second_derivative()
        k, r = x.shape[-1], A.shape[-2]
        both = W.new_zeros(*B.shape[:-1], k + _registers(r))
        _whole(W, B, A, ctx.scale, out=both[..., :k])
        both[..., k : k + r] = B
        product = dy @ both
        dx, g = product[..., :k], product[..., k : k + r]
        return _gradients(ctx, dx, g.mT @ x, _plain_dB(ctx, dy))


class Padded(_Merged):
    """The narrow products have zeros up to the next multiple of a register's width."""

    @staticmethod
    def backward(ctx, dy):
        dx = _dx(ctx, dy)
        x, _, A, B = ctx.saved_tensors
        _, _, _, need_A, need_B, _ = ctx.needs_input_grad
        r = A.shape[-2]
        more = _registers(r) - r
        dA = dB_T = None
        if need_A:
            dA = ((F.pad(B, (0, more)).mT @ dy.mT) @ x)[..., :r, :]
        if need_B:
            dB_T = ((F.pad(A, (0, 0, 0, more)) @ x.mT) @ dy)[..., :r, :]
        return _gradients(ctx, dx, dA, dB_T)


class TwoLibraries(_Merged):
    """oneDNN for y and dx, MKL for all that is narrow; only where oneDNN was found exact."""

    @staticmethod
    def forward(ctx, x, W, bias, A, B, c):
        ctx.scale = c
        ctx.save_for_backward(x, W, A, B)
        with fp32_products("none"):
            whole = _whole(W, B, A, c)
        with fp32_products("bf16"):
            return _linear(x, whole, bias)

    @staticmethod
    def backward(ctx, dy):
        refuse_second_derivative()
        _, W, A, B = ctx.saved_tensors
        dx = None
        with fp32_products("none"):
            if ctx.needs_input_grad[0]:
                whole = _whole(W, B, A, ctx.scale)
                with fp32_products("bf16"):
                    dx = dy @ whole
            return _gradients(ctx, dx, _plain_dA(ctx, dy), _plain_dB(ctx, dy))


def _registers(r: int) -> int:
    return -(-r // REGISTER) * REGISTER


MERGED: dict[str, type[torch.autograd.Function]] = {
    PARTS: InParts,
    "plain": Plain,
    "kept": Kept,
    "tiles": InTiles,
    "bordered": Bordered,
    "padded": Padded,
    LIBRARIES: TwoLibraries,
}
