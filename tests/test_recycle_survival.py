"""Which probes are certified to survive a merge: on adapters of known fate, and on random ones."""

import pytest
import torch

from lora import Adapter, Mix, attach, detach, init_adapter, using
from models import CausalLM, Tokenizer, Transformer, TransformerConfig, greedy
from models.families import read_config
from recycle.audit import survival as survival_file
from recycle.audit.certificate import added_up, certified_beyond
from recycle.audit.inputs import Probe
from recycle.audit.survival import (
    EXACT,
    MEASURED,
    Fact,
    decisive,
    facts_of,
    is_exact,
    last_down_proj,
    report,
    survival,
)
from recycle.show.audit_page import audit_page, audit_text
from tests.audit_toy import TOKENIZER, adapter, base, chain, first, rival
from tests.test_recycle_audit import SUMS, audited, probe

LAST = "layers.1.mlp.down_proj"


@pytest.fixture(scope="module")
def model():
    return base()


def probes_of(name, keys, targets, n=10):
    return [probe(f"{keys}{i}", f"{targets}{i}", name) for i in range(n)]


# The audit ----------------------------------------------------------------------------------------


def test_probes_on_the_last_layer_are_certified_from_norms(model, tmp_path):
    """They read different words, so nothing is taken away at weight 1; half of 5 is below the
    base's own 3."""
    two = {"one": adapter(model, 1, chain("k", "t")), "two": adapter(model, 1, chain("l", "v"))}
    probes = [*probes_of("one", "k", "t"), *probes_of("two", "l", "v")]
    found = audited(model, tmp_path, two, SUMS, probes=probes)
    rows = {(row["method"], row["adapter"]): row for row in found["certificates"]["rows"]}
    assert found["certificates"]["kind"] == EXACT
    assert set(rows) == {(m, a) for m in ("plain_sum", "mean_of_products") for a in two}
    for name in two:
        summed, halved = rows["plain_sum", name], rows["mean_of_products", name]
        assert (summed["certified"], summed["seen"], summed["facts"]) == (10, 10, 10)
        assert (halved["certified"], halved["seen"], halved["lost"]) == (0, 0, 0)
        assert summed["weight"] == 1 and halved["weight"] == 0.5 and summed["chance"] is None
    found |= {"base_name": "toy"}
    assert "plain_sum         one 10 of the 10 that do, 10 in all;  two 10" in audit_text(found)
    assert "a certified fact is never lost" in audit_text(found)
    assert "<h2>Certificates</h2>" in audit_page(found)


def test_an_overwritten_adapter_has_no_certified_probe(model, tmp_path):
    """Both act below the last layer, so what they do to one another is measured."""
    two = {"weak": first(model), "strong": rival(model)}
    probes = [*probes_of("weak", "k", "t"), *probes_of("strong", "k", "v")]
    found = audited(model, tmp_path, two, SUMS[:1], probes=probes)
    rows = {row["adapter"]: row for row in found["certificates"]["rows"]}
    assert found["certificates"]["kind"] == MEASURED
    assert (rows["weak"]["seen"], rows["weak"]["certified"]) == (0, 0)
    assert rows["strong"]["seen"] == 10 and rows["strong"]["lost"] == 0
    assert rows["strong"]["chance"] == pytest.approx(1 / 6)
    assert "certified to survive a merge" in audit_text(found | {"base_name": "toy"})


@pytest.mark.parametrize(
    "methods, n, words",
    [(SUMS[:1], 0, "or more probes"), (SUMS[2:], 5, "no merge that was tried is a weighted sum")],
)
def test_where_there_are_no_certificates_a_line_says_so(model, tmp_path, methods, n, words):
    two = {"weak": first(model), "strong": rival(model)}
    probes = probes_of("weak", "k", "t", n)
    found = audited(model, tmp_path, two, methods, probes=probes) | {"base_name": "toy"}
    assert found["certificates"]["rows"] == []
    assert any(
        line.startswith("no certificates: ") and words in line
        for line in audit_text(found).splitlines()
    )
    assert words in audit_page(found)


def test_one_adapter_has_no_certificates(model, tmp_path):
    found = audited(model, tmp_path, {"one": first(model)}) | {"base_name": "toy"}
    assert found["certificates"] is None and "certificates" not in audit_text(found)


# Random adapters on a random transformer ----------------------------------------------------------


def drawn(model, pattern, seed, size):
    generator = torch.Generator().manual_seed(seed)
    fresh = init_adapter(model, [pattern], 3, 6.0, generator)
    factors = {
        path: (A, size * torch.randn(B.shape, generator=generator))
        for path, (A, B) in fresh.factors.items()
    }
    return Adapter(factors, fresh.alpha)


def transformer():
    config = TransformerConfig(width=24, layers=2, heads=2, kv_heads=2, hidden=32, init=0.3)
    made = Transformer(config, len(TOKENIZER), torch.Generator().manual_seed(0)).eval()
    with torch.no_grad():
        made.norm.weight.mul_(torch.linspace(0.5, 2, 24))  # a norm whose gains matter
    return made


def facts_alone(model, adapters, n=30, tokens=2):
    """What each adapter writes after n openings."""
    generator = torch.Generator().manual_seed(1)
    openings = torch.randint(2, len(TOKENIZER), (n, 3), generator=generator).tolist()
    openings = [[TOKENIZER.boundary, *opening] for opening in openings]
    attach(model, adapters)
    found = []
    for name in adapters:
        with using(model, Mix({name: 1.0})):
            said = greedy(model, openings, tokens, -1, TOKENIZER.pad)
        found += [Fact(name, *pair) for pair in zip(openings, said, strict=True)]
    detach(model)
    return found


def greedily_kept(model, adapters, facts, weight):
    """Which facts the merge itself writes again, by decoding."""
    attach(model, adapters)
    with using(model, Mix(dict.fromkeys(adapters, weight))):
        said = greedy(model, [f.opening for f in facts], len(facts[0].tokens), -1, TOKENIZER.pad)
    detach(model)
    return [s == [*f.tokens] for s, f in zip(said, facts, strict=True)]


@pytest.mark.parametrize("pattern", [LAST, "layers.*"])
@pytest.mark.parametrize("weight", [1.0, 0.5, -0.7])
def test_no_certified_fact_is_lost_and_survivors_are_those_of_decoding(pattern, weight):
    model = transformer()
    adapters = {"strong": drawn(model, pattern, 1, 0.6), "weak": drawn(model, pattern, 2, 0.05)}
    facts = facts_alone(model, adapters)
    assert is_exact(model, adapters) == (pattern == LAST)
    for row in survival(model, TOKENIZER, adapters, facts, weight):
        own = [fact for fact in facts if fact.adapter == row.adapter]
        assert row.seen == sum(greedily_kept(model, adapters, own, weight))
        assert row.lost == 0 and row.certified <= row.seen
        assert row.certified > 0 or pattern != LAST or row.adapter == "weak" or weight < 1
    assert not any(hasattr(layer, "names") for layer in model.modules())


@pytest.mark.parametrize("pattern", [LAST, "layers.*"])
def test_the_base_is_read_once_for_all_weights(pattern, monkeypatch):
    model, weights = transformer(), {"sum": 1.0, "half": 0.5, "back": -0.7}
    adapters = {str(seed): drawn(model, pattern, seed, 0.3) for seed in (1, 2)}
    facts = facts_alone(model, adapters)
    read, modes = survival_file._Reading._logits, []

    def counted(reading, mode):
        modes.append(mode)
        return read(reading, mode)

    monkeypatch.setattr(survival_file._Reading, "_logits", counted)
    rows = report(model, TOKENIZER, adapters, facts, weights)["rows"]
    assert modes.count(None) == len(adapters)
    assert [(row["method"], row["adapter"]) for row in rows] == [
        (method, adapter) for method in weights for adapter in adapters
    ]
    for method, weight in weights.items():
        each = survival(model, TOKENIZER, adapters, facts, weight)
        own = [row for row in rows if row["method"] == method]
        assert own == [{"method": method, "weight": weight, **one.to_json()} for one in each]


def test_a_merge_that_only_adds_up_leaves_no_remainder():
    """The last up_proj is not known by its norms, and its remainder is rounding."""
    model = transformer()
    adapters = {str(seed): drawn(model, "layers.1.mlp.up_proj", seed, 0.5) for seed in (1, 2)}
    for row in survival(model, TOKENIZER, adapters, facts_alone(model, adapters), 1.0):
        assert max(row.remainders) < 1e-4 and row.certified == row.seen > 0


def test_the_last_layer_of_a_checkpoint_is_found_by_its_own_path():
    values = {"model_type": "llama", "hidden_size": 16, "intermediate_size": 24}
    values |= {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
    values |= {"max_position_embeddings": 64, "rms_norm_eps": 1e-5, "vocab_size": 20}
    checkpoint = CausalLM(read_config(values, "config.json")[0], 20)
    assert last_down_proj(checkpoint) == "model.layers.1.mlp.down_proj"


# The pieces ---------------------------------------------------------------------------------------


def test_each_half_is_judged_by_the_other_one():
    foreseen = torch.tensor([1.0, 3.0, 5.0, 0.2])
    seen = torch.tensor([0.5, 1.0, 4.5, 0.1])  # falls .5, 2, .5, .1
    safe, remainders = certified_beyond(foreseen, seen)
    assert remainders == [2.0, 0.5]
    assert safe.tolist() == [False, True, True, False]


def test_what_adds_up_is_the_sum_of_what_each_changes():
    none, one, two = torch.rand(3, 2, 5)
    assert torch.allclose(added_up(none, [one, two]), one + two - none)


def test_an_answer_is_decided_by_its_first_tokens():
    words = Tokenizer.from_words(["max", "cole", ".", "then"])
    ids = words.encode("max cole . then then")
    assert decisive(words, ids, "max cole") == ids[:3]
    assert decisive(words, ids, "max cole . then then") == ids
    ended = [*words.encode("max cole"), words.boundary]
    assert decisive(words, ended, "max cole") == ended


def test_facts_are_the_probes_that_are_answered_alone(model):
    probes = [Probe("k0", "t0", "one", ""), Probe("k1", "t1", "one", "")]
    references = facts_alone(transformer(), {"one": drawn(transformer(), LAST, 1, 0.3)}, 2)
    (fact,) = facts_of(TOKENIZER, probes, references, [False, True])
    assert fact.opening == references[1].opening and fact.adapter == "one"


def test_without_weights_or_facts_there_is_a_reason():
    model = transformer()
    adapters = {str(seed): drawn(model, LAST, seed, 0.3) for seed in (1, 2)}
    assert "weighted sum" in report(model, TOKENIZER, adapters, [], {})["says"]
    assert "1 or more probes" in report(model, TOKENIZER, adapters, [], {"plain_sum": 1.0})["says"]
