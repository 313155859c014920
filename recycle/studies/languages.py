"""The languages study: does an expert on an algorithm combine with an expert on a language?

Groups are arms: the algorithm's expert calls a helper that the language's expert knows, adds
without a helper, or calls a helper of another name (tasks/languages.py). The claims stand in
languages_claims.py.
"""

from __future__ import annotations

from typing import Any

from recycle.plan import Expert, Library, Recipe
from recycle.reuse.methods import EVERY_BUT_ORACLE, MAIN
from recycle.studies.design import Design, Headline
from recycle.studies.gaps import LEARNED, PUBLISHED, WEIGHTED
from recycle.studies.languages_claims import ARMS, RULES
from tasks import Languages

FULL = Recipe("full", {"adapter.kind": "full", "train.lr": 1e-3}, "full fine-tuning")
# These two read the same in every arm, so there is one of each.
LANGUAGE, HELPER = Expert("L", ARMS[0]), Expert("helper", ARMS[0])


def _of(arm: str) -> list[Library]:
    """The base, single experts, joint training, an expert on the target; both experts, and the
    algorithm's expert with one that knows the helper alone."""
    algorithm, joint, target = (Expert(reads, arm) for reads in ("A", "joint", "target"))
    both = (LANGUAGE, algorithm)
    return [
        Library("none", arm),
        Library("L", arm, (LANGUAGE,), WEIGHTED),
        Library("A", arm, (algorithm,), WEIGHTED),
        Library("helper", arm, (HELPER,)),
        Library("joint", arm, (joint,)),
        Library("target", arm, (target,)),
        Library("L and A", arm, both, EVERY_BUT_ORACLE, inside=True),
        Library("helper and A", arm, (HELPER, algorithm), MAIN),
        Library("L and A", arm, both, LEARNED, part="learned"),
        Library("L and A", arm, both, PUBLISHED, part="published"),
        Library("joint, full fine-tuning", arm, (Expert("joint", arm, FULL),), part="references"),
    ]


LIBRARIES = (Library("none", "base"), *(library for arm in ARMS for library in _of(arm)))
PARTS = ("main", "learned", "references", "published")
DECIDING = PARTS[:2]
# A program is a world of its own, so each row holds one.
SETTINGS: dict[str, Any] = {
    "model.width": 64,
    "model.hidden": 128,
    "model.init": 0.12,
    "pretrain.packed": False,
    "pretrain.rows": 16,
    "pretrain.length": 64,
    "pretrain.steps": 1500,
    "pretrain.lr": 3e-3,
    "pretrain.weight_decay": 1.0,  # for pairs that are held out (LOG.md)
    "train.packed": False,
    "train.length": 64,
    "train.rows": 16,
    "train.steps": 800,
    "adapter.preservation": 0.25,
}
PRESETS: dict[str, dict[str, Any]] = {
    "quick": {"task.questions": 30},
    "laptop": {"parts": DECIDING, "seeds": (1, 2, 3)},
    "full": {"parts": PARTS, "seeds": (1, 2, 3, 4, 5)},
}
HEADLINE = Headline(
    title="an algorithm by one adapter, in a language by another",
    group=ARMS[0],
    form="both",
    bases=("standard",),
    libraries=("L and A", "helper and A"),
    methods=("plain_sum", "mean_of_products", "arrow", "tsv", "cat_20", "random_pool_cat_20"),
    reference="joint",
)
LANGUAGES = Design(Languages.name, Languages, LIBRARIES, PARTS, PRESETS, RULES, SETTINGS, HEADLINE)
