"""Merges, floors, routes, and the landscape's pieces."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from theory.adapter import Adapter, mean_of_products, product_of_means
from theory.claim import generator, normal, orthonormal
from theory.claims import asymmetry, landscape, merging, routes

quick = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 10_000)


@quick
@given(ranks=st.lists(st.integers(1, 4), min_size=1, max_size=5), seed=seeds)
def test_concatenation_is_the_mean_of_products(ranks, seed):
    adapters = merging.random_adapters(ranks, 12, 10, generator("concat", seed))
    merged = mean_of_products(adapters)
    assert torch.allclose(merged.delta, sum(x.delta for x in adapters) / len(adapters))
    assert merged.a.shape[0] == sum(ranks)


@quick
@given(rank=st.integers(0, 6), seed=seeds)
def test_floor_is_reached_by_svd_and_by_nothing_else(rank, seed):
    rng = generator("floor", seed)
    merged = mean_of_products(merging.random_adapters((3, 3), 9, 8, rng))
    least = merging.floor(merged, rank)
    u, s, vh = torch.linalg.svd(merged.delta, full_matrices=False)
    best = (u[:, :rank] * s[:rank]) @ vh[:rank]
    assert math.isclose(float((best - merged.delta).norm()), least, abs_tol=1e-9)
    rival = normal(8, rank, rng=rng) @ normal(rank, 9, rng=rng)
    assert float((rival - merged.delta).norm()) >= least - 1e-9


@quick
@given(seed=seeds)
def test_rotations_leave_products_alone_and_move_products_of_means(seed):
    rng = generator("rotation", seed)
    adapters = merging.random_adapters((3, 3), 10, 10, rng)
    turned = [merging.rotated(x, rng) for x in adapters]
    before, after = mean_of_products(adapters).delta, mean_of_products(turned).delta
    assert torch.allclose(before, after)
    before, after = product_of_means(adapters).delta, product_of_means(turned).delta
    assert not torch.allclose(before, after)


def test_identical_adapters_average_to_themselves():
    (one,) = merging.random_adapters((3,), 6, 6, generator("same", 0))
    assert torch.allclose(mean_of_products([one, one]).delta, one.delta)
    assert torch.allclose(product_of_means([one, one]).delta, one.delta)


@quick
@given(seed=seeds)
def test_routes_ignore_signs_of_prototypes_and_are_homogeneous(seed):
    rng = generator("route", seed)
    adapters = merging.random_adapters((1, 1, 1), 4, 5, rng)
    tokens, prototypes = normal(20, 4, rng=rng), normal(3, 4, rng=rng)
    out = routes.routed(tokens, prototypes, adapters)
    assert torch.equal(out, routes.routed(tokens, -prototypes, adapters))
    assert torch.allclose(3 * out, routes.routed(3 * tokens, prototypes, adapters))


def test_a_route_is_not_linear():
    plane = torch.eye(2, dtype=torch.float64)
    adapters = [Adapter(plane[i : i + 1], plane[:, i : i + 1]) for i in range(2)]
    x, y = torch.tensor([[2.0, 1.0]]).double(), torch.tensor([[1.0, 3.0]]).double()
    route = [routes.routed(t, plane, adapters) for t in (x, y, x + y)]
    assert not torch.allclose(route[0] + route[1], route[2])


@quick
@given(count=st.integers(1, 400))
def test_jang_rank_is_the_largest_allowed(count):
    r = landscape.jang_rank(count)
    assert r * (r + 1) / 2 <= count < (r + 1) * (r + 2) / 2


def test_rank_manifold_of_full_rank_is_everything():
    assert landscape.manifold_dimension(landscape.SIDE) == landscape.SIDE**2


def test_convex_solution_is_stationary():
    """Moving the solution in any direction does not lower the objective."""
    problem = landscape.sensing(6, range(2), "stationary")
    x = landscape.convex_solution(problem)
    least = landscape.objective(problem, x)
    rng = generator("stationary directions", 0)
    for size in (1e-3, 1e-1):
        step = size * normal(50, *x.shape, rng=rng)
        assert (landscape.objective(problem, x + step) >= least - 1e-9).all()


def test_a_full_rank_frozen_factor_explains_everything():
    rng = generator("captured", 0)
    change, frozen = normal(6, 6, rng=rng), orthonormal(6, 6, rng)
    for trained in "AB":
        share = asymmetry.captured(change, torch.eye(6, dtype=torch.float64), frozen, trained)
        assert math.isclose(float(share), 1.0, rel_tol=1e-9)
