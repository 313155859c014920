"""The audit of adapters that PEFT itself made, on a checkpoint that transformers saved: its repair
is exact in both tools, and after it PEFT's own merges of one adapter are that adapter."""

import copy

import pytest
import torch

from lora import Mix, attach, detach, load_adapter, save_adapter, using
from models import load_checkpoint
from recycle.__main__ import main
from recycle.audit.soundness import ROUNDING, identity_errors, plain, relative_error
from recycle.run.disk import read_json

peft = pytest.importorskip("peft")
interop = pytest.importorskip("tests.test_models_interop")
pytestmark = pytest.mark.interop

SETTINGS = {
    "rank-stabilised": {"use_rslora": True},
    "mixed": {"rank_pattern": {"down_proj": 2}, "alpha_pattern": {"q_proj": 11}},
    "both": {"use_rslora": True, "rank_pattern": {"down_proj": 2}, "alpha_pattern": {"v_proj": 3}},
}


@pytest.fixture(scope="module")
def theirs():
    return interop.foreign("Llama", tie_word_embeddings=True)


@pytest.fixture(scope="module")
def checkpoint(theirs, tmp_path_factory):
    return interop.saved(theirs, tmp_path_factory.mktemp("base"))


def made_by_peft(theirs, folder, seed=0, **settings):
    """An adapter that was never trained and acts: B is drawn too."""
    names = ["q_proj", "v_proj", "down_proj"]
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=names, **settings)
    model = peft.get_peft_model(copy.deepcopy(theirs), config)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder


def by_peft(theirs, folder):
    model = peft.PeftModel.from_pretrained(copy.deepcopy(theirs), folder).eval()
    with torch.no_grad():
        return model(interop.tokens()).logits


def by_us(ours, folder):
    attach(ours, {"one": load_adapter(folder)})
    with using(ours, Mix({"one": 1.0})), torch.inference_mode():
        found = ours(interop.tokens())
    detach(ours)
    return found


@pytest.mark.parametrize("kind", SETTINGS)
def test_a_plain_copy_acts_alike_in_both_tools(theirs, checkpoint, tmp_path, kind):
    original = made_by_peft(theirs, tmp_path / "original", **SETTINGS[kind])
    one = load_adapter(original)
    save_adapter(plain(one), tmp_path / "copy")
    ours, _ = load_checkpoint(checkpoint)
    before = by_peft(theirs, original)
    for found in (
        by_peft(theirs, tmp_path / "copy"),
        by_us(ours, original),
        by_us(ours, tmp_path / "copy"),
    ):
        torch.testing.assert_close(found, before, atol=1e-4, rtol=0)
    assert relative_error(load_adapter(tmp_path / "copy"), one) < 1e-6


@pytest.mark.parametrize("kind", SETTINGS)
def test_the_identity_merge_by_peft_is_right_after_the_repair(theirs, tmp_path, kind):
    one = load_adapter(made_by_peft(theirs, tmp_path / "one", **SETTINGS[kind]))
    before, after = identity_errors(one, []), identity_errors(plain(one), [])
    assert len(after) == 7 and max(after.values()) < ROUNDING
    assert (max(before.values()) > 0.3) == ("rslora" in str(SETTINGS[kind]))


def test_the_whole_audit_of_pefts_folders(theirs, checkpoint, tmp_path, capsys):
    folders = [
        made_by_peft(theirs, tmp_path / name, seed, **SETTINGS[name])
        for seed, name in enumerate(("mixed", "both"))
    ]
    out = tmp_path / "out"
    command = ["audit", *map(str, folders), "--checkpoint", str(checkpoint), "--out", str(out)]
    command += ["--quiet", "--matmul=default", "--repair", str(tmp_path / "copies")]
    assert main(command) == 0
    report = read_json(out / "audit.json")
    notes = {row["adapter"]: " ".join(row["notes"]) for row in report["soundness"]}
    assert "merged alone by PEFT it is not itself (7 of its" in notes["both"]
    assert "by PEFT" not in notes["mixed"] and "names no base by its weights" in notes["mixed"]
    assert capsys.readouterr().out.strip().split("\n")[-1] == report["advice"]["text"]
    refused = {each["method"] for each in report["methods"] if each["refused"]}
    assert refused == {"product_of_means"}  # of other scalings
