"""The methods that papers and tools claim, as entries of the table of methods.

No study asks for them by default: a study names what it asks, and none of these decides a claim
until somebody writes it into a rule. Each merge stands here at its default options.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from lora import Adapter, Gated
from recycle.reuse.centroid import centroid
from recycle.reuse.cluster import merged_clusters
from recycle.reuse.controls import input_oracle
from recycle.reuse.layerwise import Merge
from recycle.reuse.merges import CLAIMED_MERGES
from recycle.reuse.method import Apply, Method, Prepared, always, together
from recycle.reuse.route import arrow, on_all_layers
from recycle.reuse.routers import spectr
from recycle.reuse.scale import rescaled_single
from recycle.reuse.taught import TAUGHT
from recycle.reuse.with_peft import COMBINATIONS, MEANS, merged_with_peft
from tasks import World


def merging(name: str, merge: Merge, **options: Any) -> Method:
    """A merge with its options as a method, which hands a random merge the cell's generator."""

    def apply(experts: Mapping[str, Adapter], generator: torch.Generator, _: World) -> Prepared:
        drawn = generator if merge.random else None
        return together({"merged": merge(list(experts.values()), drawn, **options)})

    shown = ", ".join(f"{key} = {value}" for key, value in options.items())
    formula = f"{merge.formula}; {shown}" if shown else merge.formula
    return Method(name, "merge", formula, merge.source, apply)


def _by_peft(combination: str) -> Method:
    def apply(experts: Mapping[str, Adapter], generator: torch.Generator, _: World) -> Prepared:
        merged = merged_with_peft(list(experts.values()), combination, generator)
        return together({"merged": merged})

    weights = "1" if combination in MEANS else "1/N"
    formula = f"add_weighted_adapter(.., weights {weights}, {combination!r})"
    source = "PEFT itself, where it is installed"
    return Method(f"peft_itself_{combination}", "merge", formula, source, apply)


def _spectr(top_k: int | None) -> Apply:
    def apply(experts: Mapping[str, Adapter], _: torch.Generator, world: World) -> Prepared:
        routers = spectr(list(experts.values()), top_k=top_k)
        return always(on_all_layers(experts), Gated(tuple(experts), routers))

    return apply


def _clustered(experts: Mapping[str, Adapter], _: torch.Generator, world: World) -> Prepared:
    merged = merged_clusters(list(experts.values()))
    adapters = {f"cluster{i}": adapter for i, adapter in enumerate(merged)}
    return always(on_all_layers(adapters), Gated(tuple(adapters), arrow(merged)))


MERGED = tuple(merging(each.name, each) for each in CLAIMED_MERGES if each is not rescaled_single)
SINGLES = tuple(
    merging(f"rescaled_single_{w}", rescaled_single, weight=w) for w in (0.5, 0.75, 1.25, 1.5)
)
ROUTED = (
    Method(
        "spectr",
        "router",
        "gates = softmax_i ||dW_i x||",
        "Fleshman and Van Durme 2025, arXiv 2504.03454",
        _spectr(None),
    ),
    Method(
        "hard",
        "router",
        "the expert with the largest ||dW_i x||, at gate 1",
        "unit scale of arXiv 2606.31413, which learns its router",
        _spectr(1),
    ),
    Method(
        "centroid",
        "router",
        "for a whole question, the expert with the largest cos(h(question), mean h(its texts))",
        "the idea of LoraRetriever, arXiv 2402.09997",
        centroid,
        needs="texts",
    ),
    Method(
        "mbc",
        "router",
        "arrow over sqrt(N) merged adapters, the means of clusters by cosine of the dW_i",
        "Ostapenko et al. 2024, arXiv 2405.11157 (MBC)",
        _clustered,
    ),
    Method(
        "input_oracle",
        "oracle",
        "for a whole question, the expert that knows what the answer names",
        "an upper reference",
        input_oracle,
    ),
)
PEFT_ITSELF = tuple(map(_by_peft, COMBINATIONS))
CLAIMED: tuple[Method, ...] = (*MERGED, *SINGLES, *ROUTED, *TAUGHT)
