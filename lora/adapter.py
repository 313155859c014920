"""An adapter as a value: its factors, how they are scaled, and where they came from."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Adapter:
    """Low-rank updates of named linear layers: ``delta_W = s B A`` with s = alpha / r (Hu et al.
    2021, arXiv 2106.09685), or s = alpha / sqrt(r) with ``rslora`` (Kalajdzievski 2023, arXiv
    2312.03732).

    ``factors`` maps a module path to (A (r, d_in), B (d_out, r)); r may differ from path to path,
    and ``alphas`` overrides ``alpha`` for single paths. ``base`` is the hash of the model that it
    was made for, ``origin`` its record: task, seed, role, or the formula and weights of a merge.
    """

    factors: Mapping[str, tuple[Tensor, Tensor]]
    alpha: float
    rslora: bool = False
    alphas: Mapping[str, float] = field(default_factory=dict)
    base: str | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.factors:
            raise ValueError("an adapter needs at least one layer, this one has none")
        for path, (A, B) in self.factors.items():
            if A.dim() != 2 or B.dim() != 2 or A.shape[0] != B.shape[1] or A.shape[0] < 1:
                raise ValueError(
                    f"{path}: A {tuple(A.shape)} and B {tuple(B.shape)} do not fit as (r, d_in) and (d_out, r)"
                )

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(self.factors)

    def rank(self, path: str) -> int:
        return self.factors[path][0].shape[0]

    def scale(self, path: str) -> float:
        rank = self.rank(path)
        return self.alphas.get(path, self.alpha) / (math.sqrt(rank) if self.rslora else rank)

    def delta(self, path: str) -> Tensor:
        """The update s B A of one layer, written out: (d_out, d_in)."""
        A, B = self.factors[path]
        return self.scale(path) * (B @ A)


def base_hash(model: nn.Module) -> str:
    """A name for a model's weights: 16 hex digits over the names, types, shapes and bytes of all
    but its adapters."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if ".lora_A_" in f".{name}" or ".lora_B_" in f".{name}":
            continue
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(
            tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
            if tensor.numel()
            else b""
        )
    return digest.hexdigest()[:16]
