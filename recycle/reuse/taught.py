"""The methods that learn, as entries of the table: from 5, 20 and 100 examples or from the experts'
own texts, and beside each of them the same on adapters of noise.

What a random pool reaches, the learner reaches without anything that the experts know.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch

from lora import Adapter, Gated
from recycle.reuse.gates import phatgoose, xlora_like
from recycle.reuse.layerwise import Merge
from recycle.reuse.learned import LEARNED_MERGES, RANDOM_POOL
from recycle.reuse.learning import Lesson, noise_like
from recycle.reuse.method import (
    Apply,
    Family,
    Given,
    Method,
    Needs,
    Prepared,
    always,
    own_texts,
    together,
)
from recycle.reuse.route import Router, on_all_layers
from tasks import World

COUNTS = (5, 20, 100)
POOL = "random_pool_"


class Routing(Protocol):
    """Makes a router for each layer, for experts by name."""

    def __call__(
        self,
        experts: Mapping[str, Adapter],
        generator: torch.Generator,
        world: World,
        given: Given | None,
        /,
        top_k: int | None = None,
        temperature: float = 1.0,
    ) -> Mapping[str, Router]: ...


def by_phatgoose(experts, generator, world, given, /, top_k=None, temperature=1.0):
    """`phatgoose` from the texts that each expert's record names."""
    lessons = {
        name: Lesson.of(own_texts("phatgoose", name, expert, world), given)
        for name, expert in experts.items()
    }
    return phatgoose(experts, lessons, generator, top_k, temperature)


def by_xlora_like(experts, generator, world, given, /, top_k=None, temperature=1.0):
    """`xlora_like` from the given examples."""
    lesson = Lesson.from_examples(given.examples, given)
    return xlora_like(experts, lesson, top_k, temperature)


def routed(
    routing: Routing,
    noise: bool = False,
    top_k: int | None = None,
    temperature: float = 1.0,
    order: str = "outputs",
) -> Apply:
    """The method of a routing, with options; on ``noise`` the experts are `noise_like`."""

    def apply(
        experts: Mapping[str, Adapter],
        generator: torch.Generator,
        world: World,
        given: Given | None = None,
    ) -> Prepared:
        pool = dict(experts)
        if noise:
            pool = {name: noise_like(expert, generator) for name, expert in experts.items()}
        routers = routing(pool, generator, world, given, top_k=top_k, temperature=temperature)
        return always(on_all_layers(pool), Gated(tuple(pool), routers, order))

    return apply


def _merging(merge: Merge, count: int) -> Method:
    def apply(
        experts: Mapping[str, Adapter], generator: torch.Generator, _: World, given: Given
    ) -> Prepared:
        lesson = Lesson.from_examples(given.examples, given)
        drawn = generator if merge.random else None
        return together({"merged": merge(list(experts.values()), drawn, lesson)})

    family: Family = "control" if merge.name.startswith(POOL) else "merge"
    name = f"{merge.name}_{count}"
    return Method(name, family, merge.formula, merge.source, apply, "examples", examples=count)


def _pair(name: str, formula: str, source: str, routing: Routing, count: int = 0) -> list[Method]:
    """A router that learns, and the same on noise."""
    needs: Needs = "examples" if count else "texts"
    title = f"{name}_{count}" if count else name
    on_noise = f"{name} of noise with the ||dW_i|| of each layer"
    return [
        Method(title, "router", formula, source, routed(routing), needs, examples=count),
        Method(
            POOL + title,
            "control",
            on_noise,
            RANDOM_POOL,
            routed(routing, noise=True),
            needs,
            examples=count,
        ),
    ]


PHATGOOSE = _pair(
    "phatgoose",
    "softmax over the top 2 of n(x) . n(v_i) / sqrt(d), n standardises; v_i: a gate on i's texts",
    "Muqeeth et al. 2024, arXiv 2402.05859",
    by_phatgoose,
)
XLORA_LIKE = [
    method
    for count in COUNTS
    for method in _pair(
        "xlora_like",
        "gates = softmax_i n(x) . v_i / sqrt(d), n standardises, all v_i learned together",
        "after X-LoRA, arXiv 2402.07148, which reads the base's last states in a pass before",
        by_xlora_like,
        count,
    )
]
TAUGHT: tuple[Method, ...] = (
    *(_merging(merge, count) for merge in LEARNED_MERGES for count in COUNTS),
    *PHATGOOSE,
    *XLORA_LIKE,
)
