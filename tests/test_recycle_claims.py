"""Decision rules on rows written by hand: a study can see success, failure, and that it may not decide."""

import json

import pytest

from recycle.claims import Metrics, controls, decide, estimate, to_json
from recycle.config import StudyConfig
from recycle.evaluate import wilson
from recycle.matmul import choose_matmul
from recycle.report import chance_of

CHANCE = 0.04
METHODS = ("mean_of_products", "plain_sum")


def row(fact_set, library, method, form, share, seed=0, n=100, wrong="wrong city"):
    counts = dict.fromkeys(("right", "bridge", "wrong city", "malformed"), 0)
    counts["right"] = round(share * n)
    counts[wrong] += n - counts["right"]
    return {"seed": seed, "fact_set": fact_set, "library": library, "method": method, "form": form, "n": n, **counts,
            "bridge named": 0}  # fmt: skip


def study(direct=0.0, recall=1.0, cot=1.0, joint_direct=0.0, base_cot=1.0, joint_cot=1.0, memory=1.0, alone=1.0, seeds=(0,),
          wrong="wrong city"):  # fmt: skip
    """Metrics of a whole study with these shares of right answers."""
    rows = []
    for seed in seeds:
        rows.append(row("base", "none", "alone", "cot", base_cot, seed))
        for s in "FHR":
            at = {"hop1": ("hop1", alone), "hop2": ("hop2", alone), "target": ("direct", memory)}
            rows += [row(s, library, "alone", form, share, seed) for library, (form, share) in at.items()]
            rows += [
                row(s, "joint", "alone", "direct", joint_direct, seed),
                row(s, "joint", "alone", "cot", joint_cot, seed),
            ]
            for method in METHODS:
                shares = {"hop1": recall, "hop2": recall, "direct": direct, "cot": cot}
                rows += [
                    row(s, "2-combination", method, form, share, seed, wrong=wrong) for form, share in shares.items()
                ]
                rows.append(row(s, "3-combination", method, "direct", memory, seed))
    return Metrics(rows)


def verdicts(**kwargs):
    return {claim.id: claim.verdict for claim in decide(study(**kwargs), CHANCE)[1]}


def test_what_the_paper_says_is_supported_by_such_rows():
    assert verdicts() == dict.fromkeys(("C1", "C2", "C3", "C4", "C5", "C7"), "supported")


def test_a_composing_library_refutes_c1():
    found = verdicts(direct=1.0)
    assert found["C1"] == found["C2"] == "refuted"
    assert found["C7"] == "not decided: no wrong answers"
    assert verdicts(joint_direct=1.0)["C3"] == "refuted"
    assert verdicts(memory=0.96, cot=0.2)["C5"] == "refuted"
    assert verdicts(wrong="malformed")["C7"] == "refuted"


def test_the_middle_is_inconclusive():
    assert verdicts(direct=0.08)["C1"] == "inconclusive"


def test_c2_needs_recall():
    assert verdicts(recall=0.5, cot=0.25)["C2"] == "not decided: no method keeps both hops at 0.9"


@pytest.mark.parametrize(
    "kwargs, control",
    [
        ({"alone": 0.9}, "P1 at 0.90"),
        ({"base_cot": 0.31}, "P2 at 0.31"),
        ({"joint_cot": 0.5}, "P3 at 0.50"),
        ({"memory": 0.5}, "P4 at 0.50"),
    ],
)
def test_one_failed_control_leaves_everything_undecided(kwargs, control):
    assert set(verdicts(**kwargs).values()) == {f"not decided: control {control}"}


def test_a_control_is_as_good_as_its_worst_case():
    metrics = study()
    next(r for r in metrics.rows if (r["fact_set"], r["library"]) == ("H", "hop2"))["right"] = 40
    p1 = controls(metrics)[0]
    assert (p1.value, p1.where, p1.passes) == (0.4, "hop2 expert, set H", False)


def test_a_study_without_a_control_does_not_pass_it():
    metrics = Metrics([r for r in study().rows if r["fact_set"] != "base"])
    assert controls(metrics)[1].value == 0 and not controls(metrics)[1].passes


def test_seeds_widen_the_interval():
    """Two seeds at .9 and 1.0: t with one degree of freedom, 12.706 * sd / sqrt(2)."""
    rows = [row("F", "x", "alone", "cot", 0.9, 0), row("F", "x", "alone", "cot", 1.0, 1)]
    e = estimate(rows)
    assert (e.mean, e.n, e.seeds) == (pytest.approx(0.95), 200, 2)
    assert e.low == pytest.approx(0.95 - 12.7062 * 0.0707107 / 2**0.5, abs=1e-4) and e.high == 1.0


def test_wilson_intervals_are_the_textbooks():
    assert wilson(0, 50) == pytest.approx((0.0, 0.0713), abs=1e-4)
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    low, high = wilson(50, 50)
    assert high == 1.0 and low == pytest.approx(0.9287, abs=1e-4)
    assert all(wilson(0, n)[0] == 0.0 and wilson(n, n)[1] == 1.0 for n in range(1, 200))
    for bad in ((3, 2), (0, 0), (-1, 4)):
        with pytest.raises(ValueError, match="no proportion"):
            wilson(*bad)


def test_claims_are_plain_json():
    assert json.loads(json.dumps(to_json(*decide(study(), CHANCE))))["controls"][1]["passes"] is True


def test_chance_is_the_worlds_own():
    from tasks import TwoHop

    config = StudyConfig()
    assert chance_of(config) == TwoHop(config.task, 0).chance("F") == 0.04


def test_matmul_choices():
    assert choose_matmul("default") == {"setting": "default"}
    with pytest.raises(ValueError, match="'fast'"):
        choose_matmul("fast")


def test_claims_about_new_names_need_a_set_of_them():
    metrics = Metrics([r for r in study().rows if r["fact_set"] in ("base", "R")])
    assert {c.verdict for c in decide(metrics, CHANCE)[1]} == {"not decided: the study has neither set F nor set H"}
