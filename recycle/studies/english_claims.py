"""What is claimed of the two-hop study on a checkpoint, and the rules that decide it.

C1, C2, C5, C6 and C7 are the toy study's claims (two_hop_claims.py) asked of a model that has read,
with one family of methods, so that their verdicts can stand side by side. "Refuted" asks for a
limit at the level that all of a claim's cases share (Bonferroni).

A claim about what merges cannot do at once needs a base that can, in the same form: C1 and C2 rest
on what the checkpoint itself composes of facts that it knows. SmolLM2 completes statements and
answers no bare question with a name alone, so the claims about both forms rest on different gates,
and C2 asks for statements. Their gate lies far above chance and below what the checkpoint showed
before any expert was trained (.55 of 29 chains as statements, 0 as questions).
"""

from __future__ import annotations

from dataclasses import replace

from recycle.decide.claims import (
    INCONCLUSIVE,
    NOTHING,
    REFUTED,
    SUPPORTED,
    Claim,
    Control,
    Rule,
    Rules,
    Verdict,
    below,
    cases,
    gate,
    not_decided,
    worst,
)
from recycle.decide.items import paired_difference
from recycle.decide.metrics import Metrics, Row
from recycle.decide.statistics import difference, estimate, over_seeds
from recycle.studies.two_hop_claims import (
    BETWEEN,
    HOPS,
    MARGIN,
    NEAR,
    NEW,
    PAIR,
    SUM,
    chain_excess,
    where_hops_are_kept,
)

BOTH_NEW = ("F", "H", "R")
UNPRESERVED = "2-combination, unpreserved"
MERGED_OR_ROUTED = ("mean_of_products", SUM, "sum_at_0.75", "arrow", "arrow_top1")
AT_ONCE = {"direct": "C1", "possessive": "C1-possessive"}  # forms without a chain of thought
COMPOSES = 0.30  # accuracy of a base that composes at once; more than twice chance


# Controls ----------------------------------------------------------------------------------------


def controls(metrics: Metrics) -> list[Control]:
    """A positive one is passed by its lower limit, a negative one by its upper, in the worst
    place."""
    groups = [group for group in metrics.groups if group in BOTH_NEW]

    def rows(group: str, library: str, form: str, method: str = "alone") -> list[Row]:
        return metrics.where(group=group, library=library, method=method, form=form)

    def alone(library: str, form: str) -> list[tuple[str, list[Row]]]:
        return [(f"{library} on {group}", rows(group, library, form)) for group in groups]

    def composes(form: str) -> Control:
        return gate(
            f"checkpoint-composes-{form}",
            f"the checkpoint alone composes two hops that it knows, asked at once: {form} (P5)",
            COMPOSES,
            [("checkpoint", rows("K", "none", form))],
        )

    survives = [("sum of H's experts", rows("K", PAIR, hop, SUM)) for hop in HOPS]
    facts = [(f"{form} of {g}", rows(g, "none", form)) for g in groups for form in HOPS]
    noise = [
        (f"{form} of {g}", rows(g, PAIR, form, "random_adapters")) for g in groups for form in HOPS
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
            "experts-chain",
            "the right expert at each step of a chain of thought chains two hops: the oracle (P4)",
            0.80,
            [(f"oracle on {group}", rows(group, PAIR, "cot", "oracle")) for group in groups],
        ),
        *(composes(form) for form in AT_ONCE),
        gate(
            "known-hops-survive",
            "what the checkpoint knows survives the sum of two experts, each hop (P6)",
            0.40,
            survives,
        ),
        gate(
            "facts-are-new",
            "the checkpoint does not know the new facts (N1)",
            0.20,
            facts,
            at_most=True,
        ),
        gate(
            "noise-brings-nothing",
            "adapters of the experts' size without their content bring no facts",
            0.20,
            noise,
            at_most=True,
        ),
    ]


_NEW_FACTS = ("experts-recall", "facts-are-new", "noise-brings-nothing")
GATES = {
    "C1": (*_NEW_FACTS, "checkpoint-composes-direct"),
    "C1-possessive": (*_NEW_FACTS, "checkpoint-composes-possessive"),
    "C2": (*_NEW_FACTS, "checkpoint-composes-possessive"),
    "C5": (*_NEW_FACTS, "joint-composes", "experts-chain"),
    "C6": _NEW_FACTS,
    "C7": ("experts-recall", "facts-are-new"),
    "C13": ("experts-recall", "facts-are-new"),
    "C17": ("experts-recall", "facts-are-new"),
}


# Claims ------------------------------------------------------------------------------------------


def _at_once(form: str) -> Rule:
    def rule(metrics: Metrics, chance: float) -> Claim:
        limit = chance + MARGIN
        methods = cases(
            {
                method: metrics.where(library=PAIR, method=method, form=form, group=NEW)
                for method in MERGED_OR_ROUTED
            }
        )
        return Claim(
            AT_ONCE[form],
            f"2-combination libraries stay at chance on two-hop questions asked at once, {form} "
            "form (F and H pooled)",
            f"for every merge and router, upper limit < chance + .05 = {limit:.2f}; refuted if a "
            "lower limit is above it",
            below(methods, limit),
            worst(methods),
        )

    return rule


def _chain_is_product(metrics: Metrics, chance: float) -> Claim:
    measured = {
        f"{method} on {group}": rows
        for group in NEW
        for method in MERGED_OR_ROUTED
        if (rows := metrics.where(library=PAIR, method=method, group=group))
    }
    own, shared = {}, {}
    for name, rows in measured.items():
        chains = [row for row in rows if row.form == "cot"]
        own[name] = over_seeds(rows, chain_excess, estimate(chains))
        among = len(measured)
        shared[name] = over_seeds(rows, chain_excess, estimate(chains, among=among), among)
    if any(gap.high < -NEAR or gap.low > NEAR for gap in shared.values()):
        verdict = REFUTED
    elif all(-NEAR < gap.low and gap.high < NEAR for gap in own.values()):
        verdict = SUPPORTED if own else not_decided(NOTHING)
    else:
        verdict = INCONCLUSIVE
    name = max(own, key=lambda each: abs(own[each].mean), default="")
    return Claim(
        "C5",
        "with a shared chain-of-thought template, accuracy is the product of the one-hop "
        "accuracies after the merge",
        f"for F and H and every method the difference lies within {NEAR}; refuted if one lies "
        "wholly outside",
        verdict,
        f"widest gap: {name} {own[name]}" if own else NOTHING,
    )


def _familiar_survive(metrics: Metrics, chance: float) -> Claim:
    def hops(group: str) -> list[Row]:
        return metrics.where(library=PAIR, method=BETWEEN, form=HOPS, group=group)

    def claim(verdict: Verdict, evidence: str) -> Claim:
        return Claim(
            "C6",
            "facts about familiar names survive lossy merges better: R >= H >= F",
            f"accuracy of both hops, {', '.join(BETWEEN)} pooled: lower limits of R - H and H - F "
            "> -.05, of R - F > 0; refuted if an upper limit of R - H or H - F is < -.05",
            verdict,
            evidence,
        )

    if not set(BOTH_NEW) <= set(metrics.groups):
        return claim(not_decided("the study lacks a group (preset full has all)"), NOTHING)
    steps = {
        f"{a} - {b}": difference(hops(a), hops(b)) for a, b in (("R", "H"), ("H", "F"), ("R", "F"))
    }
    near = [steps["R - H"], steps["H - F"]]
    if min(step.high for step in near) < -MARGIN:
        verdict = REFUTED
    else:
        familiar = min(step.low for step in near) > -MARGIN and steps["R - F"].low > 0
        verdict = SUPPORTED if familiar else INCONCLUSIVE
    return claim(verdict, "; ".join(f"{name} {step}" for name, step in steps.items()))


def _wrong_answers(metrics: Metrics, chance: float) -> Claim:
    wrong = [
        replace(row, n=row.n - row.right)
        for row in metrics.where(library=PAIR, method=MERGED_OR_ROUTED, form="direct", group=NEW)
        if row.n > row.right
    ]
    verdict, evidence = not_decided("no wrong answers"), "every answer is right"
    if wrong:
        share, bridge = estimate(wrong, ("bridge", "another answer")), estimate(wrong, "bridge")
        verdict = SUPPORTED if share.low > 0.5 else REFUTED if share.high < 0.5 else INCONCLUSIVE
        evidence = f"{share}, n = {share.n}; the bridge {bridge}"
    return Claim(
        "C7",
        "wrong direct answers are mostly of the right type: the bridge or another answer",
        "their share among wrong answers of all 2-combination methods has a lower limit > .5; "
        "refuted if the upper is below",
        verdict,
        evidence,
    )


def _new_with_known(metrics: Metrics, chance: float) -> Claim:
    limit = chance + MARGIN
    measured = cases(
        {
            form: metrics.where(group="NK", library="hop1", method="alone", form=form)
            for form in AT_ONCE
        }
    )
    if not measured:
        verdict = not_decided("the study lacks the part mixed or the group NK")
    elif any(case.shared.low > limit for case in measured):
        verdict = SUPPORTED
    else:
        verdict = REFUTED if all(case.own.high < limit for case in measured) else INCONCLUSIVE
    return Claim(
        "C13",
        "a new first hop composes at once with a second hop that the checkpoint knows, in one form "
        "or the other",
        f"NK, the hop-1 expert alone: a lower limit > chance + .05 = {limit:.2f}; refuted if every "
        "upper limit is below it",
        verdict,
        "; ".join(f"{case.name} {case.own}" for case in measured) or NOTHING,
    )


def _preservation_keeps(metrics: Metrics, chance: float) -> Claim:
    def known(library: str) -> list[Row]:
        return metrics.where(group="K", library=library, method=SUM, form=HOPS)

    verdict, evidence = not_decided("the study lacks the part none or the group K"), NOTHING
    kept, lost = known(PAIR), known(UNPRESERVED)
    if kept and lost:
        gains = {
            hop: paired_difference(
                [row for row in kept if row.form == hop], [row for row in lost if row.form == hop]
            )
            for hop in HOPS
        }
        evidence = "; ".join(f"{hop} {gain}" for hop, gain in gains.items())
        verdict = INCONCLUSIVE
        if all(gain.low > 0 for gain in gains.values()):
            verdict = SUPPORTED
        elif any(gain.high < 0 for gain in gains.values()):
            verdict = REFUTED
    return Claim(
        "C17",
        "texts sampled from the checkpoint itself keep what it knows through the sum of two "
        "experts",
        "K, each hop, preserved minus unpreserved, paired by question: lower limits > 0; refuted "
        "if an upper limit is < 0",
        verdict,
        evidence,
    )


CLAIMS = (
    *(_at_once(form) for form in AT_ONCE),
    lambda metrics, chance: where_hops_are_kept(metrics, chance, MERGED_OR_ROUTED, "possessive"),
    _chain_is_product,
    _familiar_survive,
    _wrong_answers,
    _new_with_known,
    _preservation_keeps,
)
RULES = Rules(BOTH_NEW, controls, CLAIMS, GATES)
