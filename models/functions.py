"""The formulas of a block, with few passes over memory: RMSNorm, rotary positions, SwiGLU and
grouped-query attention.

Stock operations read and write whole tensors for every step of a formula, and on the CPU these
passes cost more than the arithmetic. In training on the CPU each formula is therefore one
autograd.Function. Passes over a tensor of the input's size, each read and each write counted,
forward and backward, and what is kept for the backward pass beside x:

    formula     stock    here    kept: stock       here
    RMSNorm     7 + 19   5 + 6   x and 1 a row     the same
    rotary     12 + 10   5 + 5   nothing           nothing
    SwiGLU      5 + 9    5 + 11  gate, up, silu    gate, up
    attention   scores, softmax, their gradients   two tensors of that size, not four
                keys and values for every query    those of the key's head

Everywhere else the stock formula is computed: for inference, on CUDA, in torch.compile, under
autocast, and in 16 bits. Second derivatives are those of the stock formula. Axes: b batch, l query
positions, s key positions, h heads, n heads of keys, g = h / n, d head width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis (Zhang and Sennrich 2019, arXiv
    1910.07467), for x (..., d) and weight (d,)."""
    if _here(x, weight):
        return _RMSNorm.apply(x, weight, eps)
    return F.rms_norm(x, weight.shape, weight, eps)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (x_i, x_{i+d/2}) of x (b, h, l, d) by the angle of its position (Su et al.
    2021, arXiv 2104.09864). cos and sin (l, d) hold each angle at both places of its pair."""
    return _Rotation.apply(x, cos, sin) if _here(x) else stock_rotate(x, cos, sin)


def stock_rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up (Shazeer 2020, arXiv 2002.05202)."""
    return _SwiGLU.apply(gate, up) if _here(gate, up) else stock_swiglu(gate, up)


def stock_swiglu(gate: Tensor, up: Tensor) -> Tensor:
    return F.silu(gate) * up


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v for q (b, h, l, d), k and v (b, n, s, d), and bias (l, s)
    or (b, 1, l, s). Each head of keys and values serves the g heads of queries that stand together.

    On the CPU it is written out: at the lengths of a toy study the stock fused kernel is about 20
    times slower than two batched products around a softmax (see bench/).
    """
    if q.is_cuda:
        groups = q.shape[1] // k.shape[1]
        k, v = (t.repeat_interleave(groups, dim=1) if groups > 1 else t for t in (k, v))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    return _Attention.apply(q, k, v, bias) if _here(q, k, v) else stock_attend(q, k, v, bias)


def stock_attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    rows, keys, values = _by_key_head(q, k, v)
    (b, h, length, _), (pairs, per_key, s) = q.shape, (*rows.shape[:2], keys.shape[1])
    if bias.dim() == 4:
        bias = bias.expand(b, h, length, s).reshape(pairs, per_key, s)
    elif per_key > length > 1:
        bias = bias.repeat(per_key // length, 1)
    scores = torch.baddbmm(bias, rows, keys.mT, alpha=1 / math.sqrt(q.shape[-1]))
    return torch.bmm(scores.softmax(-1), values).view(q.shape)


def _here(*tensors: Tensor) -> bool:
    """Whether these tensors are trained through on the CPU by plain eager code in 32 or 64 bits."""
    first = tensors[0]
    return (
        torch.is_grad_enabled()
        and any(t.requires_grad for t in tensors)
        and first.device.type == "cpu"
        and first.dtype in (torch.float32, torch.float64)
        and all(t.dtype == first.dtype for t in tensors)
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def _second_order(
    stock: Callable[..., Tensor], inputs: Sequence[Tensor], needed: Sequence[bool], dy: Tensor
) -> list[Tensor | None]:
    """The gradients of a stock formula, which can be differentiated again (create_graph=True)."""
    with torch.enable_grad():
        own = [t.view_as(t) for t in inputs]  # an input that stands twice has two gradients
        wanted = [t for t, need in zip(own, needed, strict=False) if need]
        found = iter(torch.autograd.grad(stock(*own), wanted, dy, create_graph=True))
    return [next(found) if need else None for need in needed]


class _RMSNorm(torch.autograd.Function):
    """With r = 1 / sqrt(mean(x^2) + eps) of each row and g = dy * weight:

        y = x r weight        dx = r (g - r^2 x mean(g x))        dweight = sum_rows(dy x r)

    Layer normalisation has the same dx less r mean(g), where the mean of x is said to be zero. Its
    backward kernel is one pass, so it is taken and r mean(g) is added.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        r = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        r = r.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, r)
        ctx.eps = eps
        return (x * r).mul_(weight)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, r = ctx.saved_tensors
        need_x, need_weight, _ = ctx.needs_input_grad
        if torch.is_grad_enabled():

            def stock(x: Tensor, weight: Tensor) -> Tensor:
                return F.rms_norm(x, weight.shape, weight, ctx.eps)

            return (*_second_order(stock, (x, weight), (need_x, need_weight), dy), None)
        no_mean, asked = torch.zeros_like(r), [need_x, need_weight, False]
        dx, dweight, _ = torch.ops.aten.native_layer_norm_backward(
            dy, x, weight.shape, no_mean, r, weight, None, asked
        )
        if need_x:
            dx += (dy @ weight).unsqueeze(-1).mul_(r).div_(x.shape[-1])
        return dx, dweight, None


class _Rotation(torch.autograd.Function):
    """The backward pass turns back: by the same cosines and the negative sines.

    y is written heads before positions, as attention reads it, and dx positions before heads, as
    the projections read it: neither is copied for that.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin, x.new_empty(x.shape))

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        if torch.is_grad_enabled():
            return stock_rotate(dy, cos, -sin), None, None
        b, h, length, d = dy.shape
        dx = dy.new_empty(b, length, h, d).transpose(1, 2)
        return _turn(dy, cos, -sin, dx), None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor, out: Tensor) -> Tensor:
    """out = (x_1 cos - x_2 sin, x_2 cos + x_1 sin) for the halves x_1 and x_2 of the last axis."""
    half = x.shape[-1] // 2
    cos, sin = cos[..., :half], sin[..., :half]
    for own, other, sign in ((0, half, -1), (half, 0, 1)):
        part = torch.mul(x.narrow(-1, own, half), cos, out=out.narrow(-1, own, half))
        part.addcmul_(x.narrow(-1, other, half), sin, value=sign)
    return out


class _SwiGLU(torch.autograd.Function):
    """Keeps gate and up and computes silu(gate) = gate sigmoid(gate) again:

    dup = dy silu(gate)        dgate = dy up silu'(gate)
    """

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        gate, up = ctx.saved_tensors
        need_gate, need_up = ctx.needs_input_grad
        if torch.is_grad_enabled():
            return tuple(_second_order(stock_swiglu, (gate, up), (need_gate, need_up), dy))
        dgate = dup = None
        if need_up:
            dup = F.silu(gate).mul_(dy)
        if need_gate:
            dgate = dy * up
            torch.ops.aten.silu_backward.grad_input(dgate, gate, grad_input=dgate)
        return dgate, dup


class _Attention(torch.autograd.Function):
    """With P = softmax(q k^T / sqrt(d) + bias), one product for the g heads of queries over one
    head of keys:

        y = P v        dv = P^T dy        dq = dS k        dk = dS^T q
        dS = P * (dP - sum(dP * P)) with dP = dy (v / sqrt(d))^T

    dS is linear in dP, so the small v carries the division by sqrt(d). P stands where the scores
    stood, and dS where dP stood.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        rows, keys, values = _by_key_head(q, k, v)
        P = torch.bmm(rows, keys.mT)
        scores = P.view(*q.shape[:3], k.shape[2])
        torch.add(bias, scores, alpha=1 / math.sqrt(q.shape[-1]), out=scores)
        torch.softmax(P, -1, out=P)
        ctx.save_for_backward(q, k, v, bias, P)
        return torch.bmm(P, values).view(q.shape)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, bias, P = ctx.saved_tensors
        need_q, need_k, need_v, _ = ctx.needs_input_grad
        if torch.is_grad_enabled():
            needed = (need_q, need_k, need_v, False)
            return tuple(_second_order(stock_attend, (q, k, v, bias), needed, dy))
        rows, keys, values = _by_key_head(q, k, v)
        dy = dy.reshape(rows.shape)
        dq = dk = dv = None
        if need_v:
            dv = torch.bmm(P.mT, dy).view(v.shape)
        if need_q or need_k:
            dS = torch.bmm(dy, (values / math.sqrt(q.shape[-1])).mT)
            torch.ops.aten._softmax_backward_data.out(dS, P, -1, P.dtype, grad_input=dS)
            dq = torch.bmm(dS, keys).view(q.shape) if need_q else None
            dk = torch.bmm(dS.mT, rows).view(k.shape) if need_k else None
        return dq, dk, dv, None


def _by_key_head(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q (b n, g l, d), k and v (b n, s, d): the queries of the g heads over one head of keys are
    rows of one matrix, so that no key and no value is copied."""
    (b, h, length, d), (n, s) = q.shape, k.shape[1:3]
    return (q.reshape(b * n, h // n * length, d), k.reshape(b * n, s, d), v.reshape(b * n, s, d))
