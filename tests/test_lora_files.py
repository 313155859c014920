"""The PEFT directory layout: what is written is read back, and what is damaged or foreign is
refused by name."""

import json

import pytest
import torch

import lora.files
from lora import Adapter, AdapterFileError, load_adapter, save_adapter


def make(**kwargs):
    torch.manual_seed(0)
    paths = ("layers.1.self_attn.q_proj", "layers.0.mlp.weight_proj", "layers.0.lora.bias")
    factors = {path: (torch.randn(2 + i, 6), torch.randn(4, 2 + i)) for i, path in enumerate(paths)}
    alphas = {paths[1]: 7.0}
    return Adapter(factors, 3.0, alphas=alphas, base="abc", origin={"role": "hop1"}, **kwargs)


@pytest.fixture(params=["installed", "absent"])
def safetensors(request, monkeypatch):
    if request.param == "absent":
        monkeypatch.setattr(lora.files, "safetensors", None)
    elif lora.files.safetensors is None:
        pytest.skip("safetensors is not installed")


@pytest.mark.parametrize("rslora", [False, True])
def test_round_trip(tmp_path, safetensors, rslora):
    one = make(rslora=rslora)
    save_adapter(one, tmp_path / "a")
    save_adapter(one, tmp_path / "a")  # again, over itself
    back = load_adapter(tmp_path / "a")
    # In their order too: code that draws numbers layer by layer must not notice the disk.
    assert back.paths == one.paths
    for name in ("alpha", "rslora", "alphas", "base", "origin"):
        assert getattr(back, name) == getattr(one, name)
    for path in one.paths:
        assert torch.equal(back.delta(path), one.delta(path))
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_truncated_files_are_named(tmp_path, safetensors):
    save_adapter(make(), tmp_path / "a")
    (weights,) = (tmp_path / "a").glob("adapter_model.*")
    whole = weights.read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 1):
        weights.write_bytes(whole[:size])
        with pytest.raises(AdapterFileError, match="adapter_model"):
            load_adapter(tmp_path / "a")


def edit(folder, **changes):
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, **changes}))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"use_dora": True}, "use_dora = True is not supported"),
        ({"lora_bias": True}, "lora_bias"),
        ({"bias": "all"}, "bias = 'all' is not supported"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"r": 5}, "adapter_config.json says rank 5"),
        ({"lora_alpha": None}, "lora_alpha is None"),
    ],
)
def test_unsupported_settings_are_refused_by_name(tmp_path, changes, message):
    save_adapter(make(), tmp_path / "a")
    edit(tmp_path / "a", **changes)
    with pytest.raises(AdapterFileError, match=message):
        load_adapter(tmp_path / "a")


def test_foreign_folders_and_tensors_are_refused(tmp_path):
    with pytest.raises(AdapterFileError, match="holds no adapter"):
        load_adapter(tmp_path / "nothing")
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(AdapterFileError, match="is no JSON"):
        load_adapter(tmp_path)
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 1}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(AdapterFileError, match="neither"):
        load_adapter(tmp_path)
    key = "base_model.model.q.lora_A.weight"
    diverged = {key: torch.full((2, 3), torch.nan), key.replace("_A", "_B"): torch.zeros(3, 2)}
    for tensors, message in (
        ({key: torch.zeros(2, 3)}, "has a lora_A and no lora_B"),
        ({"q.weight": torch.zeros(2, 3)}, "the tensor 'q.weight' is no part of a LoRA"),
        ({}, "holds no tensors"),
        ([1, 2], "holds no dictionary of tensors"),
        (diverged, "NaN or infinity"),
    ):
        torch.save(tensors, tmp_path / "adapter_model.bin")
        with pytest.raises(AdapterFileError, match=message):
            load_adapter(tmp_path)


def test_pickles_that_run_code_are_not_run(tmp_path):
    save_adapter(make(), tmp_path / "a")
    for file in (tmp_path / "a").glob("adapter_model.*"):
        file.unlink()

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    torch.save({"x": Evil()}, tmp_path / "a" / "adapter_model.bin")
    with pytest.raises(AdapterFileError, match="holds more than tensors"):
        load_adapter(tmp_path / "a")
    assert not (tmp_path / "owned").exists()


def test_patterns_of_other_tools_are_read(tmp_path):
    """rank_pattern and alpha_pattern keys may be the end of a path, or a regular expression."""
    save_adapter(make(), tmp_path / "a")
    edit(
        tmp_path / "a",
        rank_pattern={"weight_proj": 3, "lora.bias": 4},
        alpha_pattern={r"layers\.\d+\.mlp.*": 9.0},
    )
    back = load_adapter(tmp_path / "a")
    assert back.scale("layers.0.mlp.weight_proj") == 3.0
    assert back.scale("layers.1.self_attn.q_proj") == 1.5
