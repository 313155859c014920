"""The word-math study: bases, recipes, libraries, presets. Its claims stand in word_math_claims.py.

Groups are renderings. The base and P1 experts of one rendering, or of two, are asked for problems
two clauses beyond the base level (tasks/word_math.py)."""

from __future__ import annotations

from typing import Any

from recycle.plan import BaseSpec, Expert, Library, Recipe
from recycle.reuse.methods import EVERY_BUT_ORACLE, MAIN
from recycle.studies.design import Design
from recycle.studies.word_math_claims import RULES
from tasks import WordMath
from tasks.word_problem import LEVELS, RENDERINGS

PROSE = BaseSpec("prose", {"task.renderings": ("prose",), "pretrain.steps": 2500})
FULL = Recipe("full", {"adapter.kind": "full", "train.lr": 1e-3})


def _of(rendering: str) -> list[Library]:
    """Single experts, the base and P1 experts together, and what these are compared with."""
    easy, harder = Expert("base", rendering), Expert("P1", rendering)
    joint = Expert("joint", rendering)
    others = [other for other in RENDERINGS if other != rendering]
    return [
        Library("none", rendering),
        *(Library(level, rendering, (Expert(level, rendering),)) for level in LEVELS),
        Library("joint", rendering, (joint,)),
        Library("matched", rendering, (easy, harder), EVERY_BUT_ORACLE, inside=True),
        *(
            Library(f"mismatched, P1 in {other}", rendering, (easy, Expert("P1", other)), MAIN)
            for other in others
        ),
        # The same experts alone, asked in another rendering than their own: what a mismatched
        # library has to beat.
        *(
            Library(f"P1 in {other}", rendering, (Expert("P1", other),), part="crossed")
            for other in others
        ),
        Library("with P2", rendering, (easy, harder, Expert("P2", rendering)), MAIN),
        Library("none, examples in context", rendering, context=True, part="references"),
        Library(
            "joint, full fine-tuning",
            rendering,
            (Expert("joint", rendering, FULL),),
            part="references",
        ),
    ]


def _on_prose_base(rendering: str) -> list[Library]:
    """A rendering that the prose base has not read."""
    part = "prose base"
    easy, harder = (Expert(level, rendering, base=PROSE) for level in LEVELS[:2])
    prose = Expert("P1", "prose", base=PROSE)
    return [
        *(Library(e.reads, rendering, (e,), base=PROSE, part=part) for e in (easy, harder)),
        Library("matched", rendering, (easy, harder), MAIN, PROSE, part),
        Library("mismatched, P1 in prose", rendering, (easy, prose), MAIN, PROSE, part),
    ]


LIBRARIES = (
    Library("none", "base"),
    Library("none", "base", base=PROSE, part="prose base"),
    *(library for rendering in RENDERINGS for library in _of(rendering)),
    *(library for rendering in RENDERINGS[1:] for library in _on_prose_base(rendering)),
)
PARTS = ("main", "crossed", "references", "prose base")
# A problem is a world of its own: other problems in its row would confuse the model, so each row
# holds one problem.
_TRAINING = {
    "model.context": 384,
    "model.init": 0.08,
    "pretrain.packed": False,
    "pretrain.rows": 12,
    "pretrain.length": 200,
    "pretrain.steps": 5000,
    "pretrain.lr": 1e-3,
    "pretrain.weight_decay": 0.0,
    "train.packed": False,
    "train.length": 200,
    "train.rows": 12,
    "train.steps": 1100,
    "adapter.preservation": 0.25,
}
PRESETS: dict[str, dict[str, Any]] = {
    "quick": {**_TRAINING, "groups": ("prose", "python"), "train.steps": 800},
    "laptop": {**_TRAINING, "parts": PARTS, "seeds": (1, 2, 3)},
    "full": {**_TRAINING, "parts": PARTS, "seeds": (1, 2, 3, 4, 5)},
}
WORD_MATH = Design(WordMath.name, WordMath, LIBRARIES, PARTS, PRESETS, RULES)
