"""The composition theorem by independent means: small cases by hand, by enumeration, by search."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from theory import exact
from theory.claim import generator, normal
from theory.claims.additive import (
    additive_bound,
    best_additive,
    climbed,
    envelope_accuracy,
    longest_increasing,
    mean_lis,
)
from theory.claims.asymmetry import captured, explained

quick = settings(max_examples=25, deadline=None)


def best_accuracy_by_prices(weights):
    """The same as best_additive by another way: the best prices c on a grid, for each r~2."""
    n = len(weights)
    steps = torch.linspace(-8, 8, 401, dtype=torch.float64)  # the first price may be 0
    others = torch.cartesian_prod(*[steps] * (n - 1)).reshape(-1, n - 1)
    grid = torch.cat([torch.zeros(len(others), 1).double(), others], dim=1)
    answers = (weights[None] + grid[:, None]).argmax(2)  # (prices, n)
    perms = torch.tensor(list(itertools.permutations(range(n))))
    right = (answers[:, None] == perms[None]).sum(2).amax(0)
    return float(right.double().mean()) / n


@pytest.mark.parametrize("n", [2, 3])
def test_good_sets_are_those_that_some_prices_answer(n):
    for seed in range(6):
        weights = normal(n, n, rng=generator("prices", seed))
        assert best_additive(weights) == pytest.approx(best_accuracy_by_prices(weights))


def test_bounds_that_can_be_counted_by_hand():
    assert additive_bound(1) == 1
    assert additive_bound(2) == pytest.approx(3 / 4)
    assert additive_bound(3) == pytest.approx(2 / 3)
    assert additive_bound(400) == pytest.approx(math.e / 20, rel=0.1)


def test_few_answers_make_a_weaker_bound_and_many_the_same():
    assert additive_bound(5, answers=1) == 1
    many = additive_bound(25, answers=10**6)
    assert many == pytest.approx(additive_bound(25), abs=1e-3)
    assert additive_bound(25, answers=25) > many


@pytest.mark.parametrize("n", range(1, 7))
def test_mean_lis_counts_all_permutations(n):
    lengths = [len(longest_increasing(p)) for p in itertools.permutations(range(n))]
    assert mean_lis(n) == pytest.approx(sum(lengths) / len(lengths))


@quick
@given(order=st.permutations(range(9)))
def test_the_envelope_answers_one_increasing_subsequence(order):
    chain = longest_increasing(order)
    assert [order[i] for i in chain] == sorted(order[i] for i in chain)
    assert envelope_accuracy(order) >= len(chain) / 9


@pytest.mark.parametrize("n", [2, 3, 4])
def test_no_search_gets_above_the_bound(n):
    found = climbed(n, 30, generator("climbed", n))
    assert mean_lis(n) / n - 0.06 < found <= additive_bound(n) + 1e-12


@quick
@given(
    rows=st.integers(1, 6),
    columns=st.integers(1, 6),
    inner=st.integers(1, 4),
    seed=st.integers(0, 999),
)
def test_exact_ranks(rows, columns, inner, seed):
    rng = generator("exact", seed)
    product = exact.integers(rows, inner, size=4, rng=rng) @ exact.integers(
        inner, columns, size=4, rng=rng
    )
    assert exact.rank(product.tolist()) == torch.linalg.matrix_rank(product.double())


def test_an_exact_rank_where_floats_have_none():
    big = 10**12
    assert exact.rank([[big, big + 1], [big - 1, big]]) == 2  # determinant 1
    assert exact.rank([[0, 0], [0, 0]]) == 0


def test_a_wrong_bridge_is_not_repaired_by_chance():
    """N = 5, three of five bridges right, second hop all right: 3/5 of the chains, not more."""
    first, given = [0, 1, 2, 3, 4], [0, 1, 2, 4, 3]
    for second in itertools.permutations(range(5)):
        assert sum(second[a] == second[b] for a, b in zip(first, given, strict=True)) == 3


def test_a_change_of_weak_inputs_is_the_counterexample_to_training_b():
    spectrum = torch.tensor([1.0, 0.5, 0.1, 0.01], dtype=torch.float64)
    weak = torch.zeros(4, 4, dtype=torch.float64)
    weak[:, 3] = 1.0
    rngs = [generator("weak", seed) for seed in range(64)]
    frozen = torch.stack([torch.linalg.qr(normal(4, 2, rng=r))[0].T for r in rngs])
    by_b, by_a = (captured(weak, torch.diag(spectrum), frozen, x).mean() for x in "BA")
    assert by_b < 0.1 < by_a and explained(weak, spectrum, 2) < 0.1
