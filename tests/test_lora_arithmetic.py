"""Adapters add, subtract and scale as their updates do; singular values come from the core."""

import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lora import Adapter, combine, product_core

SHAPES = {"a.q_proj": (5, 7), "b.up_proj": (7, 5), "c.o_proj": (6, 6)}  # d_out, d_in
some_paths = st.sets(st.sampled_from(sorted(SHAPES)), min_size=1).map(sorted)
weights = st.floats(-3, 3)


def adapter(rank=2, alpha=3.0, seed=0, paths=tuple(SHAPES), base="b0", **kwargs):
    g = torch.Generator().manual_seed(seed)
    factors = {
        path: tuple(torch.randn(s, generator=g).double() for s in ((rank, d_in), (d_out, rank)))
        for path, (d_out, d_in) in SHAPES.items()
        if path in paths
    }
    return Adapter(factors, alpha, base=base, origin={"seed": seed}, **kwargs)


adapters = st.builds(
    adapter,
    st.integers(1, 5),
    st.floats(0.5, 9),
    st.integers(0, 10**6),
    some_paths,
    st.sampled_from(["b0", None]),
    rslora=st.booleans(),
    alphas=st.dictionaries(st.sampled_from(sorted(SHAPES)), st.floats(0.5, 9)),
)


def explicit(parts):
    """{path: sum_i w_i delta_i} for parts (w_i, adapter_i), written out."""
    deltas = {path: torch.zeros(shape).double() for path, shape in SHAPES.items()}
    for weight, one in parts:
        for path in one.paths:
            deltas[path] += weight * one.delta(path)
    return deltas


def assert_update(one, deltas):
    for path, expected in deltas.items():
        delta = one.delta(path) if path in one.paths else torch.zeros_like(expected)
        torch.testing.assert_close(delta, expected, rtol=1e-9, atol=1e-9)


@settings(max_examples=50, deadline=None)
@given(adapters, adapters, adapters, weights, weights)
def test_arithmetic_is_that_of_the_updates(a, b, c, v, w):
    assert_update(a + b, explicit([(1, a), (1, b)]))
    assert_update(a - b, explicit([(1, a), (-1, b)]))
    assert_update(-a, explicit([(-1, a)]))
    for scaled in (w * a, a * w):
        assert_update(scaled, explicit([(w, a)]))
    assert_update(a / 3, explicit([(1 / 3, a)]))
    # commutative, associative, distributive
    total = explicit([(1, a), (1, b), (1, c)])
    for same in ((a + b) + c, a + (b + c), c + b + a, sum([a, b, c])):
        assert_update(same, total)
    for same in (w * (a + b), w * a + w * b):
        assert_update(same, explicit([(w, a), (w, b)]))
    for same in ((v + w) * a, v * a + w * a):
        assert_update(same, explicit([(v + w, a)]))


@settings(max_examples=50, deadline=None)
@given(st.lists(adapters, min_size=1, max_size=6), st.data())
def test_a_combination_is_the_explicit_sum_at_no_more_than_full_rank(several, data):
    chosen = data.draw(st.lists(weights, min_size=len(several), max_size=len(several)))
    merged = combine(several, chosen)
    assert_update(merged, explicit(zip(chosen, several, strict=True)))
    for path in merged.paths:
        rank_sum = sum(one.rank(path) for one in several if path in one.paths)
        assert merged.rank(path) == min(rank_sum, *SHAPES[path])
        assert merged.scale(path) == 1
    assert merged.origin == {
        "formula": "sum_i w_i s_i B_i A_i",
        "weights": chosen,
        "of": [{"seed": one.origin["seed"]} for one in several],
    }


@settings(max_examples=25, deadline=None)
@given(adapters, weights)
def test_what_cancels_and_what_changes_nothing(a, w):
    nothing = explicit([])
    assert_update(a - a, nothing)
    assert_update(w * a + -w * a, nothing)
    assert_update(0 * a, nothing)
    assert_update(sum([a, a]) / 2, explicit([(1, a)]))
    assert sum([a]) is a


def test_sums_are_concatenations_bit_for_bit():
    """The scaling stands in B: nothing else touches the factors, however many are added."""
    a, b, c = (adapter(rank, 3.0, rank) for rank in (1, 2, 2))
    path = "c.o_proj"
    A, B = sum([a, b, c]).factors[path]
    parts = [(one.factors[path], one.scale(path)) for one in (a, b, c)]
    assert torch.equal(A, torch.cat([A_i for (A_i, _), _ in parts]))
    assert torch.equal(B, torch.cat([scale * B_i for (_, B_i), scale in parts], dim=1))


def test_results_know_their_base():
    named, unnamed = adapter(base="b1"), adapter(base=None)
    assert (named + unnamed).base == (unnamed - named).base == (2 * named).base == "b1"
    assert (-unnamed).base is None


@settings(max_examples=50, deadline=None)
@given(adapters)
def test_svd_and_norm_are_those_of_the_written_out_update(one):
    for path in one.paths:
        U, S, V = one.svd(path)
        delta = one.delta(path)
        torch.testing.assert_close(U * S @ V.mT, delta)
        torch.testing.assert_close(S, torch.linalg.svdvals(delta)[: len(S)])
        assert len(S) == min(one.rank(path), *SHAPES[path])
        for vectors in (U, V):
            torch.testing.assert_close(vectors.mT @ vectors, torch.eye(len(S)).double())
        assert one.norm(path) == pytest.approx(float(delta.norm()))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(0, 10**6))
def test_svd_does_not_see_how_the_update_is_factored(rank, seed):
    """(A, B) -> (Q A, B Q^-1) for an invertible Q."""
    one = adapter(rank, seed=seed)
    noise = torch.randn(rank, rank, generator=torch.Generator().manual_seed(seed)).double()
    Q = torch.eye(rank) + 0.4 * noise / torch.linalg.matrix_norm(noise, 2)
    factors = {p: (Q @ A, B @ torch.linalg.inv(Q)) for p, (A, B) in one.factors.items()}
    turned = Adapter(factors, one.alpha)
    for path in SHAPES:
        (U, S, V), (U2, S2, V2) = one.svd(path), turned.svd(path)
        torch.testing.assert_close(S2, S)
        torch.testing.assert_close(U2 @ U2.mT, U @ U.mT)  # the spaces: a vector's sign is free
        torch.testing.assert_close(V2 @ V2.mT, V @ V.mT)
        assert turned.norm(path) == pytest.approx(one.norm(path))


def test_svd_drops_null_directions():
    A, B = torch.randn(3, 7), torch.randn(5, 3)
    B[:, 2] = B[:, 0] + B[:, 1]
    A[2] = 2 * A[0] - A[1]
    assert len(Adapter({"q": (A, B)}, 1.0).svd("q")[1]) == 2
    fresh = Adapter({"q": (A, torch.zeros(5, 3))}, 1.0)
    assert [part.shape for part in fresh.svd("q")] == [(5, 0), (0,), (7, 0)]
    assert fresh.norm("q") == 0


@pytest.mark.parametrize("rank", [2, 6, 9])
def test_the_core_carries_the_product(rank):
    A, B = torch.randn(rank, 7).double(), torch.randn(5, rank).double()
    Q_B, core, Q_A = product_core(A, B, 0.5)
    torch.testing.assert_close(Q_B @ core @ Q_A.mT, 0.5 * B @ A)
    assert core.shape == (min(rank, 5), min(rank, 7))


def test_other_bases_and_shapes_are_refused():
    a = adapter()
    turned = Adapter({p: (B.mT, A.mT) for p, (A, B) in a.factors.items()}, 1.0)
    cases = [
        (lambda: a + adapter(base="b1"), "adapters of different bases cannot be merged: b0, b1"),
        (lambda: a - turned, "a.q_proj: updates of shapes (5, 7) and (7, 5) cannot be added"),
        (lambda: combine([], []), "at least one adapter"),
        (lambda: combine([a, a], [1.0]), "2 adapters and 1 weights"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=re.escape(message)) as caught:
            call()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused(weight):
    a = adapter()
    for call in (lambda: weight * a, lambda: a / weight, lambda: combine([a, a], [1.0, weight])):
        with pytest.raises(ValueError, match=f"an adapter's weight is {weight}: it must be finite"):
            call()


def test_adapters_are_equal_where_all_that_they_hold_is():
    a, same = adapter(), adapter()
    assert a == same and not a != same and hash(a) == hash(same)
    turned = dict(reversed(a.factors.items()))  # an order says nothing
    assert a == replace(a, factors=turned) and hash(a) == hash(replace(a, factors=turned))
    path, (A, B) = next(iter(a.factors.items()))
    others = [
        adapter(seed=1),
        adapter(rank=3),
        adapter(paths=["a.q_proj"]),
        replace(a, alpha=4.0),
        replace(a, rslora=True),
        replace(a, alphas={path: 1.0}),
        replace(a, base=None),
        replace(a, origin={"seed": 1}),
        replace(a, factors={**a.factors, path: (A.float(), B.float())}),
        replace(a, factors={**a.factors, path: (A, B.clone().index_fill_(1, torch.tensor(0), 0))}),
    ]
    for other in others:
        assert a != other and other not in [a, same]
    assert same in [*others, a] and others.index(others[4]) == 4
    assert len({a, same, *others}) == 1 + len(others)
    assert a != "a" and a != None  # noqa: E711


def test_what_is_no_adapter_and_no_number_is_refused():
    a = adapter()
    for call in (
        lambda: a + 1,
        lambda: 1 + a,
        lambda: a - 1,
        lambda: 0 - a,
        lambda: a * "2",
        lambda: "2" * a,
        lambda: a * a,
        lambda: a / a,
        lambda: 1 / a,
        lambda: a * torch.ones(2),
        lambda: torch.ones(2) * a,
        lambda: combine([a], ["2"]),
    ):
        with pytest.raises(TypeError) as caught:
            call()
        assert "\n" not in str(caught.value)
    with pytest.raises(ZeroDivisionError):
        a / 0
