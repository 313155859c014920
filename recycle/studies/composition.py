"""The composition study: in which order of words, and from which layers, do two new hops compose?

Bases read many relations, so that they can compose directly; one base reads questions ("where does
the boss of ada hill live ?"), one possessives ("ada hill 's boss 's home"). Groups say which hops
are known to the base and which are new: KK, NK, KN, NN, about known people (R), about new people
with known bridges (M), about new people alone (F), and KK about held-out people. The claims stand
in composition_claims.py.
"""

from __future__ import annotations

from typing import Any

from models.layout import Place
from recycle.plan import ANSWERS, STANDARD_RECIPE, UNPRESERVED, BaseSpec, Expert, Library, Recipe
from recycle.reuse.methods import (
    ARROW,
    ARROW_TOP1,
    EVERY,
    MEAN_OF_PRODUCTS,
    PLAIN_SUM,
    PRODUCT_OF_MEANS,
    RANDOM_ADAPTERS,
)
from recycle.studies.composition_claims import RULES
from recycle.studies.design import Design, Headline
from tasks import Composition

# Bases and recipes -------------------------------------------------------------------------------

# The question order is the harder one to learn: it takes more steps, and more two-hop questions.
QUESTION = BaseSpec(
    "standard",
    {"pretrain.steps": 2400, "task.shares.statement": 0.1, "task.shares.direct": 0.6},
    "question order",
)
POSSESSIVE = BaseSpec("possessive", {"task.order": "possessive"}, "possessive order")
ORDERS = (QUESTION, POSSESSIVE)
LAYERS = 4


def _placed(name: str, blocks: range, title: str) -> Recipe:
    """An adapter on the linear layers of some blocks."""
    patterns = tuple(f"{Place(block).path}.*" for block in blocks)
    return Recipe(name, {"adapter.patterns": patterns}, title)


LOWER = _placed("lower", range(LAYERS // 2), "lower half")
UPPER = _placed("upper", range(LAYERS // 2, LAYERS), "upper half")
SINGLE = [_placed(f"layer-{i}", range(i, i + 1), f"layer {i}") for i in range(LAYERS)]
FULL_SETTINGS = {"adapter.kind": "full", "train.lr": 1e-3}
FULL = Recipe("full", FULL_SETTINGS, "full fine-tuning")


def _both(first: Recipe, second: Recipe) -> Recipe:
    """One recipe's settings upon another's."""
    settings = {**first.settings, **second.settings}
    return Recipe(f"{first.name}-{second.name}", settings, f"{first}, {second}")


# Libraries ---------------------------------------------------------------------------------------

BOTH_NEW = ("NN-R", "NN-F")
FIVE = ("KK-R", "KK-held", "NK-R", "KN-R", "NN-R")  # groups about known people
KIND = {
    "KK-R": "R",
    "KK-held": "R",
    "NK-R": "R",
    "KN-R": "R",
    "NN-R": "R",
    "NK-M": "F",
    "NN-F": "F",
}
FEW = (MEAN_OF_PRODUCTS, PLAIN_SUM, ARROW, ARROW_TOP1)
EVERYWHERE, LOW_HIGH, HIGH_LOW = "everywhere", "lower + upper", "upper + lower"
PLACEMENTS = {
    EVERYWHERE: (STANDARD_RECIPE, STANDARD_RECIPE),
    LOW_HIGH: (LOWER, UPPER),
    HIGH_LOW: (UPPER, LOWER),
}


def _pair(group: str, base: BaseSpec, hop1: Recipe, hop2: Recipe) -> tuple[Expert, Expert]:
    kind = KIND[group]
    return Expert("hop1", kind, hop1, base), Expert("hop2", kind, hop2, base)


def _main(group: str, base: BaseSpec) -> list[Library]:
    """The base, single experts, joint training, and both hops in three placements."""
    kind = KIND[group]
    joint = Expert("joint", kind, base=base)
    libraries = [Library("none", group, base=base), Library("joint", group, (joint,), base=base)]
    for reads in ("hop1", "hop2"):
        for recipe in (STANDARD_RECIPE, LOWER, UPPER):
            name = reads if recipe is STANDARD_RECIPE else f"{reads}, {recipe.name}"
            expert = Expert(reads, kind, recipe, base)
            libraries.append(Library(name, group, (expert,), base=base))
    # Every method where both hops are new; elsewhere a few, and noise, which must harm nothing.
    methods = EVERY if group in BOTH_NEW else (*FEW, RANDOM_ADAPTERS)
    for name, recipes in PLACEMENTS.items():
        if name != EVERYWHERE:  # factors of different layers have no mean
            methods = tuple(method for method in methods if method is not PRODUCT_OF_MEANS)
        pair = _pair(group, base, *recipes)
        # Looks inside: where two new hops meet, and where the base composes two known ones.
        opened = group in ("KK-R", "NN-R") and name == LOW_HIGH
        libraries.append(Library(name, group, pair, methods, base, inside=opened))
    return libraries


def _controls(base: BaseSpec) -> list[Library]:
    """Hop 2 relabelled: the answers must follow the new facts. The A -> C expert knows them."""
    hop1 = Expert("hop1", "R", LOWER, base)
    other = Expert("relabelled-hop2", "R", UPPER, base)
    target = Expert("target", "R", base=base)
    return [
        Library("lower + upper, relabelled", "NN-R", (hop1, other), (PLAIN_SUM,), base),
        Library("target", "NN-R", (target,), base=base),
    ]


def _references(group: str, base: BaseSpec) -> list[Library]:
    """Joint training and full fine-tuning, placed likewise."""
    libraries = []
    for recipe in (LOWER, UPPER, FULL, _both(FULL, LOWER), _both(FULL, UPPER)):
        if recipe in (LOWER, UPPER) or group == "NN-R":
            expert = Expert("joint", KIND[group], recipe, base)
            name = f"joint, {recipe.name}"
            libraries.append(Library(name, group, (expert,), base=base, part="placed"))
    return libraries


def _preservation(group: str, base: BaseSpec) -> list[Library]:
    """The same pairs without preserved texts, and with texts that the base itself answers."""
    libraries = []
    for kept in (UNPRESERVED, ANSWERS):
        for name in (EVERYWHERE, LOW_HIGH):
            hop1, hop2 = PLACEMENTS[name]
            placed = [kept if r is STANDARD_RECIPE else _both(r, kept) for r in (hop1, hop2)]
            pair = _pair(group, base, *placed)
            libraries.append(
                Library(f"{name}, {kept.name}", group, pair, FEW, base, "preservation")
            )
    return libraries


def _layers(base: BaseSpec) -> list[Library]:
    """Each hop in each single layer."""
    return [
        Library(
            f"layer {i} + layer {j}",
            "NN-R",
            _pair("NN-R", base, SINGLE[i], SINGLE[j]),
            (PLAIN_SUM,),
            base,
            "layers",
        )
        for i in range(LAYERS)
        for j in range(LAYERS)
    ]


# Other bases, over which a property of the base alone is compared with what reuse gives.
_OTHER = (
    ("layers-2", {"model.layers": 2}),
    ("layers-6", {"model.layers": 6}),
    ("exposed-70", {"task.exposed": 0.7}),
    ("relations-5", {"task.person_relations": 5, "task.attributes": 5}),
    ("unique-names", {"task.unique_family": True}),
)


def _other_bases() -> list[Library]:
    """The pair of experts everywhere, on bases of other depth, dose and number of relations."""
    libraries = []
    for order in ORDERS:
        for name, settings in _OTHER:
            base = BaseSpec(
                f"{order.name}-{name}", {**order.settings, **settings}, f"{order}, {name}"
            )
            for group in FIVE:
                pair = _pair(group, base, STANDARD_RECIPE, STANDARD_RECIPE)
                libraries += [
                    Library("none", group, base=base, part="bases"),
                    Library("hop1", group, pair[:1], base=base, part="bases"),
                    Library("hop2", group, pair[1:], base=base, part="bases"),
                    Library(EVERYWHERE, group, pair, (*FEW, RANDOM_ADAPTERS), base, "bases"),
                ]
    return libraries


LIBRARIES = (
    *(Library("none", "base", base=base) for base in ORDERS),
    *(library for base in ORDERS for group in Composition.groups for library in _main(group, base)),
    *(library for base in ORDERS for library in _controls(base)),
    *(library for base in ORDERS for group in BOTH_NEW for library in _references(group, base)),
    *(
        library
        for base in ORDERS
        for group in ("KK-R", "NK-R", "KN-R", "NN-R")
        for library in _preservation(group, base)
    ),
    *(library for base in ORDERS for library in _layers(base)),
    *_other_bases(),
)
DECIDING = ("main", "placed", "preservation")
PARTS = (*DECIDING, "layers", "bases")
SETTINGS: dict[str, Any] = {
    "model.layers": LAYERS,
    "model.init": 0.08,
    "pretrain.steps": 1600,
    "pretrain.lr": 3e-3,
    "pretrain.weight_decay": 0.3,
    "train.steps": 300,
    "train.rows": 10,
    "train.lr": 3e-3,
}
SPARE = (11, 12, 13)
PRESETS: dict[str, dict[str, Any]] = {
    "quick": {"groups": FIVE},
    "laptop": {"parts": DECIDING, "seeds": (1, 2, 3), "spare_seeds": SPARE},
    "full": {"seeds": tuple(range(1, 11)), "spare_seeds": SPARE},
    "dials": {"groups": FIVE, "parts": PARTS, "seeds": (1, 2)},
}
HEADLINE = Headline(
    title="two hops, each by its own adapter, asked at once",
    group="NN-R",
    form="direct",
    bases=tuple(base.name for base in ORDERS),
    libraries=tuple(PLACEMENTS),
    methods=("plain_sum", "mean_of_products", "arrow", "arrow_top1", "oracle", "random_router"),
    reference="joint",
)
COMPOSITION = Design(
    Composition.name, Composition, LIBRARIES, PARTS, PRESETS, RULES, SETTINGS, HEADLINE
)
