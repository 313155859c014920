"""The products behind every mode of a LoRALinear.

Axes: k = d_in, n = d_out, r one adapter's rank, R the summed rank of N adapters, K adapters trained side by side.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor


def lora_linear(x: Tensor, W: Tensor, bias: Tensor | None, A: Tensor, B: Tensor, c: Tensor | float) -> Tensor:
    """y = x W^T + bias + (c * (x A^T)) B^T for x (..., k), W (n, k), A (R, k), B (n, R).

    ``c`` is scale times weight: a number, one per column of the concatenated rank (R,), or, for gates, (tokens, R).
    """
    h = F.linear(x, A)
    c = c.view_as(h) if isinstance(c, Tensor) and c.dim() == 2 else c
    return F.linear(x, W, bias) + F.linear(h * c, B)


def lora_linear_rows(x: Tensor, W: Tensor, bias: Tensor | None, A: Tensor, B: Tensor, scales: Tensor) -> Tensor:
    """Part j of the first axis of x (K * b, ..., k) through adapter j: A (K, r, k), B (K, n, r), scales (K,)."""
    K = A.shape[0]
    if x.shape[0] % K:
        raise ValueError(f"{x.shape[0]} rows do not fall into {K} equal parts, one for each adapter")
    parts = x.reshape(K, -1, x.shape[-1])
    y = torch.bmm(torch.bmm(parts, A.mT) * scales[:, None, None], B.mT)
    return F.linear(x, W, bias) + y.view(*x.shape[:-1], -1)


def lora_linear_factors(
    x: Tensor, W: Tensor, bias: Tensor | None, A: Tensor, B: Tensor, gates: Tensor, scales: Tensor
) -> Tensor:
    """y = x W^T + bias + (sum_i g_i s_i B_i)(sum_j g_j A_j) x, gates (tokens, N), A (N r, k), B (n, N r)."""
    h = rearrange(F.linear(x, A), "... (N r) -> (...) N r", N=len(scales))
    h = torch.einsum("t N r, t N -> t r", h, gates)
    u = rearrange(torch.einsum("t r, t N -> t N r", h, gates * scales), "t N r -> t (N r)")
    return F.linear(x, W, bias) + F.linear(u, B).view(*x.shape[:-1], -1)
