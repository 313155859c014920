"""The ways to compute an adapted layer: every one is the formula, and a measured table chooses."""

import itertools

import pytest
import torch
from torch import nn

from lora import attach, init_adapter, kernel, reference, train_only, tune, tuning, use_ways, ways
from lora.ways import ADDED, LIBRARIES, PARTS, PLAIN, Shape

BOUND = {way: 5e-3 if way == LIBRARIES else 2e-6 for way in ways.WAYS}  # AMX rounds to bf16
C = -1.7


@pytest.fixture(autouse=True)
def own_table():
    yield
    use_ways({})


def case(tokens, k, n, r, K=0, seed=0):
    """x, W, bias, A, B and dy in float64; x has K parts where there are K adapters."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    many = (K,) if K else ()
    x, A, B = draw(*many, tokens, k), draw(*many, r, k) / k**0.5, draw(*many, n, r)
    return [x, draw(n, k) / k**0.5, draw(n), A, B], draw(*many, tokens, n)


def formula(x, W, bias, A, B):
    if x.dim() == 2:
        return reference.lora_linear(x, W, bias, A, B, C)
    return reference.lora_linear_rows(x.flatten(0, 1), W, bias, A, B, C).view(*x.shape[:2], -1)


def apply(way, x, W, bias, A, B):
    return kernel.FUNCTIONS[way].apply(x, W, bias, A, B, C)


def test_the_graph_of_a_layer_has_one_node_whatever_the_axes_of_x(monkeypatch):
    """Each view outside the ways is a node more, and most layers of a toy are that short."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(7, 4, 3, 6, generator=generator, dtype=torch.float64).transpose(0, 1)
    W, A, B = (torch.randn(s, generator=generator, dtype=torch.float64) for s in ((5, 6), 6, 5))
    A, B = (A.expand(2, 6).clone(), B.expand(2, 5).mT.clone())
    for way in ways.WAYS:
        monkeypatch.setattr(kernel, "way_of", lambda *a, way=way: way)
        for K in (0, 2):
            many = (K,) if K else ()
            leaves = [x, *(t.expand(*many, -1, -1) for t in (A, B))]
            leaves = [t.detach().requires_grad_() for t in leaves]
            found = []
            for module in (kernel, reference):
                compute = module.lora_linear_rows if K else module.lora_linear
                y = compute(leaves[0], W, None, *leaves[1:], C)
                found.append((y, *torch.autograd.grad(y.square().sum(), leaves, retain_graph=True)))
                if module is kernel:
                    nodes = [node for node, _ in y.grad_fn.next_functions if node is not None]
                    assert {node.name() for node in nodes} == {"torch::autograd::AccumulateGrad"}
            for got, expected in zip(*found, strict=True):
                if way != LIBRARIES:  # AMX rounds to bf16
                    torch.testing.assert_close(got, expected)


def outputs(compute, arguments, dy, asked=(0, 3, 4)):
    """y and the gradients of those arguments that are asked for, None for the others."""
    inputs = [
        a.detach().clone().requires_grad_(i in asked) if torch.is_tensor(a) else a
        for i, a in enumerate(arguments)
    ]
    y = compute(*inputs)
    y.backward(dy)
    return y.detach(), *(inputs[i].grad for i in (0, 3, 4))


def off(got, expected):
    return ((got.double() - expected).norm() / expected.norm()).item()


def test_every_way_is_described_and_made():
    assert set(kernel.FUNCTIONS) == set(ways.WAYS)


@pytest.mark.parametrize("K", [0, 3])
@pytest.mark.parametrize("way", ways.WAYS)
def test_a_way_is_the_formula_for_every_gradient_that_is_asked_for(way, K):
    arguments, dy = case(24, 7, 5, 3, K)
    for size in (1, 2, 3):
        for asked in itertools.combinations((0, 3, 4), size):
            expected = outputs(formula, arguments, dy, asked)
            got = outputs(lambda *a: apply(way, *a), arguments, dy, asked)
            for value, want in zip(got, expected, strict=True):
                assert (value is None) == (want is None)
                assert value is None or off(value, want) < 1e-12


@pytest.mark.parametrize("K, r", [(0, 8), (0, 20), (2, 8)])
@pytest.mark.parametrize("way", ways.WAYS)
def test_errors_at_real_sizes_are_rounding_alone(way, K, r):
    arguments, dy = case(328, 96, 80, r, K)
    expected = outputs(formula, arguments, dy)
    got = outputs(lambda *a: apply(way, *a), [a.float() for a in arguments], dy.float())
    for value, want in zip(got, expected, strict=True):
        assert value.shape == want.shape and off(value, want) <= BOUND[way]


@pytest.mark.parametrize("way", ways.WAYS)
def test_a_way_keeps_x_and_says_what_else(way):
    (x, W, bias, A, B), _ = case(64, 24, 20, 4)
    own = {t.untyped_storage().data_ptr() for t in (x, W, bias, A, B)}
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = apply(way, x.requires_grad_(), W, bias, A.requires_grad_(), B.requires_grad_())
    beyond = [size for place, size in kept.items() if place not in own]
    assert beyond == ([64 * 4 * 8] if way == ADDED else []) and y.is_contiguous()


@pytest.mark.parametrize("way", ways.WAYS)
def test_a_way_writes_into_nothing_and_refuses_a_second_derivative(way):
    arguments, _ = case(72, 6, 5, 2)
    x, W, bias, A, B = arguments
    tensors = [t.requires_grad_() for t in (x, A, B)]
    before = [t.detach().clone() for t in arguments]
    loss = apply(way, *arguments).square().sum()
    first, second = (torch.autograd.grad(loss, tensors, retain_graph=True) for _ in range(2))
    assert all(map(torch.equal, first, second)) and all(map(torch.equal, before, arguments))
    with pytest.raises(RuntimeError, match="no second derivative .*use lora.reference$"):
        torch.autograd.grad(loss, x, create_graph=True)


@pytest.mark.parametrize("way", ways.WAYS)
def test_the_setting_of_the_matrix_product_is_left_as_it_was(way):
    with ways.fp32_products("ieee"):
        arguments, dy = case(72, 6, 5, 2)
        outputs(lambda *a: apply(way, *a), [a.float() for a in arguments], dy.float())
        assert torch.backends.mkldnn.matmul.fp32_precision == "ieee"


# ---- the table


def test_classes_of_shapes():
    kinds = {
        Shape(2048, 576, 576, 16): "1024 tokens, width 512, rank 16",
        Shape(1024, 576, 1536, 16): "1024 tokens, width 1024, rank 16",
        Shape(1023, 1024, 1024, 5): "256 tokens, width 1024, rank 8",
        Shape(64, 256, 256, 1, 12): "64 tokens, width 256, rank 1, together",
    }
    assert {shape: shape.kind for shape in kinds} == kinds


def test_the_table_decides_in_fp32_training_on_its_classes_alone():
    (x, W, bias, A, B), _ = case(256, 32, 32, 4)
    x, W, bias, A, B = (t.float() for t in (x, W, bias, A.requires_grad_(), B))
    A = A.detach().requires_grad_()
    assert kernel.way_of(x, W, bias, A, B, C) == PARTS
    kind = Shape(256, 32, 32, 4).kind
    assert use_ways({kind: PLAIN}) == {kind: PLAIN} == ways.ways_in_use()
    assert kernel.way_of(x, W, bias, A, B, C) == PLAIN
    for other in (
        (x[:255], W, bias, A, B, C),
        (x, W, bias, A[:2], B[:, :2], C),
        (x.double(), W.double(), bias, A, B, C),
    ):
        assert kernel.way_of(*other) == PARTS
    for other in ((x.bfloat16(), W, bias, A, B, C), (x, W, bias, A, B, torch.ones(4))):
        assert kernel.way_of(*other) == ADDED
    assert use_ways({}) == {} and kernel.way_of(x, W, bias, A, B, C) == PARTS


def test_a_way_that_nobody_knows_is_refused_and_changes_nothing():
    use_ways({"a": PLAIN})
    with pytest.raises(ValueError, match="b: no way 'fast', there are added, parts"):
        use_ways({"b": "fast"})
    assert ways.ways_in_use() == {"a": PLAIN}


@pytest.mark.parametrize("way", ways.FORMER)
def test_a_way_of_an_older_version_leaves_its_class_to_the_cost_rule(way):
    assert use_ways({"a": PLAIN, "b": way}) == {"a": PLAIN}


def test_two_libraries_are_left_out_where_one_rounds(monkeypatch):
    shape = Shape(512, 64, 64, 8)
    for exact in (True, False):
        monkeypatch.setattr(ways, "one_dnn_is_exact", lambda exact=exact: exact)
        monkeypatch.setattr(tuning, "one_dnn_is_exact", lambda exact=exact: exact)
        assert use_ways({shape.kind: LIBRARIES}) == ({shape.kind: LIBRARIES} if exact else {})
        assert (LIBRARIES in tuning.offered(shape)) == exact


# ---- the measurement


@pytest.fixture
def fake_clock(monkeypatch):
    """Seconds by the way that ran, not by a clock: a dict that a test fills."""
    seconds, running = {}, []
    true = dict(kernel.FUNCTIONS)

    class Noted:
        def __init__(self, way):
            self.way = way

        def apply(self, *arguments):
            running.append(self.way)
            return true[self.way].apply(*arguments)

    monkeypatch.setattr(tuning, "FUNCTIONS", {way: Noted(way) for way in true})
    monkeypatch.setattr(tuning, "_seconds", lambda step: (step(), seconds[running[-1]])[1])
    seconds.update(dict.fromkeys(true, 1.0))
    return seconds


def test_the_fastest_way_is_taken_where_it_is_clearly_faster(fake_clock):
    shape = Shape(256, 32, 32, 4)
    assert tuning.fastest(shape) == PARTS  # the cost rule's, all being equal
    fake_clock[PLAIN] = 0.985
    assert tuning.fastest(shape) == PARTS
    fake_clock[PLAIN], fake_clock[ADDED] = 0.9, 0.8
    assert tuning.fastest(shape) == ADDED
    assert tuning.fastest(shape._replace(together=3)) == ADDED


def test_a_wrong_way_is_out_however_fast(fake_clock, monkeypatch):
    class Wrong:
        @staticmethod
        def apply(x, W, bias, A, B, c):
            return kernel.FUNCTIONS[PLAIN].apply(x, W, bias, A, B, 1.001 * c)

    monkeypatch.setitem(tuning.FUNCTIONS, ADDED, Wrong)
    fake_clock[PLAIN] = 0.5  # what the clock says of the wrong way too
    assert tuning.fastest(Shape(256, 32, 32, 4)) == PLAIN


def small_model():
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16))
    adapter = init_adapter(model, ["0", "2"], 4, 8.0, torch.Generator().manual_seed(0))
    return model, adapter


def test_tune_measures_each_class_once_and_draws_from_no_global_generator(fake_clock, monkeypatch):
    model, adapter = small_model()
    with pytest.raises(ValueError, match="no adapter attached: attach one first, then tune"):
        tune(model, 256)
    attach(model, {"a": adapter})
    train_only(model, ["a"])
    fake_clock[PLAIN] = 0.5
    before = torch.random.get_rng_state()
    kind = Shape(256, 16, 32, 4).kind
    with torch.no_grad():
        assert tune(model, 256) == {kind: PLAIN} == ways.ways_in_use()
    assert torch.equal(before, torch.random.get_rng_state())
    monkeypatch.setattr(tuning, "fastest", lambda shape: pytest.fail("measured again"))
    assert tune(model, 256) == {kind: PLAIN}
    assert tune(model, 8) == {kind: PLAIN}  # few tokens leave no choice


def test_a_measured_table_names_ways_that_this_processor_computes_exactly():
    table = tuning.measure_ways([Shape(64, 16, 16, 4), Shape(64, 16, 16, 4, 2)])
    assert list(table) == [Shape(64, 16, 16, 4).kind, Shape(64, 16, 16, 4, 2).kind]
    assert use_ways(table) == table
