"""What is claimed of the two-hop study, and the rules that decide it: fixed before the seeds that
decide were run.

Seed 0 was looked at while these rules were written (preset quick); the presets laptop and full use
seeds 1 to 5, which were not. A rule speaks of F and H, new names, unless it says otherwise.
"Refuted" asks for a limit at the level that all of the claim's cases share (Bonferroni);
"supported" asks every case for its own 95 % limit, which needs no correction.
"""

from __future__ import annotations

import math

from recycle.claims import NOTHING, Claim, Control, Metrics, below, cases, extreme, worst
from recycle.methods import MAIN
from recycle.statistics import Row, difference, estimate, over_seeds

NEW = ("F", "H")
HOPS = ("hop1", "hop2")
MARGIN = 0.05  # above chance, in accuracy
NEAR = 0.1  # between accuracy with a chain of thought and the product of the one-hop accuracies
RECALL = 0.9  # of both hops, where a merge is said to keep them
PAIR = "2-combination"
# Methods that lose some facts and keep others: under the plain sum a chain of thought is near 1,
# where nothing can be seen.
BETWEEN = ("mean_of_products", "arrow", "arrow_top1")


def controls(metrics: Metrics) -> list[Control]:
    """P1-P4 and N1-N3. Where a control speaks of several groups or experts, its value is the worst
    of them."""

    def alone(library: str, form: str, groups) -> list[tuple[str, list[Row]]]:
        return [
            (
                f"{library} expert, {s}",
                metrics.where(group=s, library=library, method="alone", form=form),
            )
            for s in groups
        ]

    new = [s for s in metrics.groups if s in NEW] or metrics.groups
    unread = [s for s in metrics.groups if s != "K"]
    base = [("base", metrics.where(group="base", form="cot"))]
    untaught = [
        (f"base, {form} of {s}", metrics.where(group=s, library="none", form=form))
        for s in unread
        for form in HOPS
    ]
    noise = [
        (
            f"{form} of {s}",
            metrics.where(group=s, library=PAIR, method="random_adapters", form=form),
        )
        for s in unread
        for form in HOPS
    ]
    blind = [
        (f"{method}, {s}", metrics.where(group=s, library=PAIR, method=method, form="direct"))
        for s in new
        for method in ("random_router", "shuffled_prototypes", "random_adapters")
    ]
    return [
        Control(
            "P1",
            "each one-hop expert alone answers its own facts",
            0.95,
            *extreme(alone("hop1", "hop1", metrics.groups) + alone("hop2", "hop2", metrics.groups)),
        ),
        Control(
            "P2",
            "the base composes held-out real people with a chain of thought",
            0.90,
            *extreme(base),
        ),
        Control(
            "P3",
            "one adapter trained on both hops composes unseen entities with a chain of thought",
            0.90,
            *extreme(alone("joint", "cot", new)),
        ),
        Control(
            "P4",
            "an A->C expert on the same entities answers them",
            0.95,
            *extreme(alone("target", "direct", metrics.groups)),
        ),
        Control(
            "N1",
            "the base does not know the new facts",
            0.15,
            *extreme(untaught, max),
            at_most=True,
        ),
        Control(
            "N2",
            "adapters of the experts' size without their content bring no facts",
            0.15,
            *extreme(noise, max),
            at_most=True,
        ),
        Control(
            "N3",
            "routing by chance, to the wrong expert, or among noise answers no direct question",
            0.15,
            *extreme(blind, max),
            at_most=True,
        ),
    ]


def _c1(metrics: Metrics, chance: float) -> Claim:
    limit = chance + MARGIN
    found = cases(
        {
            m: metrics.where(library=PAIR, method=m, form="direct", group=NEW)
            for m in metrics.methods(PAIR)
        }
    )
    return Claim(
        "C1",
        "2-combination libraries stay at chance on direct two-hop questions (F and H pooled)",
        f"for every method, the oracle router included, upper limit < chance + .05 = {limit:.2f}; refuted if a "
        "lower limit is above it",
        below(found, limit),
        worst(found),
    )


def _c2(metrics: Metrics, chance: float) -> Claim:
    limit, rows = chance + MARGIN, {}
    for method in metrics.methods(PAIR):
        kept = [s for s in metrics.groups if s in NEW and _recall(metrics, method, s) >= RECALL]
        if kept:
            rows[f"{method} on {' and '.join(kept)}"] = metrics.where(
                library=PAIR, method=method, form="direct", group=kept
            )
    found = cases(rows)
    return Claim(
        "C2",
        "C1 holds where one-hop recall survives the merge: the failure is of composition, not of scale",
        f"as C1, over the methods, each on the groups where it keeps both hops >= {RECALL}: limit {limit:.2f}",
        below(found, limit) if found else f"not decided: no method keeps both hops at {RECALL}",
        worst(found),
    )


def _recall(metrics: Metrics, method: str, group: str) -> float:
    """Of the weaker hop, after the merge."""
    return min(
        estimate(metrics.where(library=PAIR, method=method, group=group, form=hop)).mean
        for hop in HOPS
    )


def _c3(metrics: Metrics, chance: float) -> Claim:
    limit = chance + MARGIN
    found = cases(
        {
            library: metrics.where(library=library, form="direct", group=NEW)
            for library in ("joint, no chains", "joint")
        }
    )
    measured = any(case.name == "joint, no chains" for case in found)
    return Claim(
        "C3",
        "joint training on both hops, without chains of thought and with them, is at chance on direct "
        "questions too (F and H pooled): the limit is not merging alone",
        f"upper limits < chance + .05 = {limit:.2f}; refuted if a lower limit is above it",
        below(found, limit) if measured else _needs("templates"),
        worst(found),
    )


def _c4(metrics: Metrics, chance: float) -> Claim:
    limit = chance + MARGIN
    best = {}
    for s in (s for s in metrics.groups if s in NEW):
        same = cases(
            {
                m: metrics.where(library="3-combination", method=m, form="direct", group=s)
                for m in metrics.methods("3-combination")
                if m != "oracle"
            }
        )
        if same:
            best[s] = max(same, key=lambda case: case.own.mean)
    others = cases(
        {
            f"{m}, {which} entities": metrics.where(
                library=f"3-combination, {which} entities", method=m, form="direct", group=NEW
            )
            for which in ("other", "real")
            for m in MAIN
        }
    )
    by_memory = bool(best) and all(case.own.low > limit for case in best.values())
    rescued = below(others, limit)
    if not others or not best:
        verdict = _needs("entities")
    elif rescued == "refuted" or any(case.own.high < limit for case in best.values()):
        verdict = "refuted"
    else:
        verdict = "supported" if by_memory and rescued == "supported" else "inconclusive"
    seen = "; ".join(f"same entities, {case.name} on {s} {case.own}" for s, case in best.items())
    return Claim(
        "C4",
        "an A->C expert on other or on real entities does not rescue F and H; on the same entities the "
        "library answers, by memory",
        f"same: the best method's lower limit > chance + .05 = {limit:.2f} on F and on H; other and real: every "
        "main method's upper limit below it; refuted if an other's lower limit is above it, or a same's upper "
        "limit below",
        verdict,
        f"{seen}; others: {worst(others)}",
    )


def _c5(metrics: Metrics, chance: float) -> Claim:
    limit, gaps = chance + MARGIN, {}
    pairs = [(m, s) for s in metrics.groups if s in NEW for m in metrics.methods(PAIR)]
    for method, s in pairs:
        rows = metrics.where(library=PAIR, method=method, group=s)
        spread = estimate([row for row in rows if row["form"] == "cot"])
        shared = estimate([row for row in rows if row["form"] == "cot"], among=len(pairs))
        gaps[f"{method} on {s}"] = (
            over_seeds(rows, _excess, spread),
            over_seeds(rows, _excess, shared, len(pairs)),
        )
    disjoint = cases(
        {
            m: metrics.where(
                library="2-combination, disjoint chains", method=m, form="cot", group=NEW
            )
            for m in MAIN
        }
    )
    falls = below(disjoint, limit)
    if not disjoint or not gaps:
        verdict = _needs("templates")
    elif falls == "refuted" or any(e.high < -NEAR or e.low > NEAR for _, e in gaps.values()):
        verdict = "refuted"
    elif falls == "supported" and all(-NEAR < e.low and e.high < NEAR for e, _ in gaps.values()):
        verdict = "supported"
    else:
        verdict = "inconclusive"
    evidence = NOTHING
    if gaps:
        name, (widest, _) = max(gaps.items(), key=lambda item: abs(item[1][0].mean))
        evidence = f"widest gap: {name} {widest}; disjoint chains, {worst(disjoint)}"
    return Claim(
        "C5",
        "with shared chain-of-thought templates, accuracy is the product of the one-hop accuracies after the "
        "merge; with disjoint templates it falls to the level of C1",
        f"shared: for F and H and every method the difference lies within {NEAR}; disjoint: for every main method, "
        f"upper limit < chance + .05 = {limit:.2f}; refuted if a difference lies wholly outside, or a disjoint lower "
        "limit above",
        verdict,
        evidence,
    )


def _excess(rows: list[Row]) -> float:
    """Accuracy with a chain of thought minus the product of the one-hop accuracies, for one
    seed."""
    share = {row["form"]: row["right"] / row["n"] for row in rows}
    return share["cot"] - math.prod(share[hop] for hop in HOPS)


def _c6(metrics: Metrics, chance: float) -> Claim:
    def cot(groups, base: str = "standard") -> list[Row]:
        return metrics.where(base=base, library=PAIR, method=BETWEEN, form="cot", group=groups)

    statement = "familiarity helps: R >= H >= F, and accuracy rises with the share of real people read in two-hop texts"
    rule = (
        f"accuracy with a chain of thought, {', '.join(BETWEEN)} pooled: lower limits of R - H and H - F > -.05, of "
        "R - F > 0, and of dose 100 % - 0 % > 0, with 50 % between; refuted if an upper limit of R - H or H - F is < -.05, "
        "or of the dose < 0"
    )
    dosed = {"0": "dose-0", "50": "dose-50", "100": "standard"}
    if not {"F", "H", "R"} <= set(metrics.groups) or not set(dosed.values()) <= set(metrics.bases):
        return Claim("C6", statement, rule, _needs("dose"), NOTHING)
    steps = {
        f"{a} - {b}": difference(cot(a), cot(b)) for a, b in (("R", "H"), ("H", "F"), ("R", "F"))
    }
    level = {dose: estimate(cot(("F", "H", "R"), base)) for dose, base in dosed.items()}
    dose = difference(cot(("F", "H", "R")), cot(("F", "H", "R"), "dose-0"))
    ordered = level["0"].mean <= level["50"].mean <= level["100"].mean
    if steps["R - H"].high < -MARGIN or steps["H - F"].high < -MARGIN or dose.high < 0:
        verdict = "refuted"
    elif (
        steps["R - H"].low > -MARGIN < steps["H - F"].low
        and steps["R - F"].low > 0 < dose.low
        and ordered
    ):
        verdict = "supported"
    else:
        verdict = "inconclusive"
    if "K" in metrics.groups:
        steps["K (known facts) - R"] = difference(cot("K"), cot("R"))
    seen = "; ".join(f"{name} {e}" for name, e in steps.items())
    levels = ", ".join(f"{name} %: {e.mean:.2f}" for name, e in level.items())
    return Claim("C6", statement, rule, verdict, f"{seen}; dose 100 - 0 {dose} ({levels})")


def _c7(metrics: Metrics, chance: float) -> Claim:
    rows = metrics.where(library=PAIR, method=metrics.methods(PAIR), form="direct", group=NEW)
    wrong = [{**row, "n": row["n"] - row["right"]} for row in rows if row["n"] > row["right"]]
    statement = "wrong direct answers are mostly the bridge or another city"
    rule = "their share among wrong answers of all 2-combination methods has a lower limit > .5; refuted if the upper is below"
    if not wrong:
        return Claim(
            "C7", statement, rule, "not decided: no wrong answers", "every answer is right"
        )
    share, bridge = estimate(wrong, ("bridge", "wrong city")), estimate(wrong, "bridge")
    verdict = "supported" if share.low > 0.5 else "refuted" if share.high < 0.5 else "inconclusive"
    return Claim(
        "C7", statement, rule, verdict, f"{share}, n = {share.n}; the bridge alone {bridge}"
    )


def _needs(part: str) -> str:
    return f"not decided: the study lacks the part {part} or a group (preset laptop has all)"


RULES = (_c1, _c2, _c3, _c4, _c5, _c6, _c7)
