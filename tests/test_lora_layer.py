"""The layer's modes against the formula written out, and the life of adapters on a module."""

import copy
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lora import (
    Adapter,
    Gated,
    Mix,
    Rows,
    adapter_parameters,
    attach,
    base_hash,
    detach,
    extract,
    folded,
    init_adapter,
    lora_layers,
    matching,
    train_only,
    using,
)


def model(seed=0, width=12):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(width, 16), nn.ReLU(), nn.Linear(16, 8, bias=False)).double()


def adapter(net, rank=3, alpha=5.0, seed=0, patterns=("*",), **kwargs):
    generator = torch.Generator().manual_seed(seed)
    made = init_adapter(net, patterns, rank, alpha, generator, **kwargs)
    factors = {
        path: (A.double(), torch.randn(B.shape, generator=generator, dtype=torch.double))
        for path, (A, B) in made.factors.items()
    }
    return Adapter(factors, made.alpha, made.rslora, base=made.base)


def with_deltas(net, deltas):
    """A copy of a plain model with explicit updates added to its weights."""
    changed = copy.deepcopy(net)
    with torch.no_grad():
        for path, delta in deltas.items():
            changed.get_submodule(path).weight += delta
    return changed


@settings(max_examples=25, deadline=None)
@given(
    ranks=st.lists(st.integers(1, 6), min_size=1, max_size=5),
    alpha=st.floats(0.1, 20),
    rslora=st.booleans(),
    shape=st.sampled_from([(1,), (4,), (2, 3), (0,)]),
    seed=st.integers(0, 99),
)
def test_mix_is_the_sum_of_deltas(ranks, alpha, rslora, shape, seed):
    net = model(seed)
    x = torch.randn(*shape, 12, dtype=torch.double, generator=torch.Generator().manual_seed(seed))
    adapters = {
        f"a{i}": adapter(net, rank, alpha, i, rslora=rslora) for i, rank in enumerate(ranks)
    }
    weights = {name: 0.3 * i - 0.5 for i, name in enumerate(adapters)}
    deltas = {p: sum(weights[n] * a.delta(p) for n, a in adapters.items()) for p in ("0", "2")}
    expected = with_deltas(net, deltas)(x)
    attach(net, adapters)
    with using(net, Mix(weights)):
        torch.testing.assert_close(net(x), expected)
    with folded(net, weights):
        torch.testing.assert_close(net(x), expected)


def test_one_adapter_is_scaled_by_alpha_over_rank_or_its_root():
    net = model()
    for rslora, scale in ((False, 5 / 3), (True, 5 / 3**0.5)):
        one = adapter(net, rslora=rslora)
        A, B = one.factors["0"]
        torch.testing.assert_close(one.delta("0"), scale * B @ A)


def test_off_is_the_base_and_weights_cancel():
    net = model()
    x = torch.randn(5, 12, dtype=torch.double)
    base = net(x)
    attach(net, {"a": adapter(net), "b": adapter(net)})
    assert torch.equal(net(x), base)
    with using(net, Mix({"a": 1.0, "b": -1.0})):
        torch.testing.assert_close(net(x), base)


def test_rows_give_each_part_its_own_adapter():
    net = model()
    adapters = {name: adapter(net, seed=i) for i, name in enumerate("abc")}
    x = torch.randn(6, 4, 12, dtype=torch.double)
    alone = [with_deltas(net, {p: a.delta(p) for p in a.paths}) for a in adapters.values()]
    expected = torch.cat([one(part) for one, part in zip(alone, x.chunk(3), strict=True)])
    attach(net, adapters)
    with using(net, Rows(tuple("abc"))):
        torch.testing.assert_close(net(x), expected)
        with pytest.raises(ValueError, match="7 rows do not fall into 3 equal parts"):
            net(torch.zeros(7, 4, 12, dtype=torch.double))


def gated(net, adapters, gates, order="outputs"):
    routers = dict.fromkeys(("0", "2"), lambda x: gates.expand(len(x), -1))
    return Gated(tuple(adapters), routers, order)


def test_gates_one_hot_pick_an_adapter_and_ones_sum():
    net = model()
    x = torch.randn(2, 3, 12, dtype=torch.double)
    adapters = {name: adapter(net, rank=r, seed=r) for name, r in (("a", 2), ("b", 4))}
    attach(net, adapters)
    for gates, weights in (([0.0, 1.0], {"b": 1.0}), ([1.0, 1.0], {"a": 1.0, "b": 1.0})):
        with using(net, Mix(weights)):
            expected = net(x)
        with using(net, gated(net, adapters, torch.tensor(gates, dtype=torch.double))):
            torch.testing.assert_close(net(x), expected)


def test_gates_of_each_token_are_its_own():
    net = model()
    adapters = {name: adapter(net, seed=i) for i, name in enumerate("ab")}
    x = torch.randn(4, 12, dtype=torch.double)
    gates = torch.rand(4, 2, dtype=torch.double)
    a, b = (adapters[name].delta("0") for name in "ab")
    mixed = [with_deltas(net, {"0": g[0] * a + g[1] * b}) for g in gates]  # a model for each token
    expected = torch.stack([one[0](token) for one, token in zip(mixed, x, strict=True)])
    attach(net, adapters)
    with using(net, Gated(("a", "b"), {"0": lambda h: gates, "2": lambda h: gates})):
        torch.testing.assert_close(net[0](x), expected)


def test_mixing_factors_has_the_cross_terms():
    net = model()
    adapters = {name: adapter(net, seed=i) for i, name in enumerate("ab")}
    g = torch.tensor([0.3, 0.9], dtype=torch.double)
    x = torch.randn(5, 12, dtype=torch.double)
    (A0, B0), (A1, B1) = (adapters[n].factors["0"] for n in "ab")
    delta = adapters["a"].scale("0") * (g[0] * B0 + g[1] * B1) @ (g[0] * A0 + g[1] * A1)
    expected = with_deltas(net, {"0": delta})[0](x)
    attach(net, adapters)
    with using(net, gated(net, adapters, g, "factors")):
        torch.testing.assert_close(net[0](x), expected)


def test_detach_gives_back_the_same_model():
    net = model()
    before, names = copy.deepcopy(net.state_dict()), [type(m) for m in net.modules()]
    digest = base_hash(net)
    attach(net, {"a": adapter(net)})
    assert base_hash(net) == digest
    assert set(before) < set(net.state_dict())
    detach(net)
    assert [type(m) for m in net.modules()] == names
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())


def test_fold_is_undone_bit_for_bit_after_many_cycles():
    net = model().float()
    weight = net[0].weight.detach().clone()
    attach(net, {"a": Adapter({"0": (torch.randn(2, 12), torch.randn(16, 2))}, 3.0)})
    for _ in range(100):
        with folded(net, {"a": 0.7}):
            assert not torch.equal(net[0].weight, weight)
    assert torch.equal(net[0].weight, weight)


def test_adapters_are_parameters_that_move_and_are_saved():
    net = model()
    attach(net, {"a": adapter(net)})
    assert {"0.lora_A_a", "0.lora_B_a"} <= set(net.state_dict())
    assert net.to(torch.float32)[0].lora_A_a.dtype == torch.float32


def test_training_one_adapter_touches_nothing_else():
    net = model()
    attach(net, {"a": adapter(net, seed=1), "b": adapter(net, seed=2)})
    (group,) = train_only(net, ["b"])
    trained = {id(p) for p in group}
    assert trained == {id(p) for p in adapter_parameters(net, "b")}
    assert trained == {id(p) for p in net.parameters() if p.requires_grad}
    with using(net, Mix({"a": 1.0, "b": 1.0})):
        net(torch.randn(3, 12, dtype=torch.double)).sum().backward()
    assert all((p.grad is not None) == (id(p) in trained) for p in net.parameters())


def test_removing_one_adapter_leaves_the_others():
    net = model()
    attach(net, {"a": adapter(net), "b": adapter(net, seed=1)})
    for layer in lora_layers(net).values():
        layer.remove("a")
    with using(net, Mix({"b": 1.0})):
        net(torch.zeros(1, 12, dtype=torch.double))
    for act in (using(net, Mix({"a": 1.0})), using(net, Rows("ab")), folded(net, {"a": 1.0})):
        with pytest.raises(KeyError, match="no adapter 'a' is attached, there are b"), act:
            pass


def test_extract_returns_what_was_attached():
    net = model()
    one = adapter(net)
    attach(net, {"a": one})
    back = extract(net, "a", one)
    assert back.paths == one.paths
    for path in one.paths:
        assert all(map(torch.equal, back.factors[path], one.factors[path]))


def test_patterns_match_last_names_and_paths():
    mlp = nn.ModuleDict({"up": nn.Linear(2, 2), "down": nn.Linear(2, 2)})
    net = nn.ModuleDict({"mlp": mlp, "q": nn.Linear(2, 2)})
    assert matching(net, ["up"]) == ["mlp.up"]
    assert matching(net, ["mlp.*"]) == ["mlp.up", "mlp.down"]
    assert matching(net, ["u*", "mlp.*"]) == ["mlp.up", "mlp.down"]
    message = "no linear layer fits the pattern 'k_proj': the model's are named down, q, up"
    with pytest.raises(ValueError, match=message):
        matching(net, ["k_proj"])
    with pytest.raises(ValueError, match="the model's are named none"):
        matching(nn.Linear(2, 2), ["*"])  # a layer alone has no parent in which to be wrapped


def test_a_string_is_one_pattern_and_one_name():
    net = nn.ModuleDict({name: nn.Linear(6, 4) for name in ("q_proj", "k", "v")})
    assert matching(net, "q_proj") == ["q_proj"] and matching(net, "*") == ["q_proj", "k", "v"]
    attach(net, {"mine": init_adapter(net, "q_proj", 2, 4.0, torch.Generator())})
    assert len(train_only(net, "mine")) == 1
    for text in ("kv", "all-linear", ""):
        message = f"no linear layer fits the pattern '{text}': the model's are named k, q_proj, v"
        with pytest.raises(ValueError, match=re.escape(message)):
            matching(net, text)
    with pytest.raises(ValueError, match="there is no pattern: name at least one"):
        matching(net, [])
    for pattern in (1, None, b"k", ["k"]):
        with pytest.raises(TypeError, match="a pattern is a string, not"):
            matching(net, ["k", pattern])
    many = nn.ModuleDict({f"expert{i}": nn.Linear(2, 2) for i in range(99)})
    with pytest.raises(ValueError, match=r"expert0, .* \(99 in all\)") as caught:
        matching(many, "up")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("name", ["lora", "weight", "base", "A", "keys", "a-b_1"])
def test_adapter_names_that_break_others_work(name):
    net = model()
    attach(net, {name: adapter(net)})
    with using(net, Mix({name: 1.0})):
        net(torch.zeros(1, 12, dtype=torch.double))


def test_a_rank_above_the_layers_own_acts_as_its_update():
    """Other tools give every layer one rank, also a router of 4 experts or a head of 2 labels."""
    g = torch.Generator().manual_seed(0)
    net, x = model(), torch.randn(3, 12, generator=g).double()
    factors = torch.randn(20, 12, generator=g).double(), torch.randn(16, 20, generator=g).double()
    one = Adapter({"0": factors}, 16.0)
    expected = x @ (net[0].weight + one.delta("0")).mT + net[0].bias
    attach(net, {"a": one})
    with using(net, Mix({"a": 1.0})):
        torch.testing.assert_close(net[0](x), expected)


def test_bad_adapters_are_refused_and_nothing_is_attached():
    net = model()
    good = adapter(net)
    unknown_layer = Adapter({"9": good.factors["0"]}, 1.0)
    other_shape = Adapter({"2": good.factors["0"]}, 1.0)
    cases = [
        ({"a.b": good}, "cannot be named 'a.b'"),
        ({"x": unknown_layer}, "addresses the layer '9', which this model does not have"),
        ({"x": other_shape}, "it was made for another model"),
        ({"x": adapter(model(1))}, "was made for the base"),
        ({"ok": good, "x": other_shape}, "made for another model"),
    ]
    for adapters, message in cases:
        with pytest.raises(ValueError, match=message):
            attach(net, adapters)
        assert all(not layer.names for layer in lora_layers(net).values())
    attach(net, {"a": good})
    with pytest.raises(ValueError, match="'a' is attached already"):
        attach(net, {"a": good})
    assert all(layer.names == ("a",) for layer in lora_layers(net).values())
    for rank in (0, 9):
        with pytest.raises(ValueError, match=f"rank = {rank}"):
            init_adapter(net, ["*"], rank, 1.0, torch.Generator())
