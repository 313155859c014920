"""PEFT reads what we write, and we read what PEFT writes: the same outputs on the same model."""

import copy

import pytest
import torch
from torch import nn

from lora import AdapterFileError, Mix, attach, init_adapter, load_adapter, save_adapter, using
from lora.adapter import Adapter

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.interop


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.q_proj, self.up = nn.Linear(12, 16), nn.Linear(16, 8, bias=False)

    def forward(self, x):
        return self.up(self.q_proj(x).relu())


def ours(net, rslora, seed=1):
    generator = torch.Generator().manual_seed(seed)
    made = init_adapter(net, ["q_proj", "up"], 3, 5.0, generator, rslora=rslora)
    factors = {
        p: (A, torch.randn(B.shape, generator=generator)) for p, (A, B) in made.factors.items()
    }
    return Adapter(factors, made.alpha, rslora)


@pytest.mark.parametrize("rslora", [False, True])
def test_peft_reads_ours(tmp_path, rslora):
    net, x = Net(), torch.randn(4, 12)
    one = ours(net, rslora)
    save_adapter(one, tmp_path / "a")
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(net), tmp_path / "a")
    attach(net, {"a": one})
    with using(net, Mix({"a": 1.0})):
        torch.testing.assert_close(theirs(x), net(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [{}, {"use_rslora": True}, {"rank_pattern": {"up": 2}, "alpha_pattern": {"q_proj": 9}}],
)
def test_we_read_pefts(tmp_path, settings):
    net, x = Net(), torch.randn(4, 12)
    config = peft.LoraConfig(
        r=4, lora_alpha=6, target_modules=["q_proj", "up"], init_lora_weights=False, **settings
    )
    theirs = peft.get_peft_model(copy.deepcopy(net), config)
    theirs.save_pretrained(tmp_path)
    attach(net, {"a": load_adapter(tmp_path)})
    with using(net, Mix({"a": 1.0})):
        torch.testing.assert_close(theirs.eval()(x), net(x), atol=1e-5, rtol=1e-5)


def test_two_of_pefts_active_are_our_sum(tmp_path):
    net, x = Net(), torch.randn(4, 12)
    config = peft.LoraConfig(
        r=4, lora_alpha=6, target_modules=["q_proj", "up"], init_lora_weights=False
    )
    theirs = peft.get_peft_model(copy.deepcopy(net), config, adapter_name="a")
    theirs.add_adapter("b", config)
    theirs.save_pretrained(tmp_path)
    theirs.base_model.set_adapter(["a", "b"])
    attach(net, {name: load_adapter(tmp_path / name) for name in "ab"})
    with using(net, Mix({"a": 1.0, "b": 1.0})):
        torch.testing.assert_close(theirs.eval()(x), net(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "settings, name",
    [
        ({"use_dora": True}, "use_dora"),
        ({"lora_bias": True}, "lora_bias"),
        ({"bias": "all"}, "bias"),
    ],
)
def test_pefts_unsupported_kinds_are_refused_by_name(tmp_path, settings, name):
    config = peft.LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False, **settings)
    peft.get_peft_model(Net(), config).save_pretrained(tmp_path)
    with pytest.raises(AdapterFileError, match=f"{name} = .* is not supported"):
        load_adapter(tmp_path)
