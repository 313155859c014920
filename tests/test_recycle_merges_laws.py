"""Which laws each merge obeys and which it breaks, and what it says to bad input."""

import weakref
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lora import Adapter
from recycle.reuse import merge as linear
from recycle.reuse.core import Layer
from recycle.reuse.merges import CLAIMED_MERGES, NAMES, merge_by_name, options_text
from recycle.reuse.scale import at_norms_of

SHAPES = {"a.q_proj": (5, 7), "b.up_proj": (7, 5)}
EQUAL = ("product_of_means", "peft_linear")  # they add factors, so ranks must be equal
# Options under which a merge that trims or draws has something to trim.
OPTIONS = {
    name: {"density": 0.5} for name in NAMES if name.startswith(("ties", "dare", "magn", "bread"))
} | {"knots": {"density": 0.5}}

ONE, SAME, ORDER, TURN, ANY, CANCEL = (
    "one adapter comes back",
    "identical adapters come back",
    "the order does not matter",
    "turned factors (Q A, B Q^T) change nothing",
    "other factors (Q A, B Q^-1) change nothing",
    "dW and -dW give 0",
)
LAWS = (ONE, SAME, ORDER, TURN, ANY, CANCEL)
EVERYTHING, ELEMENTWISE = frozenset(LAWS), frozenset({ORDER, TURN, ANY, CANCEL})
OBEYS = {
    "mean_of_products": EVERYTHING,
    "product_of_means": EVERYTHING - {TURN, ANY},
    "plain_sum": EVERYTHING - {SAME},
    "ties": ELEMENTWISE,
    "ties_core": ELEMENTWISE - {ANY},
    "dare_linear": {TURN, ANY},
    "dare_linear_core": {TURN},
    "dare_ties": {TURN, ANY},
    "dare_ties_core": {TURN},
    "magnitude_prune": ELEMENTWISE,
    "magnitude_prune_core": ELEMENTWISE - {ANY},
    "breadcrumbs": ELEMENTWISE,
    "breadcrumbs_core": ELEMENTWISE - {ANY},
    "peft_linear": {ONE, ORDER, CANCEL},
    "svd_r": EVERYTHING,
    "knots": ELEMENTWISE,
    "tsv": EVERYTHING - {SAME},
    "iso_c": ELEMENTWISE,
    "iso_cts": ELEMENTWISE,
    "pico": EVERYTHING - {SAME, ANY},
    "model_stock": EVERYTHING,
    "norm_matched_sum": EVERYTHING,
    "rescaled_single": EVERYTHING - {ORDER, CANCEL},
}


def adapter(seed, rank=3, alpha=5.0, shapes=SHAPES, **more):
    g = torch.Generator().manual_seed(seed)
    factors = {
        p: (torch.randn(rank, n, generator=g).double(), torch.randn(m, rank, generator=g).double())
        for p, (m, n) in shapes.items()
    }
    return Adapter(factors, alpha, **{"base": "b0", "origin": {"seed": seed}, **more})


def library(name, seed, count, least=1):
    """Adapters of different ranks and scalings, where the merge takes such."""
    g = torch.Generator().manual_seed(seed)
    ranks = torch.randint(least, 4, (count,), generator=g).tolist()
    if name in EQUAL:
        return [adapter(seed + i) for i in range(count)]
    return [
        adapter(seed + i, rank, 2.0 + rank * i, rslora=i % 2 == 1) for i, rank in enumerate(ranks)
    ]


def merged(name, adapters, seed=0):
    options = {key: str(value) for key, value in OPTIONS.get(name, {}).items()}
    if name.startswith("dare"):
        options["seed"] = str(seed)
    return merge_by_name(name, adapters, options)


def refactored(one, seed, turn):
    """The same update in other factors."""
    g = torch.Generator().manual_seed(seed)
    factors = {}
    for path, (A, B) in one.factors.items():
        Q = torch.randn(len(A), len(A), generator=g).double()
        Q = torch.linalg.qr(Q).Q if turn else Q + 2 * torch.eye(len(A)).double()
        factors[path] = (Q @ A, B @ torch.linalg.inv(Q))
    return replace(one, factors=factors)


def negative(one):
    return replace(one, factors={path: (A, -B) for path, (A, B) in one.factors.items()})


def distance(one, other):
    """The largest difference of two adapters' updates, in parts of their size."""
    size = max(float(one.delta(path).norm() + other.delta(path).norm()) for path in one.paths)
    gaps = [float((one.delta(path) - other.delta(path)).norm()) for path in one.paths]
    return max(gaps) / size if size else 0.0


def broken(law, name, seed, count, least=1):
    """How far the merge is from obeying the law, in parts of the adapters' size."""
    several = library(name, seed, count, least)
    first = several[0]
    if law == ONE:
        return distance(merged(name, [first]), first)
    if law == SAME:
        return distance(merged(name, [first] * count), first)
    if law == ORDER:
        return distance(merged(name, several), merged(name, several[::-1]))
    if law in (TURN, ANY):
        others = [refactored(one, seed + i, law == TURN) for i, one in enumerate(several)]
        return distance(merged(name, several), merged(name, others))
    left = merged(name, [first, negative(first)])
    return max(left.norm(path) / first.norm(path) for path in first.paths)


def test_the_table_of_laws_names_every_merge():
    assert set(OBEYS) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=5, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1, 2, 3, 9, 16]))
def test_merges_obey_their_laws(name, seed, count):
    for law in OBEYS[name]:
        assert broken(law, name, seed, count) < 1e-6, law


@pytest.mark.parametrize("name", NAMES)
def test_merges_break_the_other_laws(name):
    for law in EVERYTHING - OBEYS[name]:
        assert broken(law, name, 2, 3, least=2) > 1e-3, law


@pytest.mark.parametrize("name", NAMES)
def test_a_scaling_counts_as_if_it_were_in_the_factors(name):
    """s = alpha / r, or 1 with s B for B. Only the means and sums of the factors see it."""
    several = [adapter(i, alpha=5.0) for i in range(3)]
    folded = []
    for one in several:
        factors = {p: (A, one.scale(p) * B) for p, (A, B) in one.factors.items()}
        folded.append(Adapter(factors, 3.0, base="b0"))
    assert distance(merged(name, several), merged(name, folded)) < 1e-6 or name == "peft_linear"


@pytest.mark.parametrize("name", [name for name in NAMES if "density" in OPTIONS.get(name, {})])
def test_at_density_1_nothing_is_lost(name):
    one = adapter(1)
    more = {"gamma": "0"} if name.startswith("breadcrumbs") else {}
    for several in ([one], [one] * 3):
        assert distance(merge_by_name(name, several, {"density": "1", **more}), one) < 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_a_zero_adapter_does_no_harm(name):
    """B = 0, as a fresh adapter has it: alone, among others, and only zeros."""
    one = adapter(1)
    zero = replace(one, factors={path: (A, 0 * B) for path, (A, B) in one.factors.items()})
    nothing = merged(name, [zero, zero])
    assert all(bool((nothing.delta(path) == 0).all()) for path in SHAPES)
    beside = merged(name, [one, zero])
    for path in SHAPES:
        assert bool(beside.delta(path).isfinite().all()) and beside.norm(path) > 0


@pytest.mark.parametrize("name", NAMES)
def test_types_bases_and_records_are_kept(name):
    """16-bit factors are merged in float32 and rounded once."""
    several = [adapter(1), adapter(2)]
    small = [
        replace(one, factors={p: (A.bfloat16(), B.bfloat16()) for p, (A, B) in one.factors.items()})
        for one in several
    ]
    made = merged(name, small)
    assert all(factor.dtype == torch.bfloat16 for pair in made.factors.values() for factor in pair)
    wide = [
        replace(one, factors={p: (A.double(), B.double()) for p, (A, B) in one.factors.items()})
        for one in small
    ]
    if "core" not in name and name not in ("ties", "dare_ties", "knots", "iso_c", "iso_cts"):
        assert distance(made, merged(name, wide)) < 0.02
    assert made.base == "b0" and made.origin["merge"] == name and made.origin["formula"]
    assert [part["seed"] for part in made.origin["of"]] == [1, 2]


@pytest.mark.parametrize("name", [name for name in NAMES if name not in EQUAL])
def test_layers_that_only_some_address(name):
    """An update of a layer that an adapter does not address is 0, and each layer stands alone."""
    low = adapter(1, shapes={"a.q_proj": (5, 7)})
    high = adapter(2, shapes={"b.up_proj": (7, 5)})
    both = merged(name, [low, high])
    share = {"mean_of_products": 0.5, "plain_sum": 1, "model_stock": 1, "svd_r": 0.5, "pico": 0.5}
    share["norm_matched_sum"] = 0.5
    assert set(both.paths) == ({"a.q_proj"} if name == "rescaled_single" else set(SHAPES))
    if name in share:
        torch.testing.assert_close(both.delta("a.q_proj"), share[name] * low.delta("a.q_proj"))
        torch.testing.assert_close(both.delta("b.up_proj"), share[name] * high.delta("b.up_proj"))


@pytest.mark.parametrize("name", NAMES)
def test_bad_adapters_are_refused_in_one_line(name):
    one = adapter(1)
    A, B = one.factors["b.up_proj"]
    nan = replace(one, factors={**one.factors, "b.up_proj": (A, B * torch.nan)})
    for several, message in (
        ([], "at least one adapter"),
        ([one, adapter(1, base="b1")], "different bases cannot be merged: b0, b1"),
        ([one, adapter(2, shapes={"a.q_proj": (5, 8)})], r"shapes \(5, 7\) and \(5, 8\)"),
        ([one, nan], "b.up_proj: adapter 2 of 2 holds NaN or infinity.*train it again"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            merged(name, several)
        assert len(str(caught.value)) < 300 and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("ties", {"density": "0"}, "density = 0.0: choose a share above 0 and up to 1"),
        ("ties_core", {"density": "1.5"}, "density = 1.5"),
        ("dare_linear", {"density": "nan"}, "density = nan"),
        ("dare_ties", {"density": "-1"}, "density = -1.0"),
        ("knots", {"density": "2"}, "density = 2.0"),
        ("breadcrumbs", {"gamma": "1"}, "gamma = 1.0: choose a share from 0 to below 1"),
        ("magnitude_prune", {"weight": "inf"}, "weight = inf: it must be a finite number"),
        ("svd_r", {"rank": "9"}, "rank = 9: there are 5 ranks .*choose from 1 to 5"),
        ("svd_r", {"rank": "0"}, "rank = 0"),
        ("tsv", {"keep": "4"}, "keep = 4: there are 3 triplets"),
        ("iso_cts", {"common": "0"}, "common = 0.0"),
        ("rescaled_single", {"which": "3"}, "which = 3: there are 2 adapters, choose from 1 to 2"),
        ("ties", {"densty": "1"}, "ties has no option 'densty': choose from density"),
        ("ties", {"density": "much"}, "density=much: ties wants a number there"),
        ("svd_r", {"rank": "2.5"}, "rank=2.5: svd_r wants a whole number there"),
        ("plain_sum", {"density": "1"}, "plain_sum has no option 'density'"),
        ("dare_ties", {"seed": "-1"}, "seed=-1: choose a whole number from 0"),
        ("iso_c", {"seed": "1"}, "iso_c has no option 'seed': choose from none"),
    ],
)
def test_bad_options_are_refused_in_one_line(name, options, message):
    with pytest.raises(ValueError, match=message):
        merge_by_name(name, [adapter(1), adapter(2)], options)


def test_results_that_their_type_cannot_hold_are_refused():
    factors = {"q": (torch.full((1, 4), 3e4).half(), torch.full((4, 1), 3e4).half())}
    large = Adapter(factors, 1.0)
    for name in ("ties", "iso_c"):
        with pytest.raises(ValueError, match="q: the merged factors are too large for .*float16"):
            merge_by_name(name, [large, large])


def test_ranks_that_factors_cannot_have_are_refused():
    with pytest.raises(ValueError, match=r"ranks \[3, 2\], which must be equal; use mean"):
        merge_by_name("peft_linear", [adapter(1), adapter(2, rank=2)])
    with pytest.raises(ValueError, match="dare_ties is random: give it a generator"):
        next(m for m in CLAIMED_MERGES if m.name == "dare_ties")([adapter(1)])


def test_a_random_merge_is_its_seeds_alone():
    several = [adapter(1), adapter(2)]
    for name in (name for name in NAMES if name.startswith("dare")):
        assert distance(merged(name, several, seed=3), merged(name, several, seed=3)) == 0
        assert distance(merged(name, several, seed=3), merged(name, several, seed=4)) > 0.01


def test_every_option_is_listed():
    text = options_text()
    for each in CLAIMED_MERGES:
        assert all(f"{option}=" in text for option in each.options)


def test_no_more_than_one_layer_is_written_out_at_a_time(monkeypatch):
    written = []
    original = Layer.matrices

    def watched(self):
        assert not [each for each in written if each() is not None]
        matrices = original(self)
        written.append(weakref.ref(matrices))
        return matrices

    monkeypatch.setattr(Layer, "matrices", watched)
    for name in ("ties", "dare_linear", "dare_ties", "magnitude_prune", "breadcrumbs"):
        merged(name, [adapter(1), adapter(2)])
    assert len(written) == 5 * len(SHAPES)


def test_norms_can_be_taken_from_another_merge():
    several = [adapter(1), adapter(2)]
    total, ties = linear.plain_sum(several), merged("ties", several)
    matched = at_norms_of(total, ties)
    for path in SHAPES:
        assert matched.norm(path) == pytest.approx(ties.norm(path))
        direction = matched.delta(path) / matched.norm(path)
        torch.testing.assert_close(direction, total.delta(path) / total.norm(path))
    with pytest.raises(ValueError, match="the same layers"):
        at_norms_of(total, adapter(1, shapes={"a.q_proj": (5, 7)}))
