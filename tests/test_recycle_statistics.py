"""Intervals against the textbooks' values, and what must hold of any interval."""

import math
import subprocess
import sys
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recycle.decide.metrics import Row
from recycle.decide.statistics import (
    difference,
    estimate,
    over_seeds,
    scipy_stats,
    t_below,
    t_half_width,
    t_quantile,
    t_quantile_by_hand,
    wilson,
    wilson_by_hand,
)
from recycle.plan import Key


def rows(*shares, n=100):
    """One row for each seed."""
    return counts([round(share * n) for share in shares], n)


def counts(hits, n):
    """One row of n answers for each seed, so many of them right."""
    key = Key(0, "standard", "F", "pair", "arrow")
    return [Row(key._replace(seed=i), "direct", n, {"right": h}) for i, h in enumerate(hits)]


@pytest.mark.parametrize("quantile", [t_quantile, t_quantile_by_hand])
def test_quantiles_of_t_are_the_textbooks(quantile):
    for freedom, value in (
        (1, 12.7062),
        (2, 4.3027),
        (3, 3.1824),
        (4, 2.7764),
        (5, 2.5706),
        (30, 2.0423),
    ):
        assert quantile(0.975, freedom) == pytest.approx(value, abs=1e-4)
    assert quantile(0.995, 4) == pytest.approx(4.6041, abs=1e-4)
    assert t_below(0.0, 7) == 0.5
    assert quantile(0.975, 100_000) == pytest.approx(NormalDist().inv_cdf(0.975), abs=1e-4)


@pytest.mark.parametrize("interval", [wilson, wilson_by_hand])
def test_wilson_intervals_are_the_textbooks(interval):
    assert interval(0, 50) == pytest.approx((0.0, 0.0713), abs=1e-4)
    assert interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    low, high = interval(50, 50)
    assert high == 1.0 and low == pytest.approx(0.9287, abs=1e-4)
    assert all(interval(0, n)[0] == 0.0 and interval(n, n)[1] == 1.0 for n in range(1, 200))


def test_the_core_agrees_with_scipy():
    """To 1e-9, so no verdict depends on whether scipy is installed."""
    stats = pytest.importorskip("scipy.stats")
    assert scipy_stats() is stats
    for among in (1, 2, 24):
        for freedom in (1, 2, 3, 4, 9, 30, 1000):
            probability = 1 - 0.05 / (2 * among)
            ours = t_quantile_by_hand(probability, freedom)
            assert ours == pytest.approx(stats.t.ppf(probability, freedom), rel=1e-9, abs=1e-9)
            assert t_quantile(probability, freedom) == pytest.approx(ours, rel=1e-9)
        for successes, n in ((0, 1), (1, 1), (0, 50), (13, 50), (50, 50), (700, 5924)):
            exact = stats.binomtest(successes, n).proportion_ci(1 - 0.05 / among, "wilson")
            assert wilson_by_hand(successes, n, among) == pytest.approx(tuple(exact), abs=1e-9)
            assert wilson(successes, n, among) == pytest.approx(tuple(exact), abs=1e-15)


def test_the_core_stands_without_scipy():
    """In a process of its own, where scipy cannot be imported."""
    code = (
        "import sys\n"
        "sys.modules['scipy'] = None\n"
        "from recycle.decide.statistics import scipy_stats, t_quantile, wilson\n"
        "assert scipy_stats() is None\n"
        "print(*wilson(13, 50), t_quantile(0.975, 4))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    expected = (*wilson_by_hand(13, 50), t_quantile_by_hand(0.975, 4))
    assert tuple(map(float, done.stdout.split())) == expected


def test_no_proportion_is_named():
    for bad in ((3, 2), (0, 0), (-1, 4)):
        with pytest.raises(ValueError, match="no proportion"):
            wilson(*bad)


def test_seeds_that_differ_widen_the_interval():
    """Two seeds at .9 and 1.0: t with one degree of freedom, 12.706 * sd / sqrt(2)."""
    e = estimate(rows(0.9, 1.0))
    assert (e.mean, e.n, e.seeds) == (pytest.approx(0.95), 200, 2)
    assert e.low == pytest.approx(0.95 - 12.7062 * 0.0707107 / 2**0.5, abs=1e-4) or e.low == 0
    assert e.high == 1.0


def test_seeds_that_agree_do_not_make_an_interval_of_no_width():
    assert estimate(rows(0, 0, 0)).high == wilson(0, 300)[1] > 0


@given(st.lists(st.integers(0, 50), min_size=1, max_size=6), st.integers(1, 20))
def test_an_interval_holds_its_mean_and_widens_with_the_number_of_comparisons(hits, among):
    own = counts(hits, 50)
    one, many = estimate(own), estimate(own, among=among)
    assert (
        0 <= many.low <= one.low <= one.mean + 1e-12
        and one.mean <= one.high + 1e-12
        and one.high <= many.high <= 1
    )


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=6))
def test_a_difference_turned_round_is_its_negative(pairs):
    first = counts([p for p, _ in pairs], 50)
    second = counts([q for _, q in pairs], 50)
    there, back = difference(first, second), difference(second, first)
    assert there.mean == pytest.approx(-back.mean) and there.low == pytest.approx(-back.high)
    assert there.low <= there.mean + 1e-12


def test_pairing_takes_out_what_the_seeds_share():
    """Seeds far apart, each pair .2 apart: the difference is as sure as its binomial noise, the
    shares are not."""
    first, second = rows(0.3, 0.6, 0.9), rows(0.1, 0.4, 0.7)
    gap = difference(first, second)
    assert gap.mean == pytest.approx(0.2) and gap.low > 0.1
    assert estimate(first).low < estimate(second).high


def test_newcombes_interval_is_the_textbooks():
    """56 of 70 against 48 of 80: difference .2, interval .0524 to .3339 (Newcombe 1998, table II,
    example a)."""
    gap = difference(counts([56], 70), counts([48], 80))
    assert (gap.mean, gap.low, gap.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=1e-4)


def test_seeds_that_cannot_be_paired_are_named():
    with pytest.raises(ValueError, match=r"seeds \[0, 1\] and \[0\] cannot be paired"):
        difference(rows(0.1, 0.2), rows(0.1))
    with pytest.raises(ValueError, match="no rows"):
        estimate([])


def test_any_number_over_seeds_is_as_wide_as_its_seeds_and_its_noise():
    own = rows(0.2, 0.4)
    e = over_seeds(own, lambda part: part[0].right / 100 - 1, estimate(own))
    assert e.mean == pytest.approx(-0.7)
    assert e.high - e.mean == pytest.approx(t_half_width([0.2, 0.4]))
    same = rows(0.3, 0.3)
    e = over_seeds(same, lambda part: 0.0, estimate(same))
    assert e.low == pytest.approx(wilson(60, 200)[0] - 0.3) and math.isclose(e.mean, 0.0)
