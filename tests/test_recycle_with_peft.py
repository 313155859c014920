"""PEFT's own merges as arms, and what they do to one adapter and to two that are identical."""

import sys

import pytest
import torch

from lora import Adapter
from recycle.reuse.merge import mean_of_products
from recycle.reuse.merges import BY_NAME
from recycle.reuse.methods import BY_NAME as METHODS
from recycle.reuse.with_peft import COMBINATIONS, merged_with_peft
from tasks import TwoHop, TwoHopConfig

SHAPES = {"layers.0.q_proj": (16, 12), "layers.0.up": (8, 16)}


def adapter(seed=0, ranks=(4, 4), alpha=6, rslora=False, alphas=None):
    g = torch.Generator().manual_seed(seed)
    factors = {
        path: (torch.randn(r, n, generator=g), torch.randn(m, r, generator=g))
        for (path, (m, n)), r in zip(SHAPES.items(), ranks, strict=True)
    }
    return Adapter(factors, alpha, rslora, alphas or {}, origin={"reads": f"hop{seed + 1}"})


KINDS = {
    "plain": adapter(),
    "rslora": adapter(rslora=True),
    "rank_pattern": adapter(ranks=(4, 2)),
    "unequal alphas": adapter(alphas={"layers.0.up": 11}),
}


def test_without_peft_its_arms_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match="PEFT is not installed: pip install peft"):
        merged_with_peft([adapter()], "svd")
    for combination, message in (("sum", "combination 'sum': choose from svd, linear, cat, ties"),):
        with pytest.raises(ValueError, match=message):
            merged_with_peft([adapter()], combination)


def error(merged, one):
    """||merged - dW|| / ||dW||, the largest over the layers."""
    gaps = [float((merged.delta(p) - one.delta(p)).norm() / one.delta(p).norm()) for p in SHAPES]
    return max(gaps)


@pytest.fixture
def peft():
    return pytest.importorskip("peft")


@pytest.mark.interop
@pytest.mark.parametrize("combination", COMBINATIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_identity_merge_of_one_adapter(peft, kind, combination):
    """PEFT merges a lone adapter by linear, whatever the type. A rank-stabilised one comes out
    sqrt(r) times too large: the scaling is folded in, and acts once more."""
    one = KINDS[kind]
    merged = merged_with_peft([one], combination, density=None)
    expected = 4**0.5 - 1 if kind == "rslora" else 0.0
    assert error(merged, one) == pytest.approx(expected, abs=1e-5)


@pytest.mark.interop
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("combination", COMBINATIONS)
def test_two_identical_adapters(peft, kind, combination):
    """At density 1: the types that add factors with weights 1/2 give twice the adapter."""
    one = KINDS[kind]
    density = None if COMBINATIONS[combination] is None else 1.0
    merged = merged_with_peft([one, one], combination, density=density)
    factor = 2 if combination in ("linear", "dare_linear", "magnitude_prune") else 1
    if kind == "rslora":
        # cat has rank 2 r, and so a scaling of sqrt(2 r); the others sqrt(r).
        factor *= merged.rank("layers.0.up") ** 0.5
    assert error(merged, one) == pytest.approx(factor - 1, abs=1e-5)


@pytest.mark.interop
def test_our_merges_of_the_same_names(peft):
    two = [adapter(0), adapter(1)]
    for combination, ours in (
        ("svd", BY_NAME["svd_r"](two)),
        ("cat", mean_of_products(two)),
        ("linear", BY_NAME["peft_linear"](two)),
    ):
        theirs = merged_with_peft(two, combination)
        for path in SHAPES:
            torch.testing.assert_close(theirs.delta(path), ours.delta(path), atol=1e-5, rtol=1e-5)
    assert merged_with_peft(two, "ties").rank("layers.0.up") == 4


@pytest.mark.interop
def test_layers_that_only_some_address(peft):
    low, high = ({path: adapter(i).factors[path]} for i, path in enumerate(SHAPES))
    merged = merged_with_peft([Adapter(low, 6), Adapter(high, 6)], "cat", weights=[1.0, 1.0])
    for factors in (low, high):
        for path in factors:
            expected = Adapter(factors, 6).delta(path)
            torch.testing.assert_close(merged.delta(path), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.interop
def test_our_elementwise_rules_are_pefts_on_the_written_out_updates(peft):
    from peft.utils import merge_utils

    two = [adapter(0), adapter(1, alpha=3)]
    for path, (m, n) in SHAPES.items():
        updates = [one.delta(path) for one in two]
        density = 48 / (m * n)  # a whole number of entries: PEFT rounds down, we round up
        ones, halves = torch.ones(2), torch.ones(2) / 2
        for name, theirs in (
            ("ties", merge_utils.ties(updates, ones, density)),
            ("magnitude_prune", merge_utils.magnitude_prune(updates, halves, density)),
        ):
            ours = BY_NAME[name](two, density=density).delta(path)
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.interop
def test_draws_are_the_generators_and_the_global_one_stays(peft):
    two, before = [adapter(0), adapter(1)], torch.random.get_rng_state()
    made = [
        merged_with_peft(two, "dare_linear", torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    ]
    first, again, other = (one.delta("layers.0.up") for one in made)
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.interop
def test_what_peft_refuses_is_one_line(peft):
    with pytest.raises(ValueError, match=r"PEFT .* cannot merge these .*same r") as found:
        merged_with_peft([adapter(0), adapter(1, ranks=(3, 3))], "linear")
    assert "\n" not in str(found.value) and len(str(found.value)) < 300
    with pytest.raises(ValueError, match="2 adapters and 1 weights"):
        merged_with_peft([adapter(0), adapter(1)], "cat", weights=[1.0])
    with pytest.raises(ValueError, match="density = 2"):
        merged_with_peft([adapter(0)], "ties", density=2)


@pytest.mark.interop
def test_the_arms_are_methods(peft):
    world = TwoHop(TwoHopConfig(people=40, cities=10, triples=6, set_cities=3), 0)
    two = {"a": adapter(0), "b": adapter(1)}
    for combination in COMBINATIONS:
        method = METHODS[f"peft_itself_{combination}"]
        prepared = method.prepare(two, torch.Generator().manual_seed(0), world)
        assert set(prepared.adapters["merged"].paths) == set(SHAPES)
