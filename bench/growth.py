"""How cost grows with rank, tokens, width and adapters: one sweep for each axis, and all other
sizes as in the standard case."""

from __future__ import annotations

from dataclasses import replace

import torch

from bench.layers import gated, one_adapter, together
from bench.protocol import Row, measure

STANDARD = {"M": 2048, "width": 256, "r": 8, "N": 8, "K": 8}
SWEEPS = {
    "r": (4, 8, 16, 32, 64, 128),
    "M": (1, 16, 128, 512, 2048, 8192),
    "width": (64, 128, 256, 512, 1024),
    "N": (2, 4, 8, 16, 32),
    "K": (2, 4, 8, 16, 32),
}


GROUPS = {f"growth with {axis}": axis for axis in SWEEPS}  # groups of rows, by axis


def sweep(axis: str, value: int, dtype: torch.dtype, device: str, budget: float) -> list[Row]:
    """The rows of one point of one sweep."""
    sizes = {**STANDARD, axis: value}
    M, width, r = sizes["M"], sizes["width"], sizes["r"]
    if axis == "N":
        case = gated(M, width, width, r, value, dtype, device)
    elif axis == "K":
        case = together(M, width, width, r, value, dtype, device)
    else:
        case = one_adapter(M, width, width, r, dtype, device)
    return measure(replace(case, group=f"growth with {axis}", name=str(value)), device, budget)
