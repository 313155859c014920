"""Arrow: exact prototypes, and gates that obey their definition."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lora import Adapter
from recycle.reuse.route import ArrowRouter, arrow, on_all_layers, prototype


def factors(seed, rank=4, d_in=9, d_out=6):
    g = torch.Generator().manual_seed(seed)
    A, B = torch.randn(rank, d_in, generator=g), torch.randn(d_out, rank, generator=g)
    return A.double(), B.double()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6))
def test_prototype_is_the_top_right_singular_vector(seed, rank):
    A, B = factors(seed, rank)
    _, singular, right = torch.linalg.svd(B @ A)
    v, one = prototype(A, B), torch.ones((), dtype=torch.double)
    torch.testing.assert_close(v.norm(), one)
    torch.testing.assert_close((B @ A @ v).norm(), singular[0])
    torch.testing.assert_close((v @ right[0]).abs(), one, atol=1e-6, rtol=0)


def test_prototype_is_exact_where_singular_values_are_close():
    """At a ratio of .9999 power iteration would not converge; the r x r core is exact."""
    g = torch.Generator().manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(20, 4, generator=g).double()).Q for _ in range(2))
    B, A = left * torch.tensor([1.0, 0.9999, 0.5, 0.1]), right.mT
    assert (prototype(A, B) @ right[:, 0]).abs() > 1 - 1e-8


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.floats(0.1, 10), st.data())
def test_gates_sum_to_one_over_the_top_k(seed, count, temperature, data):
    top_k = data.draw(st.none() | st.integers(1, count))
    g = torch.Generator().manual_seed(seed)
    prototypes, x = torch.randn(count, 9, generator=g), torch.randn(12, 9, generator=g)
    router = ArrowRouter(prototypes, temperature, top_k)
    gates = router(x)
    torch.testing.assert_close(gates.sum(1), torch.ones(12))
    assert ((gates > 0).sum(1) <= (top_k or count)).all()
    logits = (x @ prototypes.mT).abs()
    assert torch.equal(gates.argmax(1), logits.argmax(1))
    signs = torch.tensor(
        [1 - 2 * (i % 2) for i in range(count)]
    )  # a singular vector's is arbitrary
    flipped = ArrowRouter(prototypes * signs[:, None], temperature, top_k)
    torch.testing.assert_close(flipped(x), gates)


def test_temperature_goes_from_a_choice_to_the_mean():
    g = torch.Generator().manual_seed(0)
    prototypes, x = torch.randn(3, 9, generator=g), torch.randn(12, 9, generator=g)
    hot, cold, choice = (
        ArrowRouter(prototypes, temperature=1e6),
        ArrowRouter(prototypes, temperature=1e-6),
        ArrowRouter(prototypes, top_k=1),
    )
    torch.testing.assert_close(hot(x), torch.full((12, 3), 1 / 3), atol=1e-4, rtol=0)
    torch.testing.assert_close(cold(x), choice(x))


@pytest.mark.parametrize("dtype", [torch.half, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("top_k", [None, 1])
def test_no_temperature_overflows(dtype, top_k):
    """Large tokens and a cold router: a choice, or a tie between equals, and never NaN."""
    x = 8 * torch.randn(5, 9, generator=torch.Generator().manual_seed(0)).to(dtype)
    library = [Adapter({"q": factors(i)}, 1.0) for i in (0, 0, 1)]
    for temperature in (1e-3, 1e-4, 1e-6, 1e-40, 1e-300):
        router = arrow(library, temperature, top_k)["q"]
        gates = router(x)
        assert gates.dtype == dtype
        torch.testing.assert_close(gates.sum(1).float(), torch.ones(5), atol=1e-2, rtol=0)
        best = (x.double() @ router.prototypes.mT).abs().argmax(1)
        assert bool((gates[range(5), best] >= 0.49).all())
        assert router(x[:0]).shape == (0, 3)


def test_a_token_along_an_adapters_direction_goes_to_it():
    library = [Adapter({"q": factors(i)}, 1.0) for i in range(3)]
    router = arrow(library, temperature=0.01)["q"]
    for i, one in enumerate(library):
        assert router(prototype(*one.factors["q"])[None]).argmax() == i


def test_impossible_routers_are_explained():
    library = [Adapter({"q": factors(i)}, 1.0) for i in range(2)]
    for kwargs, message in (
        ({"top_k": 3}, "top_k = 3: the library has 2 adapters"),
        ({"top_k": 0}, "top_k = 0"),
        ({"temperature": 0.0}, "temperature = 0.0"),
        ({"temperature": float("inf")}, "temperature = inf"),
        ({"temperature": float("nan")}, "temperature = nan"),
    ):
        with pytest.raises(ValueError, match=message):
            arrow(library, **kwargs)
    with pytest.raises(ValueError, match="at least one"):
        arrow([])


def test_only_adapters_that_address_a_layer_compete_for_its_tokens():
    """Three adapters: one on both layers, one on each. A missing update is 0, its gate too."""
    g = torch.Generator().manual_seed(4)

    def adapter(*paths):
        return Adapter(
            {p: (torch.randn(2, 6, generator=g), torch.randn(5, 2, generator=g)) for p in paths},
            4.0,
        )

    experts = {"both": adapter("low", "high"), "low": adapter("low"), "high": adapter("high")}
    routers = arrow(list(experts.values()))
    x = torch.randn(7, 6, generator=g)
    assert set(routers) == {"low", "high"}
    assert bool((routers["low"](x)[:, 2] == 0).all()) and bool(
        (routers["high"](x)[:, 1] == 0).all()
    )
    torch.testing.assert_close(routers["low"](x).sum(1), torch.ones(7))
    lone = arrow([experts["low"], experts["high"]])
    assert bool((lone["low"](x) == torch.tensor([1.0, 0.0])).all())
    padded = on_all_layers(experts)
    assert padded["both"] is experts["both"] and set(padded["low"].paths) == {"low", "high"}
    assert bool((padded["low"].delta("high") == 0).all())
    torch.testing.assert_close(padded["low"].delta("low"), experts["low"].delta("low"))
