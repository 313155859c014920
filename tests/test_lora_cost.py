"""What adapters cost, counted and not timed: the base's weights are not read, attached adapters
slow nothing down, and a mix costs what its rank costs."""

import copy
import sys

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lora import (
    Adapter,
    Mix,
    attach,
    base_hash,
    detach,
    extract,
    init_adapter,
    keep_base_hash,
    lora_layers,
    train_only,
    using,
)
from lora.attach import adapter_parameters


def net():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(300, 300), nn.Tanh(), nn.Linear(300, 280, bias=False))
    model[2].weight = nn.Parameter(torch.randn(300, 280).t())  # lies by columns
    return model


def fresh(model, rank=2, seed=0):
    made = init_adapter(model, ["0", "2"], rank, 4.0, torch.Generator().manual_seed(seed))
    factors = {path: (A, torch.randn(B.shape)) for path, (A, B) in made.factors.items()}
    return Adapter(factors, made.alpha, base=made.base)


def tensors_of(values):
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors_of(value)


class Reads(TorchDispatchMode):
    """How many numbers of a model's weights operations read. A view reads none, and an index those
    that it picks."""

    def __init__(self, model):
        super().__init__()
        self.base = {p.untyped_storage().data_ptr() for p in model.parameters()}
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        made = {t.untyped_storage().data_ptr() for t in tensors_of([out])}
        for t in tensors_of([args, list((kwargs or {}).values())]):
            address = t.untyped_storage().data_ptr()
            if address in self.base and address not in made:
                self.numbers += (out if func is torch.ops.aten.index.Tensor else t).numel()
        return out


def reads(model, action):
    with Reads(model) as counted:
        action()
    return counted.numbers


def test_attach_extract_and_detach_read_no_weight_of_the_base():
    model = net()
    made = fresh(model)
    plain = Adapter(made.factors, made.alpha)

    def through_all():
        attach(model, {"a": plain})
        attach(model, {"b": made}, any_base=True)
        train_only(model, ["a"])
        with using(model, Mix({"a": 1.0})):
            pass
        assert extract(model, "b", made) == made
        detach(model)

    assert reads(model, through_all) == 0
    attach(model, {"a": plain})
    assert reads(model, lambda: model(torch.ones(1, 300))) > 0  # what counts would be seen


def test_the_name_of_a_base_is_read_once_from_few_numbers():
    model = net()
    made = fresh(model)
    asked = reads(model, lambda: base_hash(model))
    assert 4096 <= asked <= 3 * 2 * 4300  # two large weights and a bias, each rounded in two ways
    many = {f"a{i}": made for i in range(20)}
    assert reads(model, lambda: attach(model, many)) == asked
    assert reads(model, lambda: attach(model, {"b": made})) == asked
    keep_base_hash(model)
    assert reads(model, lambda: attach(model, {"c": made})) == 0


def test_the_order_in_which_a_weight_lies_does_not_name_the_base():
    model = net()
    other = copy.deepcopy(model)
    other[2].weight = nn.Parameter(model[2].weight.detach().contiguous())
    assert other[2].weight.is_contiguous() and not model[2].weight.is_contiguous()
    assert base_hash(other) == base_hash(model)


def calls(action):
    """How many Python functions an action calls."""
    counted = 0

    def count(frame, event, argument):
        nonlocal counted
        counted += event == "call"

    sys.setprofile(count)
    try:
        action()
    finally:
        sys.setprofile(None)
    return counted


def enter(model, name):
    with using(model, Mix({name: 1.0})):
        pass


@pytest.mark.parametrize("kept", [True, False])
def test_an_adapter_costs_no_more_where_hundreds_are_attached(kept):
    model = net()
    made = fresh(model)
    if kept:
        keep_base_hash(model)
    actions = {
        "attach": lambda name: attach(model, {name: made}),
        "train": lambda name: train_only(model, [name]),
        "parameters": lambda name: adapter_parameters(model, name),
        "use": lambda name: enter(model, name),
        "extract": lambda name: extract(model, name, made),
    }
    first = {what: calls(lambda act=act: act("first")) for what, act in actions.items()}
    attach(model, {f"a{i}": made for i in range(300)})
    last = {what: calls(lambda act=act: act("last")) for what, act in actions.items()}
    for what in actions:
        assert last[what] <= 1.1 * first[what] + 10, what
    assert [p.requires_grad for p in adapter_parameters(model, "first")] == [False] * 4
    assert [p.requires_grad for p in adapter_parameters(model, "last")] == [True] * 4
    with pytest.raises(KeyError, match=r"no adapter 'none' is attached, .*\(302 in all\)"):
        train_only(model, ["none"])


class Products(TorchDispatchMode):
    """The multiplications of all matrix products."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.removeprefix("aten::").rstrip("_")
        if name in ("mm", "addmm", "bmm", "baddbmm"):
            u, v = list(tensors_of(args))[-2:]
            self.count += u.numel() * v.shape[-1]
        return func(*args, **(kwargs or {}))


def products(model, weights, training):
    x = torch.randn(70, 300)
    with using(model, Mix(weights)), torch.set_grad_enabled(training), Products() as counted:
        y = model(x)
        if training:
            y.sum().backward()
    return counted.count


@pytest.mark.parametrize("training", [True, False])
def test_a_mix_costs_what_its_summed_rank_costs(training):
    model = net()
    attach(model, {f"a{i}": fresh(model, 2, i) for i in range(12)}, any_base=True)
    attach(model, {"four": fresh(model, 4), "sixteen": fresh(model, 16)}, any_base=True)
    every = [name for layer in lora_layers(model).values() for name in layer.names]
    train_only(model, list(dict.fromkeys(every)))
    for count, alone in ((2, "four"), (8, "sixteen")):
        mixes = [
            {f"a{i}": w / (i + 1) ** power for i in range(count)} for w, power in ((1, 0), (1, 1))
        ]
        for mix in mixes:  # one weight for all, and a weight for each
            assert products(model, mix, training) == products(model, {alone: 1.0}, training)
