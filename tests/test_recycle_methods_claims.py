"""C8 to C11 on rows written by hand: each can come out either way, and none is decided where the
part "methods" was not run or a control that it needs fails."""

from dataclasses import replace

import pytest

from recycle.decide.claims import REFUTED, below, cases
from recycle.decide.metrics import Metrics, Row
from recycle.plan import Key
from recycle.reuse.methods import BY_NAME, EVERY
from recycle.show.methods_order import order_predicts, upper_limit
from recycle.studies import Study
from recycle.studies.check import check
from recycle.studies.english import ENGLISH
from recycle.studies.methods_claims import (
    DATA_FREE,
    GATES,
    LEARNERS,
    NO_SUMS,
    PAIR,
    PART,
    POOL,
    SUMS,
)
from recycle.studies.two_hop import COUNTS, TEN, TWO_HOP

CHANCE, N = 0.04, 100
NAMES = [f"{learner}_{count}" for learner in LEARNERS for count in COUNTS]
FORMS = ("hop1", "hop2", "direct", "cot")


def row(group, library, method, form, share, seed, n=N):
    """Right answers first: hop 2 of a method is right where its hop 1 is."""
    right = round(share * n)
    counts = {"right": right, "bridge": 0, "wrong city": n - right, "malformed": 0}
    items = "0" * right + "2" * (n - right)
    return Row(Key(seed, "standard", group, library, method), form, n, counts, items=items)


def study(base=0.03, kept=None, direct=0.0, learned=0.9, noise=0.0, seeds=(1, 2, 3)):
    """Rows of the part "methods" in which every method keeps .5 of both hops, the mean .1, and what
    ``kept`` names what it says."""
    rows = []
    for seed in seeds:
        rows.append(row("base", "none", "alone", "direct", base, seed))
        for group in "FH":
            for library, form in (("hop1", "hop1"), ("hop2", "hop2")):
                rows.append(row(group, library, "alone", form, 1, seed))
                rows.append(row(group, "none", "alone", form, 0, seed))
                rows.append(row(group, PAIR, "random_adapters", form, 0, seed))
            for method in DATA_FREE:
                share = {"mean_of_products": 0.1, **(kept or {})}.get(method, 0.5)
                shares = {"hop1": share, "hop2": share, "direct": direct, "cot": share**2}
                rows += [row(group, PAIR, method, f, s, seed) for f, s in shares.items()]
            for name in NAMES:
                rows.append(row(group, PAIR, name, "cot", learned, seed, n=50))
                rows.append(row(group, PAIR, POOL + name, "cot", noise, seed, n=50))
    return Metrics(rows)


def judged(metrics, *names):
    """Claims by the rules alone; all of C8 to C10 where none is named."""
    own = zip(GATES, TWO_HOP.rules.rules[-len(GATES) :], strict=True)
    found = [rule(metrics, CHANCE) for name, rule in own if name in (names or GATES)]
    return {claim.id: claim for claim in found}


def said(metrics, *names):
    return {name: str(claim.verdict) for name, claim in judged(metrics, *names).items()}


def planted(metrics, share, **where):
    chosen = {(r.key, r.form) for r in metrics.where(**where)}
    assert chosen
    return Metrics(
        row(r.key.group, r.key.library, r.key.method, r.form, share, r.key.seed, r.n)
        if (r.key, r.form) in chosen
        else r
        for r in metrics.rows
    )


def test_a_study_as_it_was_planted():
    assert said(study()) == dict.fromkeys(GATES, "supported")


@pytest.mark.parametrize("method", ["arrow_top1", "iso_cts", "mbc"])
def test_one_method_that_composes_refutes_c8(method):
    metrics = planted(study(), 0.3, library=PAIR, method=method, form="direct")
    claim = judged(metrics, "C8")["C8"]
    assert str(claim.verdict) == "refuted" and f"{method} 0.30" in claim.evidence


def test_c8_shares_its_error_among_all_methods():
    """30 of 200 answers, [.11, .21]: above the limit of .09 for a method alone, not for all."""
    one = {"library": PAIR, "method": "ties", "form": "direct"}
    metrics = planted(study(seeds=(1,)), 0.15, **one)
    alone = cases({"ties": metrics.where(**one)})
    assert below(alone, CHANCE + 0.05) == REFUTED
    assert said(metrics, "C8")["C8"] == "inconclusive"
    assert said(planted(metrics, 0.4, **one), "C8")["C8"] == "refuted"


def test_a_base_that_composes_is_the_positive_control_of_c8():
    for direct in (0.0, 0.9):
        claim = judged(study(base=0.8, direct=direct), "C8")["C8"]
        assert str(claim.verdict).startswith("not decided: the base composes directly itself, 0.80")
        assert "the base 0.80" in claim.evidence
    assert said(study(base=0.14, seeds=(1,)), "C8")["C8"].startswith(
        "not decided: whether the base"
    )


def test_a_learner_that_noise_equals_refutes_c9():
    one = {"library": PAIR, "method": f"{POOL}cat_20", "form": "cot"}
    claim = judged(planted(study(), 0.9, **one), "C9")["C9"]
    assert str(claim.verdict) == "refuted" and "cat_20 0.00" in claim.evidence
    assert said(planted(study(), 0.84, **one), "C9")["C9"] == "inconclusive"


def test_a_method_beyond_the_sum_at_the_experts_norm_refutes_c10():
    """Where another weight reaches it, scale alone still does."""
    metrics = study(kept={"tsv": 0.9})
    claims = judged(metrics, "C10", "C10-any-weight")
    assert str(claims["C10"].verdict) == "refuted" == str(claims["C10-any-weight"].verdict)
    assert "tsv 0.90 minus norm_matched_sum 0.50 is 0.40" in claims["C10"].evidence
    reached = said(study(kept={"tsv": 0.9, "plain_sum": 0.88}), "C10", "C10-any-weight")
    assert (reached["C10"], reached["C10-any-weight"]) == ("refuted", "supported")
    assert said(study(kept={"tsv": 0.57}, seeds=(1,)), "C10")["C10"] == "inconclusive"


def test_both_hops_of_one_question_count_in_c10():
    """A method that keeps each hop on other questions keeps none of them whole."""
    metrics = study(kept={"tsv": 0.5, "norm_matched_sum": 0.1})
    turned = [
        Row(r.key, r.form, r.n, r.outcomes, items=r.items[::-1])
        if r.form == "hop2" and r.key.method in NO_SUMS
        else r
        for r in metrics.rows
    ]
    assert said(metrics, "C10")["C10"] == "refuted"
    assert said(Metrics(turned), "C10")["C10"] == "supported"


def test_nothing_is_decided_without_the_part():
    lacking = [r for r in study().rows if r.key.method not in ("knots", "lorahub_5")]
    for verdict in said(Metrics(lacking)).values():
        assert verdict == f"not decided: the study lacks the part {PART}"
    assert set(said(Metrics([])).values()) == {f"not decided: the study lacks the part {PART}"}


def test_a_control_that_fails_leaves_its_claims_undecided():
    """C8 fails for noise that knows facts alone; all four where an expert lacks its own."""
    for control, share, where, expected in (
        ("experts-recall", 0.5, {"library": "hop2", "group": "F"}, set(GATES)),
        ("noise-brings-nothing", 0.5, {"method": "random_adapters"}, {"C8"}),
    ):
        metrics = planted(study(seeds=(1,)), share, **where)
        claims = {c.id: str(c.verdict) for c in TWO_HOP.rules.judge(metrics, CHANCE)[1]}
        left = {name for name in GATES if f"control {control} at" in claims[name]}
        assert left == expected


# C11 ----------------------------------------------------------------------------------------------


def order(shares):
    names = dict(zip(DATA_FREE, shares, strict=True))
    return study(kept=names, seeds=(1,))


def test_c11_by_the_agreement_of_the_orders():
    rising = [i / len(DATA_FREE) for i in range(len(DATA_FREE))]
    mixed = [rising[7 * i % len(rising)] for i in range(len(rising))]
    toy = order(rising)

    def verdict(other):
        return str(order_predicts(toy, other, ("F", "H")).verdict)

    assert verdict(order(rising)) == "supported"
    assert verdict(order(rising[::-1])) == verdict(order(mixed)) == "refuted"
    half = [*rising[:22], *rising[22:][::-1]]
    assert verdict(order(half[::-1])) == "refuted" and verdict(order(half)) == "supported"
    assert verdict(order([0.5] * len(rising))) == "not decided: all methods keep the same"
    assert verdict(Metrics([])) == f"not decided: a record lacks the part {PART}"


def test_the_upper_limit_of_rho_is_bonett_and_wrights():
    """z = atanh(.5) + 1.96 sqrt((1 + .125) / 25)."""
    assert upper_limit(0.5, 28) == pytest.approx(0.7465, abs=1e-4)
    assert upper_limit(1.0, 28) == upper_limit(-1.0, 3) == 1.0 and upper_limit(-1.0, 28) < -0.99


# The parts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("design", [TWO_HOP, ENGLISH])
def test_the_families_are_asked_by_the_parts_main_and_methods(design):
    for group in "FH":
        asked = {
            method.name: method
            for library in design.libraries
            if (library.name, library.group, library.base.name) == (PAIR, group, "standard")
            and library.part in ("main", "methods")
            for method in library.methods
        }
        assert {*DATA_FREE, "oracle", "centroid"} <= set(asked)
        assert all(asked[name].needs == "nothing" for name in DATA_FREE)
        assert {BY_NAME[n].family for n in DATA_FREE} == {"merge", "router"}
    assert {*SUMS, *NO_SUMS, "mean_of_products"} == {*DATA_FREE}


def test_a_random_pool_stands_beside_every_learner():
    for design in (TWO_HOP, ENGLISH):
        for library in design.libraries:
            learned = {m.name for m in library.methods if m.needs == "examples"}
            learned |= {m.name for m in library.methods if m.name.endswith("phatgoose")}
            plain = {name for name in learned if not name.startswith(POOL)}
            assert learned == plain | {POOL + name for name in plain}
            assert library.part == "methods" or not learned


def test_ten_methods_meet_growing_libraries():
    crowds = [library for library in TWO_HOP.libraries if library.part == "crowds"]
    assert [len(library.experts) for library in crowds] == [2, 4, 8, 16]
    assert len(TEN) == 10 and all({*TEN} < {*library.methods} for library in crowds)
    assert {method.name for method in TEN} <= {*DATA_FREE, "centroid"}


def test_no_cell_of_today_moved():
    """The parts about methods add cells beside those of the part main."""
    main = {m.name for m in EVERY}
    for library in TWO_HOP.libraries:
        if library.part in ("methods", "peft"):
            assert not main & {method.name for method in library.methods}


def test_the_part_peft_is_refused_where_peft_is_not_installed(monkeypatch):
    monkeypatch.setattr("recycle.studies.check.has_peft", lambda: False)
    with pytest.raises(ValueError, match="part peft merges with PEFT, which is not installed: pip"):
        check(Study(TWO_HOP, replace(TWO_HOP.default, parts=("peft",), groups=("F",))))
