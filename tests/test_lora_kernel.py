"""The fast products against the formulas of lora.reference, and what they promise about memory,
modes and compilers."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lora import (
    Adapter,
    Gated,
    Mix,
    Rows,
    attach,
    kernel,
    lora_layers,
    reference,
    train_only,
    using,
    ways,
)
from models import Transformer, TransformerConfig

BOUNDS = {torch.float32: 2e-6, torch.bfloat16: 5e-3, torch.float64: 1e-13}
C_KINDS = ("number", "columns", "gates", "ragged gates")


def numbers(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)


def case(kind, batch=(6,), k=7, n=5, N=2, r=3, bias=True, seed=0):
    """x, W, bias, A, B, c in float64 for lora_linear, or for lora_linear_rows where kind is
    rows."""
    draw, tokens = numbers(seed), torch.Size(batch).numel()
    if kind.startswith("rows"):
        x, A, B = draw(N * batch[0], *batch[1:], k), draw(N, r, k) / k**0.5, draw(N, n, r)
        c = 1.7 if kind == "rows" else draw(N)
    else:
        x, A, B = draw(*batch, k), draw(N * r, k) / k**0.5, draw(n, N * r)
        values = (-1.7, draw(N * r), draw(tokens, N), draw(tokens, N * r))
        c = dict(zip(C_KINDS, values, strict=True))[kind]
    return [x, draw(n, k) / k**0.5, draw(n) if bias else None, A, B, c]


def product(module, kind):
    return module.lora_linear_rows if kind.startswith("rows") else module.lora_linear


def gradients(module, kind, arguments, dy, dtype):
    """y and every gradient, computed in a dtype; c is kept in float32 at least, as routers give
    it."""
    dtypes = [dtype] * 5 + [torch.promote_types(dtype, torch.float32)]
    arguments = [
        a.to(own).requires_grad_() if torch.is_tensor(a) else a
        for a, own in zip(arguments, dtypes, strict=True)
    ]
    y = product(module, kind)(*arguments)
    return y, *torch.autograd.grad(y, list(filter(torch.is_tensor, arguments)), dy.to(dtype))


def off(got, expected):
    return ((got.double() - expected).norm() / expected.norm().clamp_min(1e-30)).item()


KINDS = (*C_KINDS, "rows", "rows of scales")


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    dtype=st.sampled_from(list(BOUNDS)),
    batch=st.sampled_from([(1,), (2, 1), (9,), (3, 5), (4, 40), (2, 3, 2)]),
    k=st.integers(1, 40),
    n=st.integers(1, 40),
    N=st.integers(1, 4),
    r=st.integers(1, 12),
    bias=st.booleans(),
    seed=st.integers(0, 999),
)
def test_fast_is_the_reference(kind, dtype, batch, k, n, N, r, bias, seed):
    """In every shape and precision, y and all gradients, from the very same rounded inputs."""
    arguments = case(kind, batch, k, n, N, r, bias, seed)
    arguments = [a.to(dtype).double() if isinstance(a, torch.Tensor) else a for a in arguments]
    dy = numbers(seed + 1)(*arguments[0].shape[:-1], n).to(dtype).double()
    expected = gradients(reference, kind, arguments, dy, torch.float64)
    # Where terms cancel in a short sum, the error relative to the sum has no bound: measure it
    # against the terms.
    sizes = [None if a is None else abs(a) for a in arguments]
    terms = gradients(reference, kind, sizes, dy.abs(), torch.float64)
    fast = gradients(kernel, kind, arguments, dy, dtype)
    for got, want, size in zip(fast, expected, terms, strict=True):
        assert got.shape == want.shape
        # A single number is rounded up to four times on its way (h, c h, the product, the sum),
        # with nothing to average over.
        bound = max(BOUNDS[dtype], 4 * torch.finfo(dtype).eps / 2)
        assert (got.double() - want).norm() <= bound * torch.maximum(want.norm(), size.norm())


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("kind", KINDS)
def test_errors_at_real_sizes_are_rounding_alone(kind, dtype):
    arguments = case(kind, (160,), 96, 80, 4, 2)
    arguments = [a.to(dtype).double() if isinstance(a, torch.Tensor) else a for a in arguments]
    dy = numbers(1)(*arguments[0].shape[:-1], 80).to(dtype).double()
    expected = gradients(reference, kind, arguments, dy, torch.float64)
    for got, want in zip(gradients(kernel, kind, arguments, dy, dtype), expected, strict=True):
        assert off(got, want) <= BOUNDS[dtype]


@pytest.mark.parametrize("tokens", [512, 514])
@pytest.mark.parametrize("kind", C_KINDS)
def test_sums_over_many_tokens_may_go_in_parts(kind, tokens):
    arguments = case(kind, (tokens,), 96, 80, 4, 2)
    dy = numbers(1)(tokens, 80)
    expected = gradients(reference, kind, arguments, dy, torch.float64)
    fast = gradients(kernel, kind, arguments, dy, torch.float32)
    for got, want in zip(fast, expected, strict=True):
        assert off(got, want) <= BOUNDS[torch.float32]


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_derivatives(kind):
    arguments = [
        a.requires_grad_() if isinstance(a, torch.Tensor) else a for a in case(kind, (2, 3))
    ]
    assert torch.autograd.gradcheck(product(kernel, kind), arguments)


@pytest.mark.parametrize("kind, rows", [("number", 64), ("number", 67), ("rows", 65)])
def test_merged_is_unmerged(kind, rows, monkeypatch):
    """For one weight, through W + c B A: the same values and gradients, and derivatives indeed."""
    arguments = [
        a.requires_grad_(i in (0, 3, 4)) if torch.is_tensor(a) else a
        for i, a in enumerate(case(kind, (rows,), 3, 4, 2, 2))
    ]
    tensors = [arguments[i] for i in (0, 3, 4)]
    found = []
    for way in (ways.PARTS, ways.ADDED):
        monkeypatch.setattr(kernel, "way_of", lambda *a, way=way: way)
        y = product(kernel, kind)(*arguments)
        found.append((y, *torch.autograd.grad(y.square().sum(), tensors)))
    for merged, unmerged in zip(*found, strict=True):
        torch.testing.assert_close(merged, unmerged)
    monkeypatch.undo()
    x = arguments[0] if kind == "number" else arguments[0].view(2, rows, 3)
    assert kernel.way_of(x, *arguments[1:]) == ways.PARTS
    assert torch.autograd.gradcheck(
        lambda x, A, B: product(kernel, kind)(x, *arguments[1:3], A, B, -1.7), tensors
    )


def test_merging_is_for_one_weight_in_training_beyond_bf16():
    x, W, bias, A, B, c = case("number", (256,), 8, 8)
    A.requires_grad_()

    def merges(*arguments):
        return kernel.way_of(*arguments) == ways.PARTS

    assert merges(x, W, None, A, B, c)
    assert not merges(x.bfloat16(), W.bfloat16(), None, A, B, c)
    assert not merges(x, W, None, A, B, torch.ones(6))
    assert merges(x.view(2, 128, 8), W, None, A, B, c)
    for K, enough in ((2, True), (16, False)):  # 128 tokens for each adapter, and 16
        assert merges(x, W, None, A.expand(K, -1, -1), B.expand(K, -1, -1), c) == enough
    assert not merges(x, W, bias.requires_grad_(), A, B, c)
    assert not merges(x, W, None, A.detach(), B, c)
    assert not merges(x[:63], W, None, A, B, c)


@pytest.mark.parametrize("order", [(2, 3), (5,)])
def test_gradients_of_mixed_factors_are_derivatives(order):
    x, W, bias, A, B, gates = (a.requires_grad_() for a in case("gates", order))
    assert torch.autograd.gradcheck(
        lambda *a: kernel.lora_linear_factors(*a, 1.3), (x, W, bias, A, B, gates)
    )


@pytest.mark.parametrize("kind", ["number", "gates", "rows of scales"])
def test_only_what_is_asked_for_gets_a_gradient(kind):
    """Every subset of x, A, B, c: those gradients are right, the others are not there."""
    base = case(kind)
    places = [i for i in (0, 3, 4, 5) if isinstance(base[i], torch.Tensor)]
    for size in range(1, len(places) + 1):
        for chosen in itertools.combinations(places, size):
            found = []
            for module in (kernel, reference):
                arguments = [
                    a.clone().requires_grad_(i in chosen) if torch.is_tensor(a) else a
                    for i, a in enumerate(base)
                ]
                product(module, kind)(*arguments).square().sum().backward()
                found.append([a.grad for a in arguments if torch.is_tensor(a)])
            for got, want in zip(*found, strict=True):
                assert (got is None) == (want is None)
                assert got is None or off(got, want) < 1e-12


def saved_storages(make):
    """Bytes and sizes of the storages that a graph keeps, each once."""
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = make()
    return kept, y


@pytest.mark.parametrize(
    "kind, batch",
    [
        ("number", (3, 7)),
        ("gates", (4, 30)),
        ("rows", (2, 7)),
        ("number", (4, 30)),
        ("rows", (4, 30)),
    ],
)
def test_only_x_and_h_are_saved(kind, batch):
    x, W, bias, A, B, c = case(kind, batch, 32, 48, 2, 4)
    merged = kind != "gates" and batch == (4, 30)
    flat = x.view(2, -1, 32) if kind == "rows" else x.view(-1, 32)
    way = kernel.way_of(flat, W, bias, A.requires_grad_(), B.requires_grad_(), c)
    assert way == (ways.PARTS if merged else ways.ADDED)
    given = {t.untyped_storage().data_ptr() for t in (x, W, bias, A, B, c) if torch.is_tensor(t)}
    kept, y = saved_storages(lambda: product(kernel, kind)(x.requires_grad_(), W, bias, A, B, c))
    beyond = [size for place, size in kept.items() if place not in given]
    h = x.shape[:-1].numel() * A.shape[-2] * x.element_size()
    assert beyond == ([] if merged else [h]) and y.requires_grad


def test_frozen_adapters_below_trained_layers_save_no_activation():
    x, W, bias, A, B, c = case("number")
    kept, _ = saved_storages(lambda: kernel.lora_linear(x.requires_grad_(), W, bias, A, B, c))
    assert set(kept) == {t.untyped_storage().data_ptr() for t in (W, A, B)}


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_and_saved_tensors_are_never_written(kind):
    """Backward twice over one graph: the same gradients, and every input as it was."""
    arguments = [a.requires_grad_() if torch.is_tensor(a) else a for a in case(kind, (4, 40))]
    before = [a.detach().clone() for a in arguments if torch.is_tensor(a)]
    tensors = [a for a in arguments if torch.is_tensor(a)]
    loss = product(kernel, kind)(*arguments).square().sum()
    first = torch.autograd.grad(loss, tensors, retain_graph=True)
    second = torch.autograd.grad(loss, tensors)
    assert all(map(torch.equal, first, second))
    assert all(map(torch.equal, before, tensors))


def test_second_derivatives_are_refused_in_one_line():
    arguments = [a.requires_grad_() if torch.is_tensor(a) else a for a in case("number")]
    loss = kernel.lora_linear(*arguments).square().sum()
    with pytest.raises(RuntimeError, match="no second derivative .*use lora.reference$"):
        torch.autograd.grad(loss, arguments[0], create_graph=True)
    loss = reference.lora_linear(*arguments).square().sum()
    (first,) = torch.autograd.grad(loss, arguments[0], create_graph=True)
    assert torch.autograd.grad(first.sum(), arguments[3])[0].isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_non_contiguous_inputs(kind):
    x, *others = case(kind, (4, 6))
    expected = product(reference, kind)(x, *others)
    strided = [
        x.transpose(0, 1).contiguous().transpose(0, 1),
        *(a.mT.contiguous().mT if torch.is_tensor(a) and a.dim() > 1 else a for a in others),
    ]
    torch.testing.assert_close(product(kernel, kind)(*strided), expected)
    strided = [a.requires_grad_() if torch.is_tensor(a) else a for a in strided]
    # The gradient of a sum is one number seen through strides of 0.
    assert torch.autograd.gradcheck(lambda *a: product(kernel, kind)(*a).sum(), strided)


@pytest.mark.parametrize("kind", KINDS)
def test_no_rows_give_no_rows_and_zero_gradients(kind):
    arguments = [a.requires_grad_() if torch.is_tensor(a) else a for a in case(kind, (0, 3))]
    y = product(kernel, kind)(*arguments)
    assert y.shape == (0, 3, 5)
    y.sum().backward()
    for argument in filter(torch.is_tensor, arguments):
        assert argument.grad.shape == argument.shape and not argument.grad.any()


@pytest.fixture
def poisoned():
    """Uninitialised memory is NaN, so reading any of it shows."""
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
    )
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(before[0])
    torch.utils.deterministic.fill_uninitialized_memory = before[1]


@pytest.mark.parametrize("batch", [(0,), (1,), (70,)])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_uninitialised_is_read(kind, batch, poisoned):
    assert torch.empty(3).isnan().all()
    arguments = [a.float().requires_grad_() if torch.is_tensor(a) else a for a in case(kind, batch)]
    y = product(kernel, kind)(*arguments)
    y.sum().backward()
    assert all(t.isfinite().all() for t in (y, *(a.grad for a in arguments if torch.is_tensor(a))))


@pytest.mark.parametrize("kind", KINDS)
def test_masters_stay_fp32_beside_a_bf16_base(kind):
    """bf16 x and W, fp32 A and B: y is bf16, the gradients of the masters are fp32 and right to
    bf16's rounding."""
    x, W, bias, A, B, c = case(kind, (200,), 64, 48, 2, 4)
    x, W, bias = (t.bfloat16() for t in (x, W, bias))
    masters = [t.float().requires_grad_() for t in (A, B)]
    y = product(kernel, kind)(x, W, bias, *masters, c)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(0)).bfloat16()
    got = y, *torch.autograd.grad(y, masters, dy)
    assert [t.dtype for t in got] == [torch.bfloat16, torch.float32, torch.float32]
    exact = [t.double().requires_grad_() for t in (A, B)]
    y = product(reference, kind)(x.double(), W.double(), bias.double(), *exact, c)
    for g, want in zip(got, (y, *torch.autograd.grad(y, exact, dy.double())), strict=True):
        assert off(g, want) <= 2 * BOUNDS[torch.bfloat16]  # A, B and c are rounded too


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_rounds_like_the_plain_formula(kind):
    arguments = [
        a.float().requires_grad_() if torch.is_tensor(a) else a
        for a in case(kind, (64,), 32, 48, 2, 4)
    ]
    exact = product(reference, kind)(*arguments)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = product(kernel, kind)(*arguments)
    assert y.dtype == torch.bfloat16 and off(y, exact.double()) <= 2 * BOUNDS[torch.bfloat16]
    tensors = [a for a in arguments if torch.is_tensor(a)]
    expected = torch.autograd.grad(exact.sum(), tensors)
    for got, want in zip(torch.autograd.grad(y.sum(), tensors), expected, strict=True):
        assert got.dtype == torch.float32
        assert off(got, want.double()) <= 0.02  # sums of 64 rounded terms
    with torch.autocast("cpu", dtype=torch.bfloat16):
        # float64 is left alone, as everywhere in autocast
        assert product(kernel, kind)(*case(kind)).dtype == torch.float64


def test_uneven_rows_are_explained():
    x, W, bias, A, B, _ = case("rows")
    with pytest.raises(ValueError, match="11 rows do not fall into 2 equal parts"):
        kernel.lora_linear_rows(x[:-1], W, bias, A, B, 1.0)


def test_one_hot_gates_are_one_adapter_and_ones_the_sum():
    x, W, bias, A, B, _ = case("gates", (9,), N=3)
    for j in range(3):
        gates = F.one_hot(torch.full((9,), j), 3).double() * 1.7
        alone = kernel.lora_linear(x, W, bias, A[3 * j : 3 * j + 3], B[:, 3 * j : 3 * j + 3], 1.7)
        torch.testing.assert_close(kernel.lora_linear(x, W, bias, A, B, gates), alone)
    together = kernel.lora_linear(x, W, bias, A, B, torch.ones(9, 3, dtype=torch.double))
    torch.testing.assert_close(together, F.linear(x, W + B @ A, bias))


# ---- the layer and whole models

SMALL = TransformerConfig(width=32, layers=1, heads=2, kv_heads=2, hidden=48, context=16)


def small_model(ranks=(4, 4, 4), seed=0):
    model = Transformer(SMALL, 20, torch.Generator().manual_seed(seed))
    generator = torch.Generator().manual_seed(seed)
    shapes = {p: m.weight.shape for p, m in model.named_modules() if isinstance(m, nn.Linear)}

    def factors(rank, n, k):
        A = torch.randn(rank, k, generator=generator) / k**0.5
        return A, 0.1 * torch.randn(n, rank, generator=generator)

    adapters = {
        f"a{i}": Adapter({path: factors(rank, *shape) for path, shape in shapes.items()}, 8.0)
        for i, rank in enumerate(ranks)
    }
    attach(model, adapters)
    return model, list(adapters)


def gated(model, names, order="outputs"):
    class Router(nn.Module):
        def __init__(self, d_in):
            super().__init__()
            self.linear = nn.Linear(d_in, len(names))

        def forward(self, x):
            return self.linear(x).softmax(-1)

    torch.manual_seed(0)
    routers = {path: Router(layer.d_in) for path, layer in lora_layers(model).items()}
    return Gated(names, routers, order)


def test_k_adapters_at_once_are_one_by_one():
    model, names = small_model()
    groups = train_only(model, names)
    tokens = torch.randint(0, 20, (6, 12), generator=torch.Generator().manual_seed(0))
    with using(model, Rows(names)):
        losses = model(tokens).view(3, -1).square().mean(1)
    together = torch.autograd.grad(losses.sum(), [p for group in groups for p in group])
    alone = []
    for i, name in enumerate(names):
        with using(model, Mix({name: 1.0})):
            loss = model(tokens[2 * i : 2 * i + 2]).square().mean()
        torch.testing.assert_close(loss, losses[i], rtol=1e-5, atol=0)
        alone += torch.autograd.grad(loss, groups[i])
    assert max(off(a, b.double()) for a, b in zip(together, alone, strict=True)) <= 1e-5


MODES = {
    "one": lambda model, names: Mix({names[0]: 0.7}),
    "mix": lambda model, names: Mix(dict(zip(names, (0.5, -1.0, 2.0), strict=True))),
    "rows": lambda model, names: Rows(names),
    "gated": gated,
    "gated, three ranks": gated,
    "factors": lambda model, names: gated(model, names, "factors"),
}


@pytest.mark.parametrize("name", MODES)
def test_a_training_step_is_one_graph(name):
    """torch.compile captures the adapted transformer without a break, or raises (fullgraph), and
    the step is the same."""
    model, names = small_model((2, 3, 4) if "three" in name else (4, 4, 4))
    tokens = torch.randint(0, 20, (6, 12), generator=torch.Generator().manual_seed(0))
    parameters = [p for group in train_only(model, names) for p in group]
    torch._dynamo.reset()
    with using(model, MODES[name](model, names)):

        def gradients(run):
            return torch.autograd.grad(run(tokens).square().mean(), parameters, allow_unused=True)

        expected = gradients(model)
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        for got, want in zip(gradients(compiled), expected, strict=True):
            assert (got is None) == (want is None)
            assert got is None or off(got, want.double()) <= 1e-5


@pytest.mark.gpu
@pytest.mark.parametrize("name", MODES)
def test_compiled_on_cuda_is_one_graph_and_equal(name):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    model, names = small_model((2, 3, 4) if "three" in name else (4, 4, 4))
    mode = MODES[name](model, names)
    for router in getattr(mode, "routers", {}).values():
        router.cuda()
    model.cuda()
    tokens = torch.randint(0, 20, (6, 12), generator=torch.Generator().manual_seed(0)).cuda()
    parameters = [p for group in train_only(model, names) for p in group]
    torch._dynamo.reset()
    with using(model, mode):
        compiled = torch.compile(model, fullgraph=True)
        losses = [run(tokens).square().mean() for run in (model, compiled)]
        grads = [torch.autograd.grad(loss, parameters, allow_unused=True) for loss in losses]
        expected, got = grads
    for g, want in zip(got, expected, strict=True):
        assert (g is None) == (want is None)
        assert g is None or off(g.cpu(), want.cpu().double()) <= 1e-4
