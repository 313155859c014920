"""The table of methods.

A new merge or router needs a function and an entry here. One in ASKED is then measured and shown
for every library that meets EVERY method. What papers and tools claim is in CLAIMED (claimed.py): a
study asks for it by name. No method decides a claim until somebody writes it into a rule
(recycle/studies/).

Each entry says its formula and its source. dW_i = s_i B_i A_i is the update of expert i of N.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from lora import Adapter, Gated
from recycle.reuse.claimed import CLAIMED, PEFT_ITSELF
from recycle.reuse.controls import oracle, random_adapters, random_router, shuffled_prototypes
from recycle.reuse.merge import mean_of_products, plain_sum, product_of_means, weighted_sum
from recycle.reuse.method import Apply, Method, Prepared, always, together
from recycle.reuse.route import arrow, on_all_layers
from tasks import World


def _merged(merge: Callable[[Sequence[Adapter]], Adapter]) -> Apply:
    def apply(experts: Mapping[str, Adapter], _: torch.Generator, world: World) -> Prepared:
        return together({"merged": merge(list(experts.values()))})

    return apply


def _routed(order: str = "outputs", top_k: int | None = None, temperature: float = 1.0) -> Apply:
    def apply(experts: Mapping[str, Adapter], _: torch.Generator, world: World) -> Prepared:
        routers = arrow(list(experts.values()), temperature, top_k)
        return always(on_all_layers(experts), Gated(tuple(experts), routers, order))

    return apply


def at_weight(w: float, name: str) -> Method:
    """The sum of the experts, each at weight w."""

    def merge(adapters: Sequence[Adapter]) -> Adapter:
        return weighted_sum(adapters, [w] * len(adapters))

    return Method(name, "merge", f"{w} sum_i dW_i", _ILHARCO, _merged(merge), weight=w)


def _at_temperature(t: float) -> Method:
    name, formula = f"arrow_temperature_{t}", f"gates = softmax_i |x . v_i| / {t}"
    return Method(name, "router", formula, _ARROW, _routed(temperature=t))


_ILHARCO = "Ilharco et al. 2023, arXiv 2212.04089"
_ARROW = "Ostapenko et al. 2024, arXiv 2405.11157"
ALONE = Method(
    "alone",
    "single",
    "dW_1; the base where there is no expert",
    "-",
    lambda experts, *_: together(experts),
)
# One expert at half its weight: its share in the mean of two, without the other one.
AT_HALF = at_weight(0.5, "at_half")
MEAN_OF_PRODUCTS = Method(
    "mean_of_products",
    "merge",
    "(1/N) sum_i dW_i",
    "arXiv 2506.13479 (Uniform, of the products)",
    _merged(mean_of_products),
)
PRODUCT_OF_MEANS = Method(
    "product_of_means",
    "merge",
    "s mean_i(B_i) mean_i(A_i)",
    "arXiv 2307.13269 (LoraHub at weights 1/N)",
    _merged(product_of_means),
)
PLAIN_SUM = Method("plain_sum", "merge", "sum_i dW_i", _ILHARCO, _merged(plain_sum), weight=1.0)
SWEEP = tuple(at_weight(w, f"sum_at_{w}") for w in (0.75, 1.25, 1.5))
ARROW = Method("arrow", "router", "gates = softmax_i |x . v_i|", _ARROW, _routed())
ARROW_TOP1 = Method(
    "arrow_top1", "router", "the expert with the largest |x . v_i|", _ARROW, _routed(top_k=1)
)
ARROW_FACTORS = Method(
    "arrow_factors",
    "router",
    "(sum_i g_i s_i B_i) (sum_j g_j A_j) x, gates g of arrow",
    _ARROW,
    _routed("factors"),
)
TEMPERATURES = tuple(_at_temperature(t) for t in (0.1, 10))
ORACLE = Method(
    "oracle",
    "oracle",
    "the expert that the world names for the hop at hand",
    "an upper reference",
    oracle,
)
RANDOM_ROUTER = Method(
    "random_router",
    "control",
    "one expert by chance, per token and layer",
    "must fail",
    random_router,
)
SHUFFLED_PROTOTYPES = Method(
    "shuffled_prototypes",
    "control",
    "arrow_top1 with every v_i handed to the next expert",
    "must fail",
    shuffled_prototypes,
)
RANDOM_ADAPTERS = Method(
    "random_adapters",
    "control",
    "plain_sum of noise with the norms of A_i and B_i",
    "must fail",
    random_adapters,
)


def weight_of(method: Method, count: int) -> float | None:
    """The weight of each of ``count`` adapters where the method is a sum at one weight."""
    return 1 / count if method is MEAN_OF_PRODUCTS else method.weight


# The order is the order of cells, rows and tables.
ASKED: tuple[Method, ...] = (
    ALONE,
    MEAN_OF_PRODUCTS,
    PRODUCT_OF_MEANS,
    PLAIN_SUM,
    *SWEEP,
    AT_HALF,
    ARROW,
    ARROW_TOP1,
    ARROW_FACTORS,
    *TEMPERATURES,
    ORACLE,
    RANDOM_ROUTER,
    SHUFFLED_PROTOTYPES,
    RANDOM_ADAPTERS,
)
METHODS: tuple[Method, ...] = (*ASKED, *CLAIMED, *PEFT_ITSELF)
BY_NAME = {method.name: method for method in METHODS}
# Every library of several experts meets the methods of MAIN. The libraries that a study is about
# meet EVERY method for several experts.
MAIN = (MEAN_OF_PRODUCTS, PRODUCT_OF_MEANS, PLAIN_SUM, ARROW, ARROW_TOP1, ARROW_FACTORS)
EVERY = tuple(method for method in ASKED if method not in (ALONE, AT_HALF))
EVERY_BUT_ORACLE = tuple(method for method in EVERY if method is not ORACLE)
