"""Constructed adapters: linear, ReLU, attention, trained."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from theory.claim import generator, normal
from theory.claims import attention_adapters, linear_adapters, relu_adapters
from theory.claims.trained_adapters import masked_adapters, trained_linear

quick = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 10_000)


@quick
@given(dim=st.integers(2, 8), depth=st.integers(1, 4), rank=st.integers(1, 4), seed=seeds)
def test_construction_reaches_the_singular_value(dim, depth, rank, seed):
    frozen, target = linear_adapters.problem(dim, depth, seed, "test")
    adapters = linear_adapters.constructed(frozen, target, rank)
    assert all(a.shape[0] <= rank and b.shape[1] <= rank for a, b in adapters)
    gap = target - linear_adapters.product(frozen)
    predicted = linear_adapters.predicted_error(gap, rank * depth)
    assert abs(linear_adapters.constructed_error(frozen, target, rank) - predicted) < 1e-7


@quick
@given(dim=st.integers(2, 6), depth=st.integers(1, 3), rank=st.integers(1, 2), seed=seeds)
def test_random_adapters_move_the_product_by_rank_rl_at_most(dim, depth, rank, seed):
    rng = generator("telescope", seed)
    frozen, _ = linear_adapters.problem(dim, depth, seed, "test")
    adapters = [(normal(rank, dim, rng=rng), normal(dim, rank, rng=rng)) for _ in frozen]
    adapted = linear_adapters.adapted(frozen, adapters)
    moved = linear_adapters.product(adapted) - linear_adapters.product(frozen)
    assert int(torch.linalg.matrix_rank(moved, rtol=1e-9)) <= rank * depth


def test_product_applies_the_first_factor_first():
    first, second = normal(2, 3, 3, rng=generator("product", 0))
    assert torch.equal(linear_adapters.product([first, second]), second @ first)


@quick
@given(seed=seeds, rank=st.integers(1, 3))
def test_inner_relu_layers_act_as_matrices_on_the_sample(seed, rank):
    """The adapted network equals one ReLU layer with the product of its weights and the target's
    bias."""
    frozen, target, sample = relu_adapters.problem(6, 2, 1, seed, "test")
    network, (tail,) = relu_adapters.adapt(frozen, target, rank, sample)
    direct = torch.relu(sample @ (target.weights[0] + tail).T + target.biases[0])
    assert torch.allclose(network(sample), direct, atol=1e-9)


def test_expected_error_is_zero_only_at_the_goal():
    goal = normal(5, 5, rng=generator("expected", 0))
    assert abs(relu_adapters.expected_error(goal, goal)) < 1e-6
    near = goal + 1e-3 * normal(5, 5, rng=generator("expected", 1))
    error, linear = relu_adapters.expected_error(near, goal), float((near - goal).square().sum())
    assert error / linear == pytest.approx(0.5, rel=0.01)


def test_attention_ignores_the_order_of_attended_tokens():
    rng = generator("attention", 0)
    model = attention_adapters.random_transformer(4, 2, 1, rng)
    z = normal(1, 4, 5, rng=rng)
    order = torch.tensor([3, 1, 4, 0, 2])
    assert torch.allclose(model(z)[..., order], model(z[..., order]))


@pytest.mark.parametrize("dim", [4, 6])
def test_transformer_rank_half_the_width_and_not_one_less(dim):
    rng = generator("transformer", dim)
    frozen, target = (attention_adapters.random_transformer(dim, 2, 2, rng) for _ in range(2))
    z = normal(4, dim, 5, rng=rng)
    assert attention_adapters.relative_error(frozen, target, dim // 2, z) < 1e-9
    assert attention_adapters.relative_error(frozen, target, dim // 2 - 1, z) > 1e-3


def test_adapting_to_oneself_changes_nothing():
    rng = generator("self", 0)
    model = attention_adapters.random_transformer(4, 1, 2, rng)
    z = normal(2, 4, 3, rng=rng)
    assert torch.allclose(attention_adapters.adapt(model, model, 1)(z), model(z))
    assert attention_adapters.largest_gap(model, model) == 0


def test_masks_keep_r_rows():
    a, b, mask = masked_adapters([1, 3], depth=2, dim=4, seed=0, name="mask")
    assert torch.linalg.matrix_rank(mask * a).tolist() == [[1, 1], [3, 3]]
    assert not b.any()


def test_batched_models_train_apart():
    """A model's result does not depend on which others share the batch."""
    alone, _ = trained_linear(6, 2, (2,), range(1), 20)
    among, _ = trained_linear(6, 2, (2, 3), range(1), 20)
    assert alone[0, 0] > 0 and math.isclose(alone[0, 0], among[0, 0], rel_tol=1e-6)
