"""The two-hop study: bases, recipes, libraries, presets.

Groups: F new names and new cities, H new names, R real names with new facts, K facts known to the
base (tasks/two_hop.py). The curricula of experts (hop1, hop2-plain, ..) are spelt out in
TwoHop.expert_texts.

The claims stand in two_hop_claims.py, those about methods in methods_claims.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recycle.plan import (
    ANSWERS,
    STANDARD_BASE,
    STANDARD_RECIPE,
    UNPRESERVED,
    BaseSpec,
    Expert,
    Library,
    Recipe,
)
from recycle.reuse.method import Method
from recycle.reuse.methods import (
    ALONE,
    ARROW,
    ARROW_TOP1,
    AT_HALF,
    BY_NAME,
    EVERY,
    MAIN,
    MEAN_OF_PRODUCTS,
    ORACLE,
    PEFT_ITSELF,
    PLAIN_SUM,
)
from recycle.studies.design import Design
from recycle.studies.methods_claims import LEARNERS, MERGES, POOL, ROUTERS, with_methods
from recycle.studies.two_hop_claims import RULES
from tasks import TwoHop

# Bases and recipes -------------------------------------------------------------------------------

DOSE_50 = BaseSpec("dose-50", {"task.dose": 0.5})
DOSE_0 = BaseSpec("dose-0", {"task.dose": 0.0})
IDENTITY = BaseSpec("identity", {"task.shares.identity": 0.1})
FULL = Recipe("full", {"adapter.kind": "full", "train.lr": 1e-3})


def _of_rank(rank: int) -> Recipe:
    settings = {"adapter.rank": rank, "adapter.alpha": 2.0 * rank}
    return Recipe(f"rank-{rank}", settings, f"rank {rank}")


def _regime(rank: int, preservation: float, lr: float) -> Recipe:
    """Where does one-hop recall survive which merge? Rank, share of preserved texts, rate."""
    settings = {**_of_rank(rank).settings, "adapter.preservation": preservation, "train.lr": lr}
    name = f"rank_{rank}-preservation_{100 * preservation:.0f}-lr_{lr * 1e4:.0f}e-4"
    return Recipe(name, settings)


REGIMES = (
    *(_regime(rank, kept, 3e-3) for rank in (4, 16) for kept in (0.0, 0.5, 0.8)),
    _regime(16, 0.0, 1e-3),
    _regime(16, 0.5, 1e-3),
)
# The points of the growth pictures beside the standard ones: (axis, value, base).
_GROWN_BASES = (
    ("facts", 25, BaseSpec("facts-25", {"task.triples": 25})),
    ("facts", 100, BaseSpec("facts-100", {"task.triples": 100})),
    ("width", 64, BaseSpec("width-64", {"model.width": 64, "model.hidden": 128})),
    ("width", 96, BaseSpec("width-96", {"model.width": 96, "model.hidden": 192})),
    ("layers", 1, BaseSpec("layers-1", {"model.layers": 1})),
    ("layers", 4, BaseSpec("layers-4", {"model.layers": 4})),
)
_STANDARD_POINT = {"rank": 16, "facts": 50, "width": 128, "layers": 2}

# Libraries ---------------------------------------------------------------------------------------

FEW = (MEAN_OF_PRODUCTS, PLAIN_SUM, ARROW, ARROW_TOP1, ORACLE)


def named(*names: str) -> tuple[Method, ...]:
    return tuple(BY_NAME[name] for name in names)


# 50 triples are too few for 100 examples.
COUNTS = (5, 20)
LEARNED = tuple(
    name
    for learner in LEARNERS
    for count in COUNTS
    for name in (f"{learner}_{count}", f"{POOL}{learner}_{count}")
)
FROM_TEXTS = ("centroid", "phatgoose", f"{POOL}phatgoose")  # they read the experts' own texts
CLAIMED = named(*MERGES, *ROUTERS, "input_oracle", *FROM_TEXTS, *LEARNED)
# Ten for growing libraries, chosen before any of these was measured there.
TEN = named(
    "plain_sum",  # it keeps both hops of two experts (.98 in the record two-hop-full)
    "norm_matched_sum",  # the same direction, and its length does not grow with the experts
    "ties",  # the merge that most tools offer against interference
    "tsv",  # each expert gets 1/N of the rank, and shared directions are parted
    "iso_c",  # the spectrum of the sum made flat, so that no expert's part is drowned
    "pico",  # the directions that the experts share are damped
    "arrow_top1",  # the router that kept most on SmolLM2 (pilot)
    "hard",  # the same choice by the length of the update, at gate 1
    "centroid",  # one expert for a question: it should not care for their number
    "mbc",  # clusters, made for libraries of this size
)


def _hops(
    group: str, recipe: Recipe = STANDARD_RECIPE, base: BaseSpec = STANDARD_BASE
) -> tuple[Expert, Expert]:
    return Expert("hop1", group, recipe, base), Expert("hop2", group, recipe, base)


def _main(group: str) -> list[Library]:
    """The base, single experts, both hops, and both with an A -> C expert."""
    part = "known" if group == "K" else "main"
    hop1, hop2 = _hops(group)
    target, joint = Expert("target", group), Expert("joint", group)
    return [
        Library("none", group, part=part),
        Library("hop1", group, (hop1,), (ALONE, AT_HALF), part=part),
        Library("hop2", group, (hop2,), (ALONE, AT_HALF), part=part),
        Library("target", group, (target,), part=part),
        Library("joint", group, (joint,), part=part),
        Library("2-combination", group, (hop1, hop2), EVERY, part=part, inside=True),
        Library("3-combination", group, (hop1, hop2, target), EVERY, part=part),
    ]


def _entities(group: str, other: str) -> list[Library]:
    """Both hops with an A -> C expert on other people."""
    return [
        Library(
            f"3-combination, {which} entities",
            group,
            (*_hops(group), Expert("target", whose)),
            MAIN,
            part="entities",
        )
        for which, whose in (("other", other), ("real", "R"))
    ]


def _references(group: str) -> list[Library]:
    """An unrelated third expert, full fine-tuning, the facts in the prompt; experts of other chain
    templates; experts that preserved nothing, or what the base itself answers."""
    hop1, hop2 = _hops(group)
    plain = (Expert("hop1-plain", group), Expert("hop2-plain", group))
    other = Expert("hop2-other", group)
    unrelated = (hop1, hop2, Expert("job", group))
    templates = {
        "2-combination, no chains": plain,
        "2-combination, chains for hop 1": (hop1, plain[1]),
        "2-combination, disjoint chains": (hop1, other),
    }
    forgetful = _hops(group, UNPRESERVED)
    return [
        Library("3-combination, unrelated", group, unrelated, MAIN, part="references"),
        Library(
            "joint, full fine-tuning", group, (Expert("joint", group, FULL),), part="references"
        ),
        Library("none, facts in context", group, context=True, part="references"),
        Library("joint, no chains", group, (Expert("joint-plain", group),), part="templates"),
        *(Library(name, group, pair, MAIN, part="templates") for name, pair in templates.items()),
        Library("2-combination, unpreserved", group, forgetful, MAIN, part="preservation"),
        Library("2-combination, answers", group, _hops(group, ANSWERS), MAIN, part="answers"),
    ]


def _on_other_bases() -> list[Library]:
    """Bases that read two-hop texts about fewer people, or "who is B ? B" texts."""
    libraries = []
    for base, part, groups in (
        (DOSE_50, "dose", "FHR"),
        (DOSE_0, "dose", "FHR"),
        (IDENTITY, "identity", "FH"),
    ):
        for group in groups:
            hops = _hops(group, base=base)
            libraries.append(Library("2-combination", group, hops, MAIN, base, part))
            if base is IDENTITY:
                joint = Expert("joint", group, base=base)
                libraries.append(Library("joint", group, (joint,), base=base, part=part))
    return libraries


def _crowd() -> list[Expert]:
    """Sixteen experts, those of F's hops first."""
    crowd = [Expert(reads, group) for group in TwoHop.groups for reads in ("hop1", "hop2")]
    crowd += [Expert("job", group) for group in TwoHop.groups]
    crowd += [Expert("target", group) for group in TwoHop.groups if group != "F"]
    return [*crowd, Expert("hop2-plain", "K")]


def _growth() -> list[Library]:
    """Both hops of F against rank, experts beside them, facts, width and depth of the model."""

    def pair(
        name: str,
        axes: Mapping[str, int],
        recipe: Recipe = STANDARD_RECIPE,
        base: BaseSpec = STANDARD_BASE,
    ) -> list[Library]:
        joint = Expert("joint", "F", recipe, base)
        both = Library(
            f"2-combination, {name}", "F", _hops("F", recipe, base), FEW, base, "growth", axes=axes
        )
        return [both, Library(f"joint, {name}", "F", (joint,), base=base, part="growth")]

    libraries = []
    for rank in (2, 4, 8, 32):
        libraries += pair(f"rank {rank}", {"rank": rank}, _of_rank(rank))
    libraries += pair("rank 16", _STANDARD_POINT)
    crowd = _crowd()
    for n in (2, 4, 8, 16):
        name, members = f"combination, experts {n}", tuple(crowd[:n])
        libraries.append(Library(name, "F", members, FEW, part="growth", axes={"experts": n}))
    for axis, value, base in _GROWN_BASES:
        libraries.append(Library("none", "base", base=base, part="growth"))
        libraries += pair(f"{axis} {value}", {axis: value}, base=base)
    return libraries


def _regimes() -> list[Library]:
    return [
        Library(f"2-combination, {recipe.name}", "F", _hops("F", recipe), FEW, part="regimes")
        for recipe in REGIMES
    ]


def _methods(group: str) -> list[Library]:
    """Both hops under every method that the part main lacks, and under PEFT's own merges. No group
    of this world has one new hop and one known one."""
    return [
        Library("2-combination", group, _hops(group), CLAIMED, part="methods"),
        Library("2-combination", group, _hops(group), PEFT_ITSELF, part="peft"),
    ]


def _crowds() -> list[Library]:
    """Both hops of F among 2, 4, 8, 16 experts, under ten methods."""
    crowd, libraries = _crowd(), []
    for n in (2, 4, 8, 16):
        asked, axes = (*TEN, ORACLE), {"crowd": n}
        members = tuple(crowd[:n])
        libraries.append(Library(f"crowd of {n}", "F", members, asked, part="crowds", axes=axes))
    return libraries


LIBRARIES = (
    Library("none", "base"),
    Library("none", "base", base=DOSE_50, part="dose"),
    Library("none", "base", base=DOSE_0, part="dose"),
    Library("none", "base", base=IDENTITY, part="identity"),
    *(library for group in TwoHop.groups for library in _main(group)),
    *(library for pair in (("F", "H"), ("H", "F")) for library in _entities(*pair)),
    *(library for group in "FH" for library in _references(group)),
    *_on_other_bases(),
    *_growth(),
    *_regimes(),
    *(library for group in "FHR" for library in _methods(group)),
    *_crowds(),
)
DECIDING = (
    "main",
    "known",
    "entities",
    "references",
    "templates",
    "preservation",
    "dose",
    "identity",
)
PARTS = (*DECIDING, "answers", "growth", "regimes", "methods", "peft", "crowds")
PRESERVING = ("main", "preservation", "answers")  # what stands in for texts nobody else has
PRESETS: dict[str, dict[str, Any]] = {
    "quick": {"groups": ("F", "H", "R"), "parts": ("main", "entities", "templates")},
    "laptop": {"parts": DECIDING, "seeds": (1, 2, 3)},
    "full": {"parts": DECIDING, "seeds": (1, 2, 3, 4, 5)},
    "growth": {"groups": ("F",), "parts": ("growth", "regimes")},
    "data-free": {"groups": ("F", "H"), "parts": PRESERVING, "seeds": (1, 2, 3)},
    "methods": {"groups": ("F", "H", "R"), "parts": ("main", "methods"), "seeds": (1, 2, 3, 4, 5)},
    "crowds": {"groups": ("F",), "parts": ("main", "crowds"), "seeds": (1, 2, 3, 4, 5)},
}

WITH_METHODS = with_methods(RULES, knows="base", counts=COUNTS)
TWO_HOP = Design(TwoHop.name, TwoHop, LIBRARIES, PARTS, PRESETS, WITH_METHODS)
