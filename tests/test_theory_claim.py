"""The machinery: what holds, what is violated, and that nothing slips through."""

import math
import pkgutil
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from theory import claims
from theory.catalogue import ALL, THEMES, pick
from theory.claim import (
    Claim,
    Observation,
    Settings,
    TheoryError,
    generator,
    mean_and_error,
    orthonormal,
    verify,
)

finite = st.floats(-1e6, 1e6)


def claim_of(*observations, relation="==", tolerance=0.5, kind="theorem"):
    words = dict.fromkeys(
        ("id", "title", "statement", "formula", "source", "assumptions", "derivation", "computed"),
        "x",
    )
    return Claim(
        **words,
        kind=kind,
        relation=relation,
        tolerance=tolerance,
        check=lambda settings: iter(observations),
    )


@given(bound=finite, observed=finite, tolerance=st.floats(0, 10))
def test_relations_agree(bound, observed, tolerance):
    """== holds exactly when both <= and >= do."""
    seen = Observation("case", 0, bound, observed)
    equal, below, above = (
        claim_of(relation=r, tolerance=tolerance).holds(seen) for r in ("==", "<=", ">=")
    )
    assert equal == (below and above)
    assert below or above


@pytest.mark.parametrize("relation", ["==", "<=", ">="])
def test_not_a_number_is_a_violation(relation):
    result = verify(claim_of(Observation("case", 3, 0.0, math.nan), relation=relation), Settings())
    assert result.verdict == "violated" and result.counterexample.seed == 3


def test_infinite_observation_is_a_violation():
    assert not verify(claim_of(Observation("case", 0, 0.0, math.inf)), Settings()).holds


def test_first_counterexample_is_named_and_worst_is_shown():
    seen = [
        Observation("a", 0, 0.0, 0.1),
        Observation("a", 1, 0.0, 1.0),
        Observation("b", 0, 0.0, 9.0),
    ]
    result = verify(claim_of(*seen), Settings())
    assert result.counterexample == seen[1] and result.worst == seen[2]
    assert [(case.name, case.n, case.holds) for case in result.cases] == [
        ("a", 2, False),
        ("b", 1, False),
    ]


def test_rounding_noise_does_not_choose_the_worst():
    seen = [Observation("a", seed, 0.0, noise) for seed, noise in enumerate((1e-15, 3e-15, 2e-15))]
    assert verify(claim_of(*seen, tolerance=1e-9), Settings()).worst.seed == 0


def test_a_check_that_observes_nothing_is_an_error():
    with pytest.raises(ValueError, match="observed nothing"):
        verify(claim_of(), Settings())


def test_unknown_relation_is_refused():
    with pytest.raises(ValueError, match="relation"):
        claim_of(relation="<")


def test_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="kind 'guess' is not one of identity, theorem"):
        claim_of(kind="guess")


def test_ids_are_unique_and_every_field_is_filled():
    assert len({claim.id for claim in ALL}) == len(ALL)
    for claim in ALL:
        fields = (
            claim.title,
            claim.statement,
            claim.formula,
            claim.source,
            claim.assumptions,
            claim.derivation,
        )
        assert all(fields) and claim.computed and claim.tolerance >= 0, claim.id


def test_every_theme_is_in_the_catalogue():
    """A file of claims that nobody lists would never be checked."""
    assert sorted(THEMES) == sorted(name for _, name, _ in pkgutil.iter_modules(claims.__path__))


def test_unknown_id_names_what_looks_like_it():
    with pytest.raises(TheoryError, match="'edit-rnk'; did you mean edit-rank"):
        pick(["edit-rnk"])


def test_at_least_one_seed_and_none_below_0():
    with pytest.raises(TheoryError, match="--seeds 0"):
        Settings(seeds=0)
    with pytest.raises(TheoryError, match="--seed-from -1"):
        Settings(first=-1)
    assert list(Settings(seeds=3, first=7).each) == [7, 8, 9]


def test_four_errors_and_the_bias_are_allowed():
    seen = Observation("case", 0, bound=1.0, observed=1.49, error=0.1, bias=0.1)
    assert claim_of(tolerance=0.0).holds(seen) and seen.z == pytest.approx(3.9)
    assert not claim_of(tolerance=0.0).holds(replace(seen, observed=1.51))


@pytest.mark.parametrize("n, quantile", [(8, 8.47), (16, 5.48), (101, 4.18)])
def test_few_repeats_widen_the_error_to_students_t(n, quantile):
    """Quantiles of t at the level of 4 standard deviations, 1 in 31,574."""
    values = torch.arange(n, dtype=torch.float64)
    _, error = mean_and_error(values)
    assert 4 * error / (float(values.std()) / n**0.5) == pytest.approx(quantile, rel=0.03)
    with pytest.raises(ValueError, match="7 repeats"):
        mean_and_error(values[:7])


@given(name=st.text(max_size=20), seed=st.integers(0, 1000))
def test_streams_are_named(name, seed):
    """The same (name, seed) gives the same numbers, another name or seed gives others."""

    def draw(*key):
        return torch.randn(4, generator=generator(*key))

    assert torch.equal(draw(name, seed), draw(name, seed))
    assert not torch.equal(draw(name, seed), draw(name, seed + 1))
    assert not torch.equal(draw(name, seed), draw(name + "'", seed))


def test_checks_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    for claim in pick(["edit-rank", "merge-floor", "leak-fall"]):
        verify(claim, Settings(seeds=1))
    assert torch.equal(before, torch.get_rng_state())


@given(rows=st.integers(1, 6), extra=st.integers(0, 4), seed=st.integers(0, 100))
def test_orthonormal_rows(rows, extra, seed):
    q = orthonormal(rows, rows + extra, generator("q", seed))
    assert torch.allclose(q @ q.T, torch.eye(rows, dtype=torch.float64))
