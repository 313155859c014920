"""Model-based clustering (Ostapenko et al. 2024, arXiv 2405.11157): few merged adapters of many."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lora import Adapter
from recycle.reuse.core import layers
from recycle.reuse.layerwise import check_count
from recycle.reuse.merge import mean_of_products


def cosines(adapters: Sequence[Adapter]) -> Tensor:
    """(N, N): the cosine of the updates over all layers; 0 beside an adapter that is 0.

    <dW_i, dW_j> = sum of (B_i^T B_j) * (A_i A_j^T), entry by entry, so no dW is written out. (The
    paper's code compares a truncated SVD of the factors, which depends on how dW_i is factored.)
    """
    inner = torch.zeros(len(adapters), len(adapters), dtype=torch.float64)
    for layer in layers(adapters):
        A = torch.cat([A.double() for A in layer.A])
        scaled = [s * B.double() for B, s in zip(layer.B, layer.scales, strict=True)]
        B = torch.cat(scaled, dim=1)
        columns = ((B.mT @ B) * (A @ A.mT)).split(layer.ranks, dim=1)
        inner += torch.stack(
            [torch.stack([part.sum() for part in c.split(layer.ranks)]) for c in columns], dim=1
        )
    norms = inner.diagonal().clamp(min=0).sqrt()
    units = torch.where(norms > 0, 1 / norms, 0)
    return inner * units[:, None] * units


def clusters(adapters: Sequence[Adapter], count: int | None = None) -> list[list[int]]:
    """The places of the adapters in ``count`` clusters: k-means on the rows of `cosines`.

    The default count is the root of N, rounded up. The first centre is the adapter that is most
    like the others, the next ones are those farthest from the centres so far; nothing is drawn.
    (The paper's code draws ten times and takes the best.) A cluster that loses all its adapters
    stays away. Raises ValueError for a count outside 1 to N.
    """
    rows = cosines(adapters)
    if count is None:
        count = math.ceil(math.sqrt(len(adapters)))
    check_count("clusters", count, len(adapters), "adapters")
    chosen = [int(rows.sum(1).argmax())]
    while len(chosen) < count:
        distance = torch.cdist(rows, rows[chosen]).amin(1)
        distance[chosen] = -1
        chosen.append(int(distance.argmax()))
    centres = rows[chosen]
    labels = torch.cdist(rows, centres).argmin(1)
    for _ in range(100):
        held = labels.unique()
        centres = torch.stack([rows[labels == label].mean(0) for label in held])
        moved = torch.cdist(rows, centres).argmin(1)
        if bool((held[moved] == labels).all()):
            break
        labels = moved
    return [(labels == label).nonzero()[:, 0].tolist() for label in labels.unique()]


def merged_clusters(adapters: Sequence[Adapter], count: int | None = None) -> list[Adapter]:
    """The mean of each cluster's updates."""
    return [mean_of_products([adapters[i] for i in own]) for own in clusters(adapters, count)]
