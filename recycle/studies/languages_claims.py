"""What is claimed of the languages study, and the rules that decide it.

The rules stand before any seed that decides was run. All claims speak of the new algorithm in the
further language ("both"), of programs that give the right results when they are run, and compare
cells question by question: every arm asks about the same lists. No claim is decided where the base
cannot write an algorithm in a language that it has read apart ("crossed"), for then it does not
hold algorithm and language as two things that experts could add to.

"Supported" asks every case for its own 95 % limit; "refuted" asks for a limit at the level that all
of a claim's cases share (Bonferroni). M7 and M7-names are decided for the paper's two methods, and
for the plain sum by claims of their own ("-sum"). An arm that joint training does not reach says
nothing of reuse.
"""

from __future__ import annotations

from collections.abc import Sequence

from recycle.decide.claims import UNREACHABLE, Claim, Control, Rule, Rules, gate
from recycle.decide.metrics import Metrics, Row
from recycle.studies.gaps import (
    CLEAR,
    PAPERS,
    SUM,
    above,
    answers,
    between_groups,
    gap,
    over_noise,
    places,
    said,
    singles_to_beat,
)

ARMS = ("shared", "inlined", "renamed")
EXPERTS = ("L", "A")
SINGLES = ("none", *EXPERTS, "helper")


# Controls ----------------------------------------------------------------------------------------


def controls(metrics: Metrics) -> list[Control]:
    """A positive one is passed by its lower limit, a negative one by its upper, in the worst
    place."""

    def asked(library: str, form: str, method: str = "alone") -> list[tuple[str, list[Row]]]:
        return places(metrics, ARMS, library, form, method)

    return [
        gate(
            "base-writes-known",
            "the base writes its algorithms in its languages, pairs that it has read",
            0.85,
            [("base", answers(metrics, "base", "none", "known"))],
        ),
        gate(
            "base-crosses",
            "the base composes an algorithm and a language that it has read apart",
            0.80,
            [("base", answers(metrics, "base", "none", "crossed"))],
        ),
        gate(
            "experts-write-theirs",
            "L writes the old algorithms in the further language, A the new one in the known ones",
            0.80,
            asked("L", "language") + asked("A", "algorithm"),
        ),
        gate(
            "alone-fails",
            "the base and each expert alone do not write the new algorithm in the further language",
            0.20,
            [place for single in SINGLES for place in asked(single, "both")],
            at_most=True,
        ),
        *(
            gate(
                f"joint-reaches-{arm}",
                f"one adapter trained on the texts of both experts writes it, arm {arm}",
                0.80,
                [("joint", answers(metrics, arm, "joint", "both"))],
                failing=UNREACHABLE,
            )
            for arm in ARMS
        ),
        gate(
            "both-can-be-learned",
            "an expert trained on it writes it",
            0.80,
            asked("target", "both"),
        ),
        gate(
            "noise-fails",
            "adapters of the experts' size without their content do not write it",
            0.20,
            asked("L and A", "both", "random_adapters"),
            at_most=True,
        ),
    ]


_ALL = (
    "base-writes-known",
    "base-crosses",
    "experts-write-theirs",
    "alone-fails",
    "both-can-be-learned",
    "noise-fails",
)


def _needs(*arms: str) -> tuple[str, ...]:
    return (*_ALL, *(f"joint-reaches-{arm}" for arm in arms))


# Claims ------------------------------------------------------------------------------------------


def _reuse(id: str, methods: Sequence[str]) -> Rule:
    """The counterpart of M4 (operations_claims.py) where nothing can be mismatched but the arm."""

    def rule(metrics: Metrics, chance: float) -> Claim:
        def both(library: str, method: str) -> list[Row]:
            return answers(metrics, "shared", library, "both", method)

        to_beat = singles_to_beat(both, SINGLES, EXPERTS)
        gaps = {
            f"{method} - {name}": gap(both("L and A", method), rows, len(methods) * len(to_beat))
            for method in methods
            for name, rows in to_beat
        }
        return Claim(
            id,
            "an expert on an algorithm and an expert on a language write the algorithm in the "
            f"language, {', '.join(methods)}",
            "arm shared, minus the best single and minus the best single at another weight, paired "
            f"by question: lower limits > {CLEAR}; refuted if an upper limit is < {CLEAR}",
            above(gaps, CLEAR),
            said(gaps),
            by_reaching=True,
        )

    return rule


def _bridge(id: str, other: str, methods: Sequence[str]) -> Rule:
    words = {"inlined": "one that is inlined", "renamed": "one of another name"}

    def rule(metrics: Metrics, chance: float) -> Claim:
        gaps = between_groups(metrics, ("shared", other), "L and A", "both", methods)
        return Claim(
            id,
            f"a helper that both experts know is a bridge: it beats {words[other]}, "
            f"{', '.join(methods)}",
            f"arm shared minus arm {other}, paired by question: lower limits > {CLEAR}; refuted if "
            f"an upper limit is < {CLEAR}",
            above(gaps, CLEAR),
            said(gaps),
        )

    return rule


def _learned(metrics: Metrics, chance: float) -> Claim:
    gaps = over_noise(metrics, ARMS, "L and A", "both")
    return Claim(
        "M8",
        "weights learned from 20 target programs need what the experts know",
        "all arms, both experts minus the same learner on noise of their norms, paired by "
        f"question: lower limits > {CLEAR}; refuted if an upper limit is < {CLEAR}",
        above(gaps, CLEAR),
        said(gaps),
    )


CLAIMS: tuple[Rule, ...] = (
    _reuse("M4-languages", PAPERS),
    _reuse("M4-languages-sum", (SUM,)),
    _bridge("M7", "inlined", PAPERS),
    _bridge("M7-sum", "inlined", (SUM,)),
    _bridge("M7-names", "renamed", PAPERS),
    _bridge("M7-names-sum", "renamed", (SUM,)),
    _learned,
)
GATES = {
    "M4-languages": _needs("shared"),
    "M4-languages-sum": _needs("shared"),
    "M7": _needs("shared", "inlined"),
    "M7-sum": _needs("shared", "inlined"),
    "M7-names": _needs("shared", "renamed"),
    "M7-names-sum": _needs("shared", "renamed"),
    "M8": _needs("shared"),
}
RULES = Rules(ARMS, controls, CLAIMS, GATES)
