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


def trained(theirs):
    """The model after steps that change its factors."""
    generator = torch.Generator().manual_seed(2)
    for name, parameter in theirs.named_parameters():
        if "lora_" in name:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return theirs


class Alike(nn.Module):
    """Layers of which one's path ends like another's, or fits it as an expression."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.proj, self.block = nn.Linear(12, 12), nn.ModuleDict({"proj": nn.Linear(12, 12)})
        self.block_proj = nn.Linear(12, 12)

    def forward(self, x):
        return self.proj(self.block["proj"](self.block_proj(x).relu()).relu())


def test_peft_reads_layers_whose_paths_end_alike(tmp_path):
    net, x = Alike(), torch.randn(4, 12)
    ranks = {"block.proj": 2, "proj": 4, "block_proj": 20}
    factors = {path: (torch.randn(r, 12), torch.randn(12, r)) for path, r in ranks.items()}
    one = Adapter(factors, 2.0, alphas={"proj": 8.0, "block_proj": 3.0})
    save_adapter(one, tmp_path / "a")
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(net), tmp_path / "a")
    attach(net, {"a": load_adapter(tmp_path / "a")})
    with using(net, Mix({"a": 1.0})):
        torch.testing.assert_close(theirs(x), net(x), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"up": 2}, "alpha_pattern": {"q_proj": 9}},
        {"rank_pattern": {"^up|none": 30}, "alpha_pattern": {".*_pro[a-z]+": 9, "q_proj": 1}},
        {"target_modules": "all-linear"},
        {"target_modules": "(q_proj|up)"},
        {"init_lora_weights": "gaussian"},
        {"init_lora_weights": "orthogonal"},
        {"init_lora_weights": "mica"},
    ],
)
def test_we_read_pefts(tmp_path, settings):
    net, x = Net(), torch.randn(4, 12)
    names = {"target_modules": ["q_proj", "up"], "init_lora_weights": False}
    config = peft.LoraConfig(r=4, lora_alpha=6, **{**names, **settings})
    theirs = trained(peft.get_peft_model(copy.deepcopy(net), config))
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
        ({"modules_to_save": ["up"]}, "modules_to_save"),
        ({"target_parameters": ["up.weight"]}, "target_parameters"),
    ],
)
def test_pefts_unsupported_kinds_are_refused_by_name(tmp_path, settings, name):
    config = peft.LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False, **settings)
    peft.get_peft_model(Net(), config).save_pretrained(tmp_path)
    with pytest.raises(AdapterFileError, match=f"{name} = .* is not supported"):
        load_adapter(tmp_path)


@pytest.mark.parametrize("kind", ["pissa", "pissa_niter_2", "olora"])
def test_what_changes_the_base_is_refused_and_read_once_peft_has_made_it_plain(tmp_path, kind):
    """As the message says: save_pretrained with path_initial_model_for_weight_conversion."""
    net, x = Net(), torch.randn(4, 12)
    config = peft.LoraConfig(
        r=4, lora_alpha=6, target_modules=["q_proj", "up"], init_lora_weights=kind
    )
    theirs = peft.get_peft_model(copy.deepcopy(net), config)
    theirs.peft_config["default"].init_lora_weights = True
    theirs.save_pretrained(tmp_path / "start")
    theirs.peft_config["default"].init_lora_weights = kind
    trained(theirs).save_pretrained(tmp_path / "changed")
    with pytest.raises(AdapterFileError, match=f"init_lora_weights is '{kind}'"):
        load_adapter(tmp_path / "changed")
    theirs.save_pretrained(
        tmp_path / "plain", path_initial_model_for_weight_conversion=tmp_path / "start"
    )
    attach(net, {"a": load_adapter(tmp_path / "plain")})
    with using(net, Mix({"a": 1.0})):
        torch.testing.assert_close(theirs.eval()(x), net(x), atol=1e-4, rtol=1e-4)


def test_a_head_that_peft_saves_with_its_frozen_weight_is_read(tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "intermediate_size": 24, "vocab_size": 32}
    config = transformers.LlamaConfig(
        **sizes, num_hidden_layers=1, num_attention_heads=2, tie_word_embeddings=True
    )
    net, settings = transformers.LlamaForCausalLM(config), peft.LoraConfig(r=4)
    settings.target_modules = ["q_proj", "lm_head"]
    theirs = trained(peft.get_peft_model(net, settings))
    theirs.save_pretrained(tmp_path)
    one = load_adapter(tmp_path)
    head = theirs.base_model.model.lm_head
    assert set(one.paths) == {"lm_head", "model.layers.0.self_attn.q_proj"}
    torch.testing.assert_close(one.delta("lm_head"), head.get_delta_weight("default"))


def test_a_state_dict_of_peft_with_the_adapters_name_in_its_keys_is_read(tmp_path):
    net, x = Net(), torch.randn(4, 12)
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "up"])
    theirs = trained(peft.get_peft_model(copy.deepcopy(net), config))
    theirs.save_pretrained(tmp_path)
    (tmp_path / "adapter_model.safetensors").unlink()
    factors = {key: value for key, value in theirs.state_dict().items() if "lora_" in key}
    torch.save(factors, tmp_path / "adapter_model.bin")
    attach(net, {"a": load_adapter(tmp_path)})
    with using(net, Mix({"a": 1.0})):
        torch.testing.assert_close(theirs.eval()(x), net(x), atol=1e-5, rtol=1e-5)
