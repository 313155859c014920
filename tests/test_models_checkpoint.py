"""The model that holds a checkpoint, the keys of config.json, and the memory that is asked for.
None of this needs a library."""

import dataclasses
import json

import pytest
import torch

from models import CheckpointError, Transformer, TransformerConfig, checkpoint, greedy
from models.causal import CausalLM, CheckpointConfig, RopeScaling
from models.families import FAMILIES, Family, read_config, renamed
from models.memory import free_memory, in_words
from recycle.train.settings import settable

VALUES = {
    "model_type": "llama",
    "vocab_size": 20,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500.0,
    "tie_word_embeddings": True,
    "transformers_version": "4.50.0",
    "rope_scaling": None,
    "use_sliding_window": False,
    "is_llama_config": True,
}


def config(context=None, **changed):
    """The shape that these keys give; None leaves a key out."""
    values = {k: v for k, v in {**VALUES, **changed}.items() if v is not None}
    return read_config(values, "m/config.json", context)[0]


# The model ----------------------------------------------------------------------------------------


def model(**changed):
    shape = CheckpointConfig(
        **{"width": 32, "layers": 2, "heads": 4, "kv_heads": 2, "hidden": 48, "context": 32}
        | {"head_width": 8, "eps": 1e-6, "init": 0.3, **changed}
    )
    made = CausalLM(shape, 20).double().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.double)
            parameter.copy_(0.3 * noise if parameter.dim() == 2 else 1 + 0.3 * noise)
    return made


def tokens(rows, length):
    return torch.randint(2, 20, (rows, length), generator=torch.Generator().manual_seed(0))


def test_a_plain_checkpoint_is_the_transformer_under_longer_names():
    made = model()
    plain = Transformer(
        TransformerConfig(width=32, layers=2, heads=4, kv_heads=2, hidden=48, context=32), 20
    ).double()
    plain.load_state_dict(
        {name.removeprefix("model."): value for name, value in made.state_dict().items()}
    )
    x = tokens(2, 12)
    torch.testing.assert_close(made(x), plain(x), atol=1e-5, rtol=0)
    assert all(name.startswith("model.") for name in made.state_dict())


@pytest.mark.parametrize("changed", [{"own_head": True}, {"head_width": 12}, {"qk_norm": True}])
def test_decoding_reads_its_cache_in_every_shape(changed):
    made = model(qkv_bias=True, **changed)
    prompts = [row.tolist()[: 3 + i] for i, row in enumerate(tokens(4, 7))]
    answers = greedy(made, prompts, 8, end=-1, pad=0)
    for prompt, answer in zip(prompts, answers, strict=True):
        said = made(torch.tensor([prompt + answer]))[0].argmax(-1).tolist()
        assert said[len(prompt) - 1 : -1] == answer


def test_a_head_of_its_own_gives_the_logits():
    made = model(own_head=True)
    with torch.no_grad():
        before = made(tokens(1, 5))
        made.lm_head.weight.mul_(2)
    torch.testing.assert_close(made(tokens(1, 5)), 2 * before)


def test_a_planned_model_takes_no_memory_until_it_is_allocated():
    planned = CausalLM.planned(model().config, 20, torch.float32)
    assert all(parameter.is_meta for parameter in planned.parameters())
    assert not any(tensor.is_meta for tensor in planned.allocate("cpu").buffers())
    planned.load_state_dict(model().float().state_dict())
    torch.testing.assert_close(planned(tokens(1, 9)), model().float()(tokens(1, 9)))


def test_scaled_frequencies():
    plain = torch.tensor([1.0, 0.3, 0.02, 0.001])
    torch.testing.assert_close(RopeScaling(4.0)(plain), plain / 4)
    # Within 64 tokens the pairs turn 10, 3, 0.2 and 0.01 times.
    scaled = RopeScaling(8.0, low=1.0, high=4.0, original=64)(plain)
    assert scaled[0] == plain[0] and torch.equal(scaled[2:], plain[2:] / 8)
    assert plain[1] / 8 < scaled[1] < plain[1]


def test_a_study_knows_none_of_the_keys_of_checkpoints():
    """The keys of --set, the help, and every config.json of a run stay as they are."""
    names = [f.name for f in dataclasses.fields(TransformerConfig)]
    assert names == [
        "width",
        "layers",
        "heads",
        "kv_heads",
        "hidden",
        "context",
        "rope_base",
        "init",
    ]
    assert [key for key, _ in settable(TransformerConfig())] == names


# The keys of config.json --------------------------------------------------------------------------


def test_keys_become_a_shape():
    read = config()
    assert (read.width, read.heads, read.kv_heads, read.head_width) == (32, 4, 2, 8)
    assert (read.eps, read.rope_base, read.context, read.own_head) == (1e-5, 500.0, 64, False)
    assert config(head_dim=12, tie_word_embeddings=None).own_head
    assert config(model_type="qwen2").qkv_bias and config(model_type="qwen3").qk_norm
    assert config(num_key_value_heads=None).kv_heads == 4
    newer = {"rope_theta": None, "rope_scaling": None}
    assert (
        config(**newer, rope_parameters={"rope_theta": 7.0, "rope_type": "default"}).rope_base == 7
    )


def test_a_sliding_window_limits_the_context_where_it_bites():
    assert config(model_type="mistral", sliding_window=16).context == 16
    assert config(model_type="mistral", sliding_window=100).context == 64
    assert config(model_type="qwen2", sliding_window=16).context == 64  # switched off
    on = {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 16}
    assert config(**on).context == 16 and config(8, **on).context == 8
    assert config(**on, layer_types=["full_attention"] * 2).context == 64
    with pytest.raises(CheckpointError, match="context of 17 tokens: .* sliding_window = 16"):
        config(17, **on)
    with pytest.raises(CheckpointError, match="max_position_embeddings = 64"):
        config(65)


def test_contexts_of_millions_of_tokens_are_read():
    for longest in (1_010_000, 10_485_760):  # Qwen2.5-1M, Llama 4 Scout
        assert config(max_position_embeddings=longest).context == longest


ROPE = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"model_type": "gpt_neox"}, "model_type = 'gpt_neox': known are llama, mistral, qwen2"),
        ({"model_type": None}, "model_type = None: known are"),
        ({"model_type": ["llama"]}, "model_type = "),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu', which is not supported, only 'silu'"),
        ({"attention_bias": True}, "attention_bias = True, which is not supported, only False"),
        ({"mlp_bias": True}, "mlp_bias = True"),
        ({"residual_multiplier": 0.2}, "residual_multiplier = 0.2, which is not supported"),
        ({"quantization_config": {"bits": 4}}, "quantization_config = "),
        ({"rope_interleaved": True}, "rope_interleaved = True"),
        ({"layer_types": ["linear_attention"]}, "layer_types with 'linear_attention'"),
        ({"layer_types": 3}, "layer_types with '3'"),
        (
            {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
            "rope_scaling has rope_type = 'yarn'",
        ),
        ({"rope_scaling": {"type": "longrope"}}, "rope_type = 'longrope': supported are default"),
        (
            {"rope_scaling": {**ROPE, "beta": 3}},
            "rope_scaling has beta = 3, which is not supported",
        ),
        (
            {"rope_scaling": {**ROPE, "factor": 0}},
            "rope_scaling has factor = 0: it must be a number",
        ),
        ({"rope_scaling": {"rope_type": "linear"}}, "rope_scaling has no factor"),
        ({"rope_scaling": {**ROPE, "high_freq_factor": 1}}, "high_freq_factor"),
        ({"rope_scaling": "linear"}, "rope_scaling = 'linear': it must be a group"),
        ({"rope_theta": "big"}, "rope_theta = 'big': it must be a number above 0"),
        ({"hidden_size": None}, "has no hidden_size: restore the file"),
        ({"hidden_size": "32"}, "hidden_size = '32': it must be a whole number above 0"),
        ({"num_hidden_layers": -1}, "num_hidden_layers = -1"),
        ({"num_attention_heads": 4.5}, "num_attention_heads = 4.5"),
        ({"num_attention_heads": True}, "num_attention_heads = True"),
        ({"num_key_value_heads": 3}, "no multiple of num_key_value_heads = 3"),
        ({"head_dim": 7}, "head_dim = 7: rotary positions need an even width"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps = nan"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings = 'yes': it must be true or false"),
        ({"sliding_window": "wide"}, "sliding_window = 'wide'"),
    ],
)
def test_keys_that_are_refused_by_name(changed, message):
    with pytest.raises(CheckpointError, match=message) as raised:
        config(**changed)
    assert str(raised.value).startswith("m/config.json") and len(str(raised.value)) < 300
    json.dumps(str(raised.value))
    assert "\n" not in str(raised.value)


def test_names_of_another_family_become_ours(monkeypatch):
    """What CONTRIBUTING shows."""
    theirs = {"layers.{i}.attention.wo.weight": "model.layers.{i}.self_attn.o_proj.weight"}
    assert renamed("layers.11.attention.wo.weight", theirs) == (
        "model.layers.11.self_attn.o_proj.weight"
    )
    assert renamed("model.norm.weight", theirs) == "model.norm.weight"
    monkeypatch.setitem(FAMILIES, "theirs", Family(qk_norm=True, names=theirs))
    assert config(model_type="theirs").qk_norm


# Memory -------------------------------------------------------------------------------------------


def test_every_process_has_a_copy_of_the_weights(monkeypatch):
    planned = CausalLM.planned(model().config, 20, torch.float32)
    needs = 4 * sum(p.numel() for p in planned.parameters())
    monkeypatch.setattr("models.checkpoint.free_memory", lambda device: 3 * needs)
    checkpoint._check_memory(planned, "cpu", "m", copies=2)
    with pytest.raises(CheckpointError, match="in each of 3 processes, .* start fewer processes"):
        checkpoint._check_memory(planned, "cpu", "m", copies=3)  # and its rotary tables


def test_free_memory_is_the_smaller_of_machine_and_container(tmp_path, monkeypatch):
    free = free_memory()
    assert free is None or 1e6 < free < 1e15
    for name, text in (
        ("memory.max", "1000000"),
        ("memory.current", "600000"),
        ("memory.stat", "anon 400000\nfile 200000\n"),
    ):
        (tmp_path / name).write_text(text)
    monkeypatch.setattr("models.memory._CGROUP", tmp_path)
    assert free_memory() == 600_000
    (tmp_path / "memory.max").write_text("max")
    assert free_memory() != 600_000
    assert in_words(538_000_000) == "0.5 GB" and in_words(25_000_000) == "25.0 MB"
