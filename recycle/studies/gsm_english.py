"""The word-math study on a checkpoint: `python -m recycle study word-math --checkpoint smollm2`.

Groups are renderings. The experts read stories of the base level and of P1, and P2 is asked,
zero-shot and with two solved problems in the prompt (tasks/gsm_english.py). Problems are our own,
or those of a user's files: `--set task.base=FILE --set task.p1=FILE --set task.p2=FILE --set
groups=prose`. Preservation texts are sampled from the checkpoint. The claims stand in
gsm_english_claims.py.
"""

from __future__ import annotations

from typing import Any

from recycle.plan import Expert, Library
from recycle.reuse.methods import (
    ALONE,
    ARROW,
    ARROW_TOP1,
    AT_HALF,
    MEAN_OF_PRODUCTS,
    PLAIN_SUM,
    RANDOM_ADAPTERS,
    SWEEP,
)
from recycle.studies.design import Design
from recycle.studies.gaps import OTHER
from recycle.studies.gsm_english_claims import RULES
from tasks import GsmEnglish

MERGES = (MEAN_OF_PRODUCTS, PLAIN_SUM, *SWEEP[:1], ARROW, ARROW_TOP1)


def _of(rendering: str) -> list[Library]:
    """The checkpoint, zero- and few-shot; single experts; joint training; both experts, whose
    templates match or do not; the P1 expert of the other rendering alone."""
    base, harder, target, joint = (Expert(r, rendering) for r in ("base", "P1", "P2", "joint"))
    crossed = Expert("P1", OTHER[rendering])
    return [
        Library("none", rendering),
        Library("none, few-shot", rendering, context=True),
        Library("base", rendering, (base,), (ALONE, AT_HALF)),
        Library("P1", rendering, (harder,), (ALONE, AT_HALF)),
        Library("P2", rendering, (target,)),
        Library("joint", rendering, (joint,)),
        Library("matched", rendering, (base, harder), (*MERGES, RANDOM_ADAPTERS)),
        Library("P1, mismatched", rendering, (crossed,), part="mismatched"),
        Library("mismatched", rendering, (base, crossed), MERGES, part="mismatched"),
    ]


LIBRARIES = (
    Library("none", "base"),
    *(library for rendering in GsmEnglish.groups for library in _of(rendering)),
)
PARTS = ("main", "mismatched")
SETTINGS: dict[str, Any] = {
    "model.context": 768,
    "adapter.preserve_from": "sampled",
    "train.steps": 150,
    "train.rows": 6,
    "train.length": 256,
    "train.packed": False,
    "train.lr": 1e-3,
}
PRESETS: dict[str, dict[str, Any]] = {
    "quick": {"groups": ("python",), "task.questions": 20},
    "laptop": {"groups": ("prose", "python"), "parts": PARTS, "seeds": (1,)},
    "full": {"parts": PARTS, "seeds": (1, 2, 3)},
}
GSM_ENGLISH = Design(GsmEnglish.name, GsmEnglish, LIBRARIES, PARTS, PRESETS, RULES, SETTINGS)
