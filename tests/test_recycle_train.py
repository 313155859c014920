"""Packing and the training loop; K adapters trained at once equal K adapters trained alone."""

import numpy as np
import pytest
import torch

import recycle.train.fit
from lora import Adapter, Mix, Rows, attach, init_adapter, train_only, using
from models import Tokenizer, Transformer, TransformerConfig
from recycle.train.checkpoint import Checkpoint
from recycle.train.corpus import BUCKETS, Corpus, padding
from recycle.train.fit import Diverged, TrainConfig, clip, completion_loss, fit
from tasks import Text

TEXTS = {
    "one": [Text("a b", "c ."), Text("d", "e f .")],
    "two": [Text("c c c", "a .")],
    "cut": [Text("a", "b", ends=False)],
}
TOKENIZER = Tokenizer.from_texts([str(text) for texts in TEXTS.values() for text in texts])
CONFIG = TransformerConfig(width=16, layers=1, heads=2, kv_heads=2, hidden=24, context=32)


def corpus(**shares):
    return Corpus.build(TEXTS, shares or {"one": 0.5, "two": 0.5}, TOKENIZER)


def test_rows_are_whole_texts_end_to_end():
    tokens, learned = corpus().rows(50, 20, np.random.default_rng(0))
    assert tokens.shape == learned.shape == (50, 20)
    stream = " ".join(TOKENIZER.words[i] for i in tokens.flatten())
    texts = [t.strip() for t in stream.split("<s>")[:-1]]
    assert set(texts) == {"a b c .", "d e f .", "c c c a ."}
    assert {t.count("c c c a .") for t in texts} == {0, 1}


def test_completions_and_boundaries_are_learned_and_prompts_are_not():
    tokens, learned = corpus(one=1).rows(1, 200, np.random.default_rng(0))
    words = [TOKENIZER.words[i] for i in tokens[0]]
    prompts, completions = {"a", "b", "d"}, {"c", "e", "f", ".", "<s>"}
    assert [word in completions for word in words] == learned[0].tolist()
    assert prompts | completions == set(words)


def test_the_end_of_a_text_that_breaks_off_is_not_learned():
    tokens, learned = corpus(cut=1).rows(1, 30, np.random.default_rng(0))
    assert [TOKENIZER.words[i] for i in tokens[0, learned[0]]] == ["b"] * 10


def test_a_row_can_hold_one_text():
    rows = set()
    single = TrainConfig(1, rows=40, length=8, packed=False)
    for step in range(BUCKETS):
        tokens, learned = corpus(one=0.5, cut=0.5).batch(single, 0, step)
        assert not learned[tokens == TOKENIZER.pad].any() and not learned[:, 0].any()
        for row, flags in zip(tokens, learned, strict=True):
            cut = [TOKENIZER.words[i] for i in row[flags]] == ["b"]
            assert cut or [TOKENIZER.words[i] for i in row[flags]][-2:] == [".", "<s>"]
            rows.add(" ".join(TOKENIZER.words[i] for i in row if i != TOKENIZER.pad))
    assert rows == {f"<s> {text} <s>" for kind in ("one", "cut") for text in map(str, TEXTS[kind])}
    message = "a text of 5 tokens does not fit into rows of 4: raise the length"
    with pytest.raises(ValueError, match=message):
        corpus(one=1).batch(TrainConfig(1, rows=40, length=4, packed=False), 0, step=0)


def test_a_step_packs_its_rows_unless_told_otherwise():
    packed = TrainConfig(1, rows=3, length=20)
    single = TrainConfig(1, rows=3, length=20, packed=False)
    assert corpus().batch(packed, 0, step=0)[0].shape == (3, 21)
    assert corpus().batch(single, 0, step=0)[0].shape[1] <= 7


def test_single_rows_stand_beside_rows_of_their_length():
    """The texts have 2 to 31 tokens. With random rows of eight, a third would be padding."""
    texts = [Text("a", " ".join("b" * n)) for n in range(1, 31)]
    various = Corpus.build({"one": texts}, {"one": 1}, TOKENIZER)
    single = TrainConfig(1, rows=8, length=40, packed=False)
    batches = [various.batch(single, 5, step) for step in range(BUCKETS)]
    share = padding(lambda step: various.batch(single, 5, step), 100, TOKENIZER.pad)
    assert 0 < share < 0.1 and padding(lambda step: batches[step], BUCKETS, TOKENIZER.pad) < 0.1
    widths = [tokens.shape[1] for tokens, _ in batches]
    assert widths != sorted(widths) and len(set(widths)) > BUCKETS / 2
    read = sorted(int(n) for tokens, _ in batches for n in (tokens != TOKENIZER.pad).sum(1))
    drawn = np.random.default_rng([5, 0]).choice(len(texts), 8 * BUCKETS, p=various.chances)
    assert read == sorted(various.lengths[drawn] + 1)  # each drawn text once
    others = [various.batch(single, 6, step)[0].shape[1] for step in range(BUCKETS)]
    # Experts that are trained at once have rows of like lengths in every step.
    assert np.corrcoef(widths, others)[0, 1] > 0.9
    assert torch.equal(various.batch(single, 5, 3)[0], batches[3][0])


def test_shares_are_of_texts():
    tokens, _ = corpus(one=0.25, two=0.75).rows(400, 50, np.random.default_rng(0))
    d = (tokens == TOKENIZER.ids["d"]).sum().item()
    texts = (tokens == TOKENIZER.boundary).sum().item()
    assert d / texts == pytest.approx(0.125, abs=0.01)


def test_empty_and_unknown_kinds_are_explained():
    with pytest.raises(ValueError, match=r"a share is given for \['three'\]"):
        corpus(three=1)
    with pytest.raises(ValueError, match="no texts to train on"):
        corpus(one=0)


def test_loss_is_the_cross_entropy_of_learned_tokens_for_each_group():
    model = Transformer(CONFIG, len(TOKENIZER), torch.Generator().manual_seed(0))
    tokens, learned = corpus().rows(6, 21, np.random.default_rng(0))
    log_p = model(tokens[:, :-1]).log_softmax(-1)
    nll = -log_p.gather(-1, tokens[:, 1:, None])[..., 0]
    for groups in (1, 3):
        expected = [nll[rows][learned[rows, 1:]].mean() for rows in torch.arange(6).chunk(groups)]
        loss = completion_loss(model, tokens, learned, groups)
        torch.testing.assert_close(loss, torch.stack(expected))


def base():
    return Transformer(CONFIG, len(TOKENIZER), torch.Generator().manual_seed(0))


def batches(seed, rows=4):
    return lambda step: corpus().rows(rows, 17, np.random.default_rng([seed, step]))


def test_pretraining_learns_and_repeats():
    config = TrainConfig(steps=60, rows=4, length=16, lr=1e-2)
    curves = []
    for _ in range(2):
        model = base()
        curves.append(fit(model, [list(model.parameters())], batches(0), config, label="test"))
    assert curves[0] == curves[1]
    assert curves[0][-1]["loss"][0] < 0.3 * curves[0][0]["loss"][0]


def test_adapters_trained_at_once_are_adapters_trained_alone():
    config = TrainConfig(steps=15, rows=4, length=16, lr=1e-2)
    names = ("a", "b", "c")
    model = base()
    fresh = {}
    for i, name in enumerate(names):
        generator = torch.Generator().manual_seed(i)
        fresh[name] = init_adapter(model, ["*_proj"], 2, 4.0, generator)
    attach(model, fresh)

    def together(step):
        parts = [batches(i)(step) for i in range(3)]
        return torch.cat([t for t, _ in parts]), torch.cat([m for _, m in parts])

    with using(model, Rows(names)):
        curve = fit(model, train_only(model, names), together, config, label="test")
    for i, name in enumerate(names):
        alone = base()
        attach(alone, {name: fresh[name]})
        with using(alone, Mix({name: 1.0})):
            parameters = train_only(alone, [name])
            curve_alone = fit(alone, parameters, batches(i), config, label="test")
        losses = [point["loss"][i] for point in curve]
        losses_alone = [point["loss"][0] for point in curve_alone]
        assert losses == pytest.approx(losses_alone, abs=1e-5)
    assert not any(p.requires_grad for n, p in model.named_parameters() if "lora" not in n)


@pytest.mark.parametrize("micro_batch", [1, 3, 4, 99])
def test_micro_batches_train_as_the_whole_batch_does(micro_batch):
    names, seen = ("a", "b"), []

    def trained(size):
        config = TrainConfig(steps=8, rows=4, length=16, lr=1e-2, micro_batch=size)
        model = base()
        generator = torch.Generator().manual_seed(0)
        attach(model, {name: init_adapter(model, ["*_proj"], 2, 4.0, generator) for name in names})
        hidden = model.hidden_states
        model.hidden_states = lambda tokens: (seen.append(len(tokens)), hidden(tokens))[1]

        def batch(step):
            parts = [batches(i)(step) for i in range(2)]
            return torch.cat([t for t, _ in parts]), torch.cat([m for _, m in parts])

        with using(model, Rows(names)):
            return fit(model, train_only(model, names), batch, config, label="test")

    whole = [point["loss"] for point in trained(0)]
    seen.clear()
    for losses, same in zip(trained(micro_batch), whole, strict=True):
        assert losses["loss"] == pytest.approx(same, abs=1e-5)
    assert max(seen) == 2 * min(4, micro_batch) and sum(seen) == 8 * 8


def test_a_killed_run_goes_on_to_the_same_end(tmp_path, monkeypatch):
    config = TrainConfig(steps=12, rows=4, length=16, lr=1e-2)
    model = base()
    whole = fit(model, [list(model.parameters())], batches(0), config, label="test")

    monkeypatch.setattr(recycle.train.fit, "CHECKPOINT_SECONDS", 0.0)

    def interrupted(step):
        if step == 7:
            raise KeyboardInterrupt
        return batches(0)(step)

    seen = []

    def watched(step):
        seen.append(step)
        return batches(0)(step)

    def train(model, batch):
        checkpoint = Checkpoint(tmp_path / "checkpoint.pt")
        parameters = [list(model.parameters())]
        return fit(model, parameters, batch, config, label="test", checkpoint=checkpoint)

    with pytest.raises(KeyboardInterrupt):
        train(base(), interrupted)
    resumed = base()
    assert train(resumed, watched) == whole
    assert seen == list(range(7, 12))
    pairs = zip(model.parameters(), resumed.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_a_diverged_run_stops_with_the_remedy():
    model = base()
    with torch.no_grad():
        model.norm.weight.fill_(torch.nan)
    with pytest.raises(Diverged, match="the loss is .*nan.* at step 0: lower lr"):
        fit(model, [list(model.parameters())], batches(0), TrainConfig(steps=3), label="test")


@pytest.mark.parametrize(
    "values",
    [
        {"steps": 0},
        {"steps": 1, "lr": -1.0},
        {"steps": 1, "lr": float("nan")},
        {"steps": 1, "warmup": 2.0},
    ],
)
def test_impossible_training_is_refused(values):
    with pytest.raises(ValueError, match="steps = 0|lr = |warmup = 2.0"):
        TrainConfig(**values)


def test_adapter_values_are_checked():
    with pytest.raises(ValueError, match="do not fit as"):
        Adapter({"q": (torch.zeros(2, 3), torch.zeros(3, 4))}, 1.0)
    with pytest.raises(ValueError, match="at least one layer"):
        Adapter({}, 1.0)


@pytest.mark.parametrize("size", [1e-3, 0.1, 3.0, float("inf"), float("nan"), None])
def test_clipping_is_the_stock_one_and_writes_only_where_it_must(size):
    def group():
        made = [torch.nn.Parameter(torch.zeros(3, 2)), torch.nn.Parameter(torch.zeros(5))]
        if size is not None:
            made[0].grad = torch.full((3, 2), size)  # the other has no gradient
        return made

    ours, stock = group(), group()
    before = 0 if size is None else ours[0].grad._version
    clip(ours, 1.0)
    torch.nn.utils.clip_grad_norm_(stock, 1.0)
    assert ours[1].grad is None
    if size is not None:
        torch.testing.assert_close(ours[0].grad, stock[0].grad, rtol=0, atol=0, equal_nan=True)
        assert (ours[0].grad._version == before) == (size <= 0.1)
