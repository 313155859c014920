"""The products that every mode of a LoRALinear computes: the formulas of lora.reference, with less
memory traffic.

Axes: k = d_in, n = d_out, r one adapter's rank, R the summed rank of N adapters, K adapters trained
side by side.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lora import reference
from lora.merged import MERGED, add_product, like, refuse_second_derivative, rows
from lora.ways import ADDED, FEWEST, Shape, chosen, usual


def lora_linear(
    x: Tensor, W: Tensor, bias: Tensor | None, A: Tensor, B: Tensor, c: Tensor | float
) -> Tensor:
    """y = x W^T + bias + (c * (x A^T)) B^T for x (..., k), W (n, k), A (R, k), B (n, R).

    ``c`` is scale times weight: a number; one for each column of the concatenated rank, (R,); or,
    for every token, one for each of N adapters of rank R / N, (tokens, N). N = R covers adapters of
    different ranks.
    """
    return _adapted(x, W, bias, A, B, c)


def lora_linear_rows(
    x: Tensor, W: Tensor, bias: Tensor | None, A: Tensor, B: Tensor, scales: Tensor | float
) -> Tensor:
    """Part j of the first axis of x (K * b, ..., k) through adapter j: A (K, r, k), B (K, n, r),
    scales (K,) or one.

    Raises ValueError where the first axis does not fall into K equal parts.
    """
    K = A.shape[0]
    if x.shape[0] % K:
        raise ValueError(
            f"{x.shape[0]} rows do not fall into {K} equal parts, one for each adapter"
        )
    c = scales[:, None, None] if isinstance(scales, Tensor) else scales
    return _adapted(x, W, bias, A, B, c)


def lora_linear_factors(
    x: Tensor,
    W: Tensor,
    bias: Tensor | None,
    A: Tensor,
    B: Tensor,
    gates: Tensor,
    scales: Tensor | float,
) -> Tensor:
    """y = x W^T + bias + (sum_i g_i s_i B_i)(sum_j g_j A_j) x, gates (tokens, N), A (N r, k), B (n,
    N r), scales (N,) or one.

    This mode serves inference, where a faster path would have nothing to gain beyond one product
    of width N r in and one out: the plain formula is used.
    """
    return reference.lora_linear_factors(*one_dtype(x, W, bias, A, B, gates, scales))


def _adapted(
    x: Tensor, W: Tensor, bias: Tensor | None, A: Tensor, B: Tensor, c: Tensor | float
) -> Tensor:
    """x (..., k) with A (R, k) and B (n, R), or x (K * b, ..., k) with A (K, r, k) and B (K, n,
    r)."""
    tensors = one_dtype(x, W, bias, A, B, c)
    if not torch.is_grad_enabled():
        return like(_forward(rows(tensors[0], A), *tensors[1:])[0], x)
    return FUNCTIONS[way_of(*tensors)].apply(*tensors)


def way_of(
    x: Tensor, W: Tensor, bias: Tensor | None, A: Tensor, B: Tensor, c: Tensor | float
) -> str:
    """The way of a forward pass in training: the measured table's, or the cost rule's where the
    table says nothing and in compiled graphs."""
    (n, k), r, together = W.shape, A.shape[-2], len(A) if A.dim() == 3 else 0
    shape = Shape(x.shape[:-1].numel() // max(1, together), k, n, r, together)
    if shape.tokens < FEWEST or not _can_merge(x, W, bias, A, B, c):
        return ADDED
    if x.dtype == torch.float32 and not torch.compiler.is_compiling() and (way := chosen(shape)):
        return way
    return usual(shape)


def _can_merge(
    x: Tensor, W: Tensor, bias: Tensor | None, A: Tensor, B: Tensor, c: Tensor | float
) -> bool:
    """Only in fp32 and in training, on the CPU, with one number c: rounded to bf16, W would swallow
    a small B A, and for inference the layer folds for good."""
    exact = x.dtype in (torch.float32, torch.float64)
    if isinstance(c, Tensor) or x.device.type != "cpu" or not exact:
        return False
    trained = W.requires_grad or (bias is not None and bias.requires_grad)
    return not trained and (A.requires_grad or B.requires_grad)


def one_dtype(x: Tensor, *others):
    """All tensors in the dtype of x, or in autocast's: master weights A and B in fp32 are rounded
    for a bf16 product, and x is never widened."""
    dtype = x.dtype
    if torch.is_autocast_enabled(x.device.type) and dtype != torch.float64:
        dtype = torch.get_autocast_dtype(x.device.type)
    return [t.to(dtype) if isinstance(t, Tensor) and t.dtype != dtype else t for t in (x, *others)]


def _large_fp32_on_cpu(x: Tensor) -> bool:
    """Whether x is of the kind for which the detours below were measured to pay."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and x.shape[-2] >= 64


def _weigh(h: Tensor, c: Tensor) -> Tensor:
    """Multiply each of C equal runs of the columns of h (..., R) by its own c (..., C), broadcast
    over the axes before.

    Many tokens go through an einsum, which takes half the time of the broadcast product for 8 runs
    of 8 columns.
    """
    runs = h.unflatten(-1, (c.shape[-1], -1))
    if c.dim() == 2 and _large_fp32_on_cpu(h):
        return torch.einsum("tcr,tc->tcr", runs, c).flatten(-2)
    return (runs * c.unsqueeze(-1)).flatten(-2)


def _narrow(x: Tensor, v: Tensor) -> Tensor:
    """x v for v (.., k, R) of few columns.

    MKL takes 2 to 4 times as long for a product of up to 8 columns as for its transpose of up to 8
    rows. One core of a Zen 3, M=2048, k=256, R=8: x A^T 0.46 ms, (A x^T)^T 0.25; dy B 1.01 ms, (B^T
    dy^T)^T 0.24. From R = 16 on they are equal.
    """
    if v.shape[-1] <= 8 and _large_fp32_on_cpu(x):
        return (v.mT @ x.mT).mT
    return x @ v


def _sum_over_tokens(u: Tensor, v: Tensor) -> Tensor:
    """u^T v for u (.., M, R) and v (.., M, n): few rows, each a sum over the tokens. Where there
    are many tokens, the sum goes in four parts.

    MKL is slow at long sums. Two threads of a Zen 3, M=2048, R=64: 0.65 ms and in parts 0.58
    (n=256), 1.78 and 1.22 (512), 3.67 and 2.65 (1024; the FLOPs ask for 1.98).
    """
    if u.dim() == 2 and len(u) % 4 == 0 and len(u) >= 512 and _large_fp32_on_cpu(u):
        return torch.bmm(u.unflatten(0, (4, -1)).mT, v.unflatten(0, (4, -1))).sum(0)
    return u.mT @ v


def _forward(x: Tensor, W: Tensor, bias: Tensor | None, A: Tensor, B: Tensor, c: Tensor | float):
    """y and h = x A^T. One frozen product serves all parts of x."""
    h = _narrow(x, A.mT)
    y = F.linear(x, W, bias)
    if isinstance(c, Tensor):
        return add_product(y, _weigh(h, c), B.mT), h
    return add_product(y, h, B.mT, c), h


class _Adapted(torch.autograd.Function):
    """Keeps x and h = x A^T beside the parameters and c, and each only where a gradient that is
    asked for needs it.

        g = dy B    dx = dy W + (c g) A    dA = (c g)^T x    dB = ((c h)^T dy)^T    dc = h * g

    dB is the transpose of a product, because dy^T h would read the wide dy across its rows. Where c
    is a number, it scales the small products (R, k) and (R, n), not (M, R).
    """

    @staticmethod
    def forward(ctx, x, W, bias, A, B, c):
        y, h = _forward(rows(x, A), W, bias, A, B, c)
        _, need_W, _, need_A, need_B, need_c = ctx.needs_input_grad
        ctx.scale, weights = (1.0, c) if isinstance(c, Tensor) else (c, None)
        ctx.save_for_backward(
            x if need_W or need_A else None, W, A, B, h if need_B or need_c else None, weights
        )
        return like(y, x)

    @staticmethod
    def backward(ctx, dy):
        refuse_second_derivative()
        x, W, A, B, h, c = ctx.saved_tensors
        need_x, need_W, need_bias, need_A, need_B, need_c = ctx.needs_input_grad
        x, given, dy = None if x is None else rows(x, A), dy, rows(dy, A)
        dx = dW = dbias = dA = dB = dc = None
        if need_x or need_A or need_c:
            g = _narrow(dy, B)
            weighed = g if c is None else _weigh(g, c)
        if need_x:
            dx = like(add_product(dy @ W, weighed, A, ctx.scale), given)
        if need_A:
            dA = _sum_over_tokens(weighed, x).mul_(ctx.scale)
        if need_B:
            dB = _sum_over_tokens(h if c is None else _weigh(h, c), dy).mul_(ctx.scale).mT
        if need_c:
            dc = (h * g).unflatten(-1, (c.shape[-1], -1)).sum(-1).sum_to_size(c.shape)
        if need_W:
            dW = dy.flatten(0, -2).mT @ x.flatten(0, -2)
        if need_bias:
            dbias = dy.flatten(0, -2).sum(0)
        return dx, dW, dbias, dA, dB, dc


# Every way by its name in lora.ways. Merged ones take what `_can_merge` lets through.
FUNCTIONS: dict[str, type[torch.autograd.Function]] = {ADDED: _Adapted, **MERGED}
