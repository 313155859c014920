"""How cost grows with rank, adapters, tokens and width: one sweep for each, all else as in the
standard case."""

from __future__ import annotations

import torch

from bench.layers import gated, one_adapter, together
from bench.protocol import measure

STANDARD = {"M": 2048, "width": 256, "r": 8, "N": 8, "K": 8}
SWEEPS = {
    "r": (4, 8, 16, 32, 64, 128),
    "M": (1, 16, 128, 512, 2048, 8192),
    "width": (64, 128, 256, 512, 1024),
    "N": (2, 4, 8, 16, 32),
    "K": (2, 4, 8, 16, 32),
}


def sweep(axis: str, value: int, dtype: torch.dtype, device: str, budget: float) -> list[dict]:
    """The rows of one point of one sweep."""
    sizes = {**STANDARD, axis: value}
    M, width, r = sizes["M"], sizes["width"], sizes["r"]
    if axis == "N":
        case = gated(M, width, width, r, value, dtype, device)
    elif axis == "K":
        case = together(M, width, width, r, value, dtype, device)
    else:
        case = one_adapter(M, width, width, r, dtype, device)
    rows = measure(case, device, budget)
    return [
        {**row, "group": f"growth with {axis}", "case": str(value), "must": None} for row in rows
    ]
