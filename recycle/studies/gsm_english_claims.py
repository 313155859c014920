"""What is claimed of word problems on a checkpoint, and the rules that decide it.

The claims are M4 and M6 of the operations study, asked of a model that has read, on P2: answers
right by their last number, paired by question. What one adapter trained on both levels does not
reach, this checkpoint cannot do at all, and the verdict says unreachable.
"""

from __future__ import annotations

from recycle.decide.claims import UNREACHABLE, Claim, Control, Rules, gate
from recycle.decide.metrics import Metrics, Row
from recycle.studies.gaps import CLEAR, above, answers, between_groups, over_others, places, said
from tasks.word_problem import RENDERINGS

METHODS = ("mean_of_products", "plain_sum", "arrow")
SINGLES = ("none", "none, few-shot", "base", "P1", "P1, mismatched")


def controls(metrics: Metrics) -> list[Control]:
    """A positive one is passed by its lower limit, a negative one by its upper, in the worst
    place."""

    def asked(library: str, form: str, method: str = "alone") -> list[tuple[str, list[Row]]]:
        return places(metrics, metrics.groups, library, form, method)

    return [
        gate(
            "experts-solve-theirs",
            "each expert alone solves its own level",
            0.50,
            asked("base", "base") + asked("P1", "P1"),
        ),
        gate(
            "joint-reaches-P2",
            "one adapter trained on base and P1 together solves P2",
            0.40,
            asked("joint", "P2"),
            failing=UNREACHABLE,
        ),
        gate("P2-can-be-learned", "an expert trained on P2 solves it", 0.50, asked("P2", "P2")),
        gate(
            "noise-fails",
            "adapters of the experts' size without their content do not solve P2",
            0.30,
            asked("matched", "P2", "random_adapters"),
            at_most=True,
        ),
    ]


def _reuse(metrics: Metrics, chance: float) -> Claim:
    def p2(library: str, method: str) -> list[Row]:
        return answers(metrics, metrics.groups, library, "P2", method)

    gaps = over_others(p2, METHODS, SINGLES)
    return Claim(
        "M4-checkpoint",
        "experts on base and P1 with the same template solve more of P2 than with two templates, "
        "and than the best single does",
        f"all renderings, {', '.join(METHODS)}, paired by question: lower limits > {CLEAR}; "
        f"refuted if an upper limit is < {CLEAR}",
        above(gaps, CLEAR),
        said(gaps),
        by_reaching=True,
    )


def _code(metrics: Metrics, chance: float) -> Claim:
    gaps = between_groups(metrics, ("python", "prose"), "matched", "P2", METHODS)
    return Claim(
        "M6-checkpoint",
        "programs that are executed transfer better than prose",
        "P2, matched experts, Python minus prose, paired by question: lower limits > 0; refuted if "
        "an upper limit is < 0",
        above(gaps, 0.0),
        said(gaps),
    )


NEEDS = ("experts-solve-theirs", "joint-reaches-P2", "P2-can-be-learned", "noise-fails")
GATES = dict.fromkeys(("M4-checkpoint", "M6-checkpoint"), NEEDS)
RULES = Rules(RENDERINGS, controls, (_reuse, _code), GATES)
