"""The laws of merging, on random adapters of different ranks and scalings."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lora import Adapter
from recycle.reuse.merge import MERGES, mean_of_products, plain_sum, product_of_means, weighted_sum

PATHS = ("a.q_proj", "b.up_proj")


def adapter(rank, alpha, seed, base="b0", paths=PATHS, rslora=False):
    g = torch.Generator().manual_seed(seed)
    factors = {
        p: (torch.randn(rank, n, generator=g).double(), torch.randn(m, rank, generator=g).double())
        for p, (m, n) in zip(paths, ((5, 7), (7, 5)), strict=False)
    }
    return Adapter(factors, alpha, rslora, base=base, origin={"seed": seed})


adapters = st.lists(
    st.builds(
        adapter, st.integers(1, 4), st.floats(0.5, 9), st.integers(0, 10**6), rslora=st.booleans()
    ),
    min_size=1,
    max_size=9,
)


@settings(max_examples=40, deadline=None)
@given(adapters, st.data())
def test_weighted_sum_is_the_explicit_sum(several, data):
    weights = data.draw(st.lists(st.floats(-2, 2), min_size=len(several), max_size=len(several)))
    merged, plain, mean = (
        weighted_sum(several, weights),
        plain_sum(several),
        mean_of_products(several),
    )
    for path in PATHS:
        deltas = [one.delta(path) for one in several]
        expected = sum(w * delta for w, delta in zip(weights, deltas, strict=True))
        torch.testing.assert_close(merged.delta(path), expected)
        # The ranks add up to the layer's own rank at most: a layer refuses more.
        assert merged.rank(path) == min(5, sum(one.rank(path) for one in several))
        torch.testing.assert_close(plain.delta(path), sum(deltas))
        torch.testing.assert_close(mean.delta(path), sum(deltas) / len(deltas))


@settings(max_examples=40, deadline=None)
@given(adapters)
def test_order_does_not_matter(several):
    equal = [adapter(3, 4.0, a.origin["seed"]) for a in several]
    for merge in MERGES.values():
        forwards, backwards = merge(equal), merge(equal[::-1])
        for path in PATHS:
            torch.testing.assert_close(forwards.delta(path), backwards.delta(path))


@pytest.mark.parametrize("method", ["mean_of_products", "product_of_means"])
@pytest.mark.parametrize("count", [1, 2, 9])
def test_identical_adapters_change_nothing(method, count):
    one = adapter(3, 5.0, 1)
    for path in PATHS:
        torch.testing.assert_close(MERGES[method]([one] * count).delta(path), one.delta(path))


def test_weights_that_cancel():
    one = adapter(3, 5.0, 1)
    nothing = weighted_sum([one, one], [0.8, -0.8])
    torch.testing.assert_close(nothing.delta("a.q_proj"), torch.zeros(5, 7).double())


def refactored(one, seed):
    """(A, B) -> (Q A, B Q^T): the same update in other factors."""
    Q = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(seed)).double()).Q
    factors = {path: (Q @ A, B @ Q.mT) for path, (A, B) in one.factors.items()}
    return Adapter(factors, one.alpha, base=one.base, origin=one.origin)


def test_refactoring_moves_the_product_of_means_alone():
    pair = [adapter(3, 5.0, 1), adapter(3, 5.0, 2)]
    turned = [pair[0], refactored(pair[1], 0)]
    torch.testing.assert_close(turned[1].delta("a.q_proj"), pair[1].delta("a.q_proj"))
    for name, merge in MERGES.items():
        same = torch.allclose(merge(pair).delta("a.q_proj"), merge(turned).delta("a.q_proj"))
        assert same == (name != "product_of_means")


def test_product_of_means_has_the_cross_terms():
    a, b = adapter(3, 5.0, 1), adapter(3, 5.0, 2)
    (A0, B0), (A1, B1) = a.factors["a.q_proj"], b.factors["a.q_proj"]
    expected = 5 / 3 / 4 * (B0 @ A0 + B1 @ A1 + B0 @ A1 + B1 @ A0)
    merged = product_of_means([a, b])
    torch.testing.assert_close(merged.delta("a.q_proj"), expected)
    assert merged.rank("a.q_proj") == 3


def test_layers_of_only_some_adapters_get_the_sum_over_those():
    both, one = adapter(2, 3.0, 1), adapter(3, 3.0, 2, paths=PATHS[:1])
    merged = plain_sum([both, one])
    torch.testing.assert_close(merged.delta("b.up_proj"), both.delta("b.up_proj"))
    assert (merged.rank("a.q_proj"), merged.rank("b.up_proj")) == (5, 2)


def test_the_record_names_formula_weights_and_parts():
    merged = mean_of_products([adapter(3, 5.0, 1), adapter(2, 5.0, 2)])
    assert merged.base == "b0"
    assert merged.origin == {
        "merge": "mean_of_products",
        "formula": "sum_i w_i s_i B_i A_i",
        "weights": [0.5, 0.5],
        "of": [{"seed": 1}, {"seed": 2}],
    }


def test_impossible_merges_are_explained():
    a, b = adapter(3, 5.0, 1), adapter(2, 5.0, 2)
    of_another_base = adapter(3, 5.0, 1, base="b1")
    of_one_layer = adapter(3, 5.0, 1, paths=PATHS[:1])
    of_another_scale = adapter(3, 4.0, 1)
    for merge, adapters, message in (
        (plain_sum, [], "at least one adapter"),
        (plain_sum, [a, of_another_base], "different bases cannot be merged: b0, b1"),
        (product_of_means, [a, b], r"ranks \[3, 2\]"),
        (product_of_means, [a, of_another_scale], "scalings"),
        (product_of_means, [a, of_one_layer], "the same layers"),
    ):
        with pytest.raises(ValueError, match=message):
            merge(adapters)
    with pytest.raises(ValueError, match="2 adapters and 1 weights"):
        weighted_sum([a, b], [1.0])


@pytest.mark.parametrize("count, rank", [(3, 3), (24, 4)])
@pytest.mark.parametrize("types", [(torch.bfloat16,), (torch.bfloat16, torch.float, torch.half)])
def test_merges_of_short_numbers_are_rounded_once(count, rank, types):
    """Also above the layer's own rank. The result has the type that holds all factors."""
    several = []
    for i in range(count):
        one, dtype = adapter(rank, 5.0, i), types[i % len(types)]
        short = {path: tuple(f.to(dtype) for f in pair) for path, pair in one.factors.items()}
        several.append(Adapter(short, one.alpha, base=one.base))
    exact = [
        Adapter({p: tuple(f.double() for f in pair) for p, pair in one.factors.items()}, 5.0)
        for one in several
    ]
    for name, merge in MERGES.items():
        merged, expected = merge(several), merge(exact)
        for path in PATHS:
            A, B = merged.factors[path]
            assert A.dtype == (types[0] if len(types) == 1 else torch.float)
            delta = merged.scale(path) * B.double() @ A.double()
            error = (delta - expected.delta(path)).norm() / expected.delta(path).norm()
            assert error < (2**-7 if len(types) == 1 else 2**-20), (name, error)
