"""The name of a base: what it says, what it leaves out, and when it is asked for."""

import copy
import hashlib
import sys

import pytest
import torch
from torch import nn

from lora import (
    Adapter,
    Mix,
    attach,
    base_hash,
    common_base,
    detach,
    extract,
    init_adapter,
    keep_base_hash,
    same_base,
    train_only,
    using,
)


class Net(nn.Module):
    """A scalar parameter, counters without an axis, and a layer too large to count whole."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.embed = nn.Embedding(5, 6)
        self.up, self.norm = nn.Linear(6, 300), nn.BatchNorm1d(300)
        self.wide, self.down = nn.Linear(300, 300), nn.Linear(300, 4)
        self.scale = nn.Parameter(torch.tensor(2.7))

    def forward(self, x):
        return self.scale * self.down(self.wide(self.norm(self.up(x))))


def fresh(net, patterns=("up",)):
    return init_adapter(net, patterns, 2, 4.0, torch.Generator().manual_seed(0))


def test_a_base_in_another_precision_is_the_same_base():
    net = Net()
    here = base_hash(net)
    assert fresh(net).base == here == base_hash(Net())
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        other = copy.deepcopy(net).to(dtype)
        assert same_base(here, base_hash(other))
        attach(other, {"a": fresh(net)})  # trained in fp32, used in another precision
        attach(copy.deepcopy(net), {"a": fresh(other)})  # and the other way round
    assert base_hash(net.double()) == here


def test_other_weights_are_another_base():
    here, others = base_hash(Net()), [Net(1) for _ in range(4)]
    others[0].load_state_dict(Net().state_dict())
    with torch.no_grad():
        others[0].down.weight[3, 299] += 0.01
        others[1].load_state_dict(Net().state_dict())
        others[1].wide.weight *= 1.01
        others[2].load_state_dict(Net().state_dict())
        others[2].wide.weight[:, 0] += 0.1  # a column: not all samples stand in one of the others
    for other in others:
        assert not same_base(here, base_hash(other))
    with pytest.raises(ValueError, match=r"another precision, attach\(..., any_base=True\)") as e:
        attach(others[0], {"a": fresh(Net())})
    assert "\n" not in str(e.value) and len(str(e.value)) < 300
    attach(others[0], {"a": fresh(Net())}, any_base=True)


def test_what_no_adapter_addresses_does_not_count():
    net = Net()
    here, one = base_hash(net), fresh(net)
    attach(net, {"a": one})
    train_only(net, ["a"])
    with using(net, Mix({"a": 1.0})):
        net(torch.randn(8, 6)).sum().backward()  # BatchNorm counts and moves its means
    net.embed.weight.data += 1
    net.scale.data += 1
    assert base_hash(net) == here
    taken = extract(net, "a", one)
    detach(net)
    attach(net, {"a": taken})


def test_a_kept_name_stays_and_is_the_models_alone():
    net = Net()
    here = base_hash(net)
    assert keep_base_hash(net) == here == base_hash(net)
    with torch.no_grad():
        net.up.weight += 1
    assert base_hash(net) == here == keep_base_hash(Net())  # nobody looks at the weights again
    changed = base_hash(copy.deepcopy(net))
    assert not same_base(here, changed) and keep_base_hash(net) == changed  # until it is asked to


def test_wrappers_do_not_count():
    net = Net()
    here = base_hash(net)
    wrapped = nn.DataParallel(net)
    assert base_hash(wrapped) == here
    attach(wrapped, {"a": fresh(net)})


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors:UserWarning")
def test_weights_without_values_have_no_name():
    with pytest.raises(ValueError, match="0.weight has no values|0.bias has no values"):
        base_hash(nn.Sequential(nn.Linear(6, 4, device="meta")))
    assert base_hash(nn.Sequential(nn.Linear(0, 4)))


def first_name(net):
    """As adapters named their base at first: one hash over all that a state_dict holds."""
    digest = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def test_adapters_with_a_base_of_one_hash_are_accepted_as_before():
    net = Net()
    old, made = first_name(net), fresh(net)
    earlier = Adapter(made.factors, made.alpha, base=old)
    assert common_base([earlier, made]) in (old, made.base)
    attach(net, {"a": earlier, "b": earlier + made})
    attach(net, {"c": earlier})  # while others are attached
    other = Net(1)
    for adapters in ({"a": earlier}, {"a": Adapter(made.factors, 4.0, base="0" * 16)}):
        with pytest.raises(ValueError, match="was made for the base"):
            attach(other, adapters)
    with pytest.raises(ValueError, match="different bases"):
        common_base([earlier, Adapter(made.factors, 4.0, base="0" * 16)])
    with pytest.raises(ValueError, match="different bases"):
        common_base([made, fresh(other)])


def test_the_model_is_hashed_on_demand_and_once(monkeypatch):
    asked = []
    for name in ("base_hash", "_hash_of_all"):
        hashing = getattr(sys.modules["lora.base"], name)

        def counted(model, name=name, hashing=hashing):
            asked.append(name)
            return hashing(model)

        for module in ("lora.base", "lora.attach"):
            if hasattr(sys.modules[module], name):
                monkeypatch.setattr(sys.modules[module], name, counted)
    net = Net()
    made, old = fresh(net), first_name(net)
    asked.clear()
    attach(net, {"a": Adapter(made.factors, 4.0)})
    attach(net, {"b": made}, any_base=True)
    assert asked == []
    attach(net, {"c": made, "d": made, "e": made})
    assert asked == ["base_hash"]
    asked.clear()
    earlier = Adapter(made.factors, 4.0, base=old)
    attach(net, {"f": earlier})
    attach(net, {"g": earlier, "h": earlier})
    assert asked == ["base_hash", "_hash_of_all", "base_hash"]
