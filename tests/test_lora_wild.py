"""Adapter folders of other tools and of strangers: read with the right numbers, or refused by the
name of what is wrong, in bounded time and memory."""

import json
import math
import zipfile

import pytest
import torch
from torch import nn

from lora import Adapter, AdapterFileError, Mix, attach, load_adapter, save_adapter, using

Q, K = "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.k_proj"
CONFIG = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "k_proj"]}


def tensors(form="base_model.model.{}.lora_{}.weight", paths=(Q, K)):
    g = torch.Generator().manual_seed(0)
    shapes = {"A": (4, 6), "B": (5, 4)}
    return {
        form.format(path, letter): torch.randn(shape, generator=g)
        for path in paths
        for letter, shape in shapes.items()
    }


@pytest.fixture
def write(tmp_path):
    """A function that writes a folder with changed settings or tensors, and returns it."""

    def written(changed=None, content=None):
        text = changed if isinstance(changed, str) else json.dumps({**CONFIG, **(changed or {})})
        (tmp_path / "adapter_config.json").write_text(text)
        if content is not None or not (tmp_path / "adapter_model.bin").exists():
            torch.save(tensors() if content is None else content, tmp_path / "adapter_model.bin")
        return tmp_path

    return written


@pytest.mark.parametrize(
    "changes, scale",
    [
        ({"lora_alpha": 0}, 0.0),
        ({"lora_alpha": 12.5, "use_rslora": True}, 6.25),
        ({"init_lora_weights": "eva", "eva_config": {"rho": 2.0}}, 2.0),
        ({"init_lora_weights": "orthogonal"}, 2.0),
        ({"target_modules": "all-linear"}, 2.0),
        ({"target_modules": "^(model)(?!.*lm_head).*"}, 2.0),
        ({"target_modules": ["q_proj", "k_proj", "v_proj"], "exclude_modules": "v_proj"}, 2.0),
        ({"alpha_pattern": {r"^model\.layers\.0\.self_attn\.q_proj": 16}}, 4.0),
        ({"alpha_pattern": {"^q_proj": 16}}, 2.0),
        ({"alpha_pattern": {r".*\.layers\.(0|2)\..*(q_proj|v_proj)$": 16}}, 4.0),
        ({"alpha_pattern": {"q_proj": 16, "self_attn.q_proj": 32}}, 4.0),
        ({"alpha_pattern": {r"model\.layers\.[0-9]+?\.\w+.q(?:_proj)?": 16}}, 4.0),
        ({"r": None, "rank_pattern": {"q_proj": 4, "k_proj": 4}}, 2.0),
        ({"r": 8, "rank_pattern": {"_proj": 3, r".*_proj": 4}}, 2.0),
        ({"rank_pattern": None, "alpha_pattern": None}, 2.0),
        ({"use_a_new_thing": False, "new_config": None, "new_list": []}, 2.0),
        ({"layers_to_transform": [0, 1], "layers_pattern": "layers", "qalora_group_size": 16}, 2.0),
    ],
)
def test_settings_of_other_tools_are_read(write, changes, scale):
    assert load_adapter(write(changes)).scale(Q) == scale


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"init_lora_weights": "pissa_niter_16"}, "init_lora_weights is 'pissa_niter_16'"),
        ({"init_lora_weights": "OLoRA"}, "init_lora_weights is 'OLoRA', which changes the base"),
        ({"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4}}, "init_lora_weights"),
        ({"init_lora_weights": "true"}, "init_lora_weights"),
        ({"init_lora_weights": 1}, "init_lora_weights"),
        ({"kasa_config": {"beta": 1}}, "kasa_config = .* is not supported"),
        ({"use_bdlora": {"nblocks": 2}}, "use_bdlora"),
        ({"alora_invocation_tokens": [3]}, "alora_invocation_tokens"),
        ({"target_parameters": ["experts.up"]}, "target_parameters"),
        ({"layer_replication": [[0, 4], [2, 5]]}, "layer_replication"),
        ({"megatron_config": {"x": 1}}, "megatron_config"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"use_a_new_thing": True}, "'use_a_new_thing' = True is an unknown setting"),
        ({"use_dora": "false"}, "use_dora = 'false'"),
        ({"use_rslora": "false"}, "use_rslora is 'false', it must be true or false"),
        ({"lora_alpha": True}, "lora_alpha is True"),
        ({"lora_alpha": math.nan}, "lora_alpha is nan"),
        ({"lora_alpha": 10**400}, r"lora_alpha is 10+\.\.\.0+, it must be a finite number"),
        ({"lora_alpha": "8"}, "lora_alpha is '8'"),
        ({"r": 4.0}, r"r is 4\.0"),
        ({"r": 0}, "r is 0"),
        ({"r": None}, "says rank None"),
        ({"rank_pattern": {"q_proj": 0}}, "rank_pattern is {'q_proj': 0}"),
        ({"rank_pattern": 1}, "rank_pattern is 1"),
        ({"alpha_pattern": [1]}, "alpha_pattern is"),
        ({"alpha_pattern": {"q_proj": 0}}, "numbers other than 0"),
        ({"alpha_pattern": {"q_proj": None}}, "alpha_pattern is"),
        ({"alpha_pattern": {"*q_proj": 4}}, "in alpha_pattern, '.q_proj' is no regular expression"),
        ({"rank_pattern": {"(?i)q_proj": 4}}, "uses flags"),
        ({"rank_pattern": {"(" * 5000: 4}}, "may take too long"),
        ({"target_modules": {"q_proj": 1}}, "target_modules is"),
        ({"target_modules": ["q_proj", "k_proj", "v_proj"]}, "no factors for 'v_proj'"),
        ({"target_modules": [Q, K, Q + "x"]}, "adapter_model.bin has no factors for"),
        ("[" * 100_000, "is no JSON"),
        ('{"a":' * 100_000, "is no JSON"),
        ('{"r": ' + "1" * 5000 + "}", "is no JSON"),
        ("null", "holds a NoneType"),
        ("x" * (2**24 + 1), "no adapter needs so many"),
    ],
)
def test_impossible_and_unsupported_settings_are_refused_in_one_line(write, changes, message):
    with pytest.raises(AdapterFileError, match=message) as refused:
        load_adapter(write(changes))
    line = str(refused.value)
    assert "adapter_" in line and len(line) < 300 and line.isprintable()


@pytest.mark.parametrize(
    "key",
    [
        r"(([a-z0-9_]+)+\.?)+!",
        "(a*)*!",
        "(?:.*)*!",
        "(a|a)" * 40 + "!",
        "(a?)?" * 40 + "!",
        ".*" * 12 + "!",
        r"(?x:(a*) *)",
        r"(.*)\1!",
    ],
)
def test_expressions_that_take_too_long_are_refused(write, key):
    content = tensors(paths=(Q, K, "a" * 60))
    with pytest.raises(AdapterFileError, match="in alpha_pattern, .* may take too long"):
        load_adapter(write({"alpha_pattern": {key: 4}}, content))


@pytest.mark.parametrize(
    "origin, message",
    [({"origin": 5}, "origin is 5"), ({"base": [1]}, r"base is \[1\]"), ([], "holds a list")],
)
def test_damaged_records_are_refused(write, origin, message):
    (write() / "origin.json").write_text(json.dumps(origin))
    with pytest.raises(AdapterFileError, match=rf"origin.json:? {message}"):
        load_adapter(write())


def test_names_of_adapters_and_frozen_weights_in_keys_are_read(write):
    plain = load_adapter(write())
    named = tensors("base_model.model.{}.lora_{}.default.weight")
    named[f"base_model.model.{Q}.base_layer.weight"] = torch.randn(5, 6)
    back = load_adapter(write(content=named))
    assert back.paths == plain.paths and torch.equal(back.delta(Q), plain.delta(Q))


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"base_model.model.x.lora_embedding_A": torch.ones(4, 6)}, "'base_model.model.x.lora_emb"),
        ({"base_model.model.lm_head.base_layer.weight": torch.ones(5, 6)}, "no part of a LoRA"),
        ({"base_model.model.../x.lora_A.weight": torch.ones(4, 6)}, "no part of a LoRA"),
        ({"base_model.model.a\nb.lora_A.weight": torch.ones(4, 6)}, r"a\\nb"),
        ({7: torch.ones(4, 6)}, "the tensor 7 is no part"),
        ({f"base_model.model.{Q}.lora_A.other.weight": torch.ones(4, 6)}, "holds the adapters"),
        ({f"base_model.model.{Q}.lora_A.weight": torch.ones(4, 6, dtype=torch.int8)}, "int8"),
        ({f"base_model.model.{Q}.lora_A.weight": torch.ones(4, 6).to_sparse()}, "sparse"),
        ({f"base_model.model.{Q}.lora_A.weight": torch.ones(4, 6, device="meta")}, "meta"),
        ({f"base_model.model.{Q}.lora_A.weight": torch.ones(4, 6).to(torch.float8_e5m2)}, "float8"),
        ({f"base_model.model.{Q}.lora_A.weight": torch.ones(4, 6, dtype=torch.cfloat)}, "complex"),
        ({f"base_model.model.{Q}.lora_A.weight": torch.ones(4, 0)}, "is empty"),
        ({f"base_model.model.{Q}.lora_A.weight": torch.ones(4, 6, 1, 1)}, "says rank 4"),
        ({f"base_model.model.{Q}.lora_A.weight": torch.full((4, 6), 3e38)}, "no training gives"),
        (
            {f"base_model.model.{Q}.lora_A.weight": torch.zeros(1).expand(4, 10**9)},
            "asks for tensors of 16000000",
        ),
    ],
)
def test_impossible_tensors_are_refused(write, changed, message):
    with pytest.raises(AdapterFileError, match=message) as refused:
        load_adapter(write(content={**tensors(), **changed}))
    line = str(refused.value)
    assert "adapter_model.bin" in line and len(line) < 300 and line.isprintable()


def test_packed_files_are_refused(write):
    """A packed file of some kilobytes can hold gigabytes of zeros."""
    file = write(content={"x": torch.zeros(10**6)}) / "adapter_model.bin"
    with zipfile.ZipFile(file) as parts:
        contents = {part: parts.read(part) for part in parts.namelist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as parts:
        for part, content in contents.items():
            parts.writestr(part, content)
    with pytest.raises(AdapterFileError, match="adapter_model.bin is packed"):
        load_adapter(write())


def test_factors_of_two_types_are_read_exactly(write):
    content = tensors()
    first, second = list(content)[:2]
    content[first], content[second] = content[first].half(), content[second].bfloat16()
    one = load_adapter(write(content=content))
    assert one.factors[Q][0].dtype == torch.float32
    torch.testing.assert_close(
        one.delta(Q), 2.0 * content[second].float() @ content[first].float(), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("wrapped", [False, True])
def test_parameters_and_shared_factors_are_read_as_plain_values(write, wrapped):
    content = tensors()
    shared = nn.Parameter(torch.randn(4, 6)) if wrapped else torch.randn(4, 6)
    for key in content:
        if "lora_A" in key:
            content[key] = shared
    one = load_adapter(write(content=content))
    assert not any(factor.requires_grad for pair in one.factors.values() for factor in pair)
    assert torch.equal(one.factors[Q][0], one.factors[K][0])


def test_a_rank_above_the_layers_own_is_read_and_acts(write):
    """A router of two experts with r = 4."""
    content = {
        "base_model.model.gate.lora_A.weight": torch.randn(4, 6),
        "base_model.model.gate.lora_B.weight": torch.randn(2, 4),
    }
    one = load_adapter(write({"target_modules": ["gate"]}, content))
    net, x = nn.ModuleDict({"gate": nn.Linear(6, 2)}), torch.randn(3, 6)
    expected = net["gate"](x) + x @ one.delta("gate").mT
    attach(net, {"a": one})
    with using(net, Mix({"a": 1.0})):
        torch.testing.assert_close(net["gate"](x), expected)


@pytest.mark.parametrize(
    "paths, ranks, alphas",
    [
        (("block.proj", "proj"), (2, 2), {"proj": 8.0}),
        (("proj", "block.proj"), (4, 2), {}),
        (("a.c+", "a.x", "c+"), (2, 3, 4), {"a.c+": 8.0, "c+": 1.0}),
        (("a.b", "a_b", "x.a.b"), (2, 3, 2), {"a.b": 5.0, "x.a.b": 7.0}),
        (("layers.1", "layers.11"), (2, 3), {"layers.1": 5.0}),
    ],
)
def test_layers_whose_paths_end_alike_keep_their_own_rank_and_scale(tmp_path, paths, ranks, alphas):
    factors = {p: (torch.randn(r, 6), torch.randn(6, r)) for p, r in zip(paths, ranks, strict=True)}
    one = Adapter(factors, 2.0, alphas=alphas)
    save_adapter(one, tmp_path / "a")
    back = load_adapter(tmp_path / "a")
    assert back.paths == one.paths
    assert [back.scale(path) for path in paths] == [one.scale(path) for path in paths]


@pytest.mark.parametrize(
    "adapter, message",
    [
        ({"alpha": math.nan}, "alpha = nan: it must be a finite number"),
        ({"alpha": True}, "alpha = True"),
        ({"alphas": {"q": 10**400}}, "alpha = 10000"),
        ({"factors": {"q": (torch.ones(2, 3, dtype=torch.int8), torch.ones(3, 2))}}, "int8"),
    ],
)
def test_adapters_with_impossible_numbers_are_not_made(adapter, message):
    whole = {"factors": {"q": (torch.ones(2, 3), torch.ones(3, 2))}, "alpha": 1.0, **adapter}
    with pytest.raises(ValueError, match=message):
        Adapter(**whole)
