"""Switches on a faster fp32 matrix product where a probe finds it faster and as exact.

PyTorch sends fp32 products to MKL. oneDNN can be about twice as fast. It takes the products where
``fp32_precision = "bf16"`` permits lower precision, and computes them in full fp32 all the same on
processors without bf16 units (AMX). The probe therefore measures the error too: where the processor
really rounds to bf16, the setting stays off.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch

CHOICES = ("auto", "default")
EXACT = 4  # so many times the usual error is as exact
FASTER = 1.2  # a speedup above this is no noise


def choose_matmul(choice: str = "auto") -> dict:
    """Set the fp32 matrix product of this process; return the choice and its reasons for env.json.

    ``auto`` probes, and ``default`` leaves PyTorch as it is. "speedup" is a ratio of seconds.
    Errors are relative Frobenius norms against a product in float64. Raises ValueError for any
    other choice.
    """
    if choice not in CHOICES:
        raise ValueError(f"--matmul {choice!r}: choose {' or '.join(CHOICES)}")
    mkldnn = torch.backends.mkldnn
    if choice == "default" or not mkldnn.is_available() or not hasattr(mkldnn, "matmul"):
        return {"setting": "default"}
    before = mkldnn.matmul.fp32_precision
    generator = torch.Generator().manual_seed(0)
    x, w = (torch.randn(shape, generator=generator) for shape in ((2048, 256), (256, 256)))
    exact = x.double() @ w.double()
    seconds: dict[str, list[float]] = {"default": [], "bf16": []}
    errors, products = {}, {}
    for turn in range(12):
        for name, value in (("default", before), ("bf16", "bf16")):
            mkldnn.matmul.fp32_precision = value
            start = time.perf_counter()
            for _ in range(4):
                y = x @ w
            if turn >= 2:  # the first turns warm up caches and threads
                seconds[name].append(time.perf_counter() - start)
            products[name] = y
            errors[name] = ((y.double() - exact).norm() / exact.norm()).item()
    speedup = min(seconds["default"]) / min(seconds["bf16"])
    # Equal bits mean that the processor has no such path (no AVX-512): a speedup is noise then.
    same = torch.equal(products["default"], products["bf16"])
    chosen = not same and speedup > FASTER and errors["bf16"] < EXACT * errors["default"]
    mkldnn.matmul.fp32_precision = "bf16" if chosen else before
    return {
        "setting": "oneDNN" if chosen else "default",
        "speedup": round(speedup, 2),
        "error": errors["bf16"],
        "error default": errors["default"],
    }


def speedup_in_16_bits(found: Mapping[str, Any]) -> float | None:
    """How many times as fast this processor multiplies in 16 bits, by what `choose_matmul` found;
    None where it has no such units or nothing was probed."""
    rounds = found.get("error", 0.0) >= EXACT * found.get("error default", 1.0)
    return found["speedup"] if rounds and found["speedup"] > FASTER else None
