"""The formulas of a block with few passes: values and gradients are those of the stock formulas, on
every shape, and less is kept and copied."""

from contextlib import ExitStack
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode

from models import Transformer, TransformerConfig, completion_loss, functions
from models.functions import (
    attend,
    rms_norm,
    rotate,
    stock_attend,
    stock_rotate,
    stock_swiglu,
    swiglu,
)
from models.transformer import attention_bias, rotary_tables

EPS = 1e-6
SIZES = st.integers(1, 6)


def drawn(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def stock_rms_norm(x, weight):
    return F.rms_norm(x, weight.shape, weight, EPS)


def ours_rms_norm(x, weight):
    return rms_norm(x, weight, EPS)


def value_and_gradients(function, inputs, needed=None):
    leaves = [t.clone().requires_grad_(needed is None or needed[i]) for i, t in enumerate(inputs)]
    y = function(*leaves)
    upstream = drawn(*y.shape, seed=7).to(y.dtype)
    asked = [leaf for leaf in leaves if leaf.requires_grad]
    return [y.detach(), *torch.autograd.grad(y, asked, upstream)]


def same(ours, stock, inputs, needed=None):
    """In float64 to rounding, and in float32 to 1e-5 of the stock formula in float64."""
    expected = value_and_gradients(stock, inputs, needed)
    for got, right in zip(value_and_gradients(ours, inputs, needed), expected, strict=True):
        torch.testing.assert_close(got, right, rtol=1e-9, atol=1e-11)
    rounded = [t.float() if t.is_floating_point() else t for t in inputs]
    for got, right in zip(value_and_gradients(ours, rounded, needed), expected, strict=True):
        assert got.dtype == torch.float32
        assert (got - right).norm() <= 1e-5 * right.norm() + 1e-6


def tables(length, d, start=0, dtype=torch.float64):
    config = TransformerConfig(width=d, heads=1, kv_heads=1, context=start + length)
    return [t[start:].to(dtype) for t in rotary_tables(config)]


def causal(b, length, before, padded, dtype=torch.float64):
    s = before + length
    real = torch.ones(b, s, dtype=torch.bool)
    for row in range(b):
        real[row, : row % s] = False
    like = torch.empty(0, dtype=dtype)
    return attention_bias(before, s, real if padded else None, like)


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(0, 5), length=SIZES, d=SIZES, size=st.sampled_from([1e-4, 1.0, 1e3]))
def test_rms_norm_is_the_stock_one(rows, length, d, size):
    inputs = [size * drawn(rows, length, d), drawn(d, seed=1)]
    same(ours_rms_norm, stock_rms_norm, inputs)
    same(ours_rms_norm, stock_rms_norm, inputs, (True, False))
    same(ours_rms_norm, stock_rms_norm, inputs, (False, True))
    heads = drawn(rows, d, length).transpose(1, 2)  # not contiguous
    same(ours_rms_norm, stock_rms_norm, [heads, drawn(d, seed=1)])


@settings(max_examples=25, deadline=None)
@given(b=st.integers(0, 3), h=SIZES, length=SIZES, half=SIZES, start=st.integers(0, 9))
def test_rotation_is_the_stock_one_and_turns_back(b, h, length, half, start):
    cos, sin = tables(length, 2 * half, start)

    def by(turn):
        return lambda x: turn(x, cos.to(x.dtype), sin.to(x.dtype))

    x = drawn(b, length, h, 2 * half).transpose(1, 2)
    same(by(rotate), by(stock_rotate), [x])
    leaf = x.clone().requires_grad_()
    y = rotate(leaf, cos, sin)
    (back,) = torch.autograd.grad(y, leaf, y)  # the transpose of a rotation is its inverse
    torch.testing.assert_close(back, x)
    assert y.is_contiguous() and (b == 0 or back.transpose(1, 2).is_contiguous())


@settings(max_examples=25, deadline=None)
@given(shape=st.lists(st.integers(0, 5), min_size=1, max_size=3), size=st.sampled_from([1.0, 60.0]))
def test_swiglu_is_the_stock_one(shape, size):
    inputs = [size * drawn(*shape), drawn(*shape, seed=1)]
    for needed in (None, (True, False), (False, True)):
        same(swiglu, stock_swiglu, inputs, needed)


@settings(max_examples=40, deadline=None)
@given(
    b=st.integers(0, 3),
    n=st.integers(1, 3),
    groups=st.integers(1, 3),
    length=SIZES,
    before=st.integers(0, 3),
    d=SIZES,
    padded=st.booleans(),
    needed=st.sampled_from(
        [None, (True, False, False), (False, True, False), (False, False, True)]
    ),
)
def test_attention_is_the_stock_one_with_repeated_keys(
    b, n, groups, length, before, d, padded, needed
):
    bias = causal(b, length, before, padded)
    q = drawn(b, n * groups, length, d)
    k, v = (drawn(b, length + before, n, d, seed=i).transpose(1, 2) for i in (1, 2))

    def repeated(q, k, v):
        k, v = (t.repeat_interleave(groups, dim=1) for t in (k, v))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))

    def by(formula):
        return lambda q, k, v: formula(
            q, k, v, bias.to(q.dtype).clamp(min=torch.finfo(q.dtype).min)
        )

    if padded and b:  # a row that sees nothing: the stock kernel is not asked about it
        same(by(attend), by(stock_attend), [q, k, v], needed)
    else:
        same(by(attend), repeated, [q, k, v], needed)
    with torch.no_grad():
        torch.testing.assert_close(by(stock_attend)(q, k, v), by(attend)(q, k, v))


CASES = {
    "rms_norm": (ours_rms_norm, [drawn(3, 4), drawn(4, seed=1)]),
    "rotate": (lambda x: rotate(x, *tables(3, 4)), [drawn(1, 2, 3, 4)]),
    "swiglu": (swiglu, [drawn(2, 3), drawn(2, 3, seed=1)]),
    "attend": (
        lambda q, k, v: attend(q, k, v, causal(1, 2, 1, False)),
        [drawn(1, 4, 2, 2), drawn(1, 2, 3, 2, seed=1), drawn(1, 2, 3, 2, seed=2)],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_first_and_second_derivatives_are_right(name):
    function, inputs = CASES[name]
    leaves = [t.clone().requires_grad_() for t in inputs]
    assert gradcheck(function, leaves) and gradgradcheck(function, leaves)


@pytest.mark.parametrize("name", CASES)
def test_backward_may_run_twice(name):
    function, inputs = CASES[name]
    leaves = [t.clone().requires_grad_() for t in inputs]
    loss = function(*leaves).square().sum()
    once = torch.autograd.grad(loss, leaves, retain_graph=True)
    again = torch.autograd.grad(loss, leaves)
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    assert all(torch.equal(leaf, t) for leaf, t in zip(leaves, inputs, strict=True))


def test_one_input_that_stands_twice_has_both_gradients():
    x = drawn(3).requires_grad_()
    (first,) = torch.autograd.grad(swiglu(x, x).sum(), x, create_graph=True)
    (stock,) = torch.autograd.grad(stock_swiglu(x, x).sum(), x, create_graph=True)
    torch.testing.assert_close(first, stock)
    torch.testing.assert_close(
        torch.autograd.grad(first.sum(), x), torch.autograd.grad(stock.sum(), x)
    )


def kept(function, *inputs):
    """Numbers that are kept for the backward pass beside the inputs, each storage once."""
    own, found = {t.untyped_storage().data_ptr() for t in inputs}, {}

    def pack(t):
        if t.untyped_storage().data_ptr() not in own:
            found[t.untyped_storage().data_ptr()] = t
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = function(*inputs)
    assert y.requires_grad
    return sum(t.untyped_storage().nbytes() // t.element_size() for t in found.values())


def test_what_is_kept():
    x, gate, up = (drawn(5, 8, seed=i).requires_grad_() for i in range(3))
    cos, sin = tables(2, 4)
    bias = causal(2, 2, 7, False)
    q = drawn(2, 6, 2, 4).requires_grad_()
    k, v = (drawn(2, 2, 9, 4, seed=i).requires_grad_() for i in (1, 2))
    assert kept(ours_rms_norm, x, drawn(8)) == 5
    assert kept(swiglu, gate, up) == 0 and kept(stock_swiglu, gate, up) == 40
    assert kept(lambda q: rotate(q, cos, sin), q) == cos.numel() + sin.numel()
    assert kept(lambda q, k, v: attend(q, k, v, bias), q, k, v) == 2 * 6 * 2 * 9 + bias.numel()


class Largest(TorchDispatchMode):
    """The most numbers of any tensor that an operation makes."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, list | tuple) else [out]:
            if isinstance(t, torch.Tensor):
                self.numbers = max(self.numbers, t.numel())
        return out


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("padded", [True, False])
def test_grouped_keys_and_values_are_never_copied_for_every_query_head(training, padded):
    b, n, groups, length, before, d = 2, 2, 3, 2, 7, 16
    q = drawn(b, n * groups, length, d).requires_grad_(training)
    k, v = (drawn(b, n, length + before, d, seed=i).requires_grad_(training) for i in (1, 2))
    bias = causal(b, length, before, padded)
    with Largest() as largest:
        y = attend(q, k, v, bias)
        if training:
            y.sum().backward()
    assert 0 < largest.numbers <= max(k.numel(), q.numel()) < groups * k.numel()


def test_elsewhere_the_stock_formula_is_computed():
    x, weight = drawn(3, 4), drawn(4, seed=1)
    with patch.object(functions._RMSNorm, "apply", lambda *a: pytest.fail("not in training")):
        ours_rms_norm(x, weight)  # nothing is trained
        trained = x.clone().requires_grad_()
        with torch.no_grad():
            ours_rms_norm(trained, weight)
        ours_rms_norm(trained.bfloat16(), weight.bfloat16())
        with torch.autocast("cpu", torch.bfloat16):
            ours_rms_norm(trained, weight)


CONFIG = TransformerConfig(width=24, layers=2, heads=6, kv_heads=2, hidden=40, context=16)
STOCK = {
    "rms_norm": lambda x, weight, eps: F.rms_norm(x, weight.shape, weight, eps),
    "rotate": stock_rotate,
    "swiglu": stock_swiglu,
    "attend": stock_attend,
}


def loss_and_gradients(dtype, stock):
    model = Transformer(CONFIG, 30, torch.Generator().manual_seed(0)).to(dtype)
    tokens = torch.randint(2, 30, (4, 11), generator=torch.Generator().manual_seed(1))
    learned = torch.zeros_like(tokens, dtype=torch.bool)
    learned[:, 6:] = True
    with ExitStack() as stack:
        for name, formula in STOCK.items() if stock else ():
            stack.enter_context(patch(f"models.transformer.{name}", formula))
        loss = completion_loss(model, tokens, learned).sum()
        loss.backward()
    return {"loss": loss.detach()} | {n: p.grad for n, p in model.named_parameters()}


def test_a_whole_model_has_the_stock_loss_and_gradients():
    expected = loss_and_gradients(torch.float64, stock=True)
    for dtype, bound in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        for name, got in loss_and_gradients(dtype, stock=False).items():
            right = expected[name]
            assert (got.double() - right).norm() <= bound * right.norm(), name


def test_a_model_under_autocast_or_in_bf16_still_trains():
    tokens = torch.randint(2, 30, (2, 8), generator=torch.Generator().manual_seed(1))
    for dtype, cast in ((torch.float32, True), (torch.bfloat16, False)):
        model = Transformer(CONFIG, 30, torch.Generator().manual_seed(0)).to(dtype)
        with torch.autocast("cpu", torch.bfloat16, enabled=cast):
            loss = completion_loss(model, tokens, torch.ones_like(tokens, dtype=torch.bool)).sum()
        loss.backward()
        assert all(p.grad.isfinite().all() for p in model.parameters())
