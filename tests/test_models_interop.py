"""A checkpoint that transformers saved gives transformers' logits, and PEFT's adapters act on it as
they act there, in both directions."""

import json
import re
from pathlib import Path

import pytest
import torch

from lora import Mix, attach, init_adapter, load_adapter, save_adapter, using
from lora.adapter import Adapter
from models import greedy, load_checkpoint
from models.families import FAMILIES, Family  # noqa: F401, the guide's line names Family

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")
safetensors = pytest.importorskip("safetensors.torch")
pytestmark = pytest.mark.interop

VOCABULARY = 40
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-3,
    "initializer_range": 0.2,  # so that attention is far from uniform
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
CASES = {
    "llama": ("Llama", {}),
    "llama, tied": ("Llama", {"tie_word_embeddings": True}),
    "llama, own head width": ("Llama", {"head_dim": 12}),
    "llama, linear": (
        "Llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 100.0, "factor": 4.0}},
    ),
    "llama, llama3": ("Llama", {"rope_parameters": LLAMA3}),
    "llama, dynamic": (
        "Llama",
        {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 4.0}},
    ),
    "mistral": ("Mistral", {"sliding_window": 50, "tie_word_embeddings": True}),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen2, wide window": ("Qwen2", {"use_sliding_window": True, "sliding_window": 50}),
    "qwen3": ("Qwen3", {"head_dim": 16}),
}


def word_tokenizer(size=VOCABULARY):
    """A tokenizer of that many words and special tokens: w4 w5 ..."""
    words = ["<unk>", "<s>", "</s>", "<pad>", *(f"w{i}" for i in range(4, size))]
    model = tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>")
    made = tokenizers.Tokenizer(model)
    made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme="never")
    made.decoder = tokenizers.decoders.Metaspace(prepend_scheme="never")
    made.add_special_tokens(words[:4])
    return made


def randomised(model):
    """Norms and biases away from one and zero, so that a mistake in them shows."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def foreign(kind, **changed):
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**{**SHAPE, **changed})
    return randomised(getattr(transformers, f"{kind}ForCausalLM")(config))


def saved(model, folder, **how):
    model.save_pretrained(folder, **how)
    word_tokenizer(model.config.vocab_size).save(str(folder / "tokenizer.json"))
    return folder


def tokens(rows=3, length=48):
    generator = torch.Generator().manual_seed(2)
    return torch.randint(4, VOCABULARY, (rows, length), generator=generator)


def assert_same_logits(theirs, ours, x, atol=1e-4):
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x).logits, atol=atol, rtol=0)


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_transformers(case, tmp_path):
    kind, changed = CASES[case]
    theirs = foreign(kind, **changed)
    ours, _ = load_checkpoint(saved(theirs, tmp_path))
    assert_same_logits(theirs, ours, tokens())
    assert set(ours.state_dict()) == set(theirs.state_dict()) - (
        {"lm_head.weight"} if theirs.config.tie_word_embeddings else set()
    )


def test_every_family_is_compared():
    assert {kind.lower() for kind, _ in CASES.values()} == set(FAMILIES)


def test_keys_of_older_versions_mean_the_same(tmp_path):
    """transformers 4 wrote rope_theta and rope_scaling beside each other, with "type" inside."""
    theirs = foreign("Llama", rope_parameters=LLAMA3)
    folder = saved(theirs, tmp_path)
    values = json.loads((folder / "config.json").read_text())
    rope = values.pop("rope_parameters")
    values["rope_theta"], values["torch_dtype"] = rope.pop("rope_theta"), values.pop("dtype")
    rope["type"] = rope.pop("rope_type")
    (folder / "config.json").write_text(json.dumps({**values, "rope_scaling": rope}))
    ours, _ = load_checkpoint(folder)
    assert_same_logits(theirs, ours, tokens())


def test_several_shards_and_bf16(tmp_path):
    theirs = foreign("Qwen2").bfloat16()
    folder = saved(theirs, tmp_path, max_shard_size="5KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    ours, _ = load_checkpoint(folder)
    assert {p.dtype for p in ours.parameters()} == {torch.float32}
    again = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert_same_logits(again, ours, tokens())
    half, _ = load_checkpoint(folder, dtype=torch.bfloat16)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    with torch.no_grad():
        exact, rounded = ours(tokens()), half(tokens()).float()
    assert (exact - rounded).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize("kind", ["Llama", "Qwen3"])
def test_greedy_decoding_with_our_cache_is_theirs(kind, tmp_path):
    theirs = foreign(kind)
    ours, tokenizer = load_checkpoint(saved(theirs, tmp_path))
    prompts = [row.tolist()[: 3 + i] for i, row in enumerate(tokens(5, 12))]
    answers = greedy(ours, prompts, 20, end=-1, pad=tokenizer.pad)
    assert answers == [their_greedy(theirs, prompt, 20) for prompt in prompts]


def their_greedy(model, prompt, limit):
    given = torch.tensor([prompt])
    with torch.no_grad():
        out = model.generate(
            given,
            attention_mask=torch.ones_like(given),
            max_new_tokens=limit,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
    return out[0, len(prompt) :].tolist()


def test_the_family_that_contributing_shows_works(tmp_path, monkeypatch):
    """Its line, on a checkpoint that has the foreign names."""
    guide = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text()
    (line,) = re.findall(r'^    ("mine": Family\(.*?\}\),)$', guide, re.DOTALL | re.MULTILINE)
    monkeypatch.setitem(FAMILIES, "mine", eval(f"{{{line}}}")["mine"])
    theirs = foreign("Qwen3", head_dim=16)
    folder = saved(theirs, tmp_path)
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "model_type": "mine"}))
    weights = safetensors.load_file(folder / "model.safetensors")
    renamed = {name.replace("self_attn.o_proj", "self_attn.out"): t for name, t in weights.items()}
    assert set(renamed) != set(weights)
    safetensors.save_file(renamed, folder / "model.safetensors")
    assert_same_logits(theirs, load_checkpoint(folder)[0], tokens())


# PEFT, on the layout of SmolLM2: 9 heads on 3, tied, all linear layers ----------------------------


@pytest.fixture
def smol(tmp_path):
    changed = {"hidden_size": 36, "num_attention_heads": 9, "num_key_value_heads": 3}
    theirs = foreign("Llama", **changed, tie_word_embeddings=True)
    ours, _ = load_checkpoint(saved(theirs, tmp_path / "checkpoint"))
    return theirs, ours


def test_an_adapter_of_peft_acts_here_and_goes_back(smol, tmp_path):
    peft = pytest.importorskip("peft")
    theirs, ours = smol
    config = peft.LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules="all-linear",
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    trained = peft.get_peft_model(theirs, config).eval()
    trained.save_pretrained(tmp_path / "theirs")
    adapter = load_adapter(tmp_path / "theirs")
    assert "model.layers.1.mlp.down_proj" in adapter.paths
    attach(ours, {"a": adapter})
    with using(ours, Mix({"a": 1.0})):
        assert_same_logits(trained, ours, tokens())
    save_adapter(adapter, tmp_path / "ours")
    again = peft.PeftModel.from_pretrained(trained.unload(), tmp_path / "ours").eval()
    with using(ours, Mix({"a": 1.0})):
        assert_same_logits(again, ours, tokens())


def test_an_adapter_made_here_acts_in_peft(smol, tmp_path):
    peft = pytest.importorskip("peft")
    theirs, ours = smol
    generator = torch.Generator().manual_seed(0)
    fresh = init_adapter(ours, ["q_proj", "*.mlp.*"], 3, 5.0, generator)
    factors = {
        path: (A, 0.3 * torch.randn(B.shape, generator=generator))
        for path, (A, B) in fresh.factors.items()
    }
    made = Adapter(factors, fresh.alpha, base=fresh.base)
    save_adapter(made, tmp_path / "ours")
    loaded = peft.PeftModel.from_pretrained(theirs, tmp_path / "ours").eval()
    attach(ours, {"a": load_adapter(tmp_path / "ours")})
    with torch.no_grad():
        plain = ours(tokens())
    with using(ours, Mix({"a": 1.0})):
        assert_same_logits(loaded, ours, tokens())
        assert (ours(tokens()) - plain).abs().max() > 0.1
