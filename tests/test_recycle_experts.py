"""Experts: the texts that they preserve, and the weights that full fine-tuning may touch."""

import pytest
import torch

from recycle.plan import STANDARD_BASE, Expert, Recipe
from recycle.studies.two_hop import TWO_HOP
from recycle.train.base import open_base
from recycle.train.experts import own_corpus, train_experts
from recycle.train.settings import change
from tasks import TwoHop

TINY = {
    "task.people": 40,
    "task.cities": 10,
    "task.triples": 4,
    "task.set_cities": 2,
    "model.width": 16,
    "model.layers": 2,
    "model.heads": 2,
    "model.kv_heads": 2,
    "model.hidden": 16,
    "pretrain.steps": 3,
    "pretrain.rows": 4,
    "train.steps": 2,
    "train.rows": 2,
    "adapter.rank": 2,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    config = change(TWO_HOP.default, TINY)
    return open_base(TwoHop, config, (0, STANDARD_BASE), tmp_path_factory.mktemp("run"))


def said(base, corpus):
    """The texts of a corpus as words."""
    words = [base.tokenizer.token(i) for i in corpus.tokens]
    return " ".join(words).split(" <s>")


def test_the_base_answers_the_prompts_of_its_own_texts(base):
    answered = base.answered_texts
    for kind, read in base.world.base_texts().items():
        prompts = {text.prompt for text in read}
        assert {text.prompt for text in answered[kind]} <= prompts
        for text in answered[kind][:3]:
            ids = [base.tokenizer.boundary, *base.tokenizer.encode(text.prompt)]
            logits = base.model(torch.tensor([ids]))[0, -1]
            first = base.tokenizer.token(int(logits.argmax()))
            assert text.completion.split()[0] == first


def test_preserved_texts_are_the_corpus_or_the_bases_answers(base):
    expert = Expert("hop1", "F")
    own = {str(text) for text in base.world.expert_texts("hop1", "F")}
    corpus = {str(t) for texts in base.world.base_texts().values() for t in texts}
    answers = {str(t) for texts in base.answered_texts.values() for t in texts}
    for source, kept in (("corpus", corpus), ("answers", answers)):
        config = change(base.config, {"adapter.preserve_from": source})
        texts = {text.strip() for text in said(base, own_corpus(base, config, expert)) if text}
        assert own <= texts and texts - own <= kept
    alone = change(base.config, {"adapter.preservation": 0.0, "adapter.preserve_from": "answers"})
    texts = {text.strip() for text in said(base, own_corpus(base, alone, expert)) if text}
    assert texts == own


def test_full_fine_tuning_touches_the_layers_that_are_named(base):
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    for patterns, fits in (
        (None, lambda name: True),
        (("layers.1.*",), lambda n: "layers.1." in n),
    ):
        settings = {"adapter.kind": "full"} | ({"adapter.patterns": patterns} if patterns else {})
        expert = Expert("hop1", "F", Recipe("full", settings))
        (weights,) = train_experts(base, [expert]).experts.values()
        changed = {
            name for name, tensor in weights.items() if not torch.equal(tensor, before[name])
        }
        linears = {name for name in changed if name.endswith("_proj.weight")}
        assert changed and all(fits(name) for name in changed)
        assert changed == linears if patterns else "embed_tokens.weight" in changed
    for name, tensor in base.model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_an_unknown_source_of_preserved_texts_is_refused(base):
    with pytest.raises(ValueError, match="adapter.preserve_from = 'web': choose corpus or answers"):
        change(base.config, {"adapter.preserve_from": "web"})
