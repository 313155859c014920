"""What a layer knows beside its factors goes with what happened to the model in the meantime."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lora import (
    Adapter,
    Gated,
    Mix,
    Rows,
    adapter_parameters,
    attach,
    detach,
    extract,
    folded,
    init_adapter,
    lora_layers,
    train_only,
    using,
)
from models import Transformer, TransformerConfig, greedy

SHAPES = {"0": (6, 8), "2": (8, 4)}  # d_in, d_out


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)).double()


def adapter(seed, rank=2):
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=g, dtype=torch.double)

    factors = {p: (normal(rank, k), normal(n, rank)) for p, (k, n) in SHAPES.items()}
    return Adapter(factors, 3.0)


def adapted(names="ab"):
    net = model()
    attach(net, {name: adapter(seed) for seed, name in enumerate(names)})
    return net, torch.randn(4, 6).double()


# ---- factors that are kept together


WRITES = {
    ".data": lambda p: p.data.mul_(2),
    "another .data": lambda p: setattr(p, "data", 2 * p.data),
    "numpy": lambda p: p.detach().numpy().__imul__(2),
    "in place": lambda p: p.detach().mul_(2),
}


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_a_write_to_a_factor_is_seen_at_the_next_call(write, guard):
    net, x = adapted()
    modes = (
        Mix({"a": 1.0, "b": 0.5}),
        Rows("ab"),
        Gated("ab", dict.fromkeys(SHAPES, lambda h: h[:, :2])),
    )
    for mode in modes:
        with using(net, mode), guard():
            net(x)
            WRITES[write](net[0].lora_A_a)
            assert torch.equal(net(x), copy.deepcopy(net)(x))


def test_an_adapter_that_was_removed_and_added_anew_is_the_new_one():
    net, x = adapted()
    both = Mix({"a": 1.0, "b": 1.0})
    with torch.no_grad(), using(net, both):
        net(x)
    for path, layer in lora_layers(net).items():
        layer.remove("a")
        layer.add("a", *adapter(9).factors[path], 1.5)
    fresh = model()
    attach(fresh, {"b": adapter(1), "a": adapter(9)})
    with torch.no_grad(), using(net, both), using(fresh, both):
        torch.testing.assert_close(net(x), fresh(x))


# ---- folds


def test_a_fold_that_cannot_be_finished_leaves_nothing_folded():
    net, x = adapted()
    with using(net, Mix({"a": 1.0})):
        expected = net(x)
    B = net[2].lora_B_a.data
    net[2].lora_B_a.data = B[:, :1]
    with pytest.raises(RuntimeError), folded(net, {"a": 1.0}):
        pass
    net[2].lora_B_a.data = B
    assert not any(layer.folded for layer in lora_layers(net).values())
    with using(net, Mix({"a": 1.0})):
        assert torch.equal(net(x), expected)


def test_factors_of_two_types_fold_as_they_mix():
    net, x = model().float(), torch.randn(3, 6)
    A, B = adapter(0).factors["0"]
    attach(net, {"a": Adapter({"0": (A.half(), B.float())}, 3.0)})
    with using(net, Mix({"a": 1.0})):
        expected = net(x)
    with folded(net, {"a": 1.0}):
        torch.testing.assert_close(net(x), expected, rtol=1e-3, atol=1e-3)


def test_folded_refuses_unknown_names_another_fold_and_another_mode():
    net, _ = adapted()
    with pytest.raises(KeyError, match="no adapter 'c' is attached, there are a, b"):
        with folded(net, {"a": 1.0, "c": 1.0}):
            pass
    with folded(net, {"a": 1.0}):
        with pytest.raises(RuntimeError, match="folded into the weight already"):
            with folded(net, {"b": 1.0}):
                pass
        with pytest.raises(RuntimeError, match=r"leave folded\(\) before using\(\)"):
            with using(net, Mix({"b": 1.0})):
                pass
        assert all(layer.folded for layer in lora_layers(net).values())
    assert not any(layer.folded for layer in lora_layers(net).values())


def test_a_model_that_moves_while_folded_is_moved_after_it():
    net, x = adapted()
    with folded(net, {"a": 1.0}):
        net.float()
    assert net[0].weight.dtype == torch.float32
    assert net(x.float()).dtype == torch.float32


def test_detaching_inside_a_block_ends_it():
    for block in (lambda net: folded(net, {"a": 1.0}), lambda net: using(net, Mix({"a": 1.0}))):
        net, x = adapted()
        base = model()(x)
        with block(net):
            detach(net)
            assert torch.equal(net(x), base)
        assert torch.equal(net(x), base)
        assert vars(net[0]).keys() == vars(nn.Linear(1, 1)).keys()


def test_detach_keeps_objects_hooks_and_training_flags():
    net, x = adapted("")
    net.eval()
    net[2].train()
    seen = []
    net[0].register_forward_hook(lambda *_: seen.append("before"))
    layers = [net[0], net[2]]
    attach(net, {"a": adapter(0)})
    net[0].register_forward_pre_hook(lambda *_: seen.append("while attached"))
    detach(net)
    net(x)
    assert [net[0], net[2]] == layers and [type(layer) for layer in layers] == [nn.Linear] * 2
    assert [layer.training for layer in layers] == [False, True]
    assert seen == ["while attached", "before"]


# ---- forward passes that run again in backward


def gradients(net, backward_in=None, reentrant=None, inside=False):
    """Of the sum of the model's outputs in the mode `a`."""
    x = torch.ones(4, 6).double().requires_grad_()

    def forward():
        return net(x) if reentrant is None else checkpoint(net, x, use_reentrant=reentrant)

    net.zero_grad()
    with using(net, Mix({"a": 1.0})):
        loss = forward().sum()
        if inside:
            loss.backward()
    if not inside:
        with using(net, backward_in):
            loss.backward()
    return [p.grad for name in "ab" for p in adapter_parameters(net, name)]


@pytest.mark.parametrize("reentrant", [False, True])
def test_backward_under_another_mode_is_refused_where_the_forward_runs_again(reentrant):
    net, _ = adapted()
    train_only(net, ["a", "b"])
    expected = gradients(net)
    for got, want in zip(gradients(net, None, reentrant, inside=True), expected, strict=True):
        assert (got is None) == (want is None)
        assert got is None or torch.equal(got, want)
    for mode in (None, Mix({"b": 1.0}), Mix({"a": 1.0})):
        with pytest.raises(RuntimeError, match="call backward inside the same using") as caught:
            gradients(net, mode, reentrant)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
    gradients(net, None, reentrant, inside=True)  # nothing of it stays


@pytest.mark.parametrize("reentrant", [False, True])
def test_two_graphs_of_two_modes_are_not_mixed_up(reentrant):
    net, x = adapted()
    train_only(net, ["a", "b"])
    x.requires_grad_()
    with using(net, Mix({"a": 1.0})):
        first = checkpoint(net, x, use_reentrant=reentrant).sum()
    with using(net, Mix({"b": 1.0})):
        second = checkpoint(net, x, use_reentrant=reentrant).sum()
        with pytest.raises(RuntimeError, match="call backward inside the same using"):
            (first + second).backward()


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_mode_that_is_set_inside_what_is_checkpointed_is_set_again(reentrant):
    net, x = adapted()
    train_only(net, ["a", "b"])
    x.requires_grad_()

    def both(x):
        with using(net, Mix({"a": 1.0})):
            y = net(x)
        with using(net, Mix({"b": 1.0})):
            return (y + net(x)).sum()

    both(x).backward()
    expected = [p.grad.clone() for name in "ab" for p in adapter_parameters(net, name)]
    net.zero_grad()
    checkpoint(both, x, use_reentrant=reentrant).backward()
    got = [p.grad for name in "ab" for p in adapter_parameters(net, name)]
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other)


def replica(net):
    """What torch.nn.parallel.replicate makes for one device: its parameters are plain tensors."""
    copies = {module: module._replicate_for_data_parallel() for module in net.modules()}
    for module, made in copies.items():
        for name, child in module._modules.items():
            setattr(made, name, copies[child])
        for name, parameter in module._parameters.items():
            setattr(made, name, parameter.clone())
    return copies[net]


@pytest.mark.parametrize("reentrant", [None, False, True])
def test_a_replica_of_data_parallel_acts_and_keeps_its_mode(reentrant):
    net, x = adapted()
    train_only(net, ["a"])
    expected = gradients(net)[:4]
    net.zero_grad()
    x = torch.ones(4, 6).double().requires_grad_()
    with using(net, Mix({"a": 1.0})):
        made = replica(net)
        y = made(x) if reentrant is None else checkpoint(made, x, use_reentrant=reentrant)
        torch.testing.assert_close(y, net(x))
    y.sum().backward()
    for parameter, want in zip(adapter_parameters(net, "a"), expected, strict=True):
        torch.testing.assert_close(parameter.grad, want)


# ---- inference mode, empty batches, decoding


def test_what_was_made_in_inference_mode_can_be_trained():
    net, x = model(), torch.randn(4, 6).double()
    with torch.inference_mode():
        made = init_adapter(net, ["*"], 2, 3.0, torch.Generator())
        attach(net, {"a": made, "b": adapter(1)})
        with using(net, Mix({"a": 1.0, "b": 1.0})):
            expected = net(x)
        with folded(net, {"a": 1.0, "b": 1.0}):
            torch.testing.assert_close(net(x), expected)
        taken = extract(net, "b", adapter(1))
    assert not any(t.is_inference() for pair in taken.factors.values() for t in pair)
    (group,) = train_only(net, ["b"])
    with using(net, Mix({"a": 1.0, "b": 1.0})):
        net(x).sum().backward()
    assert all(p.grad.any() for p in group)


@pytest.mark.parametrize("shape", [(0, 6), (0, 5, 6), (2, 0, 6)])
@pytest.mark.parametrize("order", [None, "outputs", "factors"])
def test_a_batch_without_tokens_goes_through_every_mode(shape, order):
    net, _ = adapted()
    train_only(net, ["a", "b"])
    routers = dict.fromkeys(SHAPES, lambda h: h[:, :2].softmax(-1))
    modes = (Mix({"a": 1.0}), Mix({"a": 1.0, "b": 2.0}), Rows("ab"))
    for mode in modes if order is None else (Gated("ab", routers, order),):
        with using(net, mode):
            y = net(torch.zeros(shape).double())
            y.sum().backward()
        assert y.shape == (*shape[:-1], 4)
        assert not any(p.grad is not None and p.grad.any() for p in net.parameters())


def test_rows_that_end_leave_other_rows_their_adapter():
    config = TransformerConfig(width=16, layers=1, heads=2, kv_heads=2, hidden=24, context=24)
    net = Transformer(config, 12, torch.Generator().manual_seed(0)).double().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(20 if parameter.dim() == 2 else 1)
    g = torch.Generator().manual_seed(0)
    fresh = {name: init_adapter(net, ["*_proj"], 2, 4.0, g) for name in "abc"}
    loud = {
        name: Adapter(
            {
                p: (A.double(), torch.randn(B.shape, generator=g).double())
                for p, (A, B) in f.items()
            },
            4.0,
        )
        for name, f in ((name, made.factors) for name, made in fresh.items())
    }
    attach(net, loud)
    prompts = torch.randint(2, 12, (6, 3), generator=g).tolist()
    alone = []
    for name, pair in zip("abc", (prompts[:2], prompts[2:4], prompts[4:]), strict=True):
        with using(net, Mix({name: 1.0})):
            alone += greedy(net, pair, 12, end=-1, pad=0)
    end = alone[0][3]
    expected = [row[: row.index(end)] if end in row else row for row in alone]
    assert len({len(row) for row in expected}) > 1
    with using(net, Rows(tuple("abc"))):
        assert greedy(net, prompts, 12, end, pad=0) == expected
