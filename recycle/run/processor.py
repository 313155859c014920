"""Which processor this is, so that figures of speed and choices by speed name it."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import torch

FLAGS = (  # what decides about the speed of products
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_bf16",
    "asimd",
    "bf16",
    "sve",
)
CPUINFO = Path("/proc/cpuinfo")


def describe_processor() -> dict[str, Any]:
    """``processor``, its name as it gives it; ``flags``, those of FLAGS that it has, and what torch
    was built to use of them, such as AVX512, in capitals."""
    facts: dict[str, str] = {}
    if CPUINFO.is_file():
        for line in CPUINFO.read_text("utf-8", "replace").splitlines():
            key, _, value = line.partition(":")
            facts.setdefault(key.strip(), value.strip())
    name = facts.get("model name") or platform.processor() or platform.machine()
    has = (facts.get("flags") or facts.get("Features") or "").split()
    flags = [flag for flag in FLAGS if flag in has]
    return {"processor": name, "flags": [*flags, torch.backends.cpu.get_cpu_capability()]}
