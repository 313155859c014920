"""What adapters look like without any data: their size, and how their updates overlap."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor

from lora import Adapter
from models import Model
from recycle.measure.cell import mean_overlaps
from recycle.measure.mechanism import interference


def geometry(model: Model, adapters: Mapping[str, Adapter]) -> dict[str, Any]:
    """Sizes in Frobenius norm: ``relative`` is ||s B A|| / ||W||, per layer and over all layers of
    the adapter. ``pairs`` are means over the layers that two adapters share
    (recycle/measure/cell.py), with the layer where the cosine is largest; the model must have no
    adapters attached.

    -> {"adapters": [{"adapter", "norm", "relative", "largest", "layers": [{"path", "rank", "scale",
                      "norm", "relative"}]}],
        "pairs": [{"pair": [two names], "layers", "cosine", "input overlap", "output overlap",
                   "closest layer", "closest cosine"}]}
    """
    return {
        "adapters": [_sizes(model, name, adapter) for name, adapter in adapters.items()],
        "pairs": _pairs(adapters) if len(adapters) > 1 else [],
    }


def _sizes(model: Model, name: str, adapter: Adapter) -> dict[str, Any]:
    layers: list[dict[str, Any]] = []
    of_base = 0.0
    for path in adapter.paths:
        W = float(cast(Tensor, model.get_submodule(path).weight).detach().float().norm())
        norm = adapter.norm(path)
        of_base += W**2
        layers.append(
            {
                "path": path,
                "rank": adapter.rank(path),
                "scale": adapter.scale(path),
                "norm": norm,
                "relative": norm / W if W else None,
            }
        )
    norm = math.sqrt(sum(layer["norm"] ** 2 for layer in layers))
    largest = max(layers, key=lambda layer: layer["relative"] or 0.0)
    return {
        "adapter": name,
        "norm": norm,
        "relative": norm / math.sqrt(of_base) if of_base else None,
        "largest": largest["path"],
        "layers": layers,
    }


def _pairs(adapters: Mapping[str, Adapter]) -> list[dict[str, Any]]:
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    names = list(adapters)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            rows[one, other] = []
    for row in interference(adapters)["pairs"]:
        one, other = row["pair"]
        rows[one, other].append(row)
    found = []
    for (one, other), own in rows.items():
        closest = max(own, key=lambda row: abs(row["cosine"]), default=None)
        found.append(
            {
                "pair": [one, other],
                "layers": len(own),
                **mean_overlaps(own),
                "closest layer": closest and closest["path"],
                "closest cosine": closest and closest["cosine"],
            }
        )
    return found
