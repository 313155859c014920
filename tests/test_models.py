"""The transformer obeys its definitions: causality, cache, padding, grouped heads, rotary."""

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from models import (
    Cache,
    Tokenizer,
    Transformer,
    TransformerConfig,
    decode,
    greedy,
    recorded,
    sample,
)
from models.transformer import attend, attention_bias, rotary_tables, rotate

SMALL = TransformerConfig(width=32, layers=2, heads=4, kv_heads=2, hidden=48, context=32)


def small(config=SMALL, seed=0):
    model = Transformer(config, 20, torch.Generator().manual_seed(seed)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():  # weights of order one, so that a wrong mask shows
            parameter.mul_(8 if parameter.dim() == 2 else 1)
    return model


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def tokens(rows, length, seed=0):
    return torch.randint(2, 20, (rows, length), generator=seeded(seed))


def test_attention_is_the_stock_one():
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, 7, 4, generator=generator, dtype=torch.double) for _ in range(3))
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(attend(q, k, v, attention_bias(0, 7, None, q)), expected)


def test_later_tokens_change_nothing_before_them():
    model, x = small(), tokens(2, 9)
    changed = x.clone()
    changed[:, 6:] = tokens(2, 3, seed=1)
    torch.testing.assert_close(model(x)[:, :6], model(changed)[:, :6])
    assert not torch.allclose(model(x)[:, 6:], model(changed)[:, 6:])


@pytest.mark.parametrize("splits", [[9], [4, 5], [1] * 9])
def test_cached_steps_equal_one_pass(splits):
    model, x = small(), tokens(2, 9)
    cache = Cache(SMALL, 2, 12, model.embed_tokens.weight)
    parts = [model(part, cache) for part in x.split(splits, dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), model(x))


def test_left_padding_changes_no_real_position():
    model, x = small(), tokens(2, 6)
    padded = torch.cat([torch.zeros(2, 3, dtype=torch.long), x], dim=1)
    real = padded != 0
    torch.testing.assert_close(model(padded, real=real)[:, 3:], model(x))
    assert model(padded, real=real).isfinite().all()


def test_rotary_scores_depend_on_distance_alone():
    cos, sin = (t.double() for t in rotary_tables(SMALL))
    q, k = torch.randn(2, 1, 1, 1, 8, dtype=torch.double)

    def score(i, j):
        return (rotate(q, cos[[i]], sin[[i]]) * rotate(k, cos[[j]], sin[[j]])).sum()

    torch.testing.assert_close(score(3, 0), score(20, 17))


def test_grouped_heads_share_keys():
    """With kv_heads = heads / 2, the model equals a full model whose k_proj and v_proj repeat
    every head."""
    grouped = small()
    full = small(TransformerConfig(width=32, layers=2, heads=4, kv_heads=4, hidden=48, context=32))
    state = grouped.state_dict()
    for name in state:
        if "k_proj" in name or "v_proj" in name:
            state[name] = state[name].view(2, 8, 32).repeat_interleave(2, dim=0).reshape(32, 32)
    full.load_state_dict(state)
    x = tokens(2, 8)
    torch.testing.assert_close(full(x), grouped(x))


def test_same_generator_same_weights():
    one, two, other = (Transformer(SMALL, 20, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.embed_tokens.weight, other.embed_tokens.weight)


def reference_greedy(model, prompt, limit, end):
    answer = []
    for _ in range(limit):
        token = int(model(torch.tensor([prompt + answer]))[0, -1].argmax())
        if token == end:
            break
        answer.append(token)
    return answer


def test_greedy_decodes_every_row_as_if_alone():
    model = small()
    prompts = [row.tolist()[: 2 + i % 4] for i, row in enumerate(tokens(12, 6))]
    endless = [reference_greedy(model, prompt, 10, end=-1) for prompt in prompts]
    end = endless[0][4]  # some row ends there, others elsewhere or never
    expected = [reference_greedy(model, prompt, 10, end) for prompt in prompts]
    assert len({len(answer) for answer in expected}) > 1
    assert greedy(model, prompts, 10, end, pad=0) == expected
    assert greedy(model, [], 10, end, pad=0) == []


def recording(monkeypatch, device="cpu"):
    """Decoding takes recorded steps from now on, on the CPU without a device's recording. Returns
    the recorded steps, as they are taken."""
    taken = []

    def record(step, place, onto=recorded.record):
        taken.append(step)
        return step if device == "cpu" else onto(step, place)

    monkeypatch.setattr(recorded, "record", record)
    if device == "cpu":
        monkeypatch.setattr(decode, "can_record", lambda model, cache, limit: True)
    return taken


def endings(model):
    """Prompts of several lengths, and the token that ends some rows at once, others later."""
    prompts = [row.tolist()[: 2 + i % 4] for i, row in enumerate(tokens(12, 6))]
    endless = greedy(model, prompts, 10, -1, pad=0)
    return prompts, (endless[0][4], endless[1][0], -1)


def test_recorded_steps_say_what_others_say(monkeypatch):
    model = small()
    prompts, ends = endings(model)
    expected = [greedy(model, prompts, 10, end, pad=0) for end in ends]
    drawn = sample(model, prompts, 10, ends[0], 0, 1.0, seeded())
    taken = recording(monkeypatch)
    assert [greedy(model, prompts, 10, end, pad=0) for end in ends] == expected
    assert sample(model, prompts, 10, ends[0], 0, 1.0, seeded()) == drawn
    assert [len(row) for row in expected[2]] == [10] * 12 and len(taken) == 4
    assert (
        greedy(model, [[3, 4], [5, 6]], 10, -1, 0)
        == greedy(model, [[5, 6], [3, 4]], 10, -1, 0)[::-1]
    )


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_device_replays_what_it_would_compute(monkeypatch, dtype):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    model = small().cuda().to(dtype)
    prompts, ends = endings(model)
    said = {}
    for name, may in (("computed", lambda *rest: False), ("replayed", recorded.can_record)):
        monkeypatch.setattr(decode, "can_record", may)
        said[name] = [greedy(model, prompts, 10, end, pad=0) for end in ends]
    if dtype == torch.float64:
        assert said["replayed"] == said["computed"]
    taken = recording(monkeypatch, "cuda")
    assert [greedy(model, prompts, 10, end, pad=0) for end in ends] == said["replayed"]
    assert taken and greedy(model, prompts, 7, -1, pad=0)  # too few steps for a recording


def test_what_cannot_be_recorded_is_left_alone():
    model = small()
    cache = model.new_cache(2, 20)
    assert not recorded.can_record(model, cache, 10)  # the CPU

    class Elsewhere(type(cache.keys)):
        is_cuda = True

    cache.keys = cache.keys.as_subclass(Elsewhere)
    assert recorded.can_record(model, cache, 10)
    assert not recorded.can_record(model, cache, 7)
    hook = model.layers[1].mlp.register_forward_hook(lambda *given: None)
    assert not recorded.can_record(model, cache, 10)
    hook.remove()
    cache.context = 19
    assert not recorded.can_record(model, cache, 10)  # the error of a long answer is kept
    assert not recorded.can_record(model, object(), 10)


def test_bad_shapes_are_explained():
    for values, message in (
        ({"heads": 3}, "must split into 3 heads"),
        ({"kv_heads": 3}, "multiple of model.kv_heads = 3"),
        ({"layers": 0}, "model.layers = 0"),
    ):
        with pytest.raises(ValueError, match=message):
            TransformerConfig(**{"width": 32, "heads": 4, "kv_heads": 4, **values})
    with pytest.raises(ValueError, match="33 tokens are longer than model.context = 32"):
        small()(tokens(1, 33))
    with pytest.raises(ValueError, match="a prompt is empty"):
        greedy(small(), [[]], 3, 1, 0)


def test_tokenizer_round_trip_and_unknown_words():
    tokenizer = Tokenizer.from_texts(["ada lives in rome", "max lives in oslo"])
    assert tokenizer.decode(tokenizer.encode("max lives in rome")) == "max lives in rome"
    padded = [tokenizer.pad, *tokenizer.encode("ada"), tokenizer.boundary, 4]
    assert tokenizer.decode(padded) == "ada"
    with pytest.raises(ValueError, match="the word 'paris' is not in the vocabulary of 8 words"):
        tokenizer.encode("max lives in paris")
    with pytest.raises(ValueError, match="stands twice"):
        Tokenizer(("<pad>", "<s>", "a", "a"))
    with pytest.raises(ValueError, match="a vocabulary begins with"):
        Tokenizer(("a", "b"))


def test_the_code_of_the_readme_runs(capsys):
    readme = Path(__file__).parent.parent / "models" / "README.md"
    (code,) = re.findall(r"```python\n(.*?)```", readme.read_text(), re.DOTALL)
    names: dict = {}
    exec(code, names)
    assert names["logits"].shape == (1, 4, 8)
    printed = capsys.readouterr().out.split()
    assert len(printed) <= 3 and set(printed) <= set(names["tokenizer"].words)
