"""Weights and layers that a model holds twice: what an adapter of one holder does to the other."""

import pytest
import torch
from torch import nn

from lora import (
    Adapter,
    Mix,
    attach,
    base_hash,
    detach,
    extract,
    folded,
    lora_layers,
    matching,
    using,
)


def factors(d_in, d_out, rank=2):
    return torch.randn(rank, d_in).double(), torch.randn(d_out, rank).double()


class Tied(nn.Module):
    """The output layer's weight is the embedding's too."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(7, 5), nn.Linear(5, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        return self.head(self.embed(ids).tanh())


class Sliced(nn.Module):
    """Two layers whose weights are halves of one block of memory."""

    def __init__(self):
        super().__init__()
        both = torch.randn(5, 5)
        self.one, self.two = nn.Linear(5, 5, bias=False), nn.Linear(5, 5, bias=False)
        self.one.weight, self.two.weight = nn.Parameter(both), nn.Parameter(both)

    def forward(self, x):
        return self.two(self.one(x).tanh())


class TwoNames(nn.Module):
    """One layer that is reached as `one` and as `two`."""

    def __init__(self):
        super().__init__()
        self.one = nn.Linear(5, 5)
        self.two = self.one

    def forward(self, x):
        return self.two(self.one(x).tanh())


def shared_weight():
    net = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5))
    net[2].weight = net[0].weight
    return net


CASES = {
    "an embedding and the head": (Tied, {"head": (5, 7)}),
    "two layers, one weight": (shared_weight, {"0": (5, 5), "2": (5, 5)}),
    "one of two layers": (shared_weight, {"2": (5, 5)}),
    "one block of memory": (Sliced, {"one": (5, 5), "two": (5, 5)}),
    "one layer, its first name": (TwoNames, {"one": (5, 5)}),
    "one layer, its second name": (TwoNames, {"two": (5, 5)}),
}


@pytest.mark.parametrize("case", CASES)
def test_folded_is_the_mix_and_the_base_is_untouched(case):
    make, shapes = CASES[case]
    torch.manual_seed(0)
    net = make().double()
    x = torch.arange(7) if make is Tied else torch.randn(3, 5).double()
    weights = {name: (id(p), p.detach().clone()) for name, p in net.named_parameters()}
    hashed, base = base_hash(net), net(x).detach()
    one = Adapter({path: factors(*shape) for path, shape in shapes.items()}, 3.0, base=hashed)
    attach(net, {"a": one})
    with using(net, Mix({"a": 0.7})):
        mixed = net(x)
    assert not torch.allclose(mixed, base)
    with folded(net, {"a": 0.7}):
        torch.testing.assert_close(net(x), mixed)
        assert base_hash(net) == hashed  # of the base, whatever is folded into it now
    assert extract(net, "a", one) == one
    detach(net)
    assert torch.equal(net(x), base) and base_hash(net) == hashed
    for name, parameter in net.named_parameters():
        assert (id(parameter), True) == (weights[name][0], torch.equal(parameter, weights[name][1]))


def test_a_layer_with_two_names_is_one_layer():
    net = TwoNames().double()
    assert matching(net, ["*"]) == ["one"]
    alphas = Adapter({"two": factors(5, 5)}, 3.0, alphas={"two": 9.0})
    attach(net, {"a": alphas})
    assert net.one is net.two and list(lora_layers(net)) == ["two"]  # the name that was addressed
    assert extract(net, "a", alphas).scale("two") == alphas.scale("two") == 4.5
    both = Adapter({"one": factors(5, 5), "two": factors(5, 5)}, 3.0)
    with pytest.raises(ValueError, match="'one' and 'two', which are one layer"):
        attach(net, {"b": both})
    assert net.one.names == ("a",)


def test_factors_that_layers_share_are_each_layers_own_when_taken():
    """After `A` was tied over two layers in training, an adapter's tensors share no memory."""
    net = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 5)).double()
    A, B = factors(5, 5)
    one = Adapter({"0": (A, B), "1": (A, B)}, 3.0)
    attach(net, {"a": one})
    net[1].lora_A_a = net[0].lora_A_a
    taken = extract(net, "a", one)
    assert taken == one
    assert taken.factors["0"][0].data_ptr() != taken.factors["1"][0].data_ptr()
