"""What a check would notice: shares, shifts, one-sided claims, rivals, and every claim's rivals."""

import pytest

from theory.catalogue import ALL
from theory.claim import Claim, Observation, Settings, verify
from theory.power import power, summary


def result_of(*observations, relation="==", tolerance=0.0):
    words = dict.fromkeys(
        ("id", "title", "statement", "formula", "source", "assumptions", "derivation", "computed"),
        "x",
    )
    check = lambda settings: iter(observations)  # noqa: E731
    claim = Claim(**words, kind="theorem", relation=relation, tolerance=tolerance, check=check)
    return verify(claim, Settings())


def test_an_equality_notices_its_worse_side():
    seen = Observation("case", 0, bound=2.0, observed=2.1, error=0.05)  # allowed: 0.2
    found = power(result_of(seen))
    assert found.least == pytest.approx(0.15) and not found.is_shift  # 2 (1 + e) - 2.1 > 0.2
    assert found.cases == {"case": False}


def test_more_seeds_notice_more():
    seeds = [Observation("case", i, 1.0, x, error=0.01) for i, x in enumerate((0.98, 1.0, 1.02))]
    assert power(result_of(*seeds)).least == pytest.approx(0.02)


def test_the_sign_of_a_bound_does_not_matter():
    both = [result_of(Observation("case", 0, s * 2.0, s * 2.1, 0.05)) for s in (1, -1)]
    assert power(both[0]).least == pytest.approx(power(both[1]).least)


@pytest.mark.parametrize("relation, observed", [("<=", 0.9), (">=", 1.1)])
def test_a_one_sided_claim_notices_its_slack(relation, observed):
    found = power(result_of(Observation("case", 0, 1.0, observed), relation=relation))
    assert found.least == pytest.approx(0.1)


def test_bounds_of_zero_notice_a_shift():
    found = power(result_of(Observation("case", 0, 0.0, 0.0), tolerance=1e-9))
    assert found.is_shift and found.least == pytest.approx(1e-9) and found.sharp


def test_exact_cases_do_not_hide_a_weak_formula():
    exact = Observation("accuracy", 0, bound=1.0, observed=1.0)
    weak = Observation("logit", 0, bound=1.0, observed=1.0, error=0.1)
    assert power(result_of(exact, weak)).least == pytest.approx(0.4)


def test_rivals_are_judged_where_they_stand():
    seen = Observation("case", 0, 1.0, 1.0, 0.01, rivals={"near": 1.02, "far": 1.2})
    found = power(result_of(seen))
    assert found.rivals == {"far": True, "near": False} and not found.sharp
    assert summary([found]) == "1 of 1 claims notice 10 %, 1 of 2 wrong formulas are noticed"


# Measurements whose spread between seeds, or whose slack, is larger than a tenth.
BLUNT = {
    "gradient-bridge",
    "gradient-logits",
    "certificate-sharp",
    "trained-relu-low",
    "trained-relu-threshold",
}


@pytest.mark.slow
@pytest.mark.parametrize("claim", ALL, ids=lambda claim: claim.id)
def test_every_claim_notices_a_tenth_and_its_rivals(claim):
    found = power(verify(claim, Settings()))
    assert all(found.rivals.values())
    assert found.sharp or claim.id in BLUNT
    assert claim.kind == "measurement" or claim.id not in BLUNT
