"""What is claimed of the methods that papers and tools bring, alike in the toy and on a checkpoint.

The families stand here by literal names and were fixed before the part "methods" was run with the
seeds that decide: a method that is added to the table is measured and shown, and changes nothing
here. C11, which lays two records side by side, stands in recycle/show/carry_over.py.

"Refuted" asks for a limit at the level that all of a claim's cases share (Bonferroni); "supported"
asks every case for its own 95 % limit. Methods are compared question by question.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from recycle.decide.claims import (
    INCONCLUSIVE,
    NOTHING,
    REFUTED,
    SUPPORTED,
    Claim,
    Rule,
    Rules,
    Verdict,
    below,
    cases,
    not_decided,
    worst,
)
from recycle.decide.items import paired, paired_difference
from recycle.decide.metrics import Metrics, Row
from recycle.decide.statistics import Estimate, estimate
from recycle.studies.two_hop_claims import HOPS, MARGIN, MERGED_OR_ROUTED, NEW, PAIR

PART = "methods"
MEAN, NORM_MATCHED = "mean_of_products", "norm_matched_sum"
MERGES = (
    "ties",
    "ties_core",
    "dare_linear",
    "dare_linear_core",
    "dare_ties",
    "dare_ties_core",
    "magnitude_prune",
    "magnitude_prune_core",
    "breadcrumbs",
    "breadcrumbs_core",
    "peft_linear",
    "svd_r",
    "knots",
    "tsv",
    "iso_c",
    "iso_cts",
    "pico",
    "model_stock",
    NORM_MATCHED,
    "rescaled_single_0.5",
    "rescaled_single_0.75",
    "rescaled_single_1.25",
    "rescaled_single_1.5",
)
ROUTERS = ("spectr", "hard", "mbc")
DATA_FREE = (*MERGED_OR_ROUTED, *MERGES, *ROUTERS)  # they need the experts and nothing else
# The sum of the experts at one weight for all of them, in a layer or everywhere.
SUMS = (NORM_MATCHED, "sum_at_0.75", "plain_sum", "sum_at_1.25", "sum_at_1.5")
NO_SUMS = tuple(name for name in DATA_FREE if name not in (MEAN, *SUMS))
LEARNERS = ("lorahub", "cat", "xlora_like")  # from examples; phatgoose reads the experts' own texts
POOL = "random_pool_"

CANNOT = 0.15  # at most this share of direct answers: the base does not compose
GATES = {
    "C8": ("experts-recall", "facts-are-new", "noise-brings-nothing"),
    "C9": ("experts-recall", "facts-are-new"),
    "C10": ("experts-recall", "facts-are-new"),
    "C10-any-weight": ("experts-recall", "facts-are-new"),
}
LACKS = not_decided(f"the study lacks the part {PART}")


def with_methods(rules: Rules, knows: str, counts: Sequence[int]) -> Rules:
    """The rules with C8 to C10. ``knows`` is the group of facts that the base knows, and ``counts``
    are the numbers of examples that the study's learners get."""
    own: tuple[Rule, ...] = (
        lambda metrics, chance: _composes(metrics, chance, knows),
        lambda metrics, chance: _beats_noise(metrics, counts),
        lambda metrics, chance: _scale_alone(metrics, "C10", (NORM_MATCHED,)),
        lambda metrics, chance: _scale_alone(metrics, "C10-any-weight", SUMS),
    )
    return replace(rules, rules=(*rules.rules, *own), gates={**(rules.gates or {}), **GATES})


def _rows(metrics: Metrics, names: Sequence[str], form: str) -> dict[str, list[Row]]:
    """Each method's rows of the pair, F and H together; none where one of the methods lacks."""
    found = {name: metrics.where(library=PAIR, method=name, form=form, group=NEW) for name in names}
    return found if all(found.values()) else {}


# C8 ----------------------------------------------------------------------------------------------


def _composes(metrics: Metrics, chance: float, knows: str) -> Claim:
    limit, rows = chance + MARGIN, _rows(metrics, DATA_FREE, "direct")
    own = metrics.where(group=knows, library="none", method="alone", form="direct")
    base, methods = estimate(own) if own else None, cases(rows)
    return Claim(
        "C8",
        "no merge or router that needs no data composes directly where the base cannot (F and H "
        "pooled)",
        f"where the base's own direct answers have an upper limit <= {CANNOT}: for every one of "
        f"{len(DATA_FREE)} methods, upper limit < chance + .05 = {limit:.2f}; refuted if a lower "
        "limit is above it; a base that can is the positive control, and decides nothing",
        _where_it_cannot(base, below(methods, limit)) if methods else LACKS,
        f"{worst(methods)}; the base {base}" if base else worst(methods),
    )


def _where_it_cannot(base: Estimate | None, verdict: Verdict) -> Verdict:
    if base is None:
        return not_decided("the base was not asked what it knows")
    if base.low > CANNOT:
        return not_decided(f"the base composes directly itself, {base}")
    if base.high > CANNOT:
        return not_decided(f"whether the base composes directly is open, {base}")
    return verdict


# C9 ----------------------------------------------------------------------------------------------


def _beats_noise(metrics: Metrics, counts: Sequence[int]) -> Claim:
    names = [f"{learner}_{count}" for learner in LEARNERS for count in counts]
    learned = _rows(metrics, names, "cot")
    noise = _rows(metrics, [POOL + name for name in names], "cot")
    verdict, evidence = LACKS, NOTHING
    if learned and noise:
        pairs = {name: (learned[name], noise[POOL + name]) for name in names}
        own = {name: paired_difference(*pair) for name, pair in pairs.items()}
        verdict = INCONCLUSIVE
        if all(gain.low > MARGIN for gain in own.values()):
            verdict = SUPPORTED
        elif any(
            paired_difference(*pairs[name], among=len(names)).high < MARGIN
            for name, gain in own.items()
            if gain.high < MARGIN  # the shared limits are wider
        ):
            verdict = REFUTED
        least = min(own, key=lambda name: own[name].low)
        evidence = f"least of {len(own)}: {least} {own[least]}, n = {own[least].n}"
    return Claim(
        "C9",
        "what is learned from examples beats the same learner on adapters of noise by more than "
        ".05, with a chain of thought (F and H pooled)",
        f"{', '.join(LEARNERS)} at {' and '.join(map(str, counts))} examples, each minus its "
        "random pool, paired by question: lower limits > .05; refuted if an upper limit is < .05",
        verdict,
        evidence,
    )


# C10 ---------------------------------------------------------------------------------------------


def both_hops(metrics: Metrics) -> dict[str, list[Row]]:
    """By method of the pair its rows, F and H, in which a question counts as right where both of
    its hops are."""
    asked = metrics.where(library=PAIR, group=NEW, form=HOPS)
    second = {row.key: row for row in asked if row.form == HOPS[1]}
    made: dict[str, list[Row]] = {}
    for row in (row for row in asked if row.form == HOPS[0] and row.key in second):
        (first,), (other,) = (part.values() for part in paired([row], [second[row.key]]))
        kept = first & other
        items = "".join(np.where(kept, "0", "1"))
        counts = {"right": int(kept.sum()), "wrong": int((~kept).sum())}
        whole = Row(row.key, "both hops", len(kept), counts, items=items)
        made.setdefault(row.key.method, []).append(whole)
    return made


def _scale_alone(metrics: Metrics, id: str, sums: Sequence[str]) -> Claim:
    """Whether every other method is reached, up to .05, by one of these sums."""
    several = len(sums) > 1
    verdict, evidence = LACKS, NOTHING
    if all(_rows(metrics, DATA_FREE, hop) for hop in HOPS):
        kept = both_hops(metrics)
        gaps = {name: {one: _gap(kept, name, one, len(sums)) for one in sums} for name in NO_SUMS}
        verdict = INCONCLUSIVE
        if all(any(gap.high < MARGIN for gap in own.values()) for own in gaps.values()):
            verdict = SUPPORTED
        elif any(_beyond(kept, name, own) for name, own in gaps.items()):
            verdict = REFUTED
        name, own = max(gaps.items(), key=lambda each: min(gap.mean for gap in each[1].values()))
        one, gap = min(own.items(), key=lambda each: each[1].mean)
        level = {each: estimate(kept[each]).mean for each in (name, one)}
        evidence = (
            f"highest of {len(gaps)}: {name} {level[name]:.2f} minus {one} {level[one]:.2f} is "
            f"{gap}; the mean {estimate(kept[MEAN]).mean:.2f}"
        )
    scaled = "the sum at one weight for all" if several else "the sum at the experts' norm"
    nearest = "of one of these sums" if several else f"of {NORM_MATCHED}"
    return Claim(
        id,
        "what a method that needs no data gains over the plain mean is scale alone: "
        f"{scaled} comes within .05 (F and H pooled)",
        f"both hops of a question right, paired by question: every one of {len(NO_SUMS)} methods "
        f"that are no sums has an upper limit < .05 above that {nearest} ({', '.join(sums)}); "
        "refuted if a method's lower limits are > .05 above all of them",
        verdict,
        evidence,
    )


def _gap(kept: Mapping[str, list[Row]], name: str, other: str, among: int) -> Estimate:
    return paired_difference(kept[name], kept[other], among)


def _beyond(kept: Mapping[str, list[Row]], name: str, gaps: Mapping[str, Estimate]) -> bool:
    """Whether a method is above all sums by more than .05, at the level that all methods share.
    It has to beat each of the sums, which needs no correction for their number."""
    if min(gap.mean for gap in gaps.values()) <= MARGIN:
        return False  # no limit below it is above the margin
    return all(_gap(kept, name, one, len(NO_SUMS)).low > MARGIN for one in gaps)
