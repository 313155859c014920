"""The controls of the two-hop study on a checkpoint.

No claim stands here yet. Claims are committed before the seeds that decide them, and only for a
recipe under which the positive controls can pass: that recipe is being sought on seed 0.
"""

from __future__ import annotations

from recycle.decide.claims import Control, Rules, gate
from recycle.decide.metrics import Metrics, Row

BOTH_NEW = ("F", "H", "R")
PAIR, SUM = "2-combination", "plain_sum"


def controls(metrics: Metrics) -> list[Control]:
    """A positive one is passed by its lower limit, a negative one by its upper, in the worst
    place."""
    groups = [group for group in metrics.groups if group in BOTH_NEW]

    def rows(group: str, library: str, form: str, method: str = "alone") -> list[Row]:
        return metrics.where(group=group, library=library, method=method, form=form)

    def alone(library: str, form: str) -> list[tuple[str, list[Row]]]:
        return [(f"{library} on {group}", rows(group, library, form)) for group in groups]

    known = [("checkpoint", rows("K", "none", "possessive"))]
    survives = [("sum of H's experts", rows("K", PAIR, "possessive", SUM))]
    facts = [
        (f"{form} of {group}", rows(group, "none", form))
        for group in groups
        for form in ("hop1", "hop2")
    ]
    return [
        gate(
            "experts-recall",
            "each one-hop expert alone answers its own facts (P1)",
            0.80,
            alone("hop1", "hop1") + alone("hop2", "hop2"),
        ),
        gate(
            "joint-composes",
            "one adapter trained on both hops composes them with a chain of thought (P3)",
            0.80,
            alone("joint", "cot"),
        ),
        gate(
            "checkpoint-composes",
            "the checkpoint alone composes two hops that it knows, asked at once (P5)",
            0.50,
            known,
        ),
        gate(
            "survives-merge", "it still does so under the sum of two experts (P6)", 0.40, survives
        ),
        gate(
            "facts-are-new",
            "the checkpoint does not know the new facts (N1)",
            0.20,
            facts,
            at_most=True,
        ),
    ]


RULES = Rules(BOTH_NEW, controls, ())
