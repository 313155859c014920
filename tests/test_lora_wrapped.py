"""Adapters of compiled, DDP and FSDP models have the paths of the layers inside."""

import copy

import pytest
import torch
from torch import distributed, nn
from torch.optim.swa_utils import AveragedModel

from lora import (
    Adapter,
    Mix,
    adapter_parameters,
    attach,
    base_hash,
    detach,
    extract,
    folded,
    init_adapter,
    load_adapter,
    lora_layers,
    matching,
    save_adapter,
    train_only,
    using,
)


@pytest.fixture(scope="module", autouse=True)
def one_process():
    store = distributed.HashStore()
    distributed.init_process_group("gloo", rank=0, world_size=1, store=store)
    yield
    distributed.destroy_process_group()


class Holder(nn.Module):
    """Has a part under the name that DDP uses too."""

    def __init__(self):
        super().__init__()
        self.module = nn.Linear(8, 4)

    def forward(self, x):
        return self.module(x)


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), Holder())


PATHS = ("0", "2.module")


def adapter(net):
    g = torch.Generator().manual_seed(0)
    made = init_adapter(net, ["*"], 2, 3.0, g)
    drawn = {p: (A, torch.randn(B.shape, generator=g)) for p, (A, B) in made.factors.items()}
    return Adapter(drawn, made.alpha, base=made.base, alphas={"2.module": 5.0})


def compiled_parts(net):
    net[0] = torch.compile(net[0], backend="eager")
    return net


def sharded(net):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (1,))
    fully_shard(net[2].module, mesh=mesh)
    return fully_shard(net, mesh=mesh)


def checkpointed(net):
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    net[0] = checkpoint_wrapper(net[0])
    return net


WRAPPERS = {
    "compiled": lambda net: torch.compile(net, backend="eager"),
    "compiled parts": compiled_parts,
    "DDP": nn.parallel.DistributedDataParallel,
    "DataParallel": nn.DataParallel,
    "averaged": AveragedModel,
    "sharded": sharded,
    "checkpointed": checkpointed,
}


@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module:UserWarning")
@pytest.mark.parametrize("attached", ["before", "after"])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_adapters_of_wrapped_models_are_those_of_the_model(wrapper, attached, tmp_path):
    net, x = model(), torch.randn(5, 6)
    here, one, plain = base_hash(net), adapter(net), copy.deepcopy(net)
    attach(plain, {"a": one})
    train_only(plain, ["a"])
    with using(plain, Mix({"a": 1.0})):
        expected = plain(x)
        expected.sum().backward()
    if attached == "before":
        attach(net, {"a": one})
        train_only(net, ["a"])
    outer = WRAPPERS[wrapper](net)
    if attached == "after":
        attach(outer, {"a": one})
        train_only(outer, ["a"])
    assert tuple(matching(outer, ["*"])) == tuple(lora_layers(outer)) == PATHS
    with using(outer, Mix({"a": 1.0})):
        y = outer(x)
        y.sum().backward()
    torch.testing.assert_close(y, expected)
    for got, want in zip(
        adapter_parameters(outer, "a"), adapter_parameters(plain, "a"), strict=True
    ):
        gradient = got.grad.full_tensor() if hasattr(got.grad, "full_tensor") else got.grad
        torch.testing.assert_close(gradient, want.grad)
    with torch.no_grad(), folded(outer, {"a": 1.0}):
        torch.testing.assert_close(outer(x), expected.detach())
    assert base_hash(outer) == here
    taken = extract(outer, "a", one)
    assert taken == one and taken.paths == PATHS
    save_adapter(taken, tmp_path / "a")
    attach(model(), {"a": load_adapter(tmp_path / "a")})
    if wrapper != "sharded":
        detach(outer)
        assert not lora_layers(outer)
        torch.testing.assert_close(outer(x), model()(x))


def test_a_name_of_a_wrapper_that_is_the_models_own_stays():
    net = nn.ModuleDict({"module": nn.ModuleDict({"q": nn.Linear(6, 4)})})
    assert matching(net, "q") == ["module.q"]


def test_the_adapter_that_lends_its_scaling_must_be_the_attached_one():
    net = model()
    one = adapter(net)
    attach(net, {"a": one})
    with pytest.raises(ValueError, match="0: the attached adapter 'a' has the scaling 1.5"):
        extract(net, "a", Adapter(one.factors, 4.0))
