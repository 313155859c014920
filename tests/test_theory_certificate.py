"""Recall certificates: safe for any sign and any code of the others, exact without others."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recycle.audit.certificate import certified
from theory.adapter import Adapter
from theory.claim import generator, normal

quick = settings(max_examples=60, deadline=None)
N, M, ANSWERS, RANK = 6, 9, 5, 2


def world(seed, others):
    """Keys, base logits, answers, and adapters: the facts' own one first."""
    rng = generator("certificate", seed)
    adapters = [
        Adapter(normal(RANK, M, rng=rng), normal(ANSWERS, RANK, rng=rng)) for _ in range(1 + others)
    ]
    answers = torch.randint(ANSWERS, (N,), generator=rng)
    return normal(N, M, rng=rng), normal(N, ANSWERS, rng=rng), answers, adapters


def sure_of(base, keys, answers, adapters, own, weights, remainder=0.0):
    factors = [(adapter.a, adapter.b) for adapter in adapters]
    return certified(base, keys, answers, factors, own, weights, remainder)


def survives(keys, base, answers, adapters, weights):
    merged = sum(w * x(keys) for w, x in zip(weights, adapters, strict=True))
    return (base + merged).argmax(1) == answers


@quick
@given(
    seed=st.integers(0, 10_000),
    others=st.integers(0, 3),
    weights=st.lists(st.floats(-0.3, 0.3), min_size=4, max_size=4),
)
def test_no_certified_fact_is_lost(seed, others, weights):
    keys, base, answers, adapters = world(seed, others)
    given_weights = [1.0, *weights[:others]]
    sure = sure_of(base, keys, answers, adapters, 0, given_weights)
    assert not (sure & ~survives(keys, base, answers, adapters, given_weights)).any()


@quick
@given(seed=st.integers(0, 10_000))
def test_without_others_it_is_the_answer_itself(seed):
    keys, base, answers, adapters = world(seed, 0)
    sure = sure_of(base, keys, answers, adapters, 0, [0.7])
    assert torch.equal(sure, survives(keys, base, answers, adapters, [0.7]))


def test_a_remainder_takes_facts_away_and_never_adds_one():
    keys, base, answers, adapters = world(1, 1)
    sure = [sure_of(base, keys, answers, adapters, 0, [1.0, 0.0], r) for r in (0.0, 0.5, 100.0)]
    assert sure[0].any() and not sure[2].any() and not (sure[1] & ~sure[0]).any()


@pytest.mark.parametrize("weights, own", [([1.0], 0), ([1.0, 1.0], 2), ([1.0, 1.0], -1)])
def test_weights_and_own_must_fit(weights, own):
    keys, base, answers, adapters = world(2, 1)
    with pytest.raises(ValueError, match="give one weight for every adapter"):
        sure_of(base, keys, answers, adapters, own, weights)
