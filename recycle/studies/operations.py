"""The operations study: does a merge of a plus expert and a times expert solve problems with both?

Groups are renderings. No problem is longer than all experts and the base have read, and mixing is
known to the base from pairs of neutral operations, which it also mixes where it has read them apart
(tasks/operations.py): nothing is new but that two experts are needed. The claims stand in
operations_claims.py.
"""

from __future__ import annotations

from typing import Any

from recycle.plan import STANDARD_BASE, BaseSpec, Expert, Library, Recipe
from recycle.reuse.methods import EVERY_BUT_ORACLE, MAIN
from recycle.studies.design import Design, Headline
from recycle.studies.gaps import LEARNED, OTHER, PUBLISHED, WEIGHTED
from recycle.studies.operations_claims import BASES, RULES
from tasks import Operations
from tasks.operations import NEW

UNMIXED = BaseSpec(BASES[1], {"task.mixed": 0.0}, "no mixing read")
FULL = Recipe("full", {"adapter.kind": "full", "train.lr": 1e-3}, "full fine-tuning")


def _pair(first: str, second: str, base: BaseSpec = STANDARD_BASE) -> tuple[Expert, Expert]:
    """The plus expert of one rendering and the times expert of another."""
    return Expert(NEW[0], first, base=base), Expert(NEW[1], second, base=base)


def _main(group: str) -> list[Library]:
    """The base, single experts, joint training on unmixed problems, an expert on mixed ones; plus
    and times with the same template, and with two."""
    other = OTHER[group]
    matched, mismatched = _pair(group, group), _pair(group, other)
    return [
        Library("none", group),
        *(Library(e.reads, group, (e,), WEIGHTED) for e in matched),
        Library("times, mismatched", group, mismatched[1:]),
        Library("joint", group, (Expert("joint", group),)),
        Library("target", group, (Expert("target", group),)),
        Library("matched", group, matched, EVERY_BUT_ORACLE, inside=True),
        Library("mismatched", group, mismatched, MAIN),
        Library("with target", group, (*matched, Expert("target", group)), MAIN),
        Library("matched", group, matched, LEARNED, part="learned"),
        Library("matched", group, matched, PUBLISHED, part="published"),
        Library(
            "joint, full fine-tuning", group, (Expert("joint", group, FULL),), part="references"
        ),
    ]


def _unmixed(group: str) -> list[Library]:
    """The same on a base that has read no two operations in one problem."""
    pair = _pair(group, group, UNMIXED)
    joint = Expert("joint", group, base=UNMIXED)
    return [
        Library("none", group, base=UNMIXED, part="dose"),
        *(Library(e.reads, group, (e,), base=UNMIXED, part="dose") for e in pair),
        Library("joint", group, (joint,), base=UNMIXED, part="dose"),
        Library("matched", group, pair, MAIN, UNMIXED, "dose"),
    ]


LIBRARIES = (
    Library("none", "base"),
    Library("none", "base", base=UNMIXED, part="dose"),
    *(library for group in Operations.groups for library in _main(group)),
    *(library for group in Operations.groups for library in _unmixed(group)),
)
PARTS = ("main", "learned", "dose", "references", "published")
# A problem is a world of its own, so each row holds one problem, as in the word-math study.
SETTINGS: dict[str, Any] = {
    "model.width": 64,
    "model.hidden": 128,
    "model.context": 256,
    "model.init": 0.12,
    "pretrain.packed": False,
    "pretrain.rows": 16,
    "pretrain.length": 200,
    "pretrain.steps": 3000,
    "pretrain.lr": 3e-3,
    "pretrain.weight_decay": 0.0,  # with .5 a base misses entries of the tables (LOG.md)
    "train.packed": False,
    "train.length": 200,
    "train.rows": 12,
    "train.steps": 800,
    "adapter.preservation": 0.25,
}
DECIDING = PARTS[:3]
PRESETS: dict[str, dict[str, Any]] = {
    "quick": {
        "groups": ("prose", "python"),
        "task.renderings": ("prose", "python"),
        "task.questions": 30,
    },
    "laptop": {"parts": DECIDING, "seeds": (1, 2, 3)},
    "full": {"parts": PARTS, "seeds": (1, 2, 3, 4, 5)},
}
HEADLINE = Headline(
    title="problems with plus and times, each by its own adapter",
    group="python",
    form="mixed",
    bases=BASES[:1],
    libraries=("matched", "mismatched"),
    methods=("plain_sum", "mean_of_products", "arrow", "arrow_top1", "random_adapters"),
    reference="joint",
)
OPERATIONS = Design(
    Operations.name, Operations, LIBRARIES, PARTS, PRESETS, RULES, SETTINGS, HEADLINE
)
