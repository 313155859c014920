"""Kernel, merges and predictions: the algebra behind the two-hop table."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from theory.claim import generator, normal
from theory.claims.leakage import PAIRS, angles, arc_cosine, arc_cosine_second, kernel, overlap
from theory.claims.one_hop import written_out
from theory.claims.two_hop import (
    MERGES,
    answer_types,
    composed,
    experts,
    merged_logits,
    predicted_logits,
)
from theory.one_layer import chain_world, random_features, two_hop_prompts

quick = settings(max_examples=20, deadline=None)
seeds = st.integers(0, 10_000)


def test_values_of_the_kernel():
    degrees = torch.tensor([0.0, 60.0, 90.0, 180.0], dtype=torch.float64)
    wanted = torch.tensor([1.0, 0.608998, 1 / math.pi, 0.0], dtype=torch.float64)
    assert torch.allclose(arc_cosine(torch.deg2rad(degrees)), wanted, atol=1e-6)
    assert torch.allclose(
        arc_cosine_second(torch.deg2rad(degrees))[[0, 3]], wanted[[0, 3]], atol=1e-12
    )


@quick
@given(seed=seeds, scale=st.floats(0.1, 10))
def test_kernel_is_symmetric_homogeneous_and_positive(seed, scale):
    a = normal(5, 7, rng=generator("kernel", seed))
    gram = kernel(a, a)
    assert torch.allclose(gram, gram.T) and torch.allclose(kernel(scale * a, a), scale * gram)
    assert torch.linalg.eigvalsh(gram).min() > 0
    assert torch.allclose(gram.diagonal(), a.square().sum(1) / 2)


def test_angles_of_a_vector_with_itself_and_its_negative():
    a = normal(1, 5, rng=generator("angles", 0))
    assert torch.allclose(
        angles(a, torch.cat([a, -a])),
        torch.tensor([[0.0, math.pi]], dtype=torch.float64),
        atol=1e-7,
    )


def test_overlaps_quoted_in_the_docs():
    values = {name: round(overlap(*pair), 3) for name, pair in PAIRS.items()}
    assert values["two-hop prompt on its first hop"] == 0.673
    assert values["two-hop prompt on any second hop"] == 0.673
    assert values["two-hop prompt on another first hop"] == 0.39
    assert values["other entity, same relation"] == 0.609


@pytest.fixture(scope="module")
def setting():
    rng = generator("two-hop test", 0)
    relations = chain_world(6, 3, rng)
    model = random_features(relations, 6, None, 512, rng)
    return relations, model, experts(model, relations)


def test_merges_are_what_they_are_called(setting):
    _, _, parts = setting
    deltas = [part.delta for part in parts]
    assert torch.allclose(MERGES["sum"](parts).delta, sum(deltas))
    assert torch.allclose(MERGES["mean of products"](parts).delta, sum(deltas) / 3)
    b, a = sum(p.b for p in parts) / 3, sum(p.a for p in parts) / 3
    assert torch.allclose(MERGES["product of means"](parts).delta, b @ a)


@pytest.mark.parametrize("merge", ["mean of products", "product of means"])
def test_means_are_idempotent_and_sums_are_not(setting, merge):
    part = setting[2][0]
    assert torch.allclose(MERGES[merge]([part, part]).delta, part.delta)
    assert torch.allclose(MERGES["sum"]([part, part]).delta, 2 * part.delta)


@pytest.mark.parametrize("merge", MERGES)
def test_order_of_adapters_is_irrelevant(setting, merge):
    parts = setting[2]
    assert torch.allclose(MERGES[merge](parts).delta, MERGES[merge](parts[::-1]).delta)


@pytest.mark.parametrize("merge", MERGES)
def test_prediction_is_the_network_with_the_sampled_gram(setting, merge, monkeypatch):
    """With sampled overlaps in place of the kernel, the prediction is the network to rounding."""
    relations, model, parts = setting
    prompts = two_hop_prompts(relations)
    monkeypatch.setattr(
        "theory.claims.two_hop.kernel",
        lambda a, b: torch.relu(a @ model.up.T) @ torch.relu(b @ model.up.T).T,
    )
    predicted = predicted_logits(model, relations, model.residual(prompts), merge)
    assert torch.allclose(predicted, merged_logits(model, MERGES[merge](parts), prompts), atol=1e-8)


def test_right_answers_follow_both_new_facts(setting):
    relations, _, _ = setting
    first = dict(zip(relations[0].subjects.tolist(), relations[0].new.tolist(), strict=True))
    second = dict(zip(relations[1].subjects.tolist(), relations[1].new.tolist(), strict=True))
    assert composed(relations).tolist() == [
        second[first[x]] for x in relations[0].subjects.tolist()
    ]


def test_answer_types_are_disjoint(setting):
    relations, model, _ = setting
    masks = torch.stack(list(answer_types(relations, model.down.shape[0]).values()))
    assert masks.sum(0).max() == 1
    assert masks.sum((0, 2)).tolist() == [12] * 6  # the answers of both hops, for every subject


def test_written_out_bridge_composes(setting):
    relations, model, parts = setting
    assert written_out(model, MERGES["sum"](parts), relations) == (1.0, 1.0, 1.0, 0.0)
