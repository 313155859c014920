"""The history study: the composition study in the history world, with its claims.

It asks whether the verdicts of `composition` are those of its words. Sizes, recipes and rules are
the same; single layers, and bases of other depth and dose, are left out.
"""

from __future__ import annotations

from dataclasses import replace

from recycle.studies.composition import COMPOSITION, DECIDING, FIVE, SPARE
from tasks import History

HISTORY = replace(
    COMPOSITION,
    name=History.name,
    world=History,
    libraries=tuple(each for each in COMPOSITION.libraries if each.part in DECIDING),
    parts=DECIDING,
    presets={
        "quick": {"groups": FIVE},
        "laptop": {"seeds": (1, 2, 3), "spare_seeds": SPARE},
        "full": {"parts": DECIDING, "seeds": (1, 2, 3, 4, 5), "spare_seeds": SPARE},
    },
)
