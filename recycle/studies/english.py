"""The two-hop study on a checkpoint: `python -m recycle study two-hop --checkpoint smollm2`.

Groups: F, H, R two new hops; K two hops that the checkpoint knows; NK a new first hop, KN a new
second hop (tasks/english.py). Preservation texts are sampled from the checkpoint, for nobody has
what it read. The claims stand in english_claims.py.
"""

from __future__ import annotations

from typing import Any

from recycle.plan import STANDARD_RECIPE, UNPRESERVED, Expert, Library, Recipe
from recycle.reuse.methods import (
    ALONE,
    ARROW,
    ARROW_TOP1,
    AT_HALF,
    BY_NAME,
    MEAN_OF_PRODUCTS,
    ORACLE,
    PEFT_ITSELF,
    PLAIN_SUM,
    RANDOM_ADAPTERS,
    RANDOM_ROUTER,
    SWEEP,
)
from recycle.studies.design import Design, Headline
from recycle.studies.english_claims import RULES
from recycle.studies.methods_claims import DATA_FREE, LEARNERS, POOL, with_methods
from tasks import English

HALF_RATE = Recipe("half-rate", {"train.lr": 5e-4}, "half the learning rate")
MERGES = (MEAN_OF_PRODUCTS, PLAIN_SUM, *SWEEP[:1], ARROW, ARROW_TOP1)
ALL = (*MERGES, ORACLE, RANDOM_ROUTER, RANDOM_ADAPTERS)
BOTH_NEW = ("F", "H", "R")
# 16 triples are too few for 20 examples; and what learns takes minutes a cell on a checkpoint.
COUNTS = (5,)
LEARNED = tuple(
    BY_NAME[f"{pool}{name}"]
    for name in (*(f"{learner}_{n}" for learner in LEARNERS for n in COUNTS), "phatgoose")
    for pool in ("", POOL)
)
CLAIMED = (
    *(BY_NAME[name] for name in DATA_FREE if BY_NAME[name] not in ALL),
    *(BY_NAME[name] for name in ("input_oracle", "centroid")),
)
BESIDE = tuple(BY_NAME[name] for name in DATA_FREE if not name.startswith("rescaled_single"))


def _pair(group: str, recipe: Recipe = STANDARD_RECIPE) -> tuple[Expert, Expert]:
    return Expert("hop1", group, recipe), Expert("hop2", group, recipe)


def _both_new(group: str) -> list[Library]:
    """The checkpoint, single experts, joint training, and both hops."""
    hop1, hop2 = _pair(group)
    return [
        Library("none", group),
        Library("hop1", group, (hop1,), (ALONE, AT_HALF)),
        Library("hop2", group, (hop2,), (ALONE, AT_HALF)),
        Library("joint", group, (Expert("joint", group),)),
        Library("2-combination", group, (hop1, hop2), ALL),
    ]


def _references(group: str) -> list[Library]:
    """An expert that reads the two-hop questions themselves; experts that preserve nothing, and
    experts of smaller updates."""
    return [
        Library("target", group, (Expert("target", group),), part="target"),
        Library(
            "2-combination, unpreserved", group, _pair(group, UNPRESERVED), MERGES, part="none"
        ),
        Library("2-combination, half rate", group, _pair(group, HALF_RATE), MERGES, part="rate"),
    ]


def _known() -> list[Library]:
    """What the checkpoint knows, alone and beside the experts of H: does it survive the merge?"""
    return [
        Library("none", "K"),
        *(Library(e.reads, "K", (e,)) for e in _pair("H")),
        Library("2-combination", "K", _pair("H"), (*MERGES, RANDOM_ADAPTERS)),
        Library("2-combination, unpreserved", "K", _pair("H", UNPRESERVED), MERGES, part="none"),
    ]


def _mixed(group: str, reads: str) -> list[Library]:
    """One new hop, the other one known."""
    expert = Expert(reads, group)
    forgetful = Expert(reads, group, UNPRESERVED)
    return [
        Library("none", group, part="mixed"),
        Library(reads, group, (expert,), part="mixed"),
        Library(f"{reads}, unpreserved", group, (forgetful,), part="mixed"),
    ]


def _methods(group: str) -> list[Library]:
    """Both hops under every method that the part main lacks; methods that learn for H alone."""
    asked = (*CLAIMED, *LEARNED) if group == "H" else CLAIMED
    return [
        Library("2-combination", group, _pair(group), asked, part="methods"),
        Library("2-combination", group, _pair(group), PEFT_ITSELF, part="peft"),
    ]


def _beside(group: str) -> Library:
    """A group with one new hop has one expert, and no merge of its own. Its expert stands beside
    that of the other such group, which knows nothing of its questions: is it kept, and is the hop
    that the checkpoint knows?"""
    experts = (Expert("hop1", "NK"), Expert("hop2", "KN"))
    return Library("hop1 of NK, hop2 of KN", group, experts, BESIDE, part="methods")


LIBRARIES = (
    Library("none", "base"),
    *(library for group in BOTH_NEW for library in _both_new(group)),
    *_references("H"),
    *_known(),
    *_mixed("NK", "hop1"),
    *_mixed("KN", "hop2"),
    *(library for group in BOTH_NEW for library in _methods(group)),
    *(_beside(group) for group in ("NK", "KN")),
)
DECIDING = ("main", "mixed", "none", "rate")
PARTS = (*DECIDING, "target", "methods", "peft")
SETTINGS: dict[str, Any] = {
    "task.triples": 16,
    "task.answers": 8,
    "model.context": 256,
    "adapter.preserve_from": "sampled",
    "train.steps": 200,
    "train.rows": 12,
    "train.micro_batch": 2,  # with fp32 weights the peak stays below 3 times the checkpoint
    "train.length": 80,
    "train.packed": False,
    "train.lr": 1e-3,
}
PRESETS: dict[str, dict[str, Any]] = {
    "quick": {"groups": ("H", "K"), "parts": ("main",)},
    "laptop": {"parts": (*DECIDING, "target")},
    "full": {"parts": DECIDING, "seeds": (1, 2, 3)},
    "methods": {
        "groups": ("H", "K", "NK", "KN"),
        "parts": ("main", "mixed", "methods"),
        "seeds": (1, 2, 3),
    },
}
HEADLINE = Headline(
    title="two hops, each by its own adapter, on a checkpoint",
    group="H",
    form="possessive",
    bases=("standard",),
    libraries=("2-combination",),
    methods=tuple(method.name for method in ALL),
    reference="joint",
)
WITH_METHODS = with_methods(RULES, knows="K", counts=COUNTS)
ENGLISH = Design(English.name, English, LIBRARIES, PARTS, PRESETS, WITH_METHODS, SETTINGS, HEADLINE)
