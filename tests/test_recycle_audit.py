"""The audit sees the known fate of adapters that were made by hand: two that act side by side, two
of which one overwrites the other, and two that compose in one order of their layers alone."""

import json
from dataclasses import replace

import pytest
import torch

from lora import Adapter, Mix, attach, detach, load_adapter, save_adapter, using
from recycle.audit.advice import advise
from recycle.audit.candidates import TRIED, acting, candidates
from recycle.audit.composition import verdict
from recycle.audit.geometry import geometry
from recycle.audit.inputs import Composed, Probe, short_names
from recycle.audit.retention import compared, is_right, margins, ratio, summary, written
from recycle.audit.run import audit
from recycle.audit.soundness import identity_errors, plain, relative_error, soundness
from recycle.decide.statistics import Estimate, wilson
from recycle.reuse.methods import BY_NAME
from tests.audit_toy import TOKENIZER, adapter, base, chain, first, rival, second

SUMS = candidates(["plain_sum", "mean_of_products", "product_of_means"])


@pytest.fixture(scope="module")
def model():
    return base()


def audited(model, tmp_path, adapters, methods=SUMS, **more):
    """The report on adapters, each in a folder of its own."""
    folders = {}
    for name, one in adapters.items():
        save_adapter(one, folders.setdefault(name, tmp_path / name))
    report = audit(model, TOKENIZER, adapters, folders, methods, **more)
    json.dumps(report, allow_nan=False)
    return report


def kept(report, method):
    rows = [row for row in report["retention"] if row["method"] == method]
    return {row["adapter"]: row["written"]["kept"]["mean"] for row in rows}


# Known fates --------------------------------------------------------------------------------------


def test_adapters_side_by_side_are_kept_by_their_sum_and_not_by_their_mean(model, tmp_path):
    report = audited(model, tmp_path, {"one": first(model), "two": second(model)})
    assert kept(report, "base") == {"one": 0, "two": 0}
    assert kept(report, "alone") == kept(report, "plain_sum") == {"one": 1, "two": 1}
    assert kept(report, "mean_of_products") == {"one": 0, "two": 0}  # half of 5 is below the base's
    assert report["advice"]["method"] == "plain_sum"
    text = report["advice"]["text"]
    assert text.startswith("Merge by plain_sum (each at weight 1): it keeps each adapter at >= 0.9")
    refused = {each["method"]: each["refused"] for each in report["methods"]}
    assert "must address the same layers" in refused["product_of_means"]
    assert refused["plain_sum"] is None and "prediction" in report["scope"]
    assert report["geometry"]["pairs"][0]["layers"] == 0


def test_an_adapter_that_is_overwritten_is_not_called_kept(model, tmp_path):
    report = audited(model, tmp_path, {"weak": first(model), "strong": rival(model)}, SUMS[:2])
    assert kept(report, "plain_sum") == {"weak": 0.5, "strong": 1}  # what ends its texts is kept
    assert report["advice"]["method"] is None
    assert report["advice"]["text"].startswith("Retrain jointly: none of the 2 methods")


def test_a_router_that_keeps_what_no_merge_keeps_is_advised(model, tmp_path):
    """Each token is in the space of one adapter alone, where its update is the larger one."""
    two = {"weak": adapter(model, 0, chain("k", "t")), "other": adapter(model, 0, chain("l", "v"))}
    report = audited(model, tmp_path, two, candidates(["mean_of_products", "hard"]))
    assert kept(report, "hard") == {"weak": 1, "other": 1}
    assert report["advice"]["text"].startswith("Do not merge: route by hard, which keeps each")
    assert (
        "the best merge, mean_of_products (each at weight 0.5), keeps" in report["advice"]["text"]
    )


def test_the_measures_of_one_reference_by_hand(model):
    two = {"weak": first(model), "strong": rival(model)}
    with acting(model, two) as (_, alone):
        texts = written(model, TOKENIZER, alone, 0, {})
    own = next(each for each in texts if each.adapter == "weak" and each.changed.any())
    assert TOKENIZER.decode(own.opening[1:]).startswith("k")
    assert TOKENIZER.decode(own.tokens).startswith("t") and own.tokens[-1] == TOKENIZER.boundary
    with acting(model, two, BY_NAME["plain_sum"]) as (mode, alone):
        (sums,) = compared(model, TOKENIZER, [own], mode, alone)
        (itself,) = compared(model, TOKENIZER, [own], alone["weak"], alone)
        tokens = torch.tensor([[*own.opening, *own.tokens]])
        with using(model, mode):
            q = model(tokens)[0].log_softmax(-1)[len(own.opening) - 1 : -1]
        with using(model, alone["weak"]):
            logits = model(tokens)[0][len(own.opening) - 1 : -1]
    p = logits.log_softmax(-1)
    assert (sums.tokens, sums.changed, sums.kept, sums.agreed) == (2, 2, 1, 1)
    assert sums.kl == pytest.approx(float((p.exp() * (p - q)).sum()), rel=1e-5)
    assert sums.own_margin == pytest.approx(float(margins(logits, torch.tensor(own.tokens)).sum()))
    assert (itself.kept, itself.kl) == (2, 0) and itself.margin == itself.own_margin > sums.margin
    assert not any(hasattr(layer, "names") for layer in model.modules())  # all taken off


def test_known_prompts_are_the_openings(model):
    with acting(model, {"one": first(model)}) as (_, alone):
        texts = written(model, TOKENIZER, alone, 0, {"one": ["k3", "v0 k4"]})
        again = written(model, TOKENIZER, alone, 0, {"one": ["k3", "v0 k4"]})
    assert {TOKENIZER.decode(each.opening[1:]) for each in texts} == {"k3", "v0 k4"}
    assert [each.opening for each in texts] == [each.opening for each in again]


# Probes -------------------------------------------------------------------------------------------


def probe(prompt, answer, name, line=1):
    return Probe(prompt, answer, name, f"probes.jsonl, line {line}")


def test_planted_probes_are_counted_and_one_that_is_not_answered_alone_is_marked(model, tmp_path):
    probes = [
        *(probe(f"k{i}", f"t{i}", "weak") for i in range(10)),
        probe("k0", "v0", "weak", 11),  # wrong for it
        *(probe(f"k{i}", f"v{i}", "strong") for i in range(10)),
    ]
    two = {"weak": first(model), "strong": rival(model)}
    report = audited(model, tmp_path, two, SUMS[:2], probes=probes)
    assert [p["where"] for p in report["probes"] if not p["answered alone"]] == [probes[10].where]
    at = {(row["method"], row["adapter"]): row for row in report["retention"]}
    assert at["alone", "weak"]["recall"]["mean"] == pytest.approx(10 / 11)
    assert at["alone", "weak"]["recall kept"] == {
        "mean": 1, "low": wilson(10, 10)[0], "high": 1, "n": 10
    }  # fmt: skip
    assert at["plain_sum", "weak"]["recall kept"]["mean"] == 0
    assert at["plain_sum", "strong"]["recall kept"]["mean"] == 1
    assert at["plain_sum", "weak"]["probed"]["texts"] == 11
    assert "keeps weak at 0.00" in report["advice"]["text"]
    assert "of its probes" in report["advice"]["text"]


def test_an_answer_is_whole_words_at_the_beginning():
    assert is_right(" Max .", "Max") and is_right("new mill .", "new mill")
    assert not is_right("Maximilian", "Max") and not is_right("it is Max", "Max")


# Composition --------------------------------------------------------------------------------------


def questions():
    return [
        Composed(f"c{i}", f"w{i}", (probe(f"k{i}", f"t{i}", "a"), probe(f"m{i}", f"w{i}", "b")), "")
        for i in range(6)
    ]


@pytest.mark.parametrize(
    "layers, says", [((0, 1), "composes"), ((1, 0), "keeps the parts and does not compose")]
)
def test_hops_compose_where_the_first_one_comes_first(model, tmp_path, layers, says):
    two = {"a": first(model, layers[0]), "b": second(model, layers[1])}
    report = audited(model, tmp_path, two, SUMS[:2], composed=questions())
    total, mean = report["composition"]
    assert total["says"] == says and total["kept"]["mean"] == 1
    assert total["composed"]["mean"] == (says == "composes") and total["composed"]["n"] == 6
    assert total["parts"]["a"]["mean"] == total["parts"]["b"]["mean"] == 1
    assert mean["says"] == "does not keep the parts"
    before = {each["asked"]: each["right"]["mean"] for each in report["before"]}
    assert before == {"base": 0, "a": 0, "b": 0, "the parts, each adapter its own": 1}
    ending = ", and it composes." if says == "composes" else ": retrain jointly for those."
    assert report["advice"]["text"].endswith(ending)


def test_a_question_that_one_adapter_answers_shows_no_composition(model, tmp_path):
    two = {"a": first(model), "b": second(model)}
    easy = [replace(question, prompt=f"m{i}") for i, question in enumerate(questions())]
    (total,) = audited(model, tmp_path, two, SUMS[:1], composed=easy)["composition"]
    assert total["best single"] == total["direct"]["mean"] == 1
    assert total["says"] == "keeps the parts and does not compose"


def test_what_the_double_gate_says():
    def share(mean, low):
        return Estimate(mean, low, 1.0, 10, 1)

    assert verdict(None, None, 0).startswith("cannot be asked")
    assert verdict(share(0.8, 0.5), share(1, 0.9), 0) == "does not keep the parts"
    assert verdict(share(0.9, 0.5), None, 0) == "does not keep the parts"
    assert verdict(share(0.9, 0.5), share(0.4, 0.2), 0.1) == "composes"
    assert verdict(share(0.9, 0.5), share(0.4, 0.2), 0.2) == "keeps the parts and does not compose"


# Advice -------------------------------------------------------------------------------------------


def test_too_few_changed_tokens_decide_nothing(model, tmp_path):
    few = {"<s>": (["k0"], 4.0), "k0": (["t0"], 5.0), "t0": (["<s>"], 5.0)}
    two = {"few": adapter(model, 0, few), "two": second(model)}
    report = audited(model, tmp_path, two, SUMS[:1])
    assert report["advice"]["method"] is None
    assert "texts that few writes by itself hold 2 tokens" in report["advice"]["text"]
    probes = [probe("k0", "t0", "few")]
    assert audited(model, tmp_path, two, SUMS[:1], probes=probes)["advice"]["method"] == "plain_sum"


def test_one_adapter_gets_soundness_and_geometry_alone(model, tmp_path):
    report = audited(model, tmp_path, {"one": first(model)})
    assert report["retention"] == report["methods"] == report["geometry"]["pairs"] == []
    assert report["advice"]["text"] == "One adapter: there is nothing to merge."


def test_twenty_adapters(model, tmp_path):
    twenty = {f"a{i}": adapter(model, i % 2, chain("kl"[i % 2], "tv"[i % 2])) for i in range(20)}
    report = audited(model, tmp_path, twenty, SUMS[:1])
    assert len(report["geometry"]["pairs"]) == 190
    assert set(kept(report, "plain_sum").values()) == {1}


def test_a_merge_that_composes_is_preferred_to_one_that_keeps_more():
    def row(method, mean):
        share = {"mean": mean, "low": mean, "high": mean, "n": 9}
        text = {"kept": share, "changed": 99}
        return {"method": method, "adapter": "a", "written": text, "recall kept": share} | {}

    report = {
        "adapters": [{"adapter": "a"}, {"adapter": "b"}],
        "methods": [
            {"method": name, "family": "merge", "weight": None, "refused": None} for name in "xy"
        ],
        "retention": [row("alone", 1.0), row("x", 0.98), row("y", 0.95)],
        "composition": [
            {"method": "x", "says": "keeps the parts and does not compose"},
            {"method": "y", "says": "composes"},
        ],
    }
    assert advise(report)["method"] == "y"
    assert advise({**report, "composition": []})["method"] == "x"


# Soundness, repair, geometry ----------------------------------------------------------------------


def mixed(seed=0, rslora=True):
    """Two ranks, two alphas, rank-stabilised."""
    g = torch.Generator().manual_seed(seed)
    paths = {"layers.0.mlp.down_proj": 4, "layers.1.self_attn.q_proj": 2}
    factors = {
        path: (torch.randn(r, 64, generator=g), torch.randn(64, r, generator=g))
        for path, r in paths.items()
    }
    return Adapter(factors, 6, rslora, {"layers.1.self_attn.q_proj": 11})


def logits(model, one):
    tokens = torch.arange(2, 40)[None]
    attach(model, {"one": one})
    with using(model, Mix({"one": 1.0})), torch.inference_mode():
        found = model(tokens)
    detach(model)
    return found


@pytest.mark.parametrize("rslora", [False, True])
def test_a_plain_copy_is_the_same_adapter(model, tmp_path, rslora):
    one = mixed(rslora=rslora)
    save_adapter(plain(one), tmp_path / "plain")
    copy, settings = (
        load_adapter(tmp_path / "plain"),
        json.loads((tmp_path / "plain" / "adapter_config.json").read_text()),
    )
    assert (settings["r"], settings["use_rslora"]) == (4, False)
    assert settings["rank_pattern"] == settings["alpha_pattern"] == {}
    assert {A.shape[0] for A, _ in copy.factors.values()} == {4}
    assert relative_error(copy, one) < 1e-6
    torch.testing.assert_close(logits(model, copy), logits(model, one), atol=1e-5, rtol=1e-5)


def test_a_plain_copy_of_one_scaling_is_exact():
    one = Adapter({path: f for path, f in mixed().factors.items() if "mlp" in path}, 6)
    assert relative_error(plain(one), one) == 0
    silent = Adapter({"x": (torch.ones(2, 3), torch.zeros(3, 2))}, 0)
    assert relative_error(plain(silent), silent) == 0


def test_one_adapter_merged_alone_is_itself_by_merges_that_cut_nothing():
    errors = identity_errors(mixed(), candidates(["plain_sum", "sum_at_0.5", "ties", "arrow"]))
    assert errors["plain_sum"] < 1e-6 and 0.1 < errors["ties"] < 1
    assert not {"sum_at_0.5", "arrow"} & set(errors)  # half of it, and a router, are another thing


def test_soundness_names_layers_without_effect(model, tmp_path):
    one = first(model)
    silent = replace(one, factors={**one.factors, "layers.1.mlp.up_proj": (
        torch.ones(1, 64), torch.zeros(64, 1))}, base=None)  # fmt: skip
    save_adapter(silent, tmp_path / "one")
    (row,) = soundness({"one": silent}, {"one": tmp_path / "one"}, [])
    assert row["silent layers"] == ["layers.1.mlp.up_proj"]
    assert "its update is 0 at 1 of 2 layers" in row["notes"]
    assert any("names no base" in note for note in row["notes"])


def test_sizes_and_overlaps(model):
    A, B = torch.zeros(1, 64), torch.zeros(64, 1)
    A[0, 0], B[5, 0] = 3.0, 2.0
    same, other = ({"layers.0.self_attn.o_proj": (A.roll(i, 1), B)} for i in (0, 1))
    found = geometry(model, {"a": Adapter(same, 2), "b": Adapter(other, 1)})
    one, two = found["adapters"]
    assert (one["norm"], two["norm"]) == (12, 6) and one["relative"] == pytest.approx(12 / 8)
    (pair,) = found["pairs"]
    assert (pair["cosine"], pair["output overlap"]) == (0, pytest.approx(1))
    assert pair["input overlap"] == pytest.approx(-1 / 63)


# Small parts --------------------------------------------------------------------------------------


def test_the_interval_of_a_ratio():
    assert ratio([], []) is None and ratio([0], [0]) is None
    alone = ratio([3], [4], share=True)
    assert (alone["low"], alone["high"]) == wilson(3, 4)
    assert ratio([3.0], [4])["low"] is None
    even = ratio([5] * 10, [10] * 10, share=True)
    assert (even["low"], even["high"]) == wilson(50, 100)  # texts that agree leave Wilson's
    uneven = ratio([0] * 5 + [10] * 5, [10] * 10, share=True)
    assert uneven["mean"] == 0.5 and uneven["low"] < even["low"]  # whole texts lost count as few
    half = 2.262157 * (250 * 10 / 9) ** 0.5 / 100  # t of 9, and the spread of the texts
    assert uneven["low"] == pytest.approx(0.5 - half, abs=1e-4)
    single = ratio([0] * 5 + [1] * 4, [1] * 9, share=True)
    assert (single["low"], single["high"]) == wilson(4, 9)
    assert summary([])["kept"] is None


def test_candidates_by_name():
    assert [m.weight for m in candidates(["sum_at_0.9", "plain_sum"])] == [0.9, 1.0]
    assert len(candidates(TRIED)) == len(TRIED)
    for name, words in (("oracle", "needs? nothing"), ("plain_sun", "did you mean 'plain_sum'")):
        with pytest.raises(ValueError, match=words):
            candidates([name])


def test_short_names(tmp_path):
    given = [str(tmp_path / "x" / "a"), str(tmp_path / "y" / "a"), str(tmp_path / "y" / "b")]
    assert list(short_names(given).values()) == [given[0], given[1], "b"]
    with pytest.raises(ValueError, match="named twice"):
        short_names([given[0], f"{tmp_path}/x/../x/a"])
