"""The adapters' formulas as one would write them on paper, for any shapes, in plain differentiable
operations.

lora.kernel computes the same values faster and is tested against these formulas. Use them for a
second derivative, which lora.kernel does not have. Axes: k = d_in, n = d_out, r one adapter's rank,
R the summed rank of N adapters, K adapters trained side by side.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor


def update(x: Tensor, A: Tensor, B: Tensor, c: Tensor | float) -> Tensor:
    """(c * (x A^T)) B^T, with ``c`` as in `lora_linear`."""
    h = F.linear(x, A)
    if isinstance(c, Tensor) and c.dim() == 2:
        c = repeat(c, "tokens N -> tokens (N r)", r=A.shape[0] // c.shape[1]).view_as(h)
    return F.linear(h * c, B)


def update_rows(x: Tensor, A: Tensor, B: Tensor, scales: Tensor | float) -> Tensor:
    """The update alone of `lora_linear_rows`. Raises ValueError where the rows do not fall into K
    equal parts."""
    if len(x) % len(A):
        raise ValueError(
            f"{len(x)} rows do not fall into {len(A)} equal parts, one for each adapter"
        )
    parts = rearrange(x, "(K b) ... k -> K b ... k", K=len(A))
    scales = torch.as_tensor(scales, dtype=x.dtype, device=x.device).expand(len(A))
    per_adapter = zip(parts, A, B, scales, strict=True)
    return torch.cat([update(x_j, A_j, B_j, c) for x_j, A_j, B_j, c in per_adapter])


def update_factors(
    x: Tensor, A: Tensor, B: Tensor, gates: Tensor, scales: Tensor | float
) -> Tensor:
    """The update alone of `lora_linear_factors`."""
    h = rearrange(F.linear(x, A), "... (N r) -> (...) N r", N=gates.shape[1])
    h = torch.einsum("t N r, t N -> t r", h, gates)
    u = rearrange(torch.einsum("t r, t N -> t N r", h, gates * scales), "t N r -> t (N r)")
    return F.linear(u, B).view(*x.shape[:-1], len(B))


def lora_linear(
    x: Tensor, W: Tensor, bias: Tensor | None, A: Tensor, B: Tensor, c: Tensor | float
) -> Tensor:
    """y = x W^T + bias + (c * (x A^T)) B^T for x (..., k), W (n, k), A (R, k), B (n, R).

    ``c`` is scale times weight: a number; one for each column of the concatenated rank, (R,); or,
    for every token, one for each of N adapters of rank R / N, (tokens, N). N = R covers adapters of
    different ranks.
    """
    return F.linear(x, W, bias) + update(x, A, B, c)


def lora_linear_rows(
    x: Tensor, W: Tensor, bias: Tensor | None, A: Tensor, B: Tensor, scales: Tensor | float
) -> Tensor:
    """Part j of the first axis of x (K * b, ..., k) through adapter j: A (K, r, k), B (K, n, r),
    scales (K,) or one."""
    return F.linear(x, W, bias) + update_rows(x, A, B, scales)


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
    N r), scales (N,) or one."""
    return F.linear(x, W, bias) + update_factors(x, A, B, gates, scales)
