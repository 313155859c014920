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


def lora_linear(
    x: Tensor, W: Tensor, bias: Tensor | None, A: Tensor, B: Tensor, c: Tensor | float
) -> Tensor:
    """y = x W^T + bias + (c * (x A^T)) B^T for x (..., k), W (n, k), A (R, k), B (n, R).

    ``c`` is scale times weight: a number; one for each column of the concatenated rank, (R,); or,
    for every token, one for each of N adapters of rank R / N, (tokens, N). N = R covers adapters of
    different ranks.
    """
    y = _adapted(x.reshape(-1, x.shape[-1]), W, bias, A, B, c)
    return y.view(*x.shape[:-1], y.shape[-1])


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
    parts = x.reshape(K, x.shape[:-1].numel() // K, x.shape[-1])
    y = _adapted(parts, W, bias, A, B, c)
    return y.view(*x.shape[:-1], y.shape[-1])


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
    """x (M, k) with A (R, k) and B (n, R), or x (K, m, k) with A (K, r, k) and B (K, n, r)."""
    tensors = one_dtype(x, W, bias, A, B, c)
    if not torch.is_grad_enabled():
        return _forward(*tensors)[0]
    if _merging_pays(*tensors):
        return _Merged.apply(*tensors)
    return _Adapted.apply(*tensors)


def _merging_pays(
    x: Tensor, W: Tensor, bias: Tensor | None, A: Tensor, B: Tensor, c: Tensor | float
) -> bool:
    """Whether W + c B A, once for forward and once for backward, costs less than adding to y and to
    dx.

    Adding takes 2 M r (k + n) multiplications and a pass over y and dx, building twice 2 k n r; M
    counts the tokens of one adapter. The factor of 2 between them is a margin. Zen 3, forward plus
    backward over frozen, unmerged and merged. One thread: 1.63 and 1.45 (M=2048, k=n=128, r=16),
    1.78 and 1.65 (2048, 256, 64), 1.35 and 1.32 (512, 256, 8), a tie at (2048, 512, 8). Two
    threads, K adapters: 1.78 and 1.47 (K=12, M=512, k=n=128, r=16), 1.40 and 1.42 (8, 256, 256, 8),
    1.26 and 1.45 (8, 256, 512, 8). Only in fp32 and in training: rounded to bf16, W would swallow a
    small B A; for inference the layer folds for good.
    """
    exact = x.dtype in (torch.float32, torch.float64)
    tokens = x.shape[-2]  # of one adapter
    if isinstance(c, Tensor) or x.device.type != "cpu" or not exact or tokens < 64:
        return False
    if (
        W.requires_grad
        or (bias is not None and bias.requires_grad)
        or not (A.requires_grad or B.requires_grad)
    ):
        return False
    n, k = W.shape
    return tokens * (k + n) >= 4 * k * n


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


def _add_product(y: Tensor, u: Tensor, v: Tensor, alpha: float = 1.0) -> Tensor:
    """y += alpha u v in place, for one pair of matrices or a batch of pairs, so that no second
    (M, n) tensor is written or read."""
    return y.addmm_(u, v, alpha=alpha) if y.dim() == 2 else y.baddbmm_(u, v, alpha=alpha)


def _forward(x: Tensor, W: Tensor, bias: Tensor | None, A: Tensor, B: Tensor, c: Tensor | float):
    """y and h = x A^T. One frozen product serves all parts of x."""
    h = _narrow(x, A.mT)
    y = F.linear(x, W, bias)
    if isinstance(c, Tensor):
        return _add_product(y, _weigh(h, c), B.mT), h
    return _add_product(y, h, B.mT, c), h


def _refuse_second_derivative() -> None:
    if torch.is_grad_enabled():
        raise RuntimeError(
            "lora.kernel has no second derivative (create_graph=True): use lora.reference"
        )


class _Adapted(torch.autograd.Function):
    """Keeps x and h = x A^T beside the parameters and c, and each only where a gradient that is
    asked for needs it.

        g = dy B    dx = dy W + (c g) A    dA = (c g)^T x    dB = ((c h)^T dy)^T    dc = h * g

    dB is the transpose of a product, because dy^T h would read the wide dy across its rows. Where c
    is a number, it scales the small products (R, k) and (R, n), not (M, R).
    """

    @staticmethod
    def forward(ctx, x, W, bias, A, B, c):
        y, h = _forward(x, W, bias, A, B, c)
        _, need_W, _, need_A, need_B, need_c = ctx.needs_input_grad
        ctx.scale, weights = (1.0, c) if isinstance(c, Tensor) else (c, None)
        ctx.save_for_backward(
            x if need_W or need_A else None, W, A, B, h if need_B or need_c else None, weights
        )
        return y

    @staticmethod
    def backward(ctx, dy):
        _refuse_second_derivative()
        x, W, A, B, h, c = ctx.saved_tensors
        need_x, need_W, need_bias, need_A, need_B, need_c = ctx.needs_input_grad
        dx = dW = dbias = dA = dB = dc = None
        if need_x or need_A or need_c:
            g = _narrow(dy, B)
            weighed = g if c is None else _weigh(g, c)
        if need_x:
            dx = _add_product(dy @ W, weighed, A, ctx.scale)
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


class _Merged(torch.autograd.Function):
    """`_Adapted` for one number c, computed through W + c B A. It keeps x alone; the backward pass
    computes h and g where they are needed.

    For one adapter h and g are (parts, r, M / parts): MKL runs one narrow product on one thread,
    and a batch of narrow products on all. Two threads of a Zen 3, M=2048, k=512, r=8: A x^T 0.43
    ms, in eight parts 0.24. K adapters are a batch already.
    """

    @staticmethod
    def forward(ctx, x, W, bias, A, B, c):
        ctx.scale = c
        ctx.save_for_backward(x, W, A, B)
        if x.dim() == 2:
            return F.linear(x, torch.addmm(W, B, A, alpha=c), bias)
        y = torch.bmm(x, torch.baddbmm(W, B, A, alpha=c).mT)
        return y if bias is None else y.add_(bias)

    @staticmethod
    def backward(ctx, dy):
        _refuse_second_derivative()
        x, W, A, B = ctx.saved_tensors
        need_x, _, _, need_A, need_B, _ = ctx.needs_input_grad
        dx = dA = dB = None
        if need_x:
            whole = torch.addmm if x.dim() == 2 else torch.baddbmm
            dx = dy @ whole(W, B, A, alpha=ctx.scale)
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
