"""The one-layer model and its edits: identities that hold for every draw."""

from dataclasses import replace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from theory.adapter import least_squares
from theory.claim import generator, normal
from theory.claims.capacity import circle, margin
from theory.claims.editing import all_edits, exact_rank, one_edit, random_relation
from theory.one_layer import (
    Relation,
    accuracy,
    chain_world,
    derangement,
    entity_count,
    one_hot,
    random_features,
    two_hop_prompts,
)

quick = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 10_000)


@quick
@given(n=st.integers(2, 8), adapters=st.integers(1, 4), seed=seeds)
def test_worlds_are_bijections_that_change_every_fact(n, adapters, seed):
    relations = chain_world(n, adapters, generator("world", seed))
    assert len(relations) == adapters
    for relation in relations:
        assert len(set(relation.old.tolist())) == len(set(relation.new.tolist())) == n
        assert set(relation.old.tolist()) == set(relation.new.tolist())
        assert (relation.old != relation.new).all()
        assert relation.token >= entity_count(n, adapters)
    if adapters > 1:
        assert set(relations[0].new.tolist()) == set(relations[1].subjects.tolist())


@quick
@given(n=st.integers(2, 30), seed=seeds)
def test_derangements_have_no_fixed_point(n, seed):
    moved = derangement(n, generator("derangement", seed))
    assert sorted(moved.tolist()) == list(range(n)) and (moved != torch.arange(n)).all()


@quick
@given(seed=seeds, d=st.sampled_from([None, 24]))
def test_the_base_knows_its_facts(seed, d):
    rng = generator("base", seed)
    relations = chain_world(4, 2, rng)
    model = random_features(relations, 4, d, 256, rng)
    for relation in relations:
        wanted = one_hot(relation.old, model.down.shape[0])
        assert torch.allclose(model.logits(relation.prompts), wanted, atol=1e-8)


def test_residuals_are_sums_of_their_terms():
    """In the clean geometry inner products of residuals count shared terms: x R1, y R1, x R1 R2."""
    rng = generator("residual", 0)
    relations = chain_world(3, 2, rng)
    model = random_features(relations, 3, None, 16, rng)
    one, two = model.residual(relations[0].prompts), model.residual(two_hop_prompts(relations))
    second = model.residual(relations[1].prompts)
    eye, ones = torch.eye(3, dtype=torch.float64), torch.ones(3, 3, dtype=torch.float64)
    assert torch.allclose(one @ one.T, ones + eye)
    assert torch.allclose(one @ two.T, eye)
    assert torch.allclose(second @ two.T, ones)


@quick
@given(m=st.integers(2, 40), seed=seeds)
def test_proposition_1_is_the_smallest_exact_edit(m, seed):
    """Any other dW with dW phi = i_new - i_old has a larger Frobenius norm."""
    rng = generator("smallest", seed)
    key = normal(m, rng=rng)
    dw = one_edit(key, 0, 2, 5)
    assert torch.linalg.matrix_rank(dw) == 1
    unseen = normal(5, m, rng=rng)
    unseen -= torch.outer(unseen @ key, key) / key.square().sum()
    assert torch.allclose((dw + unseen) @ key, dw @ key)
    assert (dw + unseen).norm() >= dw.norm()


@quick
@given(n=st.integers(1, 8), m=st.integers(8, 30), seed=seeds)
def test_least_squares_is_the_pseudo_inverse(n, m, seed):
    rng = generator("pinv", seed)
    keys, targets = normal(n, m, rng=rng), normal(n, 3, rng=rng)
    assert torch.allclose(
        least_squares(keys, targets).delta, targets.T @ torch.linalg.pinv(keys).T, atol=1e-7
    )


@quick
@given(data=st.data(), answers=st.integers(2, 8))
def test_exact_rank_is_the_rank_of_the_changes(data, answers):
    """For any maps, bijective or not, with repeated and unchanged facts."""
    ids = st.lists(st.integers(0, answers - 1), min_size=6, max_size=6)
    old, new = torch.tensor(data.draw(ids)), torch.tensor(data.draw(ids))
    relation = Relation(0, torch.arange(6), old, new)
    difference = one_hot(new, answers) - one_hot(old, answers)
    assert exact_rank(relation, answers) == torch.linalg.matrix_rank(difference)


@quick
@given(rank=st.integers(1, 6), seed=seeds)
def test_truncation_is_the_svd_of_the_product(rank, seed):
    rng = generator("truncation", seed)
    adapter = least_squares(normal(6, 20, rng=rng), normal(6, 9, rng=rng))
    u, s, vh = torch.linalg.svd(adapter.delta, full_matrices=False)
    best = (u[:, :rank] * s[:rank]) @ vh[:rank]
    assert torch.allclose(adapter.truncated(rank).delta, best, atol=1e-8)


def test_an_edit_and_its_reverse_cancel():
    model, relation = random_relation(6, 0, "reverse", m=128)
    keys, answers = model.keys(relation.prompts), model.down.shape[0]
    back = replace(relation, old=relation.new, new=relation.old)
    there, again = all_edits(keys, relation, answers).delta, all_edits(keys, back, answers).delta
    assert torch.allclose(there + again, torch.zeros_like(there), atol=1e-12)


@given(n=st.integers(3, 40))
def test_circle_margin(n):
    points = circle(n)
    wanted = 1 - torch.cos(torch.tensor(2 * torch.pi / n, dtype=torch.float64))
    assert abs(margin(points @ points.T, torch.arange(n)) - wanted) < 1e-12


def test_accuracy_counts_the_argmax():
    assert accuracy(torch.tensor([[0.0, 1.0], [2.0, 1.0]]), torch.tensor([1, 1])) == 0.5
