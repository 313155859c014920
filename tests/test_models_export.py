"""A toy base that is exported is the same model under the same ids: here, and in transformers."""

import json
import sys

import pytest
import torch

from lora import Mix, attach, init_adapter, save_adapter, using
from models import (
    CheckpointError,
    Tokenizer,
    Transformer,
    TransformerConfig,
    greedy,
    load_checkpoint,
    save_checkpoint,
)
from recycle.__main__ import main
from recycle.studies import open_study
from recycle.train.experts import open_adapter
from recycle.train.export import renamed
from tests.tiny import HOP1, make_run

SHAPE = TransformerConfig(
    width=32, layers=2, heads=4, kv_heads=2, hidden=48, context=24, rope_base=500.0, init=0.3
)
TEXTS = ("ada hill lives in port haven .", "who is the spouse of max ? ada hill .")
TOKENIZER = Tokenizer.from_texts(TEXTS)


def toy(seed=0):
    """Large weights, and norms away from one, so that a mistake in them shows."""
    generator = torch.Generator().manual_seed(seed)
    model = Transformer(SHAPE, len(TOKENIZER), generator).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def tokens(rows=3):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(2, len(TOKENIZER), (rows, SHAPE.context), generator=generator)


@pytest.fixture
def libraries():
    for name in ("tokenizers", "safetensors.torch"):
        pytest.importorskip(name)


@pytest.fixture
def exported(libraries, tmp_path):
    model = toy()
    save_checkpoint(model, TOKENIZER, tmp_path / "toy")
    return model, tmp_path / "toy"


@pytest.mark.interop
def test_it_is_read_back_with_the_same_logits_and_ids(exported):
    model, folder = exported
    again, tokenizer = load_checkpoint(folder)
    with torch.no_grad():
        torch.testing.assert_close(again(tokens()), model(tokens()), atol=1e-5, rtol=0)
    for name in ("width", "layers", "heads", "kv_heads", "hidden", "context", "rope_base"):
        assert getattr(again.config, name) == getattr(SHAPE, name)
    assert (again.config.eps, again.config.head_width) == (SHAPE.eps, SHAPE.head_width)
    assert {name.removeprefix("model.") for name in again.state_dict()} == set(model.state_dict())
    special = (tokenizer.pad, tokenizer.boundary, len(tokenizer))
    assert special == (TOKENIZER.pad, TOKENIZER.boundary, len(TOKENIZER))
    for text in (*TEXTS, "hill", ""):
        assert tokenizer.encode(text) == TOKENIZER.encode(text)
        assert tokenizer.encode_completion(text) == TOKENIZER.encode_completion(text)
        ids = [TOKENIZER.pad, *TOKENIZER.encode(text), TOKENIZER.boundary, 3]
        assert tokenizer.decode(ids) == TOKENIZER.decode(ids) == text
    assert [tokenizer.token(i) for i in range(2, 6)] == list(TOKENIZER.words[2:6])


@pytest.mark.interop
def test_other_words_and_special_ones_are_refused_in_one_line(exported):
    _, tokenizer = load_checkpoint(exported[1])
    for text, words in (("ada bell lives", "the word 'bell'"), ("ada <pad> hill", "cannot give")):
        with pytest.raises(ValueError, match=words) as error:
            tokenizer.encode(text)
        assert "\n" not in str(error.value) and len(str(error.value)) < 300


@pytest.mark.interop
def test_transformers_opens_it(exported):
    transformers = pytest.importorskip("transformers")
    model, folder = exported
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens()).logits, model(tokens()), atol=1e-4, rtol=0)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert tokenizer(list(TEXTS))["input_ids"] == [
        [TOKENIZER.boundary, *TOKENIZER.encode(text)] for text in TEXTS
    ]
    prompts = ["ada hill", "who is the spouse of", "max"]
    given = tokenizer(prompts, padding=True, return_tensors="pt")
    said = theirs.generate(
        input_ids=given["input_ids"],
        attention_mask=given["attention_mask"],
        max_new_tokens=8,
        do_sample=False,
    )[:, given["input_ids"].shape[1] :]
    begun = [[TOKENIZER.boundary, *TOKENIZER.encode(prompt)] for prompt in prompts]
    ours = greedy(model, begun, 8, TOKENIZER.boundary, TOKENIZER.pad)
    assert [TOKENIZER.decode(row) for row in said.tolist()] == [TOKENIZER.decode(a) for a in ours]


# What is refused ---------------------------------------------------------------------------------


def refused(folder, model=None, tokenizer=TOKENIZER):
    with pytest.raises(CheckpointError) as error:
        save_checkpoint(toy() if model is None else model, tokenizer, folder)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300
    return str(error.value)


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_a_folder_in_use_is_refused_and_stays(kind, tmp_path):
    place = tmp_path / "taken"
    if kind == "folder":
        place.mkdir()
        (place / "mine").write_text("")
    elif kind == "file":
        place.write_text("")
    else:
        place.symlink_to(tmp_path / "nowhere")
    before = sorted(tmp_path.rglob("*"))
    assert f"{place} is in use: name a new folder" in refused(place)
    assert sorted(tmp_path.rglob("*")) == before


def test_what_is_no_toy_base_is_refused(tmp_path):
    model = toy()
    attach(model, {"mine": init_adapter(model, ["q_proj"], 2, 4.0, torch.Generator())})
    assert "detach its adapters first" in refused(tmp_path / "a", model)
    other = Tokenizer.from_texts([*TEXTS, "one word more"])
    assert f"the vocabulary of {len(other)} words" in refused(tmp_path / "b", tokenizer=other)
    assert "the Linear with a Tokenizer is no toy base" in refused(
        tmp_path / "c", torch.nn.Linear(2, 2)
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", ["tokenizers", "safetensors.torch"])
def test_a_missing_library_is_named_with_its_extra(missing, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    monkeypatch.setitem(sys.modules, missing, None)
    message = refused(tmp_path / "out")
    assert message.endswith("pip install -e .[checkpoint]") and "needs the library" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.interop
def test_a_failed_write_leaves_nothing(libraries, monkeypatch, tmp_path):
    def full(*ignored, **unused):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(toy(), TOKENIZER, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


# From the command line ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "tiny")


@pytest.mark.interop
def test_a_runs_base_and_expert_are_opened_by_transformers_and_peft(
    libraries, run, tmp_path, capsys
):
    transformers, peft = map(pytest.importorskip, ("transformers", "peft"))
    folder = tmp_path / "out"
    assert main(["export", str(run), HOP1, "--out", str(folder)]) == 0
    assert f"saved {folder / 'adapters' / HOP1}" in capsys.readouterr().out
    study = open_study(run)
    base = study.open_base(0, study.design.base("standard"), run)
    ours = open_adapter(base.folder, HOP1)
    x = torch.randint(2, len(base.tokenizer), (2, 20), generator=torch.Generator().manual_seed(0))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    theirs = peft.PeftModel.from_pretrained(theirs, folder / "adapters" / HOP1).eval()
    attach(base.model, {"mine": ours})
    with torch.no_grad(), using(base.model, Mix({"mine": 1.0})):
        expected = base.model(x)
    with torch.no_grad():
        torch.testing.assert_close(theirs(x).logits, expected, atol=1e-4, rtol=0)
    kept = json.loads((folder / "adapters" / HOP1 / "origin.json").read_text())
    assert kept["origin"] == dict(ours.origin) and kept["base"] != ours.base
    assert renamed(ours, "x").paths == tuple(f"model.{path}" for path in ours.paths)
    assert main(["export", str(run), "--out", str(folder)]) == 2
    assert "is in use: name a new folder" in capsys.readouterr().err


@pytest.mark.interop
def test_an_adapter_of_another_base_is_not_exported(libraries, run, tmp_path, capsys):
    model = toy()
    other = init_adapter(model, ["q_proj"], 2, 4.0, torch.Generator())
    save_adapter(other, tmp_path / "other")
    capsys.readouterr()
    assert main(["export", str(run), str(tmp_path / "other"), "--out", str(tmp_path / "x")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert str(tmp_path / "other") in line and not (tmp_path / "x").exists()
