"""What is claimed of the operations study, and the rules that decide it.

The rules stand before any seed that decides was run. All claims speak of whole derivations of
problems with plus and times ("mixed": 2 to 4 calculations, lengths that the base and every expert
have read), and compare cells question by question. "Supported" asks every case for its own 95 %
limit; "refuted" asks for a limit at the level that all of a claim's cases share (Bonferroni).

M4 and M6 are decided for the paper's two methods, the mean of products and Arrow, and by claims of
their own ("-sum") for the plain sum, which keeps more in other worlds.
"""

from __future__ import annotations

from collections.abc import Sequence

from recycle.decide.claims import (
    INCONCLUSIVE,
    NOTHING,
    REFUTED,
    SUPPORTED,
    UNREACHABLE,
    Claim,
    Control,
    Rule,
    Rules,
    gate,
)
from recycle.decide.items import excess_over_product, some_of_the_questions
from recycle.decide.metrics import Metrics, Row
from recycle.studies.gaps import (
    CLEAR,
    LACKING,
    PAPERS,
    SUM,
    above,
    answers,
    between_groups,
    over_noise,
    over_others,
    places,
    said,
)
from tasks.operations import GRID, LONGEST, NEW, STEP_FORMS
from tasks.word_problem import RENDERINGS

BASES = ("standard", "unmixed")
SINGLES = ("none", *NEW, "times, mismatched")


# Controls ----------------------------------------------------------------------------------------


def controls(metrics: Metrics) -> list[Control]:
    """A positive one is passed by its lower limit, a negative one by its upper, in the worst
    place."""

    def asked(library: str, form: str, method: str = "alone") -> list[tuple[str, list[Row]]]:
        return places(metrics, metrics.groups, library, form, method)

    read = [
        (f"{n} calculations, {form}", _of_length(metrics, form, n))
        for form in (*NEW, "mixed")
        for n in range(2, LONGEST + 1)
    ]
    return [
        gate(
            "base-solves-each",
            "the base solves problems of each length with an operation, and with a held-out pair",
            0.85,
            read,
        ),
        gate(
            "experts-solve-theirs",
            "each expert alone solves problems with its own operation",
            0.80,
            [place for operation in NEW for place in asked(operation, operation)],
        ),
        gate(
            "alone-fails",
            "the base and each expert alone do not solve mixed problems",
            0.20,
            [place for single in SINGLES for place in asked(single, "mixed")],
            at_most=True,
        ),
        gate(
            "joint-mixes",
            "one adapter trained on problems with plus and others with times solves mixed ones",
            0.80,
            asked("joint", "mixed"),
            failing=UNREACHABLE,
        ),
        gate(
            "mixed-can-be-learned",
            "an expert trained on mixed problems solves them",
            0.80,
            asked("target", "mixed"),
        ),
        gate(
            "noise-fails",
            "adapters of the experts' size without their content do not solve mixed problems",
            0.20,
            asked("matched", "mixed", "random_adapters"),
            at_most=True,
        ),
    ]


ALL = (
    "base-solves-each",
    "experts-solve-theirs",
    "alone-fails",
    "joint-mixes",
    "mixed-can-be-learned",
    "noise-fails",
)


def _of_length(metrics: Metrics, form: str, length: int) -> list[Row]:
    """The base's answers to problems of one length. Question i is of cell i of the grid, and each
    rendering asks the grid anew."""
    rows = metrics.where(group="base", library="none", form=form)
    return some_of_the_questions(rows, lambda i: sum(GRID[i % len(GRID)]) == length)


# Claims ------------------------------------------------------------------------------------------


def _reuse(id: str, methods: Sequence[str]) -> Rule:
    def rule(metrics: Metrics, chance: float) -> Claim:
        def mixed(library: str, method: str) -> list[Row]:
            return answers(metrics, metrics.groups, library, "mixed", method)

        gaps = over_others(mixed, methods, SINGLES, NEW)
        return Claim(
            id,
            "experts with the same template solve problems that need both, and more of them than "
            f"experts with two templates do: {', '.join(methods)}",
            "mixed problems, all renderings, paired by question: matched minus mismatched, minus "
            f"the best single and minus the best single at another weight: lower limits > {CLEAR}; "
            f"refuted if an upper limit is < {CLEAR}",
            above(gaps, CLEAR),
            said(gaps),
            by_reaching=True,
        )

    return rule


def _product(metrics: Metrics, chance: float) -> Claim:
    """A problem of fewer calculations than LONGEST asks its first one again, which changes no
    product of right answers."""
    own, shared = {}, {}
    for method in (*PAPERS, SUM):
        forms = [
            answers(metrics, metrics.groups, "matched", form, method)
            for form in ("mixed", *STEP_FORMS)
        ]
        if all(forms):
            own[method] = excess_over_product(*forms)
            shared[method] = excess_over_product(*forms, among=len(PAPERS) + 1)
    if len(own) < len(PAPERS) + 1:
        verdict = LACKING
    elif all(-CLEAR < found.low and found.high < CLEAR for found in own.values()):
        verdict = SUPPORTED
    else:
        outside = [found.high < -CLEAR or found.low > CLEAR for found in shared.values()]
        verdict = REFUTED if any(outside) else INCONCLUSIVE
    return Claim(
        "M5",
        "a merge solves a mixed problem where it does each of its calculations alone, and only "
        "there: accuracy is the product of the steps' accuracies",
        f"for both methods and the sum, question by question, accuracy minus the product lies "
        f"within {CLEAR}; refuted if it lies wholly outside for one",
        verdict,
        "; ".join(f"{method} {found}" for method, found in own.items()) or NOTHING,
    )


def _code(id: str, methods: Sequence[str]) -> Rule:
    def rule(metrics: Metrics, chance: float) -> Claim:
        gaps = between_groups(metrics, ("python", "prose"), "matched", "mixed", methods)
        return Claim(
            id,
            f"executable code transfers better than prose: {', '.join(methods)}",
            "mixed problems, matched experts, Python minus prose, paired by question: lower limits "
            "> 0; refuted if an upper limit is < 0",
            above(gaps, 0.0),
            said(gaps),
        )

    return rule


def _learned(metrics: Metrics, chance: float) -> Claim:
    gaps = over_noise(metrics, metrics.groups, "matched", "mixed")
    return Claim(
        "M8",
        "weights learned from 20 mixed problems need what the experts know",
        "mixed problems, matched experts minus the same learner on noise of their norms, paired by "
        f"question: lower limits > {CLEAR}; refuted if an upper limit is < {CLEAR}",
        above(gaps, CLEAR),
        said(gaps),
    )


CLAIMS: tuple[Rule, ...] = (
    _reuse("M4", PAPERS),
    _reuse("M4-sum", (SUM,)),
    _product,
    _code("M6", PAPERS),
    _code("M6-sum", (SUM,)),
    _learned,
)
GATES = dict.fromkeys(("M4", "M4-sum", "M5", "M6", "M6-sum", "M8"), ALL)
RULES = Rules(RENDERINGS, controls, CLAIMS, GATES)
